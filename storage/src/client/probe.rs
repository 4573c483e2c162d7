// SPDX-License-Identifier: Apache-2.0
//! What a store really supports, found out by doing it.
//!
//! Run at start, under `_fanfold/probe/`: writers that race for a key and over a
//! state, a changed pin, a range, an upload in parts. It never fails as a whole;
//! each answer says supported, not supported (and how that showed), or that it
//! could not be told. What it wrote goes with it, or, where it was
//! killed, with [`Store::sweep_probes`].

use std::time::Duration;

use bytes::Bytes;
use fanfold_protocol::time::Timestamp;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use serde::Serialize;
use tokio::time::timeout;
use uuid::{Uuid, fmt::Simple};

use super::{DEPTH_METADATA, Error, ObjectUri, Pin, PutOptions, PutOutcome, Result, Store};

/// What the keys of all probes begin with.
const PROBES: &str = "_fanfold/probe/";
/// Writers that race for one key.
const RACERS: usize = 12;
/// Two parts: one of the smallest size that S3 lets go before the last, and a rest.
const MULTIPART_BYTES: usize = (8 << 20) + 1;

/// Before the probe of a start is made anew, and how often it is under way at most: each waits for some thirty
/// answers, of which any may be left open, and for none of the others'.
const SOON: Duration = Duration::from_secs(2);
const AT_ONCE: usize = 3;

/// Whether a store can do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Support {
    /// It can.
    Supported,
    /// It cannot: what showed it.
    Unsupported(String),
    /// It could not be found out: the error.
    Unknown(String),
}

impl Support {
    /// Whether it is there for certain.
    pub fn is_supported(&self) -> bool {
        *self == Self::Supported
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// What a store can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Of writers racing for an absent key, exactly one wins.
    pub put_if_absent: Support,
    /// Of writers racing over one state of an object, exactly one wins, and none that
    /// comes after it.
    pub put_if_match: Support,
    /// A read pinned to an ETag fails after the object changed.
    pub pinned_reads: Support,
    /// A range returns exactly its bytes.
    pub ranged_reads: Support,
    /// An object can be written in parts.
    pub multipart: Support,
    /// An object keeps the metadata that it was written with. Without it the depth
    /// of chains of triggers goes unseen, and a writer whose answer was lost has to
    /// read what is there to know it for its own.
    pub user_metadata: Support,
}

impl Probe {
    /// What the platform builds on, by its name.
    pub fn needed(&self) -> [(&'static str, &Support); 5] {
        [
            ("put-if-absent", &self.put_if_absent),
            ("put-if-match", &self.put_if_match),
            ("pinned reads", &self.pinned_reads),
            ("ranged reads", &self.ranged_reads),
            ("multipart", &self.multipart),
        ]
    }

    /// Whether the store can do all that the platform builds on.
    pub fn is_complete(&self) -> bool {
        self.needed().iter().all(|(_, support)| support.is_supported())
    }

    /// Whether all could be found out. What could not says nothing of the store: it may have been busy.
    pub fn is_settled(&self) -> bool {
        !self.user_metadata.is_unknown() && !self.needed().iter().any(|(_, support)| support.is_unknown())
    }
}

impl Store {
    /// Finds out what the store can do in this bucket. Takes some seconds at
    /// most on a healthy store and removes what it wrote.
    pub async fn probe(&self, bucket: &str) -> Probe {
        let run = Uuid::new_v4().simple();
        let place = |name: &str| place(bucket, run, name);
        let (absent, matching, pinned, ranged, parts, metadata) = tokio::join!(
            async { self.probe_absent(&place("absent")?).await },
            async { self.probe_match(&place("match")?).await },
            async { self.probe_pinned(&place("pinned")?).await },
            async { self.probe_ranged(&place("ranged")?).await },
            async { self.probe_multipart(&place("multipart")?).await },
            async { self.probe_metadata(&place("metadata")?).await },
        );
        let places = ["absent", "match", "pinned", "ranged", "multipart", "metadata"].map(place);
        self.clear(places.into_iter().flatten()).await;
        Probe {
            put_if_absent: support(absent),
            put_if_match: support(matching),
            pinned_reads: support(pinned),
            ranged_reads: support(ranged),
            multipart: support(parts),
            user_metadata: support(metadata),
        }
    }

