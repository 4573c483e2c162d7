// SPDX-License-Identifier: Apache-2.0
//! One call of a handler, and the questions asked of a component before it is
//! deployed.
//!
//! Gateway's end of the runtime: an invocation becomes an outcome. This is the
//! path whose cost every request pays, so it allocates little, formats nothing
//! and waits for nothing when the component is ready. Invariant: every outcome
//! carries a receipt, whatever the guest did.

use std::{
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    digest::Digest,
    function::{Column, Description, Descriptions, Export, Grouping, Settings, Version},
    invocation::{Invocation, Outcome, Request, Response, Usage},
    limits,
    size::ByteSize,
    time,
};
use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;
use wasmtime::Store;

use crate::{
    Platform,
    bindings::{
        grouper::exports::fanfold::function::grouper,
        handler::{HandlerFunctionPre, exports::fanfold::function::handler, fanfold::function::types},
    },
    compile::Urgency,
    components::Loaded,
    host::{Call, Host, Work, joined, panicked},
    memory::{Reservation, Use},
    pace::Pace,
    room::{Room, room},
    sandbox::{self, Clock, Ended, Stop},
    tables::{Keys, check_width},
};

/// Bytes of a body by which a call is told from others.
const FINGERPRINT_BYTES: usize = 1 << 10;
/// Time for a component to say what it is.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call waits for room: not as long as whoever waits for it does beyond its time.
const PATIENCE: Duration = Duration::from_secs(4);

/// What becomes of a call for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// It waits, for as long as it may take.
    Waits,
    /// It is refused at once.
    Refused,
}

/// Calls a handler, on a guest thread unless its calls are brief: those begin on
/// the thread that polls this, and only go on there when they are not done at once.
/// Dropping the future stops it.
///
/// # Errors
/// As [`invoke`]; or `internal`, after which parts of it may have run.
pub(crate) async fn call(
    platform: Arc<Platform>,
    guests: &Handle,
    pace: &Pace,
    invocation: Invocation,
    crowded: Crowded,
) -> Result<Outcome, Problem> {
    let (asked, digest) = (Instant::now(), invocation.version.digest);
    let component = platform.components.ready(&digest).filter(|_| pace.is_brief(asked));
    let brief = component.filter(|component| component.pace.is_brief(asked));
    let call = {
        let platform = Arc::clone(&platform);
        async move { invoke(&platform, invocation, asked, crowded).await }
    };
    let mut call = Box::pin(AssertUnwindSafe(call).catch_unwind());
    if let Some(component) = brief {
        // What another call left is not this one's.
        sandbox::last_turn();
        if let Poll::Ready(called) = futures::poll!(call.as_mut()) {
            return called.unwrap_or_else(|_| Err(panicked()));
        }
        // Not the elapsed time: what the system gave to others meanwhile was not this call's.
        let busy = sandbox::last_turn();
        [&component.pace, pace].iter().for_each(|pace| pace.note(busy, Instant::now()));
    }
    joined(AbortOnDropHandle::new(guests.spawn(call)).await)?.unwrap_or_else(|_| Err(panicked()))
}

/// Calls a handler on the thread that polls this. It was asked for at `asked`: what it has
/// waited for a thread since then is part of its start.
///
/// # Errors
/// What the platform failed at before the component was there, as when the store does not
/// answer, or `concurrency-limit` of a call that does not wait for room: nothing has run, and
/// another worker may have what this one lacks.
pub(crate) async fn invoke(
    platform: &Platform,
    invocation: Invocation,
    asked: Instant,
    crowded: Crowded,
) -> Result<Outcome, Problem> {
    let ended = match platform.component(invocation.version.digest, Urgency::Waited).await {
        Ok(loaded) => answer(platform, &loaded, invocation, asked, crowded).await,
        Err(problem) if problem.code.fault() == Fault::Platform => return Err(problem),
        Err(problem) => Err(problem),
    };
    Ok(match ended {
        Ok(Ended { result, logs, progress, usage }) => Outcome { result, logs, progress, usage },
        Err(problem) if crowded == Crowded::Refused && problem.code == ErrorKind::ConcurrencyLimit => {
            return Err(problem);
        }
        Err(problem) => unbegun(problem),
    })
}

/// The outcome of a call that had no sandbox.
pub(crate) fn unbegun(problem: Problem) -> Outcome {
    Outcome { result: Err(problem), logs: Vec::new(), progress: None, usage: Usage::default() }
}

