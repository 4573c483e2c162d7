// SPDX-License-Identifier: Apache-2.0
//! `fanfold s3`, with which a newcomer needs no other client of the store.

use std::{
    io::{Read, Write},
    os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use fanfold_tests::service::Service;
use serde_json::{Value, json};

/// Every URI under a prefix.
fn listed(service: &Service, prefix: &str) -> Vec<String> {
    let text = service.ok(&["s3", "ls", prefix, "-r", "--output", "json"]).unwrap();
    let found: Vec<Value> = serde_json::from_str(&text).unwrap();
    found.iter().map(|object| object["uri"].as_str().unwrap().to_owned()).collect()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn files_go_to_the_store_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    for (name, content) in [("a.csv", "a"), ("deep/b c.csv", "b"), ("deep/er/ü.txt", "")] {
        std::fs::write(from.join(name), content).unwrap();
    }
    let path = |path: &Path| path.to_string_lossy().into_owned();
    service.ok(&["s3", "mb", "s3://bank"]).unwrap();
    service.ok(&["s3", "cp", &path(&from), "s3://bank/in", "-r"]).unwrap();
    let all = ["a.csv", "deep/b c.csv", "deep/er/ü.txt"];
    assert_eq!(listed(&service, "s3://bank/in/"), all.map(|name| format!("s3://bank/in/{name}")));
    service.ok(&["s3", "cp", "s3://bank/in/", "s3://bank/copy/", "--recursive"]).unwrap();
    service.ok(&["s3", "cp", "s3://bank/in/a.csv", "s3://bank/copy/once/"]).unwrap();
    assert_eq!(listed(&service, "s3://bank/copy/").len(), 4);
    // What other clients show as a folder is no file here.
    service.put("s3://bank/copy/empty/", "").await.unwrap();
    service.ok(&["s3", "cp", "s3://bank/copy/", &path(&to), "-r"]).unwrap();
    assert_eq!((text(&to.join("deep/b c.csv")), text(&to.join("once/a.csv"))), ("b".into(), "a".into()));
    assert!(to.join("deep/er/ü.txt").is_file() && !to.join("empty").exists());

    let mut piped =
        service.command(&["s3", "cp", "-", "s3://bank/piped"]).stdin(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(piped.wait().unwrap().success());
    assert_eq!(service.ok(&["s3", "cp", "s3://bank/piped", "-"]).unwrap(), "from a pipe");

    // What cannot be copied is told, and stops nothing else.
    std::os::unix::fs::symlink("nowhere", from.join("a-first")).unwrap();
    let some = service.run(&["s3", "cp", &path(&from), "s3://bank/some/", "-r"]).unwrap();
    let said = String::from_utf8_lossy(&some.stderr).into_owned();
    assert_eq!(some.status.code(), Some(2), "{said}");
    assert!(said.contains("a-first") && said.contains("1 failed and 3 did not"), "{said}");
    assert_eq!(listed(&service, "s3://bank/some/").len(), 3);
    service.put("s3://bank/some//no-file", "x").await.unwrap();
    let back = folder.path().join("back");
    let some = service.run(&["s3", "cp", "s3://bank/some/", &path(&back), "-r"]).unwrap();
    let said = String::from_utf8_lossy(&some.stderr).into_owned();
    assert_eq!(some.status.code(), Some(2), "{said}");
    assert!(said.contains("s3://bank/some//no-file") && said.contains("1 failed and 3 did not"), "{said}");
    assert!(back.join("a.csv").is_file() && back.join("deep/er/ü.txt").is_file());
    service.ok(&["s3", "rm", "s3://bank/some/", "-r"]).unwrap();

    let missing = service.run(&["s3", "cp", "s3://bank/none", "-"]).unwrap();
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(3), 0), "{said}");
    assert!(said.contains("object-not-found") && said.contains("s3://bank/none"), "{said}");
    let at_a_file = path(&back.join("a.csv/x"));
    let unwritable = service.run(&["s3", "cp", "s3://bank/piped", &at_a_file]).unwrap();
    let said = String::from_utf8_lossy(&unwritable.stderr).into_owned();
    assert_eq!(unwritable.status.code(), Some(2), "{said}");
    assert!(said.contains("expected to write") && said.contains("a.csv/x"), "{said}");
    let no_bucket = service.run(&["s3", "ls", "s3://nobucket/"]).unwrap();
    let said = String::from_utf8_lossy(&no_bucket.stderr).into_owned();
    assert_eq!(no_bucket.status.code(), Some(3), "{said}");
    assert!(said.contains("bucket-not-found") && said.contains("nobucket"), "{said}");

    service.ok(&["s3", "rm", "s3://bank/in/a.csv"]).unwrap();
    service.ok(&["s3", "rm", "s3://bank/copy/", "-r"]).unwrap();
    assert_eq!(listed(&service, "s3://bank/").len(), 3);
    assert!(service.ok(&["s3", "ls"]).unwrap().contains("s3://bank/"));
    let exports = service.ok(&["s3", "env"]).unwrap();
    assert!(exports.contains(&format!("export AWS_ENDPOINT_URL={}\n", service.s3_endpoint)), "{exports}");
    let variables: Value =
        serde_json::from_str(&service.ok(&["s3", "env", "--output", "json"]).unwrap()).unwrap();
    assert_eq!(
        (&variables["AWS_ENDPOINT_URL"], variables.as_object().unwrap().len()),
        (&json!(service.s3_endpoint), 5)
    );
}

