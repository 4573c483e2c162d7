// SPDX-License-Identifier: Apache-2.0
//! Records that stand for no call any more, or never did.

use std::time::Duration;

use fanfold_backbone::Backbone;
use fanfold_protocol::{keys, time};
use uuid::Uuid;

use super::{Inner, live::Live};

/// For how long a record is believed without a look at how its invocation ended: the end is written and the record
/// removed within a moment of each other, as are a record and its message.
const BELIEVED: Duration = Duration::from_secs(60);
/// The same of ends in lists, where each look is one of many: few calls take so long.
const BELIEVED_IN_LISTS: Duration = Duration::from_secs(3_600);
/// How long such a look may take.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Looks whether records are over: at the ends of those that are not believed, and once at the queue.
pub(super) struct Looks {
    believed: Duration,
    queue_is_empty: Option<bool>,
}

impl Looks {
    /// For one record.
    pub(super) fn at_one() -> Self {
        Self { believed: BELIEVED, queue_is_empty: None }
    }

    /// For those of a list.
    pub(super) fn at_many() -> Self {
        Self { believed: BELIEVED_IN_LISTS, queue_is_empty: None }
    }

    /// Whether an invocation has ended although its record is there: whoever ended it died before it removed the record,
    /// or a NATS server that was killed brought it back. Or it was never queued, since whoever made the record died
    /// first: nobody was promised anything. Such a record is removed. One that began a short while ago is believed, as
    /// are all while the store and the backbone are silent.
    pub(super) async fn is_over(&mut self, inner: &Inner, id: &Uuid, live: &Live, revision: u64) -> bool {
        if !self.was_never_queued(&inner.backbone, live).await && !self.has_ended(inner, id, live).await {
            return false;
        }
        if let Err(error) = inner.backbone.delete(&keys::invocation_record(id), Some(revision)).await {
            tracing::debug!(%id, %error, "the record of a call that is over cannot be removed yet");
        }
        true
    }

    async fn has_ended(&self, inner: &Inner, id: &Uuid, live: &Live) -> bool {
        if !live.is_older(time::now(), self.believed) {
            return false;
        }
        let ended = tokio::time::timeout(LOOK_MAX, inner.ends.get(id)).await;
        matches!(ended, Ok(Ok(Some(_))))
    }

    /// Whether a call that has not begun has no message: none can be found by its id, so the queue has to be empty.
    /// Should there be one after all, it makes the record anew.
    async fn was_never_queued(&mut self, backbone: &Backbone, live: &Live) -> bool {
        if live.attempts > 0 || !live.is_older(time::now(), BELIEVED) {
            return false;
        }
        if let Some(known) = self.queue_is_empty {
            return known;
        }
        let depth = tokio::time::timeout(LOOK_MAX, backbone.depth(keys::INVOCATION_QUEUE)).await;
        let is_empty = matches!(depth, Ok(Ok(depth)) if depth.ready + depth.leased + depth.delayed == 0);
        *self.queue_is_empty.insert(is_empty)
    }
}
