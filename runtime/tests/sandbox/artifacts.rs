// SPDX-License-Identifier: Apache-2.0
//! G9: compiled components are taken back only as this platform wrote them.

use std::{fs, path::PathBuf, time::Duration};

use fanfold_protocol::function::Settings;

use crate::support::{Platform, echo, handler};

fn files(platform: &Platform) -> Vec<PathBuf> {
    let entries = fs::read_dir(platform.cache()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "bin")).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_and_swapped_artifacts_are_refused_and_compiled_again() {
    let mut platform = Platform::start().await;
    let one = platform.deploy(echo(), Settings::default()).await.unwrap();
    let answer = handler(
        "(data (i32.const 1024) \"two\")
         (func (export \"fanfold:function/handler@0.1.0#handle\") (type $handle)
           (call $ok (i32.const 1024) (i32.const 3)))",
    );
    let two = platform.deploy(answer, Settings::default()).await.unwrap();
    assert_eq!(platform.runtime.counters().components_compiled, 2);
    let check = async |platform: &Platform, compiled: u64, refused: u64| {
        let first = platform.invoke(&one, b"one", Duration::from_secs(5)).await;
        let second = platform.invoke(&two, b"", Duration::from_secs(5)).await;
        assert_eq!(first.result.unwrap().body, "one");
        assert_eq!(second.result.unwrap().body, "two");
        let counters = platform.runtime.counters();
        assert_eq!((counters.components_compiled, counters.artifacts_refused), (compiled, refused));
    };
    // A restart finds both.
    platform.restart();
    check(&platform, 0, 0).await;
    // One bit of code.
    let files_now = files(&platform);
    assert_eq!(files_now.len(), 2);
    let mut bytes = fs::read(&files_now[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&files_now[0], bytes).unwrap();
    platform.restart();
    check(&platform, 1, 1).await;
    // Each in the other's place.
    let contents: Vec<_> = files(&platform).iter().map(|path| fs::read(path).unwrap()).collect();
    fs::write(&files(&platform)[0], &contents[1]).unwrap();
    fs::write(&files(&platform)[1], &contents[0]).unwrap();
    platform.restart();
    check(&platform, 2, 2).await;
    // Another installation's, under its own key.
    fs::remove_file(platform.cache().join("key")).unwrap();
    platform.restart();
    check(&platform, 2, 2).await;
    platform.restart();
    check(&platform, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_one_compilation() {
    let platform = Platform::start().await;
    let digest = platform.upload(echo()).await;
    let preparations = (0..16).map(|_| platform.prepare(digest));
    for prepared in futures::future::join_all(preparations).await {
        prepared.unwrap();
    }
    assert_eq!(platform.runtime.counters().components_compiled, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_with_other_bytes_than_its_digest_is_not_run() {
    let platform = Platform::start().await;
    let digest = platform.upload(echo()).await;
    platform
        .put("fanfold", &fanfold_protocol::keys::component(&digest), [echo(), vec![0, 1, 0]].concat())
        .await;
    let problem = platform.prepare(digest).await.unwrap_err();
    assert_eq!(problem.code, fanfold_protocol::ErrorKind::Internal);
    assert!(problem.detail.contains("found bytes with the digest"), "{problem}");
}
