// SPDX-License-Identifier: Apache-2.0
//! What lies where a job's output goes, and whether it is the job's.
//!
//! Looked at before each try to publish, and once more after a refusal, since a put
//! before it may have landed whose answer was lost. Invariant: where that cannot be
//! told, nothing is removed.

use fanfold_protocol::{
    Problem,
    commit::{Manifest, RESULT_NAME},
    uri::{ObjectUri, Pin},
};

use super::{Closing, Products, Tried};
use crate::jobs::error::{Error, Result, about_input};

/// A manifest, unless it cannot be read as one, and its state.
pub(super) type Found = (Option<Manifest>, Pin);

impl Closing<'_> {
    /// The manifest that is there, read as far as it can be, and its state.
    pub(super) async fn found(&self, uri: &ObjectUri) -> Result<Option<Found>> {
        use fanfold_storage::Error::{NotFound, TooLarge};
        let store = self.vault.store();
        let found = match store.get_with_pin(uri, None).await {
            Ok((bytes, pin)) => Ok((serde_json::from_slice(&bytes).ok(), pin)),
            // Another program's: those of jobs have shards before they are so large.
            Err(TooLarge { .. }) => store.head(uri).await.map(|meta| (None, meta.pin)),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => Ok(Some(found)),
            Err(NotFound { .. }) => Ok(None),
            Err(error) => Err(about_input(error)),
        }
    }

    /// The ETag of what lies where the answer goes, if there is an answer.
    pub(super) async fn beside(&self, products: &Products) -> Result<Option<String>> {
        if products.answer.is_none() {
            return Ok(None);
        }
        match self.vault.store().head(&self.output.join(RESULT_NAME)?).await {
            Ok(meta) => Ok(Some(meta.pin.etag)),
            Err(fanfold_storage::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(about_input(error)),
        }
    }

    /// Whose head is there, where what was found is the job's manifest.
    pub(super) fn placed(&self, found: Option<&Found>, head: &Manifest) -> Option<Tried> {
        let manifest = found?.0.as_ref().filter(|manifest| manifest.job == self.job.id)?;
        let is_ours = manifest.shards == head.shards;
        Some(if is_ours { Tried::Published } else { Tried::PublishedElsewhere })
    }

    /// What a refusal comes to, by what is there.
    ///
    /// # Errors
    /// The refusal, where what is there may not be read: it may be this head, whose shards are
    /// left to the sweep then. Or why the store does not tell.
    pub(super) async fn after_refusal(
        &self,
        uri: &ObjectUri,
        head: &Manifest,
        refusal: Problem,
    ) -> Result<Tried> {
        match self.found(uri).await {
            Ok(found) => Ok(self.placed(found.as_ref(), head).unwrap_or(Tried::Refused(refusal))),
            Err(Error::Refused(_)) => Err(refusal.into()),
            Err(error) => Err(error),
        }
    }
}