    /// Finds out only whether the store decides on conditional writes of either kind: none, it does, or what showed
    /// that it does not. A start waits for this, so a store that leaves an answer open is asked again soon, about other
    /// objects.
    ///
    /// # Errors
    /// It could not be found out.
    pub async fn probe_conditional_writes(&self, bucket: &str) -> Result<Option<String>> {
        let probe = || {
            let (store, bucket) = (self.clone(), bucket.to_owned());
            tokio::spawn(async move { store.probe_conditions(&bucket).await })
        };
        // Whichever come later still remove what they wrote.
        let mut probes = FuturesUnordered::new();
        let ended = loop {
            if probes.len() < AT_ONCE {
                probes.push(probe());
            }
            if let Ok(Some(ended)) = timeout(SOON, probes.next()).await {
                break ended;
            }
        };
        ended.unwrap_or_else(|error| {
            let (target, code) = (format!("s3://{bucket}/"), "a probe that broke".to_owned());
            Err(Error::Other { target, code, detail: error.to_string() })
        })
    }

    /// Removes what probes left that were killed: objects, and uploads that nobody ends, which are, `now`, as old
    /// as `age` or older. What the store does not let be listed or ended stays: it takes room, and is in nobody's way.
    pub async fn sweep_probes(&self, bucket: &str, now: Timestamp, age: Duration) -> Result<()> {
        self.delete_old(bucket, PROBES, now, age).await?;
        let uploads = match self.uploads(bucket, PROBES).await {
            Err(error) if !error.is_transient() => {
                tracing::debug!(bucket, %error, "uploads of probes, which takes s3:ListBucketMultipartUploads, stay");
                Vec::new()
            }
            uploads => uploads?,
        };
        let mut swept = Ok(());
        for upload in uploads.into_iter().filter(|upload| now.since(upload.begun) >= age) {
            let uri = ObjectUri::new(bucket, upload.key).map_err(|p| Error::Config(p.to_string()))?;
            match self.abort_upload(&uri, &upload.id).await {
                Err(error) if !error.is_transient() => {
                    tracing::debug!(%uri, %error, "an upload of a probe, which takes s3:AbortMultipartUpload, stays");
                }
                aborted => swept = swept.and(aborted),
            }
        }
        swept
    }

    async fn probe_conditions(&self, bucket: &str) -> Result<Option<String>> {
        let run = Uuid::new_v4().simple();
        let place = |name: &str| place(bucket, run, name);
        let absent = async { self.probe_absent(&place("absent")?).await };
        let matching = async { self.probe_match(&place("match")?).await };
        let (absent, matching) = tokio::join!(absent, matching);
        self.clear(["absent", "match"].map(place).into_iter().flatten()).await;
        match (absent, matching) {
            (Ok(Some(how)), _) | (_, Ok(Some(how))) => Ok(Some(how)),
            (absent, matching) => absent.and(matching),
        }
    }

    async fn clear(&self, places: impl Iterator<Item = ObjectUri>) {
        for uri in places {
            if let Err(error) = self.delete(&uri).await {
                tracing::warn!(%uri, %error, "an object of the probe could not be removed");
            }
        }
    }

    async fn probe_absent(&self, uri: &ObjectUri) -> Result<Option<String>> {
        let writers: Vec<_> = (0..RACERS).map(|n| format!("probe-{n}")).collect();
        let puts = writers.iter().map(|writer| {
            let body = Bytes::copy_from_slice(writer.as_bytes());
            self.put_unmatched(uri, body, writer, PutOptions::default())
        });
        let outcomes = join_all(puts).await.into_iter().collect::<Result<Vec<_>>>();
        let outcomes = match outcomes {
            Err(Error::Other { code, detail, .. }) => {
                return Ok(Some(format!("a put with If-None-Match gave {code}: {detail}")));
            }
            outcomes => outcomes?,
        };
        let winners: Vec<_> = outcomes
            .iter()
            .zip(&writers)
            .filter(|(outcome, _)| matches!(outcome, PutOutcome::Created(_)))
            .map(|(_, writer)| writer.as_bytes())
            .collect();
        let found = self.get(uri, None).await?;
        Ok((winners != [&found[..]])
            .then(|| format!("{} of {RACERS} writers that raced with If-None-Match won", winners.len())))
    }

