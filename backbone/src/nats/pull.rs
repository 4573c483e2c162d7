// SPDX-License-Identifier: Apache-2.0
//! The receiving side of the work queue: pulls, and what a delivery does to settle itself.
//!
//! One durable consumer for each queue, made on first use and made again when it is lost; those who may make none
//! pull through what others keep for them. A pull runs as a task of
//! its own, so that what it got is given back when nobody waits for it any more. A lease is known twice: the server
//! redelivers by it, and whoever holds it fences himself by the monotonic clock, so that a worker that slept
//! through its lease cannot take the message away from the next one.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Subject;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind};
use async_nats::jetstream::message::{AckKind, Message};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, RawMessageErrorKind};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::fault::unavailable;
use super::intake::Intake;
use super::queue::{About, kept_reason};
use super::{Core, Nats, Stream, names};
use crate::bounds::DURATION_MAX;
use crate::error::{Error, Result};
use crate::name::check_key;
use crate::queue::{Delivery, Lease, PullRequest, Settled, WhenAbandoned};

/// Most messages of one request; a larger pull gets what comes first.
const PULL_MAX: usize = 1_024;
/// Pulls that may wait at one consumer, over all processes.
const WAITING_MAX: i64 = 8_192;
/// Shortest lease that is asked of the server, whose clock ticks in milliseconds.
const LEASE_MIN: Duration = Duration::from_millis(1);
/// Before an ack without an answer is sent again.
const ACK_AGAIN: Duration = Duration::from_secs(1);
/// After so many without an answer the message itself is removed.
const ACKS_UNHEARD: usize = 2;
/// Before a lost consumer is made anew.
const BACKOFF: Duration = Duration::from_millis(100);

/// Consumers of others, or a bound on their number, that leave no place for ours.
const IN_THE_WAY: [ErrorCode; 3] = [
    ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE,
    ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED,
    ErrorCode::MAXIMUM_CONSUMERS_LIMIT,
];

/// The lease of one message.
#[derive(Clone)]
pub(crate) struct Hold {
    nats: Nats,
    /// Where the server hears what becomes of the message.
    reply: Subject,
    sequence: u64,
    until: Arc<Mutex<Instant>>,
}

