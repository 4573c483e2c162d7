// SPDX-License-Identifier: Apache-2.0
//! T1, T2: every verb against every place, granted and not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fanfold_protocol::{ErrorKind, function::Settings, keys, tenant::Tenant};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::support::{Passage, Platform, echo, grants, handler, invocation};

/// The first byte of the body says what to do, the rest with which place.
const PROBE: &str = r#"
(import "fanfold:function/objects@0.1.0" "open" (func $open (param i32 i32 i32)))
(import "fanfold:function/objects@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32 i32 i32)))
(import "fanfold:function/objects@0.1.0" "list-objects" (func $list (param i32 i32 i32 i32 i32 i32)))
(import "fanfold:function/objects@0.1.0" "remove" (func $remove (param i32 i32 i32)))
(import "fanfold:function/tables@0.1.0" "open" (func $table (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
(import "fanfold:function/tables@0.1.0" "create" (func $create (param i32 i32 i32 i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $verb i32) (local $at i32) (local $n i32)
  (local.set $verb (i32.load8_u (local.get $body)))
  (local.set $at (i32.add (local.get $body) (i32.const 1)))
  (local.set $n (i32.sub (local.get $body_bytes) (i32.const 1)))
  (if (i32.eq (local.get $verb) (i32.const 0x6f)) (then (call $open (local.get $at) (local.get $n) (i32.const 16))))
  (if (i32.eq (local.get $verb) (i32.const 0x77)) (then
    (call $write (local.get $at) (local.get $n) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 16))))
  (if (i32.eq (local.get $verb) (i32.const 0x6c)) (then
    (call $list (local.get $at) (local.get $n) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))
  (if (i32.eq (local.get $verb) (i32.const 0x72)) (then (call $remove (local.get $at) (local.get $n) (i32.const 16))))
  (if (i32.eq (local.get $verb) (i32.const 0x74)) (then
    (call $table (local.get $at) (local.get $n) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))
  (if (i32.eq (local.get $verb) (i32.const 0x63)) (then
    (call $create (local.get $at) (local.get $n) (i32.const 1) (i32.const 16))))
  (if (i32.load8_u (i32.const 16)) (then (return (i32.const 16))))
  (call $ok (i32.const 0) (i32.const 0)))
"#;

const READS: [char; 3] = ['o', 'l', 't'];
const WRITES: [char; 3] = ['w', 'r', 'c'];

/// G2: a guest that waits for the store is ended like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stalls_holds_nobody_beyond_the_deadline() {
    let platform = Platform::start().await;
    platform.put("bank", "a/x", "x").await;
    let settings = Settings { grants: grants(&["s3://bank/a/"], &[]), ..Settings::default() };
    let version = platform.deploy(handler(PROBE), settings).await.unwrap();
    let call = async |timeout: u64| {
        let outcome = platform.invoke(&version, b"os3://bank/a/x", Duration::from_millis(timeout)).await;
        outcome.result.map(drop).map_err(|problem| problem.code)
    };
    assert_eq!(call(10_000).await, Ok(()));
    platform.gate.set(Passage::Stalled);
    let began = Instant::now();
    // More callers than sandboxes, so that slots must be given back.
    let calls = futures::future::join_all((0..300).map(|_| call(300))).await;
    assert!(calls.iter().all(
        |ended| *ended == Err(ErrorKind::DeadlineExceeded) || *ended == Err(ErrorKind::ConcurrencyLimit)
    ));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    platform.gate.set(Passage::Open);
    assert_eq!(call(10_000).await, Ok(()));
}

/// G2: what cannot be fetched has not begun, so another worker may take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_component_cannot_be_fetched_has_not_begun() {
    let mut platform = Platform::start().await;
    let version = platform.deploy(echo(), Settings::default()).await.unwrap();
    std::fs::remove_dir_all(platform.cache()).unwrap();
    platform.restart();
    let call = || platform.runtime.invoker().oneshot(invocation(&version, b"x", Duration::from_secs(10)));
    platform.gate.set(Passage::Closed);
    let problem = call().await.unwrap_err();
    assert!(
        matches!(problem.code, ErrorKind::StoreUnavailable | ErrorKind::StoreTimeout),
        "{}: {problem}",
        problem.code
    );
    platform.gate.set(Passage::Open);
    assert_eq!(call().await.unwrap().result.unwrap().body, "x");
}

async fn probe(platform: &Platform, settings: Settings, verb: char, uri: &str) -> Result<(), ErrorKind> {
    let version = platform.deploy(handler(PROBE), settings).await.unwrap();
    let outcome = platform.invoke(&version, format!("{verb}{uri}").as_bytes(), Duration::from_secs(10)).await;
    outcome.result.map(drop).map_err(|problem| problem.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_needs_its_own_grant() {
    let platform = Platform::start().await;
    platform.put("bank", "a/table.csv", "x\n1\n").await;
    platform.put("bank", "ab/table.csv", "x\n1\n").await;
    platform.put("bank", "out/table.csv", "x\n1\n").await;
    let granted = Settings { grants: grants(&["s3://bank/a/"], &["s3://bank/out/"]), ..Settings::default() };
    let check = async |verb: char, uri: &str, allowed: bool| {
        let found = probe(&platform, granted.clone(), verb, uri).await;
        assert_eq!(found != Err(ErrorKind::AccessDenied), allowed, "{verb} {uri}: {found:?}");
        if allowed {
            assert_eq!(found, Ok(()), "{verb} {uri}");
        }
    };
    for uri in [
        "s3://bank/a/table.csv",
        "s3://bank/ab/table.csv",
        "s3://bank/out/table.csv",
        "s3://fanfold/a/table.csv",
    ] {
        for verb in READS {
            check(verb, uri, uri == "s3://bank/a/table.csv").await;
        }
        for verb in WRITES {
            check(verb, uri, uri == "s3://bank/out/table.csv").await;
        }
    }
    for verb in READS.iter().chain(&WRITES) {
        let nothing = probe(&platform, Settings::default(), *verb, "s3://bank/a/table.csv").await;
        assert_eq!(nothing, Err(ErrorKind::AccessDenied), "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_are_bytes() {
    let platform = Platform::start().await;
    let settings = Settings { grants: grants(&["s3://bank/a/"], &[]), ..Settings::default() };
    for uri in [
        "s3://bank/./a/x",
        "s3://bank//a/x",
        "s3://bank/%61/x",
        "s3://bank/b/../a/x",
        "s3://bank/A/x",
        "s3://bank/a",
        "s3://bank2/a/x",
    ] {
        assert_eq!(probe(&platform, settings.clone(), 'o', uri).await, Err(ErrorKind::AccessDenied), "{uri}");
    }
    // These lie under the prefix, as keys of their own; there is no such object.
    for uri in ["s3://bank/a/../secret", "s3://bank/a//x", "s3://bank/a/%2e%2e/x"] {
        assert_eq!(
            probe(&platform, settings.clone(), 'o', uri).await,
            Err(ErrorKind::ObjectNotFound),
            "{uri}"
        );
    }
    for uri in ["bank/a/x", "s3://", "file:///etc/passwd", "s3://BANK/a/x"] {
        let found = probe(&platform, settings.clone(), 'o', uri).await.unwrap_err();
        assert!([ErrorKind::InvalidRequest, ErrorKind::InvalidName].contains(&found), "{uri}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_named_with_its_key() {
    let platform = Platform::start().await;
    let settings = || Settings { grants: grants(&["s3://bank/"], &["s3://bank/"]), ..Settings::default() };
    // The one that lists takes prefixes.
    for verb in READS.iter().chain(&WRITES).filter(|verb| **verb != 'l') {
        let found = probe(&platform, settings(), *verb, "s3://bank/").await;
        assert_eq!(found, Err(ErrorKind::InvalidRequest), "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_platforms_own_bucket_functions_reach_outputs_of_jobs_at_most() {
    let platform = Platform::start().await;
    // As versions have them that were deployed before such grants were refused.
    let settings = Settings { grants: grants(&["s3://fanfold/"], &["s3://fanfold/"]), ..Settings::default() };
    let job = Uuid::now_v7();
    let (output, document) = (keys::default_output(&job), keys::job_document(&job));
    for key in [&format!("{output}t.csv"), &document] {
        platform.put("fanfold", key, "x\n1\n").await;
    }
    let (output, document) = (format!("s3://fanfold/{output}t.csv"), format!("s3://fanfold/{document}"));
    let version = platform.deploy(handler(PROBE), settings).await.unwrap();
    let call = async |verb: char, uri: &str| {
        let body = format!("{verb}{uri}");
        platform.invoke(&version, body.as_bytes(), Duration::from_secs(10)).await.result.map(drop)
    };
    for verb in READS {
        call(verb, &output).await.unwrap_or_else(|problem| panic!("{verb}: {problem}"));
    }
    let reads = READS.iter().map(|verb| (*verb, document.as_str())).chain([('l', "s3://fanfold/")]);
    for (verb, uri) in reads.chain(WRITES.iter().map(|verb| (*verb, output.as_str()))) {
        let problem = call(verb, uri).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::AccessDenied, "{verb} {uri}");
        assert!(problem.detail.contains("only jobs/…/output/ can be read"), "{verb} {uri}: {problem}");
    }
}

/// T1: a grant of another tenant's bucket, as one that was given before that bucket was another's, opens nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_reaches_another_tenants_bucket() {
    let platform = Platform::start().await;
    for bucket in ["bank", "shop"] {
        platform.store.ensure_bucket(bucket).await.unwrap();
        platform.put(bucket, "a/table.csv", "x\n1\n").await;
    }
    let places = ["s3://bank/a/", "s3://shop/a/"];
    let settings = Settings { grants: grants(&places, &places), ..Settings::default() };
    let version = platform.deploy(handler(PROBE), settings).await.unwrap();
    let mut tenant = Tenant::alone("shop".parse().unwrap(), "fanfold");
    tenant.buckets = Some(vec!["shop".parse().unwrap()]);
    let tenant = Arc::new(tenant);
    for verb in READS.iter().chain(&WRITES) {
        for (bucket, expected) in [("shop", Ok(())), ("bank", Err(ErrorKind::AccessDenied))] {
            let body = format!("{verb}s3://{bucket}/a/table.csv");
            let mut call = invocation(&version, body.as_bytes(), Duration::from_secs(10));
            call.tenant = Some(Arc::clone(&tenant));
            let outcome = platform.runtime.invoker().oneshot(call).await.unwrap();
            assert_eq!(outcome.result.map(drop).map_err(|problem| problem.code), expected, "{verb} {bucket}");
            platform.put(bucket, "a/table.csv", "x\n1\n").await;
        }
    }
}