    async fn probe_match(&self, uri: &ObjectUri) -> Result<Option<String>> {
        let first = self.put_matched(uri, &Bytes::from_static(b"first"), &PutOptions::default()).await?;
        let over_first = PutOptions { if_match: Some(first.etag), ..PutOptions::default() };
        let bodies: Vec<_> = (0..RACERS).map(|n| Bytes::from(format!("probe-{n}"))).collect();
        let puts = bodies.iter().map(|body| self.put_matched(uri, body, &over_first));
        let outcomes = join_all(puts).await.into_iter().map(has_won).collect::<Result<Vec<_>>>();
        let outcomes = match outcomes {
            Err(Error::Other { code, detail, .. }) => {
                return Ok(Some(format!("a put with If-Match gave {code}: {detail}")));
            }
            outcomes => outcomes?,
        };
        let winners: Vec<_> = bodies.iter().zip(outcomes).filter(|(_, won)| *won).map(|(b, _)| b).collect();
        let found = self.get(uri, None).await?;
        let one_won = match &winners[..] {
            [winner] => **winner == found,
            // The one that won never heard of it, and was refused when it asked again.
            [] => bodies.contains(&found),
            _ => false,
        };
        if !one_won {
            let won = winners.len();
            return Ok(Some(format!("{won} of {RACERS} writers that raced with one If-Match won")));
        }
        let late = has_won(self.put_matched(uri, &Bytes::from_static(b"late"), &over_first).await)?;
        Ok(late.then(|| "a put with the If-Match of an earlier state won".to_owned()))
    }

    async fn probe_pinned(&self, uri: &ObjectUri) -> Result<Option<String>> {
        let before = self.put(uri, Bytes::from_static(b"before"), PutOptions::default()).await?;
        if self.get_range(uri, &before, 0..6).await? != b"before"[..] {
            return Ok(Some("a pinned read returned other bytes".to_owned()));
        }
        self.put(uri, Bytes::from_static(b"after!"), PutOptions::default()).await?;
        match self.get_range(uri, &before, 0..6).await {
            Err(Error::Changed { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(Some("a pinned read returned bytes of a changed object".to_owned())),
        }
    }

    async fn probe_ranged(&self, uri: &ObjectUri) -> Result<Option<String>> {
        let pin = self.put(uri, Bytes::from_static(b"0123456789"), PutOptions::default()).await?;
        match self.get_range(uri, &pin, 3..7).await {
            Ok(bytes) if bytes == b"3456"[..] => Ok(None),
            Ok(_) => Ok(Some("a range returned other bytes".to_owned())),
            Err(Error::Other { detail, .. }) => Ok(Some(detail)),
            Err(error) => Err(error),
        }
    }

    async fn probe_multipart(&self, uri: &ObjectUri) -> Result<Option<String>> {
        let mut writer = self.writer(uri, PutOptions::default());
        writer.write(Bytes::from(vec![b'x'; MULTIPART_BYTES])).await?;
        let pin: Pin = match writer.finish().await {
            Err(Error::Other { code, detail, .. }) => return Ok(Some(format!("{code}: {detail}"))),
            pin => pin?,
        };
        let found = self.head(uri).await?.pin;
        Ok((found != pin).then(|| format!("the object must be {pin:?}, found {found:?}")))
    }

    async fn probe_metadata(&self, uri: &ObjectUri) -> Result<Option<String>> {
        let mut options = PutOptions::default();
        options.mark_depth(1);
        self.put(uri, Bytes::from_static(b"x"), options).await?;
        let found = self.head(uri).await?.user_metadata;
        Ok((found.get(DEPTH_METADATA).map(String::as_str) != Some("1"))
            .then(|| format!("metadata {DEPTH_METADATA} = 1 must be kept, found {found:?}")))
    }
}

/// Where a run of the probe lays an object.
fn place(bucket: &str, run: Simple, name: &str) -> Result<ObjectUri> {
    ObjectUri::new(bucket, format!("{PROBES}{run}/{name}"))
        .map_err(|problem| Error::Config(problem.to_string()))
}

/// Whether a put with `If-Match` was made, or refused for the object's state.
fn has_won(put: Result<Pin>) -> Result<bool> {
    match put {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. } | Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// None: it works. Some: how it showed that it does not.
fn support(result: Result<Option<String>>) -> Support {
    match result {
        Ok(None) => Support::Supported,
        Ok(Some(how)) => Support::Unsupported(how),
        Err(error) => Support::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_told_is_no_lack() {
        let check = |ranges: Support, metadata: Support, complete: bool, settled: bool| {
            let supported = || Support::Supported;
            let probe = Probe {
                put_if_absent: supported(),
                put_if_match: supported(),
                pinned_reads: supported(),
                ranged_reads: ranges,
                multipart: supported(),
                user_metadata: metadata,
            };
            assert_eq!((probe.is_complete(), probe.is_settled()), (complete, settled), "{probe:?}");
        };
        let lacks = || Support::Unsupported("a range returned other bytes".to_owned());
        let busy = || Support::Unknown("HTTP status 503".to_owned());
        check(Support::Supported, Support::Supported, true, true);
        check(lacks(), Support::Supported, false, true);
        check(busy(), Support::Supported, false, false);
        check(Support::Supported, lacks(), true, true);
        check(Support::Supported, busy(), true, false);
    }
}
