// SPDX-License-Identifier: Apache-2.0
//! The backbone over NATS JetStream: many processes on many machines, one to five copies of everything.
//!
//! Handles check what they are given and ask the servers; tasks beside them sweep what has lapsed and move what was
//! delayed. Invariant: what was acknowledged was acknowledged by the stream's leader, and no decision rests on
//! another's wall clock. `docs/decisions/0024` says how each part is mapped and what the servers cannot give.

mod bus;
mod config;
mod connection;
mod delay;
mod fault;
mod feed;
mod identity;
mod intake;
mod keys;
mod lapses;
mod names;
mod patience;
mod permissions;
mod pull;
mod queue;
mod record;
mod streams;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use fanfold_protocol::limits;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::config::{NatsConfig, NatsCredentials, NatsTls, Secret};
use self::connection::{Connected, alone, connect, too_small};
use self::fault::{SILENT, unavailable};
use self::names::Names;
use self::patience::{Patience, lack_of};
pub use self::permissions::{NatsUser, Needs, Permissions};
pub(crate) use self::pull::Hold;
use crate::bounds::DURATION_MAX;
use crate::bus::Subscription;
use crate::error::{Error, Result};
use crate::kv::{CasOutcome, DeleteOutcome, Entry, Expected, Page, Room, Watch};
use crate::queue::{DeadLetter, Depth, Enqueued, Message};

/// Largest message that the servers have to take, in bytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// One part of so many of the room for keys is left to leases and to what goes on.
const KEPT_PART: u64 = 5;
/// What is asked for by who may ask for little: it need not be there.
const PING_KEY: &str = "workers/ping";
/// Publishes under way at once, over all callers of one process.
const PUBLISHES_MAX: usize = 4_096;
/// How often something is sent within the time of an operation while no answer comes: whoever leads next, after
/// four to nine seconds as a rule, is asked soon.
const TRIES: u32 = 5;
/// Before what could not be served is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Stream = async_nats::jetstream::stream::Stream<()>;

/// A handle on the backbone over NATS; see [`crate::Backbone`] for what its operations promise.
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
}

/// What handles share; the tasks end with the last of them.
struct Shared {
    core: Arc<Core>,
    _ending: DropGuard,
}

/// What handles and tasks share.
struct Core {
    jetstream: async_nats::jetstream::Context,
    names: Names,
    keys: Stream,
    dead: Stream,
    work: Vec<Stream>,
    consumers: Mutex<HashMap<String, PullConsumer>>,
    /// Queues whose consumers are made for others, and again when they are gone.
    kept: Mutex<BTreeSet<String>>,
    lapses: lapses::Lapses,
    /// Counts the times that something may have been lost on the way.
    gaps: watch::Receiver<u64>,
    lease: Duration,
    operation_timeout: Duration,
    /// May do only what a worker needs.
    restricted: bool,
    closed: CancellationToken,
    /// The servers no longer have the data that this was opened on.
    lost: CancellationToken,
}

impl Nats {
    pub(crate) async fn open_with(config: NatsConfig) -> Result<Self> {
        Self::open_within(config, limits::START_PATIENCE).await
    }

    /// Opens, and waits so long for servers that are there and cannot serve yet.
    async fn open_within(config: NatsConfig, longest: Duration) -> Result<Self> {
        sound(config.problems())?;
        let Connected { client, gaps, refusals } = connect(&config).await?;
        let patience = Patience::new(longest, refusals);
        let version = client.server_info().version;
        if config.replicas > 1 && version.starts_with("2.9.") {
            tracing::warn!(
                version,
                "expected a newer NATS server than 2.9 in a cluster, found one that may lose acknowledged writes of \
                 keys when it loses its leader; upgrade it"
            );
        }
        let names = Names::new(&config.prefix, config.shards);
        let jetstream = context(&client, &config);
        let mut problems = match config.restricted {
            true => Vec::new(),
            false => streams::prepare(&jetstream, &names, &config, &patience).await,
        };
        problems.extend(too_small(&client));
        sound(problems)?;
        let stream = async |name: String| jetstream.get_stream_no_info(name).await.map_err(unavailable);
        let mut work = Vec::with_capacity(config.shards);
        for shard in 0..config.shards {
            work.push(stream(names.work_stream(shard)).await?);
        }
        let core = Core {
            keys: stream(names.keys_stream()).await?,
            dead: stream(names.dead_stream()).await?,
            work,
            jetstream,
            names,
            consumers: Mutex::default(),
            kept: Mutex::default(),
            lapses: lapses::Lapses::new(config.long_ttl),
            gaps,
            lease: config.lease,
            operation_timeout: config.operation_timeout,
            restricted: config.restricted,
            closed: CancellationToken::new(),
            lost: CancellationToken::new(),
        };
        Self::start(core, patience).await
    }

