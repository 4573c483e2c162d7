// SPDX-License-Identifier: Apache-2.0
//! Which of two claims stands before the other.

use fanfold_backbone::EmbeddedConfig;
use fanfold_protocol::time;
use serde_json::json;

use super::*;

fn job() -> Job {
    let document = json!({"function": "f", "input": "s3://bank/in/", "output": "s3://bank/out/"});
    Job {
        id: Uuid::now_v7(),
        document: serde_json::from_value(document).unwrap(),
        version: 1,
        digest: Digest::of(b""),
        submitted_at: time::now(),
        retry: None,
        cache: None,
        sample: None,
    }
}

/// Two places, one below the other, and who claims them.
struct Pair {
    backbone: Backbone,
    outer: ObjectUri,
    inner: ObjectUri,
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(folder.path().join("backbone.redb"));
        let backbone = Backbone::embedded(config).await.unwrap();
        let [outer, inner] =
            ["s3://bank/a/", "s3://bank/a/b/"].map(|place| place.parse::<ObjectUri>().unwrap());
        Self { backbone, outer, inner, _folder: folder }
    }

    async fn take(&self, output: &ObjectUri, key: Option<Digest>) -> Claim {
        Claim::take(&self.backbone, output, &job(), key).await.unwrap()
    }

    async fn gives_way(&self, output: &ObjectUri, claim: &Claim) -> bool {
        let writers = Writers::now(&self.backbone).await.unwrap();
        writers.check_apart(output, claim.since()).await.is_err()
    }
}

#[tokio::test]
async fn of_two_claims_the_later_gives_way_also_when_the_earlier_is_renewed() {
    let pair = Pair::new().await;
    let mut earlier = pair.take(&pair.outer, None).await;
    let later = pair.take(&pair.inner, None).await;
    for _ in 0..2 {
        assert!(!pair.gives_way(&pair.outer, &earlier).await);
        assert!(pair.gives_way(&pair.inner, &later).await);
        assert!(earlier.renew().await.unwrap());
    }
    // Were it accepted all the same, it would be in the way at once, also without a record.
    later.keep().await;
    assert!(pair.gives_way(&pair.outer, &earlier).await);
}

#[tokio::test]
async fn another_try_of_a_request_stands_where_the_first_did() {
    let pair = Pair::new().await;
    let key = Some(Digest::of(b"key"));
    let first = pair.take(&pair.outer, key).await;
    let other = pair.take(&pair.inner, None).await;
    let second = pair.take(&pair.outer, key).await;
    assert_eq!(second.since(), first.since());
    assert!(pair.gives_way(&pair.inner, &other).await);
    assert!(!pair.gives_way(&pair.outer, &second).await);
    // What is accepted is no try any more.
    first.keep().await;
    let third = Claim::take(&pair.backbone, &pair.outer, &job(), key).await;
    assert_eq!(Problem::from(third.err().unwrap()).code, ErrorKind::OutputExists);
}
