// SPDX-License-Identifier: Apache-2.0
//! What other stores refuse, lack or say otherwise, and what the client makes of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, time::Timestamp};
use fanfold_storage::{Credentials, Error, ListOptions, PutOptions, Store, StoreConfig};
use futures::TryStreamExt;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    proxy::{saying, start_instead},
    support::{Embedded, pattern, uri},
};

type Answer = Response<Full<Bytes>>;

fn at(address: SocketAddr, credentials: Credentials) -> Store {
    let config = StoreConfig::at(format!("http://{address}"), credentials);
    Store::connect(StoreConfig { attempts_max: 1, ..config }).unwrap()
}

/// A store that has nothing but these answers.
async fn of_answers(answers: impl Fn(&Request<Incoming>) -> Answer + Clone + Send + Sync + 'static) -> Store {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let address = start_instead(nowhere, move |request| Some(answers(request))).await;
    at(address, Credentials::new("key", "secret"))
}

fn asks(request: &Request<Incoming>, method: &Method, query: &str) -> bool {
    request.method() == method && request.uri().query().is_some_and(|text| text.contains(query))
}

fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

async fn keys(store: &Store) -> Vec<String> {
    let listing = store.list("bank", "", ListOptions::default()).map_ok(|entry| entry.name().to_owned());
    listing.try_collect().await.unwrap()
}

