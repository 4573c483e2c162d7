// SPDX-License-Identifier: Apache-2.0
//! A newcomer's first hour: each template is made, built, deployed and called
//! with the commands of the README.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use fanfold_tests::service::{Service, program};
use serde_json::{Value, json};

/// Shared with the examples, so that Arrow is not compiled for each template.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/target").canonicalize().unwrap()
}

/// Takes the same versions as the examples, whatever came out since.
fn lock(project: &Path) {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/Cargo.lock");
    std::fs::copy(examples, project.join("Cargo.lock")).unwrap();
}

fn first_hour(template: &str, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let run = |at: &Path, arguments: &[&str]| {
        let mut command = service.command(arguments);
        let output = command.current_dir(at).env("CARGO_TARGET_DIR", target()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "fanfold {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    run(&work, &["new", name, "--template", template]);
    let project = work.join(name);
    lock(&project);
    let built = run(&project, &["build"]);
    for words in ["KiB)", "exports fanfold:function/handler@0.1.0", "imports fanfold:function/context@0.1.0"]
    {
        assert!(built.contains(words), "{words}: {built}");
    }
    let findings: Value = serde_json::from_str(&run(&project, &["doctor", "--output", "json"])).unwrap();
    for what in ["guest toolchain", "gateway", "backbone", "token", "store"] {
        let finding = findings.as_array().unwrap().iter().find(|finding| finding["what"] == what);
        assert_eq!(finding.map(|finding| &finding["state"]), Some(&json!("good")), "{what}: {findings}");
    }
    run(&project, &["deploy", "."]);
    let answer = run(&project, &["invoke", name]);
    assert!(!answer.trim().is_empty());
    let listed = run(&project, &["functions", "ls", "--output", "json"]);
    assert!(listed.contains(name), "{listed}");
}

#[test]
fn a_handler_is_made_built_deployed_and_called() {
    first_hour("handler", "first-handler");
}

#[test]
fn a_map_is_made_built_deployed_and_called() {
    first_hour("map", "first-map");
}

#[test]
fn an_aggregate_is_made_built_deployed_and_called() {
    first_hour("aggregate", "first-aggregate");
}

#[test]
fn a_second_handler_in_another_module_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let run = |at: &Path, arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(at).env("CARGO_TARGET_DIR", target()).output().unwrap()
    };
    assert!(run(folder.path(), &["new", "two-handlers", "--template", "handler"]).status.success());
    let project = folder.path().join("two-handlers");
    lock(&project);
    let source = project.join("src/lib.rs");
    let first = std::fs::read_to_string(&source).unwrap();
    let second =
        "mod more {\n    use fanfold_sdk::prelude::*;\n\n    #[fanfold::handler]\n    fn second() {}\n}\n";
    std::fs::write(&source, first + second).unwrap();
    let built = run(&project, &["build"]);
    let said = String::from_utf8_lossy(&built.stderr);
    assert_eq!(built.status.code(), Some(1), "{said}");
    assert!(said.contains("a_component_has_only_one_handler"), "{said}");
}
