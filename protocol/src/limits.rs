// SPDX-License-Identifier: Apache-2.0
//! Every bound of the platform, each with its reason, in one place.
//!
//! A `_MAX` is hard; what a deployment or an operator may raise has a
//! `_DEFAULT` beside it. A refused request says which bound, what was found
//! and how to raise it.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Body of a synchronous call: held in memory, copied into the guest.
pub const BODY_BYTES_DEFAULT: u64 = 6 * MIB;
/// As far as an operator can raise it; larger data goes through the store.
pub const BODY_BYTES_MAX: u64 = 32 * MIB;
/// Payload of an asynchronous call: it travels in one queue message.
pub const ASYNC_PAYLOAD_BYTES_MAX: u64 = 256 * KIB;
/// A function's answer: buffered whole before its status is sent.
pub const RESPONSE_BYTES_MAX: u64 = 6 * MIB;
/// All request headers together.
pub const HEADER_BYTES_MAX: u64 = 32 * KIB;
/// Number of request headers.
pub const HEADERS_MAX: usize = 100;
/// Path and query together.
pub const URL_BYTES_MAX: u64 = 8 * KIB;
/// Settings of a function as JSON in ASCII: they travel in a header, beside others.
pub const SETTINGS_BYTES_MAX: u64 = 24 * KIB;
/// JSON of a job, of an alias, of a trigger: small documents all.
pub const DOCUMENT_BYTES_MAX: u64 = MIB;
/// Names of functions of a tenant, of removed ones as well: of each a record stays in
/// memory and in the backbone, which all tenants share.
pub const FUNCTION_NAMES_MAX: usize = 10_000;
/// Aliases of a function: all of them are in one record, which is held in memory.
pub const ALIASES_MAX: usize = 100;

/// All linear memories of an invocation together.
pub const MEMORY_BYTES_DEFAULT: u64 = 256 * MIB;
/// What 32-bit addresses can hold.
pub const MEMORY_BYTES_MAX: u64 = 4 * GIB;
/// Least memory that a guest with a standard library starts with.
pub const MEMORY_BYTES_MIN: u64 = 4 * MIB;
/// Linear memories of a component; the adapter and two languages fit.
pub const MEMORIES_MAX: u32 = 8;
/// Tables of a component.
pub const TABLES_MAX: u32 = 16;
/// Core instances of a component.
pub const CORE_INSTANCES_MAX: u32 = 64;
/// Elements of all tables together: function pointers of a large program.
pub const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Stack of WebAssembly code.
pub const WASM_STACK_BYTES: usize = 512 << 10;
/// Native stack of an invocation, for the code and the host calls under it.
pub const ASYNC_STACK_BYTES: usize = 2 << 20;
/// Sandboxes alive at once in a process: its pool of memory is sized to it, so
/// it is more than any tenant may run at once.
pub const SANDBOXES_MAX: usize = 256;
/// Resources (open tables, objects, streams) of an invocation.
pub const HANDLES_MAX: usize = 1_024;
/// Tables of them that an invocation opens itself, beside its input and output.
pub const TABLES_OPEN_MAX: usize = 16;
/// What the host is taken to hold for each, at most: a row group and what is on its way to the store.
pub const TABLE_HELD_BYTES_MAX: u64 = 150 * MIB;

/// Wall time of a synchronous call.
pub const SYNC_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Wall time of an asynchronous call or a task.
pub const TASK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// The longest that anything may run.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// How often running guests are interrupted to look at the clock.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Log of an invocation; a marker stands where it was cut.
pub const LOG_BYTES_MAX: usize = 256 << 10;
/// A line of it.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// Log of the tasks of a lease that failed, all together, and as much again of the
/// others: a lease holds up to 64 tasks, each of which may fill a log.
pub const LEASE_LOG_BYTES_MAX: usize = 256 << 10;

/// A component as uploaded.
pub const COMPONENT_BYTES_DEFAULT: u64 = 20 * MIB;
/// As far as an operator can raise it.
pub const COMPONENT_BYTES_MAX: u64 = 64 * MIB;
/// CPU time of the process that compiles a component.
pub const COMPILE_CPU_SECONDS: u64 = 60;
/// Its life, however little of a processor it gets; far enough for its CPU time to be what bounds it.
pub const COMPILE_WALL_SECONDS: u64 = 10 * COMPILE_CPU_SECONDS;
/// Memory of the process that compiles a component.
pub const COMPILE_MEMORY_BYTES: u64 = 2 * GIB;
/// Compilers running at once on a host.
pub const COMPILES_MAX: usize = 2;