impl Nats {
    pub(crate) async fn pull(&self, queue: &str, request: PullRequest) -> Result<Vec<Delivery>> {
        check_key(queue)?;
        let until = Instant::now() + request.wait.min(DURATION_MAX);
        let (max, lease) = (request.max.clamp(1, PULL_MAX), request.lease.clamp(LEASE_MIN, DURATION_MAX));
        let mut failing = None;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            match self.open(self.pull_once(queue, PullRequest { max, wait, lease, ..request })).await {
                Ok(deliveries) if !deliveries.is_empty() => return Ok(deliveries),
                Ok(_) if wait.is_zero() || Instant::now() >= until => return Ok(Vec::new()),
                Ok(_) => failing = None,
                Err(error @ Error::Unavailable { .. }) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() + BACKOFF >= self.core().operation_timeout {
                        return Err(error);
                    }
                    tracing::debug!(%error, queue, "a queue's consumer is looked up anew");
                    self.open(async {
                        sleep(BACKOFF).await;
                        Ok(())
                    })
                    .await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One request, in a task that outlives its caller for as long as something may still come.
    async fn pull_once(&self, queue: &str, request: PullRequest) -> Result<Vec<Delivery>> {
        let (mut reply, answer) = oneshot::channel();
        let (nats, queue) = (self.clone(), queue.to_owned());
        tokio::spawn(async move {
            let withdrawn = async {
                match request.when_abandoned {
                    WhenAbandoned::GiveBack => std::future::pending().await,
                    WhenAbandoned::Withdraw => reply.closed().await,
                }
            };
            let pulled = nats.request(&queue, request, withdrawn).await;
            // Where nobody waits any more, what came is dropped here.
            drop(reply.send(pulled));
        });
        Ok(answer.await.map_err(unavailable)??.take())
    }

    async fn request(
        &self,
        queue: &str,
        PullRequest { max, wait, lease, .. }: PullRequest,
        withdrawn: impl Future<Output = ()>,
    ) -> Result<Pulled> {
        let core = self.core();
        let consumer = core.consumer(queue).await?;
        let pulled = async {
            let mut intake = Intake::open(&core.jetstream, consumer).await?;
            intake.batch_until(max, wait, withdrawn).await
        };
        let messages = match pulled.await {
            Ok((messages, _)) => messages,
            Err(error) => {
                core.forget_consumer(queue);
                return Err(error);
            }
        };
        let mut pulled =
            Pulled { deliveries: Vec::with_capacity(messages.len()), runtime: Handle::current() };
        for message in messages {
            pulled.deliveries.push(self.delivery(queue, message, lease).await?);
        }
        Ok(pulled)
    }

    async fn delivery(&self, queue: &str, message: Message, lease: Duration) -> Result<Delivery> {
        let begun = Instant::now();
        let info = message.info().map_err(unavailable)?;
        let (attempt, sequence) = (u32::try_from(info.delivered).unwrap_or(u32::MAX), info.stream_sequence);
        let about = About::read(message.headers.as_ref());
        let reply = message.reply.clone().ok_or_else(|| unavailable("a message cannot be acknowledged"))?;
        if lease != self.core().lease {
            message.ack_with(AckKind::Nak(Some(lease))).await.map_err(unavailable)?;
        }
        let until = Arc::new(Mutex::new(begun + lease));
        let hold = Hold { nats: self.clone(), reply, sequence, until };
        let (queue, lease) = (queue.to_owned(), Lease::Nats(hold));
        Ok(Delivery { queue, id: about.id, payload: message.message.payload, attempt, lease })
    }
}

/// What a pull got, given back where it is dropped on its way to the caller.
struct Pulled {
    deliveries: Vec<Delivery>,
    runtime: Handle,
}

impl Pulled {
    fn take(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Pulled {
    fn drop(&mut self) {
        for delivery in self.deliveries.drain(..) {
            // Where this fails, the lease lapses.
            self.runtime.spawn(async move { drop(delivery.nak(Duration::ZERO).await) });
        }
    }
}

/// Settling.
impl Hold {
    pub(crate) async fn ack(&self, delivery: &Delivery) -> Result<Settled> {
        let settled = self.nats.within(self.ack_at_server(delivery)).await?;
        self.hold_until(Instant::now());
        Ok(settled)
    }

    pub(crate) async fn nak(&self, delay: Duration) -> Result<Settled> {
        if !self.is_held() {
            return Ok(Settled::Stale);
        }
        let delay = (!delay.is_zero()).then_some(delay.min(DURATION_MAX));
        self.tell(AckKind::Nak(delay)).await?;
        self.hold_until(Instant::now());
        Ok(Settled::Done)
    }

    /// The server knows one lease for a consumer; another one is a delay after which it redelivers.
    pub(crate) async fn extend(&self, lease: Duration) -> Result<Settled> {
        if !self.is_held() {
            return Ok(Settled::Stale);
        }
        let lease = lease.clamp(LEASE_MIN, DURATION_MAX);
        let begun = Instant::now();
        let is_usual = lease == self.nats.core().lease;
        self.tell(if is_usual { AckKind::Progress } else { AckKind::Nak(Some(lease)) }).await?;
        self.hold_until(begun + lease);
        Ok(Settled::Done)
    }

    pub(crate) async fn dead(&self, delivery: &Delivery, reason: &str) -> Result<Settled> {
        if !self.is_held() {
            return Ok(Settled::Stale);
        }
        let about = About {
            id: delivery.id.clone(),
            attempt: Some(delivery.attempt),
            reason: Some(kept_reason(reason).to_owned()),
            ..About::default()
        };
        let core = self.nats.core();
        let burying = core.bury(&delivery.queue, self.sequence, &about, delivery.payload.clone());
        self.nats.within(burying).await?;
        self.ack(delivery).await
    }

    /// An ack that the server has confirmed: one that a server lost as it came up is sent again. Where the consumer
    /// is gone, or does not know of the lease since it forgot it in a crash and so says nothing, the message is removed
    /// from its stream, which is all that the consumer would have done.
    async fn ack_at_server(&self, delivery: &Delivery) -> Result<Settled> {
        let restricted = self.nats.core().restricted;
        let mut asked = FuturesUnordered::new();
        loop {
            asked.push(self.nats.core().settle(&self.reply, AckKind::Ack));
            match timeout(ACK_AGAIN, asked.next()).await.ok().flatten() {
                Some(Ok(())) => return Ok(Settled::Done),
                Some(Err(error)) if restricted => return Err(error),
                Some(Err(is_gone)) => {
                    let removed = self.remove(delivery).await.map_err(|_| is_gone)?;
                    return Ok(if removed { Settled::Done } else { Settled::Stale });
                }
                None if restricted || asked.len() < ACKS_UNHEARD => {}
                // What is not there any more may be so for one of our acks.
                None => {
                    if let Ok(Ok(_)) = timeout(ACK_AGAIN, self.remove(delivery)).await {
                        return Ok(Settled::Done);
                    }
                }
            }
        }
    }

    /// Removes the message from its stream; false where it is not there, or another in its place, as in a stream
    /// that lost its end or was made anew.
    async fn remove(&self, delivery: &Delivery) -> Result<bool> {
        let core = self.nats.core();
        let stream = core.work(&delivery.queue);
        match stream.get_raw_message(self.sequence).await {
            Ok(found) => {
                let is_ours = found.subject.as_str() == core.names.ready(&delivery.queue)
                    && About::read(Some(&found.headers)).id == delivery.id;
                if is_ours {
                    stream.delete_message(self.sequence).await.map_err(unavailable)
                } else {
                    Ok(false)
                }
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn tell(&self, what: AckKind) -> Result<()> {
        self.nats.within(self.nats.core().settle(&self.reply, what)).await
    }

    fn is_held(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Consumers.
impl Core {
    /// Says what becomes of a message and waits until the consumer has taken note.
    pub(super) async fn settle(&self, reply: &Subject, what: AckKind) -> Result<()> {
        // The client's own way of waiting takes the answer that nobody is there for a confirmation.
        self.jetstream.client().request(reply.clone(), what.into()).await.map(drop).map_err(unavailable)
    }

    /// The consumer of a queue, looked up once.
    async fn consumer(&self, queue: &str) -> Result<PullConsumer> {
        if let Some(consumer) = self.consumers().get(queue) {
            return Ok(consumer.clone());
        }
        let consumer = self.find_consumer(queue).await?;
        self.consumers().insert(queue.to_owned(), consumer.clone());
        Ok(consumer)
    }

    /// The consumer of a queue, made where it is missing and checked where it is not. Whoever may make one may change
    /// it for all others, so that a restricted user takes what a gateway has made.
    async fn find_consumer(&self, queue: &str) -> Result<PullConsumer> {
        let config = Config {
            description: Some(queue.to_owned()),
            max_waiting: WAITING_MAX,
            ..durable(names::consumer(queue), self.names.ready(queue), self.lease)
        };
        let stream = self.work(queue);
        if self.restricted { find(stream, queue, config).await } else { find_or_make(stream, config).await }
    }

    /// Makes the consumer of a queue, and from then on whenever it is missing.
    pub(super) async fn keep_queue(&self, queue: &str) -> Result<()> {
        check_key(queue)?;
        if !self.restricted {
            self.insist(|| self.find_consumer(queue)).await?;
            self.kept().insert(queue.to_owned());
        }
        Ok(())
    }

    /// Makes those consumers of kept queues that are missing.
    pub(super) async fn mend_kept(&self) {
        let kept = self.kept().clone();
        for queue in kept {
            if let Err(error) = self.find_consumer(&queue).await {
                tracing::warn!(%error, queue, "workers may not be able to pull from a queue");
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_consumer(&self, queue: &str) {
        self.consumers().remove(queue);
    }
}

/// A consumer that acknowledges each message and never gives up on one.
pub(super) fn durable(name: String, filter_subject: String, ack_wait: Duration) -> Config {
    Config {
        durable_name: Some(name),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        filter_subject,
        // What was given back with a delay counts as pending, so a bound would stop the queue.
        max_ack_pending: -1,
        max_deliver: -1,
        ..Config::default()
    }
}

/// Makes a consumer where there is none; one that differs is reported and left alone.
pub(super) async fn find_or_make(stream: &Stream, wanted: Config) -> Result<PullConsumer> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let consumer: PullConsumer = stream
        .get_or_create_consumer(&name, wanted.clone())
        .await
        .map_err(|failure| unmade(&name, &failure))?;
    checked(consumer, wanted)
}

/// The consumer of a queue, where it is; one that differs is reported.
async fn find(stream: &Stream, queue: &str, wanted: Config) -> Result<PullConsumer> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let found = stream.get_consumer::<Config>(&name).await.map_err(|failure| {
        match failure.downcast_ref::<ConsumerInfoError>().map(ConsumerInfoError::kind) {
            Some(ConsumerInfoErrorKind::NotFound) => unavailable(format!(
                "expected the consumer {name} of {queue}, found none; start a gateway, which makes it"
            )),
            _ => unavailable(failure),
        }
    })?;
    checked(found, wanted)
}

fn checked(consumer: PullConsumer, wanted: Config) -> Result<PullConsumer> {
    let name = &consumer.cached_info().name;
    let found = &consumer.cached_info().config;
    for (setting, wanted, found) in [
        ("filter_subject", wanted.filter_subject, found.filter_subject.clone()),
        ("ack_wait", format!("{:?}", wanted.ack_wait), format!("{:?}", found.ack_wait)),
        ("max_deliver", wanted.max_deliver.to_string(), found.max_deliver.to_string()),
        ("max_ack_pending", wanted.max_ack_pending.to_string(), found.max_ack_pending.to_string()),
        ("headers_only", wanted.headers_only.to_string(), found.headers_only.to_string()),
        ("max_batch", wanted.max_batch.to_string(), found.max_batch.to_string()),
    ] {
        if wanted != found {
            let problem = format!(
                "expected the consumer {name} with {setting} {wanted}, found {found}; correct the configuration, or \
                 delete the consumer while nothing works on its queue"
            );
            return Err(Error::Misconfigured { problems: vec![problem] });
        }
    }
    Ok(consumer)
}

/// Why there is no consumer: what is in its way goes by no waiting.
fn unmade(name: &str, failure: &ConsumerError) -> Error {
    match failure.kind() {
        ConsumerErrorKind::JetStream(told) if IN_THE_WAY.contains(&told.error_code()) => {
            let problem = format!(
                "expected to make the consumer {name}, found: {told}; remove what is in its way with the `nats` command"
            );
            Error::Misconfigured { problems: vec![problem] }
        }
        _ => unavailable(failure),
    }
}
