// SPDX-License-Identifier: Apache-2.0
//! Why a sandbox ended without an answer, in the words of the platform.
//!
//! The one place where traps, limits and guests' errors become [`Problem`]s.
//! Invariant: what a guest says is quoted, cut and escaped, and never decides
//! more than its own fate.

use fanfold_protocol::{
    ErrorKind, Problem,
    invocation::Progress,
    limits,
    size::{ByteSize, Span},
};
use wasmtime::{Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use super::Stop;
use crate::{bindings::handler::fanfold::function::types, host::Host};

/// What is kept of a guest's own words.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Longest code of a guest's own.
const CODE_BYTES_MAX: usize = 64;
/// That what the caller sent does not fit, in a guest's own judgement.
const GUESTS_TO_SAY: [ErrorKind; 3] =
    [ErrorKind::InvalidParams, ErrorKind::InvalidBody, ErrorKind::InvalidQuery];
/// Functions named of a trap's stack.
const FRAMES_MAX: usize = 5;

/// The problem of a call that did not return.
pub(crate) fn problem(stop: &Stop, host: &Host) -> Problem {
    match stop {
        Stop::Deadline => deadline(host),
        Stop::Cancelled => Problem::new(
            ErrorKind::Cancelled,
            "expected the function to finish, found that its work was cancelled; start it again if it is still wanted",
        ),
        Stop::Failed(error) => failed(error, host),
    }
}

fn deadline(host: &Host) -> Problem {
    let allowed = Span::from(host.call.timeout);
    with_progress(
        host,
        Problem::new(
            ErrorKind::DeadlineExceeded,
            format!(
                "expected the function to finish within {allowed}, found it still running; raise its timeout \
                 in function.toml, or limits.task_timeout where a job sets it (at most 60m), or give it less to do"
            ),
        ),
    )
}

fn failed(error: &wasmtime::Error, host: &Host) -> Problem {
    let trap = error.downcast_ref::<Trap>().copied();
    let problem = if trap == Some(Trap::StackOverflow) {
        stack_overflow(error)
    } else if is_transfer(error) {
        transfer(error)
    } else if let Some(problem) = memory(host) {
        problem
    } else if let Some(panic) = host.log.panic() {
        Problem::new(ErrorKind::GuestPanicked, format!("{}; see its log", cut(&panic, TEXT_BYTES_MAX)))
    } else {
        Problem::new(ErrorKind::GuestTrapped, trapped(error, trap))
    };
    with_progress(host, problem)
}

fn stack_overflow(error: &wasmtime::Error) -> Problem {
    Problem::new(
        ErrorKind::StackOverflow,
        format!(
            "expected calls to fit a stack of {}, found it used up{}; end the recursion or make it a loop",
            ByteSize(limits::WASM_STACK_BYTES as u64),
            functions(error)
        ),
    )
}

/// Whether more was moved in one host call than is allowed. wasmtime has no
/// public type for it.
fn is_transfer(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// With wasm on the stack it was an argument of a host call, else the result.
fn transfer(error: &wasmtime::Error) -> Problem {
    let in_host_call = error.downcast_ref::<WasmBacktrace>().is_some_and(|trace| !trace.frames().is_empty());
    let (kind, what) = if in_host_call {
        (ErrorKind::TransferTooLarge, "a host call")
    } else {
        (ErrorKind::ResponseTooLarge, "the function's result")
    };
    Problem::new(
        kind,
        format!(
            "expected {what} to move at most {}, found more; move it in parts or write it to an object",
            ByteSize(limits::TRANSFER_BYTES_MAX)
        ),
    )
}

fn memory(host: &Host) -> Option<Problem> {
    let limiter = &host.limiter;
    let detail = if let Some(bytes) = limiter.refused_bytes() {
        format!(
            "expected at most {} of memory, found a request that makes it {bytes} bytes; raise memory in \
             function.toml, or limits.memory where a job sets it (at most 4GiB), or hold less at a time",
            ByteSize(limiter.bytes_max())
        )
    } else {
        let elements = limiter.refused_elements()?;
        format!(
            "expected at most {} table elements, found a request that makes it {elements}; grow its tables less",
            limits::TABLE_ELEMENTS_MAX
        )
    };
    Some(Problem::new(ErrorKind::MemoryExceeded, detail))
}

fn trapped(error: &wasmtime::Error, trap: Option<Trap>) -> String {
    let mut advice = "see its log";
    let found = if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        format!("that it exited with code {code}")
    } else if is_full(error) {
        advice = "drop what is no longer needed";
        format!("more than {} open handles", limits::HANDLES_MAX)
    } else {
        match trap {
            Some(Trap::UnreachableCodeReached) => "that it aborted (unreachable code)".to_owned(),
            Some(trap) => trap.to_string(),
            None => cut(&error.root_cause().to_string(), TEXT_BYTES_MAX),
        }
    };
    format!("expected the function to return, found {found}{}; {advice}", functions(error))
}

fn is_full(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full))
        || error.root_cause().to_string().contains("store handle limit exceeded")
}

