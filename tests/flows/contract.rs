// SPDX-License-Identifier: Apache-2.0
//! The WIT package is a public contract: it changes with a version and a line in
//! its changelog, every item says what it is, and it is enough to write a
//! function without the SDK.

use std::collections::BTreeMap;

use fanfold_protocol::{WIT, WIT_PACKAGE, digest::Digest};
use fanfold_tests::service::Service;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

#[test]
fn the_package_changes_only_with_a_version_and_a_line() {
    let changelog = include_str!("../../protocol/wit/CHANGELOG.md");
    let version = WIT_PACKAGE.rsplit_once('@').unwrap().1;
    assert!(WIT.contains(&format!("package {WIT_PACKAGE};")), "protocol::WIT_PACKAGE names another package");
    let digest = Digest::of(WIT.as_bytes()).to_hex();
    assert_eq!(
        versions(changelog).unwrap().last(),
        Some(&(version, digest.as_str())),
        "function.wit has changed; raise the version and add a line to protocol/wit/CHANGELOG.md"
    );
}

/// Versions with their digests, in the order of the table. One that stands twice
/// was changed after it had been given out.
fn versions(changelog: &str) -> Result<Vec<(&str, &str)>, String> {
    let (mut found, mut seen) = (Vec::new(), BTreeMap::new());
    for line in changelog.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", version, digest, _, ""] = cells.as_slice() else { continue };
        if !version.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        if let Some(earlier) = seen.insert(*version, line) {
            return Err(format!("{version} stands twice: {earlier} and {line}"));
        }
        found.push((*version, *digest));
    }
    Ok(found)
}

#[test]
fn a_version_stands_once() {
    let table = |rows: &str| format!("| version | digest | change |\n|---|---|---|\n{rows}");
    let two = table("| 0.1.0 | aa | a |\n| 0.2.0 | bb | b |\n");
    assert_eq!(versions(&two).unwrap(), [("0.1.0", "aa"), ("0.2.0", "bb")]);
    let twice = table("| 0.1.0 | aa | a |\n| 0.1.0 | bb | b |\n");
    assert!(versions(&twice).unwrap_err().starts_with("0.1.0 stands twice"));
}

#[test]
fn every_item_is_documented() {
    let mut before = "";
    let mut bare = Vec::new();
    for line in WIT.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // Fields and cases end in a comma.
        let item = ["package ", "interface ", "world ", "record ", "enum ", "resource "]
            .iter()
            .any(|k| line.starts_with(k))
            || line.contains(": func(")
            || line.ends_with(',');
        if item && !line.starts_with("///") && !before.starts_with("///") {
            bare.push(line);
        }
        before = line;
    }
    assert!(bare.is_empty(), "without a word of documentation: {bare:?}");
}

#[tokio::test]
async fn a_function_written_from_the_package_alone_works() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    service.deploy("raw-wit").unwrap();
    assert_eq!(service.ok(&["invoke", "raw-wit", "-d", "\"abc\""]).unwrap().trim(), "\"cba\"");
    service.put("s3://raw/a.csv", "x\n1\n2\n").await.unwrap();
    service.put("s3://raw/b.csv", "x\n3\n").await.unwrap();
    // A state for each object, so that there is something to merge.
    let file = folder.path().join("job.toml");
    let job = "function = \"raw-wit\"\ninput = \"s3://raw/*.csv\"\nsplit = { target_bytes = \"6B\" }\n";
    std::fs::write(&file, job).unwrap();
    let answer = service.ok(&["job", "run", &file.to_string_lossy(), "--wait", "--json"]);
    let job: serde_json::Value = serde_json::from_str(&answer.unwrap()).unwrap();
    assert_eq!(job["result"]["batches"], 2, "{job}");
}

/// An echo, as a linker leaves it that knows nothing of components, such as that of
/// `wasm32-unknown-unknown`: a core module without WASI.
fn module() -> Vec<u8> {
    let common = include_str!("../../functions/hostile/lib/handler.wat");
    let handle = r#"(func (export "fanfold:function/handler@0.1.0#handle")
        (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (call $ok (local.get 6) (local.get 7)))"#;
    wat::parse_str(format!("(module\n{common}\n{handle})")).unwrap()
}

#[test]
fn a_core_module_for_a_world_is_deployed_as_a_component() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let (plain, echo) = (folder.path().join("plain.wasm"), folder.path().join("echo.wasm"));
    let mut module = module();
    std::fs::write(&plain, &module).unwrap();
    let refused = service.run(&["deploy", &plain.to_string_lossy()]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(3) && said.contains("core module"), "{said}");
    // As generators of bindings say it.
    let mut resolve = Resolve::default();
    let package = resolve.push_str("function.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], Some("handler-function")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    std::fs::write(&echo, &module).unwrap();
    let deployed = service.ok(&["deploy", &echo.to_string_lossy(), "--output", "json"]).unwrap();
    let deployed: serde_json::Value = serde_json::from_str(&deployed).unwrap();
    assert_eq!(deployed["exports"], serde_json::json!(["handler"]), "{deployed}");
    assert_eq!(service.ok(&["invoke", "echo", "-d", "\"abc\""]).unwrap(), "\"abc\"");
}
