// SPDX-License-Identifier: Apache-2.0
//! Conditional writes to stores that have none.
//!
//! ```text
//! what is there? ─> own body beside it ─> who writes? ─> the winner, or whoever finds it unfinished
//! ```
//!
//! Some stores answer `If-None-Match` and `If-Match` on a put with success
//! whatever is there. Behind those an [`Arbiter`] names one winner for each state
//! of a key. Every writer lays its body aside before it asks; from there it is
//! copied to the key, by the winner or by whoever loses to it, and removed.
//! Invariants: of one state a key goes over into one next state only, and a
//! winner that dies leaves nobody waiting.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;
use fanfold_protocol::digest::Digest;
use futures::future::BoxFuture;

use super::{Error, ObjectUri, Pin, PutOptions, Result, Store, WRITER_METADATA, read::Meta};

/// How often a place is contended for whose winners' objects are deleted meanwhile.
const ROUNDS_MAX: u32 = 8;

/// Names one writer for each contest, for as long as writers may be about.
pub trait Arbiter: Debug + Send + Sync {
    /// Whether the store cannot decide by itself. May become true while the
    /// process runs.
    fn is_needed(&self) -> bool;

    /// Names `writer` the winner of `contest`, unless there is one; answers who it
    /// is. A winner `instead_of` whom it is to be counts as none.
    fn decide<'a>(
        &'a self,
        contest: &'a str,
        writer: &'a str,
        instead_of: Option<&'a str>,
    ) -> BoxFuture<'a, std::result::Result<String, String>>;
}

/// An arbiter, and where bodies lie meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Arbitration {
    pub(super) arbiter: Arc<dyn Arbiter>,
    pub(super) bucket: String,
}

/// How a conditional write ended.
pub(super) enum Written {
    /// This writer's object is there.
    Ours(Pin),
    /// The key is in another state than expected.
    Otherwise(Option<Pin>),
}

impl Store {
    /// The same store, whose conditional writes `arbiter` decides while it is
    /// needed. Bodies lie under `_fanfold/contests/` of `bucket` meanwhile.
    #[must_use]
    pub fn arbitrated(&self, arbiter: Arc<dyn Arbiter>, bucket: impl Into<String>) -> Self {
        let arbitration = Some(Arbitration { arbiter, bucket: bucket.into() });
        self.with_arbitration(arbitration)
    }

    /// The arbitration, while there has to be one.
    pub(super) fn arbitration(&self) -> Option<&Arbitration> {
        self.inner.arbitration.as_ref().filter(|arbitration| arbitration.arbiter.is_needed())
    }

    /// Writes an object if its key is in the state `expected`: the ETag of what is
    /// there, or none for nothing.
    pub(super) async fn put_arbitrated(
        &self,
        Arbitration { arbiter, bucket }: &Arbitration,
        uri: &ObjectUri,
        expected: Option<&str>,
        body: Bytes,
        writer: &str,
        mut options: PutOptions,
    ) -> Result<Written> {
        options.if_match = None;
        options.metadata.insert(WRITER_METADATA.to_owned(), writer.to_owned());
        let contest = Digest::of(format!("{uri}\n{}", expected.unwrap_or_default()).as_bytes()).to_hex();
        let stage = |writer: &str| {
            let writer = Digest::of(writer.as_bytes()).to_hex();
            let key = format!("_fanfold/contests/{contest}/{}", &writer[..32]);
            ObjectUri::new(bucket, key).map_err(|problem| Error::Config(problem.to_string()))
        };
        let ours = stage(writer)?;
        let mut instead_of = None;
        let mut staged = false;
        for _ in 0..ROUNDS_MAX {
            if let Some(written) = self.other_state(uri, expected, writer, &body).await? {
                if staged {
                    self.unstage(&ours).await;
                }
                return Ok(written);
            }
            if !staged {
                self.put(&ours, body.clone(), options.clone()).await?;
                staged = true;
            }
            let winner = arbiter.decide(&contest, writer, instead_of.as_deref()).await;
            let winner = winner.map_err(|detail| Error::Unavailable { target: uri.to_string(), detail })?;
            // Winners and losers alike: whoever is late finds the body gone, and undoes nothing.
            let body_of_winner = stage(&winner)?;
            match self.copy(&body_of_winner, None, uri).await {
                Ok(pin) => {
                    self.unstage(&body_of_winner).await;
                    if winner == writer {
                        return Ok(Written::Ours(pin));
                    }
                }
                // It was written, and deleted or overwritten since.
                Err(Error::NotFound { .. }) => instead_of = Some(winner),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict {
            target: uri.to_string(),
            detail: "others write and delete it all the time".to_owned(),
        })
    }

    /// What is there, unless the key is in the expected state.
    async fn other_state(
        &self,
        uri: &ObjectUri,
        expected: Option<&str>,
        writer: &str,
        body: &Bytes,
    ) -> Result<Option<Written>> {
        let Some(meta) = self.head_if_there(uri).await? else {
            return Ok(expected.is_some().then_some(Written::Otherwise(None)));
        };
        let differs = expected != Some(meta.pin.etag.as_str());
        // What is still in the expected state may have the same bytes; only a name tells then.
        let can_tell = differs || meta.user_metadata.contains_key(WRITER_METADATA);
        if can_tell && self.is_by(writer, body, uri, &meta).await? {
            return Ok(Some(Written::Ours(meta.pin)));
        }
        Ok(differs.then_some(Written::Otherwise(Some(meta.pin))))
    }

    pub(super) async fn head_if_there(&self, uri: &ObjectUri) -> Result<Option<Meta>> {
        match self.head(uri).await {
            Ok(meta) => Ok(Some(meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What stays behind costs a little room and is in nobody's way.
    async fn unstage(&self, uri: &ObjectUri) {
        if let Err(error) = self.delete(uri).await {
            tracing::debug!(%uri, %error, "a body that was laid aside stays behind");
        }
    }
}
