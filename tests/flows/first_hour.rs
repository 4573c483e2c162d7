// SPDX-License-Identifier: Apache-2.0
//! A newcomer's first hour: each template is made, built, deployed and called
//! with the commands of the README.

use std::path::Path;

use fanfold_tests::service::Service;

fn first_hour(template: &str, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let run = |at: &Path, arguments: &[&str]| {
        // Shared with the examples, so that Arrow is not compiled for each template.
        let target =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/target").canonicalize().unwrap();
        let mut command = service.command(arguments);
        let output = command.current_dir(at).env("CARGO_TARGET_DIR", target).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "fanfold {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    run(&work, &["new", name, "--template", template]);
    let project = work.join(name);
    // Of the same versions as well, whatever came out since.
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/Cargo.lock"),
        project.join("Cargo.lock"),
    )
    .unwrap();
    run(&project, &["build"]);
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