async fn answer(
    platform: &Platform,
    loaded: &Loaded,
    invocation: Invocation,
    asked: Instant,
    crowded: Crowded,
) -> Result<Ended<Response>, Problem> {
    let Invocation { id, attempt, depth, version, timeout, params, request, tenant: _, board } = invocation;
    let Some(pre) = &loaded.handler else { return Err(missing(&version, Export::Handler)) };
    let timeout = timeout.min(limits::TIMEOUT_MAX);
    let patience = if crowded == Crowded::Waits { timeout.min(PATIENCE) } else { Duration::ZERO };
    let (memory_bytes_max, demand) = (version.settings.memory.0, loaded.demands.of(Export::Handler));
    let until = Instant::now() + patience;
    let room = room(platform, Use::Call, (demand, None), memory_bytes_max, 0, until).await?;
    let _underway = platform.enter(version.digest, fingerprint(&params, &request));
    let call = Call { id, version, attempt, depth, params, timeout, memory_bytes_max, board };
    let run = Run::new(platform, call, asked, room.memory);
    let ended = handle(run, pre, request).await;
    loaded.pace.note(Duration::from_micros(ended.usage.guest_us), Instant::now());
    Ok(ended)
}

/// What tells a call from others: the same for one that is made again.
fn fingerprint<'a>(params: &'a str, request: &'a Request) -> impl Hash + 'a {
    let Request { method, query, body, .. } = request;
    (params, method, query, body.len(), &body[..body.len().min(FINGERPRINT_BYTES)])
}

async fn handle(mut run: Run, pre: &HandlerFunctionPre<Host>, request: Request) -> Ended<Response> {
    let Request { method, query, headers, body } = request;
    let request = handler::Request { method, query, headers, body: body.into() };
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        let instance = pre.instantiate_async(&mut *store).await?;
        clock.started = Instant::now();
        instance.fanfold_function_handler().call_handle(store, &request).await
    };
    let returned = sandbox::bounded(*deadline, None, work, call).await;
    let result = run.settle(returned).and_then(response);
    run.close(result)
}

/// Asks a component's mapper, aggregator and grouper what they read and write.
pub(crate) async fn describe(platform: &Platform, digest: Digest) -> Result<Descriptions, Problem> {
    let loaded = platform.component(digest, Urgency::Ahead).await?;
    let _underway = platform.enter(digest, ());
    let mut descriptions = Descriptions::default();
    if loaded.mapper.is_some() {
        let described = describe_export(platform, digest, &loaded, Export::Mapper).await;
        descriptions.mapper = Some(described.map_err(|p| p.within("the mapper's describe"))?);
    }
    if loaded.aggregator.is_some() {
        let described = describe_export(platform, digest, &loaded, Export::Aggregator).await;
        descriptions.aggregator = Some(described.map_err(|p| p.within("the aggregator's describe"))?);
    }
    if loaded.grouper.is_some() {
        let described = describe_grouper(platform, digest, &loaded).await;
        descriptions.grouper = Some(described.map_err(|p| p.within("the grouper's describe"))?);
    }
    Ok(descriptions)
}

async fn describe_grouper(platform: &Platform, digest: Digest, loaded: &Loaded) -> Result<Grouping, Problem> {
    let Some(pre) = &loaded.grouper else { return Err(gone()) };
    let asked = Instant::now();
    let room = room_to_describe(platform, loaded, asked).await?;
    let mut run = Run::new(platform, describing(digest)?, asked, room.memory);
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        clock.started = Instant::now();
        let instance = pre.instantiate_async(&mut *store).await?;
        instance.fanfold_function_grouper().call_describe(store).await
    };
    let returned = sandbox::bounded(*deadline, None, work, call).await;
    let described = returned.map_err(|stop| sandbox::problem(&stop, run.store.data()))?;
    grouping(described)
}