/// Bytes in one call between host and guest, either way.
pub const TRANSFER_BYTES_MAX: u64 = 16 * MIB;
/// One Arrow batch as IPC.
pub const BATCH_BYTES_MAX: u64 = 8 * MIB;
/// Partial state of an aggregate: two of them fit in one transfer.
pub const STATE_BYTES_MAX: u64 = 8 * MIB;
/// Random bytes in one call.
pub const RANDOM_BYTES_MAX: u32 = 4 << 10;
/// One ranged read of an object.
pub const RANGE_BYTES_MAX: u64 = 16 * MIB;
/// Ranged reads of an invocation at once.
pub const RANGES_IN_FLIGHT_MAX: usize = 8;
/// Objects in one answer of a listing.
pub const LIST_PAGE_MAX: usize = 1_000;
/// One record of a text table: a row larger than this is a mistake.
pub const RECORD_BYTES_MAX: u64 = 8 * MIB;
/// Row groups of one Parquet object: Parquet's own ordinals go to 32,767.
pub const ROW_GROUPS_MAX: usize = 1 << 15;
/// Columns of a table: wider tables make schemas that do not fit a call.
pub const COLUMNS_MAX: usize = 10_000;
/// A column's name, where a function declares or writes it: JSON Lines have it in every row,
/// Parquet in every row group.
pub const COLUMN_NAME_BYTES_MAX: usize = 1 << 10;
/// A column's type as a function declares it, in text: it is kept with every version.
pub const COLUMN_TYPE_BYTES_MAX: usize = 4 << 10;
/// Types within each other there: they are parsed by recursion.
pub const COLUMN_TYPE_DEPTH_MAX: usize = 32;
/// One row of a table as CSV or JSON Lines: it is made whole before it is written.
pub const ROW_TEXT_BYTES_MAX: u64 = 64 * MIB;

/// Bytes that the host decompresses for one task.
pub const DECODED_BYTES_MAX: u64 = 16 * GIB;
/// Decompressed bytes for each stored byte.
pub const DECODED_RATIO_MAX: u64 = 200;
/// One decompressed page or block of a table.
pub const PAGE_BYTES_MAX: u64 = 64 * MIB;

