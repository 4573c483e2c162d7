// SPDX-License-Identifier: Apache-2.0
//! Messages of one pull consumer, request by request, under a watchdog.
//!
//! Below both halves: watches and listings read their stream through it, pulls and the clock of delayed messages
//! their queue. A request that yields neither message nor end within its time and some grace, a gap in what the
//! consumer numbered, and a consumer that is gone all end in an error, after which the owner makes a new one.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{Context, Message};
use async_nats::{StatusCode, Subject, Subscriber};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::fault::unavailable;
use crate::error::{Error, Result};

/// Longest time that the server keeps one request.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How much later than promised an answer may be.
const GRACE: Duration = Duration::from_secs(2);
/// How long the rest of a batch may keep those waiting that are there.
const REST_GRACE: Duration = Duration::from_millis(500);
/// The header with which the server says how many messages of a request it did not send.
const UNSENT: &str = "Nats-Pending-Messages";
/// Bytes after which the server ends a request.
const REQUEST_BYTES: usize = 16 << 20;

/// Reads one consumer.
pub(super) struct Intake {
    jetstream: Context,
    consumer: PullConsumer,
    inbox: Subject,
    subscriber: Subscriber,
    /// What the running request may still give; none where there is no request.
    left: usize,
    /// True where the last request ended since the consumer had nothing more to give.
    is_drained: bool,
    /// Until when the running request must have said something.
    until: Instant,
}

/// What comes in.
pub(super) enum Heard {
    Message(Box<Message>),
    /// The request is over. `is_drained`: the consumer had nothing more to give.
    End,
}

impl Intake {
    pub(super) async fn open(jetstream: &Context, consumer: PullConsumer) -> Result<Self> {
        let client = jetstream.client();
        let inbox = Subject::from(client.new_inbox());
        let subscriber = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        Ok(Intake {
            jetstream: jetstream.clone(),
            consumer,
            inbox,
            subscriber,
            left: 0,
            is_drained: false,
            until: Instant::now(),
        })
    }

    /// Asks for up to `max` messages: what is there now, or, where there is none, the first that comes within
    /// `wait` (at most [`REQUEST_MAX`]) and what follows it at once.
    pub(super) async fn request(&mut self, max: usize, wait: Duration) -> Result<()> {
        let wait = wait.min(REQUEST_MAX);
        let batch = BatchConfig {
            batch: max,
            no_wait: true,
            expires: (!wait.is_zero()).then_some(wait),
            max_bytes: REQUEST_BYTES,
            ..BatchConfig::default()
        };
        self.send(batch, wait).await
    }

    /// Asks for up to `max` messages as they come within [`REQUEST_MAX`].
    pub(super) async fn follow(&mut self, max: usize) -> Result<()> {
        let batch = BatchConfig {
            batch: max,
            expires: Some(REQUEST_MAX),
            max_bytes: REQUEST_BYTES,
            ..BatchConfig::default()
        };
        self.send(batch, REQUEST_MAX).await
    }

    async fn send(&mut self, batch: BatchConfig, wait: Duration) -> Result<()> {
        (self.left, self.is_drained, self.until) = (batch.batch, false, Instant::now() + wait + GRACE);
        self.consumer.request_batch(batch, self.inbox.clone()).await.map_err(unavailable)
    }

    /// True while the server owes something.
    pub(super) fn is_asking(&self) -> bool {
        self.left > 0
    }

    pub(super) fn consumer_name(&self) -> &str {
        &self.consumer.cached_info().name
    }

    /// When the server last delivered something, by its own clock.
    pub(super) async fn delivered_at(&self) -> Result<DateTime> {
        let info = self.consumer.get_info().await.map_err(unavailable)?;
        // A leader that has just taken over has delivered nothing.
        info.delivered.last_active.ok_or_else(|| unavailable("a consumer does not know when it delivered"))
    }

    /// The next message, or the end of the request. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Heard> {
        loop {
            let message = timeout_at(self.until, self.subscriber.next())
                .await
                .map_err(|_| unavailable("a consumer said nothing in time"))?
                .ok_or(Error::Closed)?;
            let Some(status) = message.status else {
                self.left = self.left.saturating_sub(1);
                return Ok(Heard::Message(Box::new(Message { message, context: self.jetstream.clone() })));
            };
            let description = message.description.as_deref().unwrap_or_default();
            let is_full = description.contains("MaxBytes") || description.contains("Batch Completed");
            match status {
                StatusCode::IDLE_HEARTBEAT => {}
                StatusCode::NOT_FOUND | StatusCode::TIMEOUT => self.end(&message, true),
                _ if is_full => self.end(&message, false),
                _ => return Err(unavailable(format!("a consumer is gone ({status} {description})"))),
            }
            if self.left == 0 {
                return Ok(Heard::End);
            }
        }
    }

    /// Notes that the server ended the request. In a cluster the end may overtake messages that wait to be
    /// replicated, so what counts is how many it says it did not send.
    fn end(&mut self, message: &async_nats::Message, is_drained: bool) {
        let unsent = message.headers.as_ref().and_then(|headers| headers.get(UNSENT));
        let unsent = unsent.and_then(|count| count.as_str().parse().ok()).unwrap_or(self.left);
        self.left = self.left.saturating_sub(unsent);
        self.is_drained = is_drained;
    }

    /// Everything of one request, and whether the consumer had nothing more to give.
    pub(super) async fn batch(&mut self, max: usize, wait: Duration) -> Result<(Vec<Message>, bool)> {
        self.batch_until(max, wait, std::future::pending()).await
    }

    /// The same. Once it is withdrawn, no more is taken than was on its way: the server passes over requests that
    /// nobody listens to.
    pub(super) async fn batch_until(
        &mut self,
        max: usize,
        wait: Duration,
        withdrawn: impl Future<Output = ()>,
    ) -> Result<(Vec<Message>, bool)> {
        self.request(max, wait).await?;
        let (mut messages, mut is_withdrawn) = (Vec::new(), false);
        let mut withdrawn = pin!(withdrawn);
        while self.is_asking() {
            let heard = tokio::select! {
                biased;
                heard = self.next() => heard,
                () = &mut withdrawn, if !is_withdrawn => {
                    is_withdrawn = true;
                    self.subscriber.drain().await.map_err(unavailable)?;
                    continue;
                }
            };
            match heard {
                Ok(Heard::Message(message)) => messages.push(*message),
                Ok(Heard::End) => {}
                // What came is under lease already and has to be handed on.
                Err(_) if is_withdrawn || !messages.is_empty() => return Ok((messages, false)),
                Err(error) => return Err(error),
            }
            self.until = Instant::now() + REST_GRACE;
        }
        Ok((messages, self.is_drained))
    }
}
