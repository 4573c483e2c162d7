// SPDX-License-Identifier: Apache-2.0
//! The WIT package is a public contract: it changes with a version and a line in
//! its changelog, every item says what it is, and it is enough to write a
//! function without the SDK.

use std::collections::BTreeMap;

use fanfold_protocol::{WIT, WIT_PACKAGE, digest::Digest};
use fanfold_tests::service::Service;

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
        let item = ["package ", "interface ", "world ", "record ", "enum ", "resource "]
            .iter()
            .any(|k| line.starts_with(k))
            || line.contains(": func(");
        if item && !before.starts_with("///") {
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
