// SPDX-License-Identifier: Apache-2.0
//! Every fixture of `functions/hostile` once, with the end that its head names.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fanfold_protocol::{
    ErrorKind, Problem,
    function::{Settings, Version},
    limits,
    size::{ByteSize, Span},
};

use crate::support::{Platform, component, echo, handler, hostile, read, resident_bytes, settings};

const KILL_LATE_MAX: Duration = Duration::from_millis(100);
const KILL_TRIES: usize = 5;
/// Calls that are answered beside endless loops of four seconds, on a machine that is busy.
const NEIGHBOURS_LEAST: usize = 40;

/// What the head of a fixture says.
struct Case {
    name: String,
    text: String,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases: Vec<_> = std::fs::read_dir(hostile())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "wat"))
            .map(|path| Self { name: path.file_stem().unwrap().display().to_string(), text: read(&path) })
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    fn head(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(&format!(";; {key}: ")))
    }

    fn component(&self) -> Vec<u8> {
        if self.head("lib") == Some("none") { component("handler", &self.text) } else { handler(&self.text) }
    }

    fn settings(&self) -> Settings {
        settings(self.head("memory").unwrap_or("64MiB").parse::<ByteSize>().unwrap())
    }

    fn timeout(&self) -> Duration {
        self.head("timeout").unwrap_or("5s").parse::<Span>().unwrap().as_duration()
    }

    fn check_problem(&self, problem: &Problem) {
        assert_eq!(self.head("expect"), Some(problem.code.code()), "{}: {problem}", self.name);
        let detail = self.head("detail").unwrap_or_default();
        assert!(problem.detail.contains(detail), "{}: {problem}", self.name);
    }

    /// A guest is killed within 100 ms of its deadline. A machine that is busy with
    /// something else may be late by itself: then it is tried again.
    async fn check_kill(&self, platform: &Platform, version: &Arc<Version>, mut late: Duration) {
        for _ in 0..KILL_TRIES {
            if late < KILL_LATE_MAX {
                return;
            }
            let began = Instant::now();
            platform.invoke(version, b"", self.timeout()).await;
            late = began.elapsed().saturating_sub(self.timeout());
        }
        panic!("{}: {late:?} too late, {KILL_TRIES} times in a row", self.name);
    }

    async fn run(&self, platform: &Platform) {
        let version = match platform.deploy(self.component(), self.settings()).await {
            Ok(version) => version,
            Err(problem) => return self.check_problem(&problem),
        };
        let (began, resident) = (Instant::now(), resident_bytes());
        let outcome = platform.invoke(&version, b"", self.timeout()).await;
        let took = began.elapsed();
        let grown = resident_bytes().saturating_sub(resident);
        assert!(grown < 32 << 20, "{}: resident memory grew by {grown} bytes", self.name);
        match &outcome.result {
            Ok(response) => {
                assert_eq!(self.head("expect"), Some(&*response.status.to_string()), "{}", self.name)
            }
            Err(problem) => {
                self.check_problem(problem);
                if problem.code == ErrorKind::DeadlineExceeded {
                    self.check_kill(platform, &version, took.saturating_sub(self.timeout())).await;
                }
            }
        }
        let bytes: usize = outcome.logs.iter().map(|line| line.message.len()).sum();
        assert!(bytes <= limits::LOG_BYTES_MAX, "{}: {bytes} bytes of log", self.name);
        if let Some(expected) = self.head("log") {
            let last = outcome.logs.last().map(|line| line.message.as_str()).unwrap_or_default();
            assert!(last.contains(expected), "{}: {last:?}", self.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fixture_ends_as_it_says() {
    let platform = Platform::start_alone().await;
    let cases = Case::all();
    assert!(cases.len() >= 30, "{} fixtures", cases.len());
    for case in cases {
        case.run(&platform).await;
    }
    // After all that, the next guest is served.
    let version = platform.deploy(echo(), Settings::default()).await.unwrap();
    let outcome = platform.invoke(&version, b"still here", Duration::from_secs(5)).await;
    assert_eq!(outcome.result.unwrap().body, "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_component_is_refused_with_its_own_code() {
    let platform = Platform::start().await;
    let check = async |bytes: &[u8], kind: ErrorKind, part: &str| {
        let digest = platform.upload(bytes.to_vec()).await;
        let problem = platform.prepare(digest).await.unwrap_err();
        assert_eq!(problem.code, kind, "{problem}");
        assert!(problem.detail.contains(part), "{problem}");
    };
    check(b"hello", ErrorKind::NotAComponent, "begins with 68656c6c6f").await;
    check(b"\0asm\x01\0\0\0", ErrorKind::NotAComponent, "core module").await;
    let nothing = component("nothing", "(func (export \"nothing\"))");
    check(&nothing, ErrorKind::ExportMissing, "fanfold:function/handler@0.1.0").await;
    let mut cut = echo();
    cut.truncate(cut.len() - 10);
    check(&cut, ErrorKind::CompileFailed, "offset").await;
    let mut flipped = echo();
    let at = flipped.len() / 2;
    flipped[at..at + 40].fill(0xff);
    check(&flipped, ErrorKind::CompileFailed, "offset").await;
    let compiled = std::fs::read_dir("/proc/self").map(|_| std::fs::read("/proc/self/exe").unwrap()).unwrap();
    check(&compiled[..4096], ErrorKind::NotAComponent, "begins with 7f454c46").await;
    let echo = platform.deploy(echo(), Settings::default()).await.unwrap();
    assert_eq!(platform.runtime.counters().components_compiled, 2, "the handler and the one without exports");
    let outcome = platform.invoke(&echo, b"x", Duration::from_secs(5)).await;
    assert!(outcome.result.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_with_other_types_is_refused_before_it_runs() {
    let mistyped = |interface: &str, functions: &[&str]| {
        let exports: String = functions.iter().map(|name| format!("(export \"{name}\" (func $f))")).collect();
        let text = format!(
            "(component
               (core module $m (func (export \"f\") (result i32) (unreachable)))
               (core instance $i (instantiate $m))
               (func $f (result u32) (canon lift (core func $i \"f\")))
               (instance $e {exports})
               (export \"fanfold:function/{interface}@0.1.0\" (instance $e)))"
        );
        wat::parse_str(text).unwrap()
    };
    let platform = Platform::start().await;
    for (interface, functions) in [
        ("handler", &["handle"][..]),
        ("mapper", &["describe", "map"][..]),
        ("aggregator", &["describe", "accumulate", "merge", "finish"][..]),
        ("grouper", &["describe", "accumulate", "merge"][..]),
    ] {
        let refused = async |functions: &[&str], found: String| {
            let deployed = platform.deploy(mistyped(interface, functions), Settings::default()).await;
            let problem = deployed.unwrap_err();
            assert_eq!(problem.code, ErrorKind::ExportMissing, "{problem}");
            assert!(problem.detail.contains("expected exports as in fanfold:function"), "{problem}");
            assert!(problem.detail.contains(&found), "{problem}");
        };
        refused(functions, format!("other types of {} in fanfold:function/{interface}@0.1.0", functions[0]))
            .await;
        refused(&[], functions[0].to_owned()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_does_not_hold_up_its_neighbours() {
    let platform = Platform::start().await;
    let quick = platform.deploy(echo(), Settings::default()).await.unwrap();
    let case = Case::all().into_iter().find(|case| case.name == "loop-code").unwrap();
    let slow = platform.deploy(case.component(), Settings::default()).await.unwrap();
    // One endless loop for each thread that runs guests.
    let (platform, timeout) = (Arc::new(platform), Duration::from_secs(4));
    let loops: Vec<_> = (0..2)
        .map(|_| {
            let (platform, slow) = (platform.clone(), slow.clone());
            tokio::spawn(async move { platform.invoke(&slow, b"", timeout).await })
        })
        .collect();
    let mut times = Vec::new();
    while loops.iter().all(|running| !running.is_finished()) {
        let began = Instant::now();
        let outcome = platform.invoke(&quick, b"x", Duration::from_secs(30)).await;
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
        times.push(began.elapsed());
    }
    // A thread changes hands with every tick: nobody waits for a loop to end, and hundreds
    // are served meanwhile.
    assert!(times.len() >= NEIGHBOURS_LEAST, "{} calls beside the loops", times.len());
    assert!(times.iter().all(|time| *time < timeout / 2), "{:?}", times.iter().max());
    for running in loops {
        let outcome = running.await.unwrap();
        assert_eq!(outcome.result.unwrap_err().code, ErrorKind::DeadlineExceeded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_takes_its_guest_with_it() {
    let platform = Platform::start().await;
    let case = Case::all().into_iter().find(|case| case.name == "loop-code").unwrap();
    let version = platform.deploy(case.component(), Settings::default()).await.unwrap();
    // More than there is room for, each abandoned at once.
    for _ in 0..300 {
        let call = platform.invoke(&version, b"", Duration::from_secs(3_600));
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
    }
    let quick = platform.deploy(echo(), Settings::default()).await.unwrap();
    let outcome = platform.invoke(&quick, b"x", Duration::from_secs(10)).await;
    assert!(outcome.result.is_ok(), "{:?}", outcome.result);
}