/// What comes of deleting objects twice where lists to delete are refused so, how many lists were
/// sent, and whether anything is left.
async fn deleted(status: u16, code: &'static str) -> (Result<(), Error>, usize, bool) {
    let (server, lists) = (Embedded::start().await, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&lists);
    let address = start_instead(server.address, move |request| {
        asks(request, &Method::POST, "delete").then(|| {
            counted.fetch_add(1, SeqCst);
            saying(status, code, "not here")
        })
    });
    let store = at(address.await, server.credentials.clone());
    store.create_bucket("bank").await.unwrap();
    let mut result = Ok(());
    for _ in 0..2 {
        let names: Vec<_> = (0..20).map(|n| format!("{n:02}")).collect();
        for name in &names {
            store.put(&uri("bank", name), "x".into(), PutOptions::default()).await.unwrap();
        }
        // Another handle of the same store need not find out anew.
        result = store.reconnected().unwrap().delete_many("bank", names).await;
    }
    let is_left = !keys(&store).await.is_empty();
    server.stop().await;
    (result, lists.load(SeqCst), is_left)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_deleted_singly_where_lists_are_not_taken() {
    for (status, code) in
        [(400, "MissingContentMD5"), (400, "InvalidRequest"), (405, ""), (501, "NotImplemented")]
    {
        let (result, lists, is_left) = deleted(status, code).await;
        assert!(result.is_ok() && !is_left, "{status} {code}: {result:?}");
        assert_eq!(lists, 1, "{status} {code}");
    }
    // Of another refusal nobody knows that it stays.
    let (result, lists, is_left) = deleted(400, "IncompleteBody").await;
    assert!(result.is_ok() && !is_left, "{result:?}");
    assert_eq!(lists, 2);
    // Who may not delete is refused once for all, and so is who comes at a bad moment.
    let (result, lists, is_left) = deleted(403, "AccessDenied").await;
    assert!(matches!(result, Err(Error::AccessDenied { .. })) && is_left, "{result:?}");
    assert_eq!(lists, 2);
    let (result, lists, is_left) = deleted(503, "SlowDown").await;
    assert!(matches!(result, Err(Error::Unavailable { .. })) && is_left, "{result:?}");
    assert_eq!(lists, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_within_a_good_answer_may_be_tried_again() {
    let server = Embedded::start().await;
    let address = start_instead(server.address, |request| {
        let is_copy = request.headers().contains_key("x-amz-copy-source");
        let is_completion = asks(request, &Method::POST, "uploadId=");
        (is_copy || is_completion).then(|| saying(200, "SlowDown", "later"))
    });
    let store = at(address.await, server.credentials.clone());
    store.create_bucket("bank").await.unwrap();
    let (from, to) = (uri("bank", "from"), uri("bank", "to"));
    store.put(&from, "rows".into(), PutOptions::default()).await.unwrap();
    let copied = store.copy(&from, None, &to).await;
    assert!(matches!(copied, Err(Error::Unavailable { .. })), "{copied:?}");
    let mut writer = store.writer(&to, PutOptions::default());
    writer.write(pattern(9 << 20).into()).await.unwrap();
    let written = writer.finish().await;
    assert!(matches!(written, Err(Error::Unavailable { .. })), "{written:?}");
    server.stop().await;
}

/// As rclone names what begins an upload, and as a page of a proxy looks.
#[tokio::test]
async fn a_good_answer_of_another_form_is_told_as_such() {
    let store = of_answers(|request| match asks(request, &Method::POST, "uploads") {
        true => Response::new(Full::from("<InitiateMultipartUpload></InitiateMultipartUpload>")),
        false => Response::new(Full::from("<html></html>")),
    })
    .await;
    let mut writer = store.writer(&uri("bank", "to"), PutOptions::default());
    let written = match writer.write(pattern(9 << 20).into()).await {
        Ok(()) => writer.finish().await.map(drop),
        refused => refused,
    };
    let listed = store.list("bank", "", ListOptions::default()).try_collect::<Vec<_>>().await;
    for (told, expected) in [
        (written.unwrap_err().to_string(), "expected InitiateMultipartUploadResult"),
        (listed.unwrap_err().to_string(), "expected ListBucketResult"),
    ] {
        assert!(told.contains("a malformed answer: ") && told.contains(expected), "{told}");
    }
}

/// Both ways of asking about a bucket elsewhere: what is found of it, and how it is told.
async fn elsewhere(
    region: Option<&str>,
    answers: impl Fn(&Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
) {
    let store = of_answers(answers).await;
    let object = store.head(&uri("bank", "in/a.csv")).await.unwrap_err();
    let bucket = store.bucket_exists("bank").await.unwrap_err();
    for error in [object, bucket] {
        let Error::OtherRegion { target, asked, found } = &error else { panic!("{error:?}") };
        assert_eq!((target.as_str(), asked.as_str()), ("s3://bank/", "us-east-1"));
        assert_eq!(found.as_deref(), region);
        assert!(error.to_string().contains("`store.region`"), "{error}");
        // Whose input it is named it.
        assert_eq!(error.kind(), ErrorKind::BucketNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_another_region_is_told_with_both() {
    const REGION: &str = "x-amz-bucket-region";
    let is_head = |request: &Request<Incoming>| request.method() == Method::HEAD;
    for status in [301, 400] {
        elsewhere(Some("eu-central-1"), move |_| with(saying(status, "", ""), REGION, "eu-central-1")).await;
        elsewhere(Some("eu-central-1"), move |request| match is_head(request) {
            true => saying(status, "", ""),
            false => saying(
                400,
                "AuthorizationHeaderMalformed",
                "the region 'us-east-1' is wrong; expecting 'eu-central-1'",
            ),
        })
        .await;
    }
    elsewhere(None, move |request| match is_head(request) {
        true => saying(301, "", ""),
        false => saying(301, "PermanentRedirect", "use another endpoint"),
    })
    .await;
    // A place of the right region, and a redirect that has nothing to do with regions.
    let store = of_answers(|_| with(saying(400, "", ""), REGION, "us-east-1")).await;
    let refused = store.bucket_exists("bank").await;
    assert!(matches!(refused, Err(Error::Other { .. })), "{refused:?}");
    let store = of_answers(|_| with(saying(301, "", ""), "location", "https://store.example/bank")).await;
    let told = store.head(&uri("bank", "a")).await.unwrap_err().to_string();
    assert!(told.contains("it points to https://store.example/bank"), "{told}");
}

/// A list of open uploads as SeaweedFS 4.48 has it: keys that are said to be encoded and are not,
/// pages that go on behind the name of an upload.
#[tokio::test(flavor = "multi_thread")]
async fn open_uploads_are_found_where_keys_are_raw_and_pages_have_no_key() {
    let upload = |key: &str, id: &str| {
        format!(
            "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
             <Initiated>2026-11-30T09:52:14Z</Initiated></Upload>"
        )
    };
    let page = |rest: String| {
        format!(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType>{rest}</ListMultipartUploadsResult>"
        )
    };
    let first = page(format!(
        "<IsTruncated>true</IsTruncated><NextUploadIdMarker>two</NextUploadIdMarker>{}{}",
        upload("100%/a+b/part-1", "one"),
        upload("other/part-1", "two")
    ));
    let last = page(format!("<IsTruncated>false</IsTruncated>{}", upload("100%/a+b/part-2", "three")));
    let store = of_answers(move |request| {
        let is_last = asks(request, &Method::GET, "upload-id-marker=two");
        Response::new(Full::from(if is_last { last.clone() } else { first.clone() }))
    })
    .await;
    let found = store.uploads("bank", "100%/a+b/").await.unwrap();
    let found: Vec<_> = found.iter().map(|upload| (upload.key.as_str(), upload.id.as_str())).collect();
    assert_eq!(found, [("100%/a+b/part-1", "one"), ("100%/a+b/part-2", "three")]);
}

/// What comes of sweeping two uploads of probes, of which the first is answered so, and how many are ended.
async fn swept(
    listed: Option<(u16, &'static str)>,
    first: (u16, &'static str),
) -> (Result<(), Error>, usize) {
    const UPLOADS: &str = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>\
        <Upload><Key>_fanfold/probe/1/multipart</Key><UploadId>one</UploadId></Upload>\
        <Upload><Key>_fanfold/probe/2/multipart</Key><UploadId>two</UploadId></Upload>\
        </ListMultipartUploadsResult>";
    const OBJECTS: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let store = of_answers(move |request| {
        if asks(request, &Method::DELETE, "uploadId=one") {
            return saying(first.0, first.1, "not here");
        }
        if asks(request, &Method::DELETE, "uploadId=two") {
            counted.fetch_add(1, SeqCst);
            return saying(204, "", "");
        }
        if !asks(request, &Method::GET, "uploads") {
            return Response::new(Full::from(OBJECTS));
        }
        listed.map_or_else(
            || Response::new(Full::from(UPLOADS)),
            |(status, code)| saying(status, code, "not here"),
        )
    })
    .await;
    let swept = store.sweep_probes("bank", Timestamp(4_000_000_000_000), Duration::from_secs(60)).await;
    (swept, ended.load(SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_probes_are_swept_as_far_as_the_store_lets() {
    let denied = (403, "AccessDenied");
    for listed in [denied, (501, "NotImplemented")] {
        let (told, ended) = swept(Some(listed), denied).await;
        assert!(told.is_ok() && ended == 0, "{told:?}");
    }
    let (told, ended) = swept(None, denied).await;
    assert!(told.is_ok() && ended == 1, "{told:?}");
    // What passes is told, and tried again later.
    let busy = (503, "SlowDown");
    let (told, ended) = swept(None, busy).await;
    assert!(matches!(told, Err(Error::Unavailable { .. })), "{told:?}");
    assert_eq!(ended, 1);
    let (told, _) = swept(Some(busy), denied).await;
    assert!(matches!(told, Err(Error::Unavailable { .. })), "{told:?}");
}

/// No condition holds for a weak ETag, so that the object itself is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_a_weak_etag_is_read_in_its_state() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let store = of_answers(move |request| {
        if request.headers().contains_key(header::IF_MATCH) {
            return saying(412, "PreconditionFailed", "it is weak");
        }
        // It changes before the second read.
        let is_changed = request.method() == Method::GET && counted.fetch_add(1, SeqCst) > 0;
        let answer = Response::new(Full::from("rows"));
        with(answer, "etag", if is_changed { "W/\"b\"" } else { "W/\"a\"" })
    })
    .await;
    let at = uri("bank", "a");
    let pin = store.head(&at).await.unwrap().pin;
    assert_eq!(pin.etag, "W/\"a\"");
    assert_eq!(store.get(&at, Some(&pin)).await.unwrap(), "rows");
    let changed = store.get(&at, Some(&pin)).await;
    assert!(matches!(changed, Err(Error::Changed { .. })), "{changed:?}");
    assert_eq!(reads.load(SeqCst), 2);
}