/// What a grouper says of itself, checked.
fn grouping(described: grouper::Grouping) -> Result<Grouping, Problem> {
    let (reads, writes) = (columns(described.reads)?, columns(described.writes)?);
    let keys = columns(Some(described.keys))?.unwrap_or_default();
    Keys::new(&keys)?;
    if let Some(reads) = &reads
        && let Some(key) = keys.iter().find(|key| reads.iter().all(|read| read.name != key.name))
    {
        return Err(invalid(format!(
            "expected the columns of the key among those that are read, found no {:?} there; add it to the row",
            key.name
        )));
    }
    if let Some(name) = writes.as_deref().and_then(twice) {
        return Err(invalid(format!(
            "expected a name of its own for each column of the result, those of the key first, found {name:?} twice; \
             name a field of the answer otherwise"
        )));
    }
    Ok(Grouping { reads, keys, writes })
}

/// A name that two of these columns have.
fn twice(columns: &[Column]) -> Option<&str> {
    let mut names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

async fn describe_export(
    platform: &Platform,
    digest: Digest,
    loaded: &Loaded,
    export: Export,
) -> Result<Description, Problem> {
    let asked = Instant::now();
    let room = room_to_describe(platform, loaded, asked).await?;
    let mut run = Run::new(platform, describing(digest)?, asked, room.memory);
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        clock.started = Instant::now();
        match (export, &loaded.mapper, &loaded.aggregator) {
            (Export::Mapper, Some(pre), _) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                instance.fanfold_function_mapper().call_describe(store).await.map(Some)
            }
            (Export::Aggregator, _, Some(pre)) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                instance.fanfold_function_aggregator().call_describe(store).await.map(Some)
            }
            _ => Ok(None),
        }
    };
    let returned = sandbox::bounded(*deadline, None, work, call).await;
    let described = returned.map_err(|stop| sandbox::problem(&stop, run.store.data()))?;
    let described = described.ok_or_else(gone)?;
    Ok(Description { reads: columns(described.reads)?, writes: columns(described.writes)? })
}

fn gone() -> Problem {
    Problem::new(ErrorKind::ExportMissing, "the export has gone")
}

/// The call in which a component says what it is.
fn describing(digest: Digest) -> Result<Call, Problem> {
    Ok(Call {
        id: Uuid::nil(),
        version: Arc::new(undeployed(digest)?),
        attempt: 1,
        depth: 0,
        params: "{}".to_owned(),
        timeout: DESCRIBE_TIMEOUT,
        memory_bytes_max: limits::MEMORY_BYTES_DEFAULT,
        board: None,
    })
}

/// A component that is no function yet, for `context.current`.
fn undeployed(digest: Digest) -> Result<Version, Problem> {
    Ok(Version {
        name: "undeployed".parse()?,
        version: 0,
        digest,
        size_bytes: 0,
        exports: Vec::new(),
        settings: Settings::default(),
        describes: Descriptions::default(),
        created_at: time::now(),
    })
}

fn columns(columns: Option<Vec<types::Column>>) -> Result<Option<Vec<Column>>, Problem> {
    let Some(columns) = columns else { return Ok(None) };
    if columns.len() > limits::COLUMNS_MAX {
        return Err(invalid(format!(
            "expected at most {} columns, found {}",
            limits::COLUMNS_MAX,
            columns.len()
        )));
    }
    let checked = columns.into_iter().map(|types::Column { name, data_type, nullable }| {
        check_column(&name, &data_type)?;
        Ok(Column { name, data_type, nullable })
    });
    checked.collect::<Result<_, _>>().map(Some)
}

fn check_column(name: &str, data_type: &str) -> Result<(), Problem> {
    if !(1..=limits::COLUMN_NAME_BYTES_MAX).contains(&name.len()) {
        return Err(invalid(format!(
            "expected a name of 1 to {} bytes for every column, found one of {}: {:?}",
            limits::COLUMN_NAME_BYTES_MAX,
            name.len(),
            shown(name)
        )));
    }
    let (bytes, depth) = (data_type.len(), depth(data_type));
    if bytes > limits::COLUMN_TYPE_BYTES_MAX || depth > limits::COLUMN_TYPE_DEPTH_MAX {
        return Err(invalid(format!(
            "expected a type of at most {} bytes and {} types within each other for the column {:?}, found {bytes} \
             bytes and {depth} types; make it flatter",
            limits::COLUMN_TYPE_BYTES_MAX,
            limits::COLUMN_TYPE_DEPTH_MAX,
            shown(name)
        )));
    }
    let data_type = data_type.parse::<arrow::datatypes::DataType>().map_err(|_| {
        invalid(format!(
            "expected an Arrow type such as Int64 or Utf8 for the column {:?}, found {:?}",
            shown(name),
            shown(data_type)
        ))
    })?;
    check_width(&data_type)
        .map_err(|refusal| invalid(format!("for the column {:?}, expected {refusal}", shown(name))))
}