/// The functions on the stack, innermost first, when the component names them.
fn functions(error: &wasmtime::Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let names = trace.frames().iter().filter_map(|frame| frame.func_name());
    let names: Vec<_> = names.take(FRAMES_MAX).map(|name| cut(name, 120)).collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(" < ")) }
}

fn with_progress(host: &Host, mut problem: Problem) -> Problem {
    if let Some(Progress { done, total }) = host.progress() {
        let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
        problem.detail.push_str(&format!(" (it had said: {done}{total} done)"));
    }
    problem
}

/// The problem of a call that returned an error. What the host itself had said
/// in this invocation keeps its kind when the guest passes its code on. Whether
/// what the caller sent fits, only the guest can say: those codes are its to give. So is,
/// of any error, that trying again may help.
pub(crate) fn guest_problem(error: &types::Error, host: &Host) -> Problem {
    let message = match cut(&error.message, TEXT_BYTES_MAX) {
        message if message.is_empty() => {
            format!("the function returned the error {:?} without a message", error.code)
        }
        message => message,
    };
    let may_say = |kind: ErrorKind| GUESTS_TO_SAY.contains(&kind) || host.has_issued(kind);
    let said = ErrorKind::ALL.iter().find(|kind| kind.code() == error.code && may_say(**kind));
    if let Some(kind) = said {
        let guest_retryable = error.retryable.then_some(true);
        return Problem { guest_retryable, ..Problem::new(*kind, message) };
    }
    Problem {
        guest_code: Some(code(&error.code)),
        guest_retryable: Some(error.retryable),
        ..Problem::new(ErrorKind::FunctionError, message)
    }
}

/// A problem of the host's own, which may quote what a guest or a file wrote, made as short and plain
/// as a guest's.
pub(crate) fn told(mut problem: Problem) -> Problem {
    problem.detail = cut(&problem.detail, TEXT_BYTES_MAX);
    problem
}

/// A guest's code, made to look like one.
fn code(text: &str) -> String {
    let shaped = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let code: String = text.chars().take(CODE_BYTES_MAX).map(shaped).collect();
    if code.is_empty() { "error".to_owned() } else { code }
}

/// The beginning of a text, control characters replaced.
fn cut(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    let mut cut: String = text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if end < text.len() {
        cut.push('…');
    }
    cut.truncate(cut.trim_end().len());
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_words_are_tamed() {
        assert_eq!(code("Column Not-Found!"), "column-not-found-");
        assert_eq!(code(""), "error");
        assert_eq!(code(&"x".repeat(1_000)).len(), CODE_BYTES_MAX);
        assert_eq!(cut("a\nb\x1b[0m  ", 100), "a b [0m");
        assert_eq!(cut("äöü", 3), "ä…");
    }

    #[test]
    fn the_hosts_words_are_cut_as_well() {
        let detail = format!("found {}\n\u{1b}[0m", "x".repeat(1 << 20));
        let problem = told(Problem::new(ErrorKind::ArrowCorrupt, detail));
        assert_eq!(problem.code, ErrorKind::ArrowCorrupt);
        assert_eq!(problem.detail.len(), TEXT_BYTES_MAX + '…'.len_utf8());
        assert_eq!(told(Problem::new(ErrorKind::ArrowCorrupt, "a\n\tb")).detail, "a  b");
    }
}