#[tokio::test]
async fn a_folder_is_no_prefix_of_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    for key in ["in", "in/a.csv", "in/deep/b.csv", "in2/c.csv", "income.parquet"] {
        service.put(&format!("s3://bank/{key}"), "x").await.unwrap();
    }
    let said = |words: &[&str]| {
        let output = service.run(words).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    };
    let to = folder.path().join("to");
    let copied = said(&["s3", "cp", "-r", "s3://bank/in", &to.to_string_lossy()]);
    assert!(copied.contains("s3://bank/in itself is an object") && copied.contains("not copied"), "{copied}");
    assert!(to.join("a.csv").is_file() && to.join("deep/b.csv").is_file());
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 2);
    said(&["s3", "cp", "-r", "s3://bank/in", "s3://bank/copy"]);
    assert_eq!(listed(&service, "s3://bank/copy"), ["s3://bank/copy/a.csv", "s3://bank/copy/deep/b.csv"]);

    let removed = said(&["s3", "rm", "-r", "s3://bank/in"]);
    assert!(removed.contains("removed 2 objects under s3://bank/in/"), "{removed}");
    assert!(
        removed.contains("s3://bank/in itself is an object") && removed.contains("not removed"),
        "{removed}"
    );
    let left = ["in", "in2/c.csv", "income.parquet"].map(|key| format!("s3://bank/{key}"));
    assert_eq!(listed(&service, "s3://bank/in"), left);
    let removed = said(&["s3", "rm", "-r", "s3://bank/copy/"]);
    assert!(removed.contains("removed 2 objects") && !removed.contains("itself"), "{removed}");
}

#[tokio::test]
async fn a_bucket_is_removed_when_it_is_empty() {
    let service = Service::fresh().unwrap();
    service.put("s3://bank/a", "x").await.unwrap();
    let refused = |bucket: &str, said: &str| {
        let output = service.run(&["s3", "rb", bucket]).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(said), "{text}");
    };
    refused("s3://bank", "fanfold s3 rm --recursive s3://bank/");
    // Of a service that is new it holds nothing.
    service.put("s3://fanfold/a", "x").await.unwrap();
    refused("s3://fanfold", "the platform's own");
    assert_eq!(listed(&service, "s3://bank/"), ["s3://bank/a"]);
    service.ok(&["s3", "rm", "--recursive", "s3://bank/"]).unwrap();
    service.ok(&["s3", "rb", "s3://bank"]).unwrap();
    refused("bank", "bucket-not-found");
}

#[tokio::test]
async fn an_upload_that_is_stopped_leaves_nothing() {
    let service = Service::fresh().unwrap();
    let store = service.store().unwrap();
    store.ensure_bucket("bank").await.unwrap();
    let mut program =
        service.command(&["s3", "cp", "-", "s3://bank/large"]).stdin(Stdio::piped()).spawn().unwrap();
    // More than one part, and no end of it.
    let mut pipe = program.stdin.take().unwrap();
    pipe.write_all(&vec![b'x'; 20 << 20]).unwrap();
    while store.uploads("bank", "").await.unwrap().is_empty() {}
    rustix::process::kill_process(rustix::process::Pid::from_child(&program), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(130));
    assert!(store.uploads("bank", "").await.unwrap().is_empty());
    assert!(listed(&service, "s3://bank/").is_empty());
}

#[tokio::test]
async fn objects_go_where_they_are_told_to_and_no_further() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    service.put("s3://bank/small", "small").await.unwrap();
    service.put("s3://bank/large", vec![b'x'; 8 << 20]).await.unwrap();
    let at = |name: &str| folder.path().join(name);
    let copy = |key: &str, to: &str| {
        let to = at(to).to_string_lossy().into_owned();
        service.ok(&["s3", "cp", &format!("s3://bank/{key}"), &to]).unwrap()
    };

    // A file keeps its mode, and a link goes on to lead to it.
    std::fs::write(at("private"), "earlier").unwrap();
    std::fs::set_permissions(at("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink("private", at("link")).unwrap();
    copy("small", "link");
    let mode = std::fs::metadata(at("private")).unwrap().permissions().mode() & 0o777;
    assert_eq!((text(&at("private")), mode), ("small".into(), 0o600));
    assert_eq!(std::fs::read_link(at("link")).unwrap(), Path::new("private"));

    // A pipe is written into, to its end or for as long as anybody reads.
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    for (key, bytes) in [("small", 5), ("large", 1)] {
        let pipe = at("pipe");
        let reader = std::thread::spawn(move || {
            let mut read = vec![0; bytes];
            std::fs::File::open(pipe).unwrap().read_exact(&mut read).unwrap();
            read
        });
        copy(key, "pipe");
        assert_eq!(reader.join().unwrap().len(), bytes);
    }
    assert!(std::fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());

    let mut copied =
        service.command(&["s3", "cp", "s3://bank/large", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = copied.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    drop(out);
    assert!(copied.wait().unwrap().success(), "who has seen enough makes no error");

    symlink("/dev/full", at("full")).unwrap();
    let to = at("full").to_string_lossy().into_owned();
    let full = service.run(&["s3", "cp", "s3://bank/small", &to]).unwrap();
    let said = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(2), "{said}");
    assert!(said.contains("No space left"), "{said}");
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let drafts = left.filter(|name| name.to_string_lossy().ends_with(".part")).count();
    assert_eq!(drafts, 0);
}