/// How many brackets are open at once. Those in names count as well, and may hide others: no
/// more than the bound on bytes leaves room for.
fn depth(data_type: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    for byte in data_type.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

/// Room for a component that is asked what it is, which takes little.
async fn room_to_describe(platform: &Platform, loaded: &Loaded, asked: Instant) -> Result<Room, Problem> {
    let demands = (&loaded.demands.describing, None);
    room(platform, Use::Call, demands, limits::MEMORY_BYTES_MIN, 0, asked + DESCRIBE_TIMEOUT).await
}

pub(crate) fn missing(version: &Version, export: Export) -> Problem {
    version.require(export).err().unwrap_or_else(|| {
        Problem::new(
            ErrorKind::ExportMissing,
            format!(
                "expected the component to export a {}, found that it does not; deploy it again",
                export.as_str()
            ),
        )
    })
}

/// A sandbox with its times.
pub(crate) struct Run {
    pub(crate) store: Store<Host>,
    pub(crate) work: Arc<Work>,
    pub(crate) clock: Clock,
    pub(crate) deadline: Instant,
}

impl Run {
    pub(crate) fn new(platform: &Platform, call: Call, asked: Instant, memory: Reservation) -> Self {
        let store = sandbox::open(&platform.shared.engine, call, platform.data.clone(), memory);
        let (work, deadline) = (Arc::clone(store.data().work()), store.data().deadline);
        Self { store, work, clock: Clock { asked, started: Instant::now() }, deadline }
    }

    /// What a call gave, or the problem that it ended in.
    pub(crate) fn settle<T>(&self, returned: Result<Result<T, types::Error>, Stop>) -> Result<T, Problem> {
        match returned {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(sandbox::guest_problem(&error, self.store.data())),
            Err(stop) => Err(sandbox::problem(&stop, self.store.data())),
        }
    }

    /// Ends the sandbox.
    pub(crate) fn close<T>(self, result: Result<T, Problem>) -> Ended<T> {
        sandbox::close(&self.store, self.clock, result)
    }
}

/// The guest's answer, checked: what goes into an HTTP answer must fit there.
fn response(response: handler::Response) -> Result<Response, Problem> {
    let handler::Response { status, headers, body } = response;
    if !(200..=599).contains(&status) {
        return Err(invalid(format!("expected a status from 200 to 599, found {status}")));
    }
    if body.len() as u64 > limits::RESPONSE_BYTES_MAX {
        return Err(Problem::new(
            ErrorKind::ResponseTooLarge,
            format!(
                "expected a body of at most {}, found {} bytes; write it to an object and answer with its place",
                ByteSize(limits::RESPONSE_BYTES_MAX),
                body.len()
            ),
        ));
    }
    check_headers(&headers)?;
    Ok(Response { status, headers, body: Bytes::from(body) })
}

/// Names are tokens in lower case and values visible text (RFC 9110, section
/// 5.5), so that no header can begin another.
fn check_headers(headers: &[(String, String)]) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > limits::HEADERS_MAX || bytes as u64 > limits::HEADER_BYTES_MAX {
        return Err(Problem::new(
            ErrorKind::ResponseTooLarge,
            format!(
                "expected at most {} headers of {} together, found {} of {bytes} bytes",
                limits::HEADERS_MAX,
                ByteSize(limits::HEADER_BYTES_MAX),
                headers.len()
            ),
        ));
    }
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    let visible = |b: u8| b == b'\t' || (b' '..=b'~').contains(&b) || b >= 0x80;
    for (name, value) in headers {
        if name.is_empty() || !name.bytes().all(token) {
            return Err(invalid(format!("expected a header's name in lower case, found {:?}", shown(name))));
        }
        if !value.bytes().all(visible) {
            return Err(invalid(format!(
                "expected visible text in the header {name}, found {:?}",
                shown(value)
            )));
        }
    }
    Ok(())
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::ResponseInvalid, detail)
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, name: &str, value: &str) -> Option<ErrorKind> {
        let headers = vec![(name.to_owned(), value.to_owned())];
        response(handler::Response { status, headers, body: Vec::new() }).err().map(|p| p.code)
    }

    #[test]
    fn a_key_is_among_the_columns_that_are_read() {
        let column = |name: &str, data_type: &str| types::Column {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            nullable: true,
        };
        let check = |key: &str, data_type: &str| {
            let reads = Some(vec![column("region", "Utf8"), column("rate", "Float64")]);
            grouping(grouper::Grouping { reads, keys: vec![column(key, data_type)], writes: None })
        };
        assert_eq!(check("region", "Utf8").unwrap().keys.len(), 1);
        for (key, data_type, part) in [
            ("customer", "Utf8", "\"customer\""),
            ("rate", "Float64", "boolean"),
            ("region", "text", "Arrow type"),
        ] {
            let problem = check(key, data_type).unwrap_err();
            assert!(problem.code == ErrorKind::ResponseInvalid && problem.detail.contains(part), "{problem}");
        }
    }

    #[test]
    fn columns_are_bounded() {
        let check = |name: &str, data_type: &str, part: Option<&str>| {
            let (name, data_type) = (name.to_owned(), data_type.to_owned());
            let found = columns(Some(vec![types::Column { name, data_type, nullable: true }]));
            match part {
                None => assert!(found.is_ok(), "{found:?}"),
                Some(part) => {
                    let problem = found.unwrap_err();
                    assert_eq!(problem.code, ErrorKind::ResponseInvalid);
                    assert!(problem.detail.contains(part) && problem.detail.len() < 1_000, "{problem}");
                }
            }
        };
        let lists = |depth: usize| format!("{}Int64{}", "List(".repeat(depth), ")".repeat(depth));
        check("a", &lists(32), None);
        check("a", &lists(33), Some("33 types"));
        // What parses it would use up the stack, whether it is closed or not.
        check("a", &lists(1_000_000), Some("1000000 types"));
        check("a", &"List(".repeat(1_000_000), Some("1000000 types"));
        check("a", &"Struct(\"))\": ".repeat(1_000_000), Some("make it flatter"));
        check("a", &"Struct(\"))\": ".repeat(300), Some("Arrow type"));
        let members: Vec<_> = (0..60).map(|n| format!("\"m{n}\": Timestamp(Microsecond, None)")).collect();
        check("a", &format!("Struct({})", members.join(", ")), None);
        check("a", &"x".repeat(4_096), Some("Arrow type"));
        check("a", &"x".repeat(4_097), Some("4097 bytes"));
        check(&"n".repeat(1_024), "Int64", None);
        check(&"n".repeat(1_025), "Int64", Some("one of 1025"));
        check("", "Int64", Some("one of 0"));
    }

    #[test]
    fn columns_of_a_result_have_names_of_their_own() {
        let column = |name: &str| types::Column {
            name: name.to_owned(),
            data_type: "Utf8".to_owned(),
            nullable: false,
        };
        let check = |answer: &str| {
            let writes = Some(vec![column("region"), column("total"), column(answer)]);
            grouping(grouper::Grouping { reads: None, keys: vec![column("region")], writes })
        };
        assert_eq!(check("mean").unwrap().writes.unwrap().len(), 3);
        for answer in ["region", "total"] {
            let problem = check(answer).unwrap_err();
            assert_eq!(problem.code, ErrorKind::ResponseInvalid);
            assert!(problem.detail.contains(&format!("{answer:?} twice")), "{problem}");
        }
    }

    #[test]
    fn answers_are_checked() {
        assert_eq!(check(200, "content-type", "text/plain"), None);
        assert_eq!(check(599, "x-a", "\u{e4}\t"), None);
        for status in [0, 101, 199, 600, 999] {
            assert_eq!(check(status, "a", ""), Some(ErrorKind::ResponseInvalid), "{status}");
        }
        for (name, value) in [("", ""), ("A", ""), ("a b", ""), ("a:", ""), ("a", "b\r\nc: d"), ("a", "\0")] {
            assert_eq!(check(200, name, value), Some(ErrorKind::ResponseInvalid), "{name:?}: {value:?}");
        }
        assert_eq!(check(200, "a", &"x".repeat(40_000)), Some(ErrorKind::ResponseTooLarge));
        let body = vec![0; 1 + limits::RESPONSE_BYTES_MAX as usize];
        let large = handler::Response { status: 200, headers: Vec::new(), body };
        assert_eq!(response(large).map(drop).unwrap_err().code, ErrorKind::ResponseTooLarge);
    }
}
