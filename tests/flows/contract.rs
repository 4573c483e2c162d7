// SPDX-License-Identifier: Apache-2.0
//! The WIT package is a public contract: it changes with a version and a line in
//! its changelog, every item says what it is, and it is enough to write a
//! function without the SDK.

use fanfold_protocol::{WIT, WIT_PACKAGE, digest::Digest};
use fanfold_tests::service::Service;

#[test]
fn the_package_changes_only_with_a_version_and_a_line() {
    let changelog = include_str!("../../protocol/wit/CHANGELOG.md");
    let version = WIT_PACKAGE.rsplit_once('@').unwrap().1;
    assert!(WIT.contains(&format!("package {WIT_PACKAGE};")), "protocol::WIT_PACKAGE names another package");
    let last = changelog.lines().rfind(|line| line.starts_with("| 0") || line.starts_with("| 1")).unwrap();
    let digest = Digest::of(WIT.as_bytes()).to_hex();
    assert!(
        last.contains(&format!("| {version} |")) && last.contains(&digest),
        "function.wit has the digest {digest}; raise the version and add a line to protocol/wit/CHANGELOG.md"
    );
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