/// Invocations of one function at once.
pub const FUNCTION_CONCURRENCY_DEFAULT: usize = 50;
/// Invocations of one tenant at once.
pub const TENANT_CONCURRENCY_DEFAULT: usize = 200;
/// As far as an operator can raise it.
pub const TENANT_CONCURRENCY_MAX: usize = 1_000;
/// Waiting invocations of a tenant.
pub const QUEUE_DEPTH_MAX: usize = 10_000;
/// From the acceptance of an asynchronous invocation until it is given up: what
/// comes later than that is no news any more.
pub const EVENT_AGE_MAX: Duration = Duration::from_secs(6 * 3_600);
/// Invocations that caused each other, one after the other: a loop ends here.
pub const CHAIN_DEPTH_MAX: u32 = 16;
/// Dead letters of invocations: they carry whole calls, and are for people, who
/// do not read more.
pub const DEAD_LETTERS_MAX: usize = 10_000;
/// Bytes of the dead letters of one queue: those of all queues share a place.
pub const DEAD_LETTER_BYTES_MAX: u64 = 32 * MIB;
/// How long is known how an asynchronous invocation ended.
pub const INVOCATION_RECORD_WINDOW: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Partitions of a job.
pub const PARTITIONS_MAX: usize = 1_000_000;
/// Keys looked at to find a job's input: a pattern that matches few of many
/// keys is refused before it has read the whole bucket.
pub const LISTED_KEYS_MAX: usize = 2_000_000;
/// Parameters of a job as JSON: they travel in every lease.
pub const JOB_PARAMS_BYTES_MAX: usize = 256 << 10;
/// Lists and tables within each other in them: they are stored within other JSON, of which
/// 127 levels are read again.
pub const JOB_PARAMS_DEPTH_MAX: usize = 64;
/// Parameters, columns and filter of a job as its leases carry them, the parameters as JSON
/// within JSON: the rest of a message of 1 MiB is for partitions, or for what a reducer reads.
pub const JOB_CARRIED_BYTES_MAX: usize = 384 << 10;
/// Objects whose heads are read to unite their columns: the submission waits for
/// them.
pub const UNION_OBJECTS_MAX: usize = 20_000;
/// Objects that together have all columns and types of a union: they travel in
/// every lease, and every worker reads their heads.
pub const UNION_HEADS_MAX: usize = 64;
/// Reducers of a keyed aggregate: each task of the first stage writes a part for
/// each of them, and small parts cost more requests than they hold data.
pub const REDUCERS_MAX: u32 = 256;
/// Stored bytes of input for each reducer, unless the job says how many it wants.
pub const REDUCER_INPUT_BYTES_TARGET: u64 = 256 * MIB;
/// Partitions of a keyed aggregate: the lease of a reducer names what each of
/// them wrote, in a message of 1 MiB at most.
pub const GROUP_PARTITIONS_MAX: u32 = 2_000;
/// Columns of a key.
pub const KEY_COLUMNS_MAX: usize = 16;
/// A key as it is compared: a longer text is no key.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// Partial state of one key: many of them are merged at once.
pub const KEY_STATE_BYTES_MAX: usize = 1 << 20;
/// Keys and states that are sorted at once before they are written as a run.
pub const RUN_BYTES_TARGET: usize = 32 << 20;
/// A piece of a run: what a merge holds of each run that it reads.
pub const RUN_CHUNK_BYTES_TARGET: usize = 128 << 10;
/// Runs merged at once; more are merged in passes. With what is read ahead of
/// each, it keeps a merge within 32 MiB.
pub const RUNS_MERGED_MAX: usize = 64;
/// A job's filter: it travels in every lease.
pub const FILTER_BYTES_MAX: usize = 64 << 10;
/// Operators in it: each may nest what stands before it one deeper while it is
/// parsed.
pub const FILTER_OPERATORS_MAX: usize = 1_024;
/// Conditions and calculations within each other: they are walked by recursion.
pub const FILTER_DEPTH_MAX: usize = 64;
/// Characters between two `%` of a pattern that has a `_` there: each is a bit of the word by
/// which they are found.
pub const FILTER_PATTERN_CHARS_MAX: usize = 64;
/// Tasks of a job that are queued or running at once.
pub const TASKS_OUTSTANDING_MAX: usize = 10_000;
/// Bytes of a job's leases that are queued or running at once: what they lie in is
/// shared with other jobs and tenants.
pub const LEASES_BYTES_OUTSTANDING_MAX: usize = 64 << 20;
/// The same of all jobs of a tenant that one gateway coordinates, beyond one lease of each.
pub const LEASES_BYTES_TENANT_MAX: usize = 4 * LEASES_BYTES_OUTSTANDING_MAX;
/// Jobs of a tenant that have not ended: each is held in the memory of a gateway, and
/// has leases in the queue.
pub const JOBS_UNFINISHED_MAX: usize = 1_000;
/// Inputs (URIs, globs, prefixes) of a job.
pub const INPUTS_MAX: usize = 1_000;
/// Attempts at a task or an asynchronous invocation.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// As far as a job can raise it.
pub const ATTEMPTS_MAX: u32 = 10;
/// The pause before a second attempt: what needs longer is a mistake in the unit.
pub const BACKOFF_MAX: Duration = Duration::from_secs(3_600);
/// Tables of a job without output that are kept for its retry: copying more of
/// them would hold up its end.
pub const KEPT_TABLES_MAX: usize = 10_000;
/// Least time after which a task may be begun a second time beside the first:
/// below it a second sandbox costs more than it saves.
pub const SPECULATION_AFTER_MIN: Duration = Duration::from_secs(1);
/// Earlier jobs that a job's tasks may be served from: each costs a look at its
/// commits, and memory for what they say.
pub const CACHE_JOBS_MAX: usize = 3;
/// Earlier jobs whose plans are looked at to find those.
pub const CACHE_LOOKS_MAX: usize = 32;
/// Partitions of these plans, together, after which no further one is begun: as many as of three of
/// the largest jobs.
pub const CACHE_LOOKS_PARTITIONS_MAX: u64 = 3 * PARTITIONS_MAX as u64;
/// How long a job may serve others after it has ended, and one that failed keeps what
/// a retry takes over.
pub const CACHE_WINDOW: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How long what is written down of a job stays after it has ended.
pub const JOB_RETENTION_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Not shorter: until then other jobs are served from it.
pub const JOB_RETENTION_MIN: Duration = CACHE_WINDOW;
/// Bytes of partial states, of one job together, that are kept to serve others.
pub const CACHE_STATES_BYTES_MAX: u64 = 256 * MIB;
/// Partitions that are run to tell what a job will take.
pub const SAMPLE_PARTITIONS_DEFAULT: usize = 8;
/// As far as that can be raised: beyond, it is a job.
pub const SAMPLE_PARTITIONS_MAX: usize = 1_000;
/// Differences told one by one when a job is run again.
pub const DIFFERENCES_TOLD_MAX: usize = 1_000;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(24 * 3_600);
/// How long a call holds its key without a renewal: as long is the key of a gateway that died
/// of no use.
pub const IDEMPOTENCY_LEASE: Duration = Duration::from_secs(10);
/// How old the parts of a plan are before they are swept whose job was never accepted:
/// no planning takes so long, and nobody can have it accepted any more under a key.
pub const UNACCEPTED_WINDOW: Duration = Duration::from_secs(2 * IDEMPOTENCY_WINDOW.as_secs());
/// What a tenant's answers and promises under such keys take of the backbone, as each
/// gateway counts what it wrote: all tenants' records share one bound there.
pub const REMEMBERED_BYTES_DEFAULT: u64 = 256 * MIB;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// From accept to the first byte of a request.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte to the end of the headers.
pub const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of a request's body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long nothing may go on on a connection: no request in work, and no answer of
/// which its peer takes anything.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a peer may take nothing of what it is sent.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at once; beyond, accepting waits.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Streams of events of a tenant open at once at a gateway: behind one of a job stands
/// a watch on the backbone.
pub const EVENT_STREAMS_MAX: usize = 1_000;
/// Answers of a tenant in a gateway's memory that their callers have yet to take: eight of the
/// largest results of jobs, or 85 of the largest answers of functions.
pub const ANSWERS_BYTES_MAX: u64 = 512 * MIB;
/// How long a start waits for what is there and cannot serve yet, NATS or a store: a cluster chooses
/// a leader within it, and whoever starts processes in any order has started them all.
pub const START_PATIENCE: Duration = Duration::from_secs(20);
/// From the signal to stop until what still runs is dropped: a call that has just begun
/// may take its time and be answered.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(SYNC_TIMEOUT_DEFAULT.as_secs() + 5);

