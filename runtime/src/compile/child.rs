// SPDX-License-Identifier: Apache-2.0
//! The inside of the compiler's child process.
//!
//! It limits itself before it looks at the first byte. Non-goal: it does not
//! decide what a component may import; that needs no compiler.

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use fanfold_protocol::{ErrorKind, Problem, limits, size::ByteSize};
use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use wasmtime::Engine;

use crate::engine;

/// A component's first bytes: the magic number, version 13, layer 1.
const COMPONENT_MAGIC: &[u8] = b"\0asm\x0d\0\x01\0";
/// A core module's first bytes.
const MODULE_MAGIC: &[u8] = b"\0asm\x01\0\0\0";
/// Address space may be reserved beyond the memory that may be used.
const ADDRESS_SPACE_FACTOR: u64 = 4;
/// Serving others comes first.
const NICENESS: i32 = 10;
/// Set for a child that runs only where nothing else does. However nice it is, one that
/// does not would keep a processor for milliseconds after a call has come for it.
pub(super) const YIELDS: &str = "FANFOLD_COMPILE_YIELDS";

/// The whole life of the child process: a component on standard input, the
/// artifact on standard output; on failure code 1 and a [`Problem`] as JSON on
/// standard error.
pub fn compile_child() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Nobody is left to tell when standard error is gone.
            let _ = serde_json::to_writer(io::stderr().lock(), &problem);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Problem> {
    limit_self().map_err(|error| internal(&error))?;
    let mut component = Vec::new();
    let bytes_max = limits::COMPONENT_BYTES_MAX;
    io::stdin().lock().take(bytes_max + 1).read_to_end(&mut component).map_err(|error| internal(&error))?;
    if component.len() as u64 > bytes_max {
        return Err(Problem::new(
            ErrorKind::ComponentTooLarge,
            format!("a component must be at most {}, found more; strip it", ByteSize(bytes_max)),
        ));
    }
    check_header(&component)?;
    let engine = Engine::new(&engine::config()).map_err(|error| internal(&error))?;
    let artifact = engine.precompile_component(&component).map_err(|error| failed(&error))?;
    let mut out = io::stdout().lock();
    out.write_all(&artifact).and_then(|()| out.flush()).map_err(|error| internal(&error))
}

fn limit_self() -> rustix::io::Result<()> {
    // Never more than whoever started the process allowed.
    let set = |resource, soft: u64, hard: u64| {
        let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(soft.min(allowed)), maximum: Some(hard.min(allowed)) })
    };
    set(Resource::Core, 0, 0)?;
    set(Resource::Cpu, limits::COMPILE_CPU_SECONDS, limits::COMPILE_CPU_SECONDS + 1)?;
    set(Resource::Data, limits::COMPILE_MEMORY_BYTES, limits::COMPILE_MEMORY_BYTES)?;
    let address_space = limits::COMPILE_MEMORY_BYTES * ADDRESS_SPACE_FACTOR;
    set(Resource::As, address_space, address_space)?;
    // Only wishes.
    if std::env::var_os(YIELDS).is_some() {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    }
    let _ = nice(NICENESS);
    Ok(())
}

fn check_header(component: &[u8]) -> Result<(), Problem> {
    if component.starts_with(COMPONENT_MAGIC) {
        return Ok(());
    }
    let found = match component {
        [] => "an empty file".to_owned(),
        bytes if bytes.starts_with(MODULE_MAGIC) => {
            "a core module; wrap it as a component, as fanfold build does".to_owned()
        }
        bytes if Engine::detect_precompiled(bytes).is_some() => {
            "a compiled artifact; upload the component that it was made from".to_owned()
        }
        bytes => format!("a file that begins with {}", hex::encode(&bytes[..bytes.len().min(8)])),
    };
    Err(Problem::new(ErrorKind::NotAComponent, format!("expected a WebAssembly component, found {found}")))
}

/// wasmtime's text names the offset and what is wrong there.
fn failed(error: &wasmtime::Error) -> Problem {
    let out_of_memory = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::OutOfMemory);
    if out_of_memory {
        return super::over_limit("it needed more memory");
    }
    let text: String = format!("{error:#}").chars().take(2_000).collect();
    Problem::new(
        ErrorKind::CompileFailed,
        format!(
            "expected a valid component, found: {}; build it again for WebAssembly without threads, GC, \
             exceptions and 64-bit memories",
            text.trim_end_matches('.').replace('\n', " ")
        ),
    )
}

fn internal(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(ErrorKind::Internal, format!("the compiler could not work: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_components_pass() {
        let check = |bytes: &[u8], part: &str| {
            let problem = check_header(bytes).unwrap_err();
            assert_eq!(problem.code, ErrorKind::NotAComponent);
            assert!(problem.detail.contains(part), "{}", problem.detail);
        };
        check(b"", "empty");
        check(b"\0asm\x01\0\0\0...", "core module");
        check(b"#!/bin/sh", "begins with 23212f62696e2f73");
        assert_eq!(check_header(COMPONENT_MAGIC), Ok(()));
    }
}
