// SPDX-License-Identifier: Apache-2.0
//! The clock of delayed messages: one loop for each shard in every process.
//!
//! A delayed message waits under a subject of its own, so that it holds up nothing. Each delivery here compares how
//! long it has lain there, by the servers' clock, with its delay: what is left is told to the server, and what is due
//! moves to its queue, once, however many processes try. Asking each time is what a crash needs: a server that was
//! killed forgets what it was told, and delivers again after [`UNTOLD`], due or not.

use std::sync::Arc;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::{AckKind, Message};
use futures::future::join_all;
use tokio::time::sleep;

use super::Core;
use super::fault::{failed_publish, unavailable};
use super::intake::{Intake, REQUEST_MAX};
use super::pull::{durable, find_or_make};
use super::queue::About;
use crate::error::Result;

/// When a message comes again of which the server was told nothing, or has forgotten it.
const UNTOLD: Duration = Duration::from_secs(5);
/// Messages of one request.
const BATCH: usize = 256;
/// Before a lost consumer is looked up anew, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Core {
    /// The consumer of one shard's delayed messages.
    pub(super) async fn delayed(&self, shard: usize) -> Result<PullConsumer> {
        let config = durable("delayed".to_owned(), self.names.delayed_all(shard), UNTOLD);
        find_or_make(&self.work[shard], config).await
    }

    /// Moves what is due, until the backbone closes.
    pub(super) async fn move_due(self: Arc<Self>, shard: usize) {
        let moving = async {
            let mut backoff = BACKOFF.0;
            loop {
                match self.move_batch(shard).await {
                    Ok(()) => backoff = BACKOFF.0,
                    Err(error) => {
                        tracing::debug!(%error, shard, "delayed messages cannot be moved yet");
                        sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF.1);
                    }
                }
            }
        };
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = moving => {}
        }
    }

    async fn move_batch(&self, shard: usize) -> Result<()> {
        let mut intake = Intake::open(&self.jetstream, self.delayed(shard).await?).await?;
        loop {
            let (messages, _) = intake.batch(BATCH, REQUEST_MAX).await?;
            if messages.is_empty() {
                continue;
            }
            let now = intake.delivered_at().await?;
            let moves = messages.iter().map(|message| self.move_one(shard, message, now));
            for moved in join_all(moves).await {
                moved?;
            }
        }
    }

    async fn move_one(&self, shard: usize, message: &Message, now: DateTime) -> Result<()> {
        let info = message.info().map_err(unavailable)?;
        let reply = message.reply.as_ref().ok_or_else(|| unavailable("a message cannot be acknowledged"))?;
        let mut about = About::read(message.headers.as_ref());
        let delay = Duration::from_millis(about.delay_ms.take().unwrap_or_default());
        // A clock that was set back counts as no time at all.
        let left = delay.saturating_sub(Duration::try_from(now - info.published).unwrap_or_default());
        if !left.is_zero() {
            return self.settle(reply, AckKind::Nak(Some(left))).await;
        }
        if let Some(subject) = self.names.ready_from_delayed(shard, &message.subject) {
            let moved = about.message(message.payload.clone(), &format!("due {}", info.stream_sequence))?;
            let sent = self.jetstream.send_publish(subject, moved).await;
            let ack = sent.map_err(|failure| failed_publish(&failure))?;
            ack.await.map_err(|failure| failed_publish(&failure))?;
        }
        self.settle(reply, AckKind::Ack).await
    }
}
