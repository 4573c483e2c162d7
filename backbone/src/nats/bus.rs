// SPDX-License-Identifier: Apache-2.0
//! The event bus over plain NATS subjects.
//!
//! One subscription for each reader, emptied into the same bounded inbox as in one process. What a lost connection
//! or the client's own bound may have swallowed is told as a lag of at least one.

use std::sync::Arc;

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;

use super::Core;
use super::fault::unavailable;
use crate::bounds::check_size;
use crate::bus::{EVENT_BYTES_MAX, Feeder, Subscription, subscription};
use crate::error::Result;
use crate::name::{Pattern, check_subject};

impl Core {
    pub(super) async fn publish(&self, subject: &str, payload: Bytes) -> Result<()> {
        check_subject(subject)?;
        check_size("an event", EVENT_BYTES_MAX, payload.len())?;
        self.jetstream.client().publish(self.names.event(subject), payload).await.map_err(unavailable)
    }

    pub(super) async fn subscribe(self: &Arc<Self>, pattern: &str) -> Result<Subscription> {
        Pattern::parse(pattern)?;
        let client = self.jetstream.client();
        let mut gaps = self.gaps.clone();
        gaps.mark_unchanged();
        let subscriber = client.subscribe(self.names.event(pattern)).await.map_err(unavailable)?;
        // The server takes things in order: once it answers this, it knows of the subscription.
        self.ping().await?;
        let (feeder, subscription) = subscription();
        let core = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = core.closed.cancelled() => {}
                () = core.feed(feeder, subscriber, gaps) => {}
            }
        });
        Ok(subscription)
    }

    /// Hands on what comes until nobody listens.
    async fn feed(
        &self,
        mut feeder: Feeder,
        mut subscriber: Subscriber,
        mut gaps: tokio::sync::watch::Receiver<u64>,
    ) {
        loop {
            let is_heard = tokio::select! {
                biased;
                message = subscriber.next() => match message {
                    None => return,
                    Some(message) => match self.names.event_of(&message.subject) {
                        Some(subject) => feeder.push(subject, &message.payload),
                        None => true,
                    },
                },
                changed = gaps.changed() => changed.is_ok() && feeder.lose(1),
                () = feeder.unheard() => false,
            };
            if !is_heard {
                return;
            }
        }
    }
}