/// A notification of a store: a hundred records of AWS are a tenth of it.
pub const NOTIFICATION_BYTES_MAX: u64 = MIB;
/// Notifications read at once, in each gateway and of each tenant, that are to be
/// believed for what they say: their senders are strangers until then.
pub const STRANGERS_MAX: usize = 128;
/// What these may hold in memory together.
pub const STRANGERS_BYTES_MAX: u64 = 32 * MIB;
/// Events in one notification: more are a mistake or an attack.
pub const NOTIFICATION_EVENTS_MAX: usize = 10_000;
/// Envelopes within each other: SNS within SQS within a CloudEvent.
pub const ENVELOPES_MAX: u32 = 3;
/// How far the clocks of senders and gateways may be apart.
pub const SIGNATURE_AGE_MAX: Duration = Duration::from_secs(300);
/// Triggers of a tenant: each event is held against all of them.
pub const TRIGGERS_MAX: usize = 1_000;
/// Names of triggers of a tenant, of removed ones as well: of those a record stays in
/// memory and in the backbone, which all tenants share.
pub const TRIGGER_NAMES_MAX: usize = 10_000;
/// A trigger's document as JSON: all triggers are held in memory.
pub const TRIGGER_BYTES_MAX: usize = 64 << 10;
/// Names of events that a trigger acts on: a store has a few dozen.
pub const TRIGGER_EVENTS_MAX: usize = 64;
/// Events that wait for one trigger; more are refused until it has caught up.
pub const EVENTS_WAITING_MAX: u64 = 500_000;
/// Events that start one thing together.
pub const TRIGGER_BATCH_MAX: u32 = 1_000;
/// The bytes that events of a batch take as JSON: with its head it must fit a message.
pub const TRIGGER_BATCH_BYTES_MAX: usize = 192 << 10;
/// The longest that an event waits for others of its batch.
pub const TRIGGER_WINDOW_MAX: Duration = Duration::from_secs(300);
/// Starts a minute above which a trigger pauses itself that could start itself
/// unseen: one whose author allowed loops, or whose store drops the mark of depth; or one that acts on
/// removals, which have none, and does stand in a circle by then.
pub const TRIGGER_STARTS_UNSEEN_MAX: u32 = 600;
/// Events of one trigger in work at once: as many as a function may run.
pub const TRIGGER_CONCURRENCY_DEFAULT: u32 = 50;
/// The most that a trigger may ask for.
pub const TRIGGER_CONCURRENCY_MAX: u32 = 1_000;
/// Between two looks for objects whose events were lost.
pub const RECONCILE_INTERVAL_DEFAULT: Duration = Duration::from_secs(3_600);
/// More often a listing costs more than it finds.
pub const RECONCILE_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// How often a message of a queue is received that is no notification, before it
/// is put into the trigger's dead letters: a queue with a policy of its own for
/// such messages has taken it away by then.
pub const SQS_RECEIVES_MAX: u32 = 5;
