// SPDX-License-Identifier: Apache-2.0
//! Who decides on conditional writes: the store, or the backbone in its place.
//!
//! Every process of a deployment must think alike, since one that leaves the
//! decision to a store that cannot decide writes over the others' winners. So
//! the first that sees the store fail says so in the backbone, for good, and all
//! others follow.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use fanfold_backbone::{Backbone, CasOutcome, Change};
use fanfold_protocol::{keys, limits};
use fanfold_storage::{Arbiter, Store};
use futures::{FutureExt, StreamExt, future::BoxFuture};

use crate::{
    error::{Error, Result},
    patience::Patience,
};

/// How often a contest is looked at that others change meanwhile.
const TRIES_MAX: u32 = 16;

/// The backbone as an arbiter.
struct ByBackbone {
    backbone: Backbone,
    needed: AtomicBool,
}

impl fmt::Debug for ByBackbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByBackbone").field("needed", &self.needed).finish_non_exhaustive()
    }
}

/// The store, with its conditional writes decided by the backbone if it cannot
/// decide them itself.
///
/// # Errors
/// When that cannot be found out, since the store or the backbone does not answer.
pub async fn arbitrated(
    store: &Store,
    backbone: &Backbone,
    bucket: &str,
    patience: &Patience,
) -> Result<Store> {
    let failed = |error: fanfold_backbone::Error| Error::service(error.to_string());
    let told = backbone.get(keys::ARBITRATED).await.map_err(failed)?.is_some();
    let needed = told
        || match patience.insist(bucket, || store.probe_conditional_writes(bucket)).await {
            Ok(None) => false,
            Ok(Some(how)) => {
                tracing::warn!(
                    how,
                    "the store cannot decide on conditional writes: the backbone does from now on"
                );
                backbone.create(keys::ARBITRATED, how.into_bytes()).await.map_err(failed)?;
                true
            }
            Err(why) => {
                return Err(Error::service(format!(
                    "expected to find out whether the store decides on conditional writes, found: {why}"
                )));
            }
        };
    let arbiter = Arc::new(ByBackbone { backbone: backbone.clone(), needed: AtomicBool::new(needed) });
    if !needed {
        tokio::spawn(follow(Arc::downgrade(&arbiter), backbone.clone()));
    }
    Ok(store.arbitrated(arbiter, bucket))
}

/// Waits until another process says that the backbone is to decide.
async fn follow(arbiter: Weak<ByBackbone>, backbone: Backbone) {
    let mut changes = backbone.follow(keys::STORE_RECORDS);
    while let Some(change) = changes.next().await {
        let Some(arbiter) = arbiter.upgrade() else { return };
        if matches!(change, Change::Put { .. }) {
            arbiter.needed.store(true, Ordering::SeqCst);
            return;
        }
    }
}

impl Arbiter for ByBackbone {
    fn is_needed(&self) -> bool {
        self.needed.load(Ordering::SeqCst)
    }

    fn decide<'a>(
        &'a self,
        contest: &'a str,
        writer: &'a str,
        instead_of: Option<&'a str>,
    ) -> BoxFuture<'a, std::result::Result<String, String>> {
        async move {
            let failed = |error: fanfold_backbone::Error| error.to_string();
            let key = keys::contest(contest);
            let ours = || writer.as_bytes().to_vec();
            for _ in 0..TRIES_MAX {
                let made = self.backbone.create_with_ttl(&key, ours(), limits::IDEMPOTENCY_WINDOW).await;
                if let CasOutcome::Stored(_) = made.map_err(failed)? {
                    return Ok(writer.to_owned());
                }
                let Some(entry) = self.backbone.get(&key).await.map_err(failed)? else { continue };
                let winner = String::from_utf8_lossy(&entry.value).into_owned();
                if instead_of != Some(winner.as_str()) {
                    return Ok(winner);
                }
                let window = limits::IDEMPOTENCY_WINDOW;
                let made = self.backbone.update_with_ttl(&key, ours(), entry.revision, window).await;
                if let CasOutcome::Stored(_) = made.map_err(failed)? {
                    return Ok(writer.to_owned());
                }
            }
            Err("expected a contest to be decided, found others deciding it all the time".to_owned())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use fanfold_backbone::EmbeddedConfig;
    use futures::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn one_wins_and_may_be_replaced_once() {
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await.unwrap();
        let arbiter = ByBackbone { backbone: backbone.clone(), needed: AtomicBool::new(true) };
        let contend = |instead_of: Option<String>| {
            let arbiter = &arbiter;
            let writers = (0..20).map(move |n| {
                let instead_of = instead_of.clone();
                async move { arbiter.decide("c", &format!("{n}"), instead_of.as_deref()).await.unwrap() }
            });
            join_all(writers)
        };
        let first = contend(None).await;
        assert!(first.iter().all(|winner| *winner == first[0]), "{first:?}");
        let other = if first[0] == "0" { "1" } else { "0" };
        assert_eq!(arbiter.decide("c", other, Some("none")).await.unwrap(), first[0]);
        assert_eq!(arbiter.decide("c", other, Some(&first[0])).await.unwrap(), other);
        assert_eq!(arbiter.decide("c", &first[0], Some(&first[0])).await.unwrap(), other);
        assert_eq!(arbiter.decide("another", "x", None).await.unwrap(), "x");
        backbone.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn others_follow_who_saw_it_first() {
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await.unwrap();
        let arbiter = Arc::new(ByBackbone { backbone: backbone.clone(), needed: AtomicBool::new(false) });
        let following = tokio::spawn(follow(Arc::downgrade(&arbiter), backbone.clone()));
        backbone.create(keys::ARBITRATED, "seen").await.unwrap();
        following.await.unwrap();
        assert!(arbiter.is_needed());
        backbone.close().await;
    }
}