    /// Reaches the servers and changes nothing: the streams that opening would make.
    pub(crate) async fn missing(config: NatsConfig) -> Result<Vec<String>> {
        if config.restricted {
            // Who may do little makes nothing.
            let longest = config.operation_timeout;
            Self::open_within(config, longest).await?.close().await;
            return Ok(Vec::new());
        }
        sound(config.problems())?;
        let Connected { client, refusals, .. } = connect(&config).await?;
        let (names, patience) =
            (Names::new(&config.prefix, config.shards), Patience::new(Duration::ZERO, refusals));
        let found = streams::inspect(&context(&client, &config), &names, &config, &patience).await;
        let (missing, mut problems) = found;
        problems.extend(too_small(&client));
        problems.extend(alone(&client, config.replicas).filter(|_| !missing.is_empty()));
        sound(problems)?;
        Ok(missing.into_iter().map(|stream| stream.name).collect())
    }

    async fn start(core: Core, patience: Patience) -> Result<Self> {
        // Of what lapses and what is due the gateways take care, wherever there are workers with few rights.
        let shards = if core.restricted { 0 } else { core.names.shards() };
        let (asked, patience) = (&core, &patience);
        let delayed = (0..shards).map(|shard| patience.insist(move || asked.delayed(shard), lack_of));
        let mut delayed = stream::iter(delayed).buffered(streams::AT_ONCE);
        while delayed.try_next().await?.is_some() {}
        drop(delayed);
        let core = Arc::new(core);
        if core.restricted {
            patience.insist(|| core.ping(), lack_of).await?;
        } else {
            tokio::spawn(Arc::clone(&core).recognise());
        }
        tokio::spawn(Arc::clone(&core).sweep());
        for shard in 0..shards {
            tokio::spawn(Arc::clone(&core).move_due(shard));
        }
        let ending = core.closed.clone().drop_guard();
        Ok(Nats { shared: Arc::new(Shared { core, _ending: ending }) })
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    /// Runs an operation for as long as the backbone is open.
    async fn open<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.core().closed.cancelled() => Err(Error::Closed),
            outcome = operation => outcome,
        }
    }

    /// As [`Nats::open`], for no longer than an operation may take.
    async fn within<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.core().operation_timeout;
        let bounded = async {
            let outcome = timeout(limit, operation).await;
            outcome.map_err(|_| unavailable(format!("no answer from NATS within {limit:?}")))?
        };
        self.open(bounded).await
    }

    pub(crate) async fn ping(&self) -> Result<()> {
        self.within(self.core().ping()).await
    }

    pub(crate) async fn check_room(&self) -> Result<()> {
        self.within(self.core().check_room()).await
    }

    pub(crate) async fn room(&self) -> Result<Option<Room>> {
        if self.core().restricted {
            return Ok(None);
        }
        self.within(self.core().room()).await.map(Some)
    }

    pub(crate) async fn lost(&self) {
        self.core().lost.cancelled().await;
    }

    pub(crate) async fn close(&self) {
        self.core().closed.cancel();
        // What was handed to the connection goes out; where it is lost, there is nothing to wait for.
        drop(timeout(self.core().operation_timeout, self.core().jetstream.client().flush()).await);
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.within(self.core().get(key)).await
    }

    pub(crate) async fn list_page(&self, scope: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.open(self.core().list_page(scope, after, limit)).await
    }

    pub(crate) async fn write(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<CasOutcome> {
        self.within(self.core().write(key, value, bounded(ttl), expected)).await
    }

    pub(crate) async fn delete(&self, key: &str, expected: Option<u64>) -> Result<DeleteOutcome> {
        self.within(self.core().delete(key, expected)).await
    }

    pub(crate) async fn watch(&self, scope: &str) -> Result<Watch> {
        self.open(self.core().watch(scope)).await
    }

    pub(crate) async fn enqueue(&self, queue: &str, messages: Vec<Message>) -> Result<Enqueued> {
        self.open(self.core().enqueue(queue, messages)).await
    }

    pub(crate) async fn keep_queue(&self, queue: &str) -> Result<()> {
        self.within(self.core().keep_queue(queue)).await
    }

    pub(crate) async fn depth(&self, queue: &str) -> Result<Depth> {
        self.within(self.core().depth(queue)).await
    }

    pub(crate) async fn dead_letters(
        &self,
        queue: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.open(self.core().dead_letters(queue, after, limit)).await
    }

    pub(crate) async fn letter_sizes(&self, queue: &str) -> Result<Vec<(u64, u64)>> {
        self.open(self.core().letter_sizes(queue)).await
    }

    pub(crate) async fn replay(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        self.open(self.core().replay(queue, sequences)).await
    }

    pub(crate) async fn discard(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        self.open(self.core().discard(queue, sequences)).await
    }

    pub(crate) async fn publish(&self, subject: &str, payload: Bytes) -> Result<()> {
        self.within(self.core().publish(subject, payload)).await
    }

    pub(crate) async fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        self.within(self.core().subscribe(pattern)).await
    }
}

