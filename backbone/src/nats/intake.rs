//! Messages of one pull consumer, request by request, under a watchdog.
//!
//! Below both halves: watches and listings read their stream through it, pulls and the clock of delayed messages
//! their queue. A request that yields neither message nor end within its time and some grace, a gap in what the
//! consumer numbered, and a consumer that is gone all end in an error, after which the owner makes a new one.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{Context, Message};
use async_nats::{StatusCode, Subject, Subscriber};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::fault::unavailable;
use crate::error::{Error, Result};

/// Longest time that the server keeps one request. What an abandoned pull still gets is given back within it.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How much later than promised an answer may be.
const GRACE: Duration = Duration::from_secs(2);
/// How long the rest of a batch may keep those waiting that are there.
const REST_GRACE: Duration = Duration::from_millis(500);
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
    /// Until when the running request must have said something.
    until: Instant,
}

/// What comes in.
pub(super) enum Heard {
    Message(Box<Message>),
    /// The request is over. `is_drained`: the consumer had nothing more to give.
    End {
        is_drained: bool,
    },
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
        (self.left, self.until) = (batch.batch, Instant::now() + wait + GRACE);
        self.consumer.request_batch(batch, self.inbox.clone()).await.map_err(unavailable)
    }

    /// True while the server owes something.
    pub(super) fn is_asking(&self) -> bool {
        self.left > 0
    }

    pub(super) fn consumer_name(&self) -> &str {
        &self.consumer.cached_info().name
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
            match status {
                StatusCode::IDLE_HEARTBEAT => {}
                StatusCode::NOT_FOUND | StatusCode::TIMEOUT => {
                    self.left = 0;
                    return Ok(Heard::End { is_drained: true });
                }
                _ if description.contains("MaxBytes") => {
                    self.left = 0;
                    return Ok(Heard::End { is_drained: false });
                }
                _ => return Err(unavailable(format!("a consumer is gone ({status} {description})"))),
            }
        }
    }

    /// Everything of one request.
    pub(super) async fn batch(&mut self, max: usize, wait: Duration) -> Result<(Vec<Message>, bool)> {
        self.request(max, wait).await?;
        let mut messages = Vec::new();
        while self.is_asking() {
            match self.next().await {
                Ok(Heard::Message(message)) => messages.push(*message),
                Ok(Heard::End { is_drained }) => return Ok((messages, is_drained)),
                // What came is under lease already and has to be handed on.
                Err(_) if !messages.is_empty() => return Ok((messages, false)),
                Err(error) => return Err(error),
            }
            self.until = Instant::now() + REST_GRACE;
        }
        Ok((messages, false))
    }
}