impl Core {
    /// Asks the leader of the key-value stream, which has one only while most of its copies are there, and whether it
    /// takes another value, however large; who may not ask it, any copy.
    async fn ping(&self) -> Result<()> {
        if self.restricted {
            return self.ask_copy(PING_KEY).await.map(drop);
        }
        self.check_keys(|_| MESSAGE_BYTES as u64).await
    }

    async fn check_room(&self) -> Result<()> {
        if self.restricted { Ok(()) } else { self.check_keys(|bytes_max| bytes_max / KEPT_PART).await }
    }

    /// Fails where the keys leave less of their room than is to be left of it.
    async fn check_keys(&self, left_of: impl Fn(u64) -> u64) -> Result<()> {
        let Room { bytes, bytes_max } = self.room().await?;
        let left = left_of(bytes_max);
        if bytes.saturating_add(left) <= bytes_max {
            return Ok(());
        }
        let detail = format!("the keys have {bytes} of {bytes_max} bytes, and should leave {left}");
        Err(Error::StorageFull { detail })
    }

    async fn room(&self) -> Result<Room> {
        let info = self.insist(|| self.soon(move || self.ask_info())).await?;
        // Streams without a bound are not ours.
        let bytes_max = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
        Ok(Room { bytes: info.state.bytes, bytes_max })
    }

    async fn ask_info(&self) -> Result<Info> {
        self.keys.get_info().await.map_err(unavailable)
    }

    /// Tries again what could not be served, for as long as an operation may take: in a cluster a consumer that was
    /// just made, or a stream that changes its leader, is out of reach for a moment.
    async fn insist<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        let begun = Instant::now();
        loop {
            match attempt().await {
                Err(Error::Unavailable { detail })
                    if begun.elapsed() + RETRY_AFTER < self.operation_timeout =>
                {
                    tracing::debug!(detail, "tried again");
                    sleep(RETRY_AFTER).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Puts a question, and again whenever no answer came for a part of the time of an operation, as when a leader was
    /// lost. The first answer counts, to whichever of them: on a slow way all come late. Answers how often it was put
    /// as well; nothing where no answer came.
    async fn heard<T, F: Future<Output = T>>(&self, question: impl Fn() -> F) -> Option<(T, u32)> {
        let mut asked = FuturesUnordered::new();
        for times in 1..=TRIES {
            asked.push(question());
            if let Ok(Some(answer)) = timeout(self.operation_timeout / TRIES, asked.next()).await {
                return Some((answer, times));
            }
        }
        None
    }

    /// The answer to a question that was heard.
    async fn soon<T, F: Future<Output = Result<T>>>(&self, question: impl Fn() -> F) -> Result<T> {
        self.heard(question).await.map_or_else(|| Err(unavailable(SILENT)), |(answer, _)| answer)
    }

    /// The stream that a queue lives in.
    fn work(&self, queue: &str) -> &Stream {
        &self.work[self.names.shard(queue)]
    }

    fn consumers(&self) -> MutexGuard<'_, HashMap<String, PullConsumer>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bounded(ttl: Option<Duration>) -> Option<Duration> {
    ttl.map(|ttl| ttl.min(DURATION_MAX))
}

/// Fails with what is wrong, if anything is.
fn sound(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(Error::Misconfigured { problems }) }
}

fn context(client: &Client, config: &NatsConfig) -> async_nats::jetstream::Context {
    let of_worker = || Names::new(&config.prefix, config.shards).worker_api();
    let api = if config.restricted { of_worker() } else { permissions::API.to_owned() };
    ContextBuilder::new()
        .api_prefix(api)
        .timeout(config.operation_timeout)
        .ack_timeout(config.operation_timeout)
        .max_ack_inflight(PUBLISHES_MAX)
        .backpressure_on_inflight(true)
        .build(client.clone())
}
