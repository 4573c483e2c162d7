// SPDX-License-Identifier: Apache-2.0
//! Compiling components in a child process with limits of its own.
//!
//! A guest's bytes are never parsed or compiled in a process that serves
//! others: the child reads the component from standard input and writes the
//! compiled artifact to standard output, or a [`Problem`] as JSON to standard
//! error. What a call or a task waits for is compiled before what nobody waits for, which
//! runs only where nothing else does, for as long as that leaves it time.
//! Invariant: at most [`limits::COMPILES_MAX`] children at once, and none outlives its request.

mod child;
mod turns;

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
pub use child::compile_child;
use fanfold_protocol::{ErrorKind, Problem, limits, size::ByteSize};
use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use self::turns::Turns;
pub(crate) use self::turns::{Seat, Turn, Urgency, Wanted};

/// Wall time of a child.
const WALL_TIME_MAX: Duration = Duration::from_secs(limits::COMPILE_WALL_SECONDS);
/// How long a child for which nobody waits leaves the machine to others, and how often somebody is looked for who does.
const YIELDS_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one that was killed is waited for.
const LEAVES_MAX: Duration = Duration::from_secs(5);
/// Largest artifact, far beyond what the largest component gives.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// What is read of a child's standard error.
const STDERR_BYTES_MAX: u64 = 64 << 10;
/// Threads of a child; more only take memory from its allowance.
const THREADS: &str = "2";

static CHILDREN: Turns = Turns::new(limits::COMPILES_MAX);

/// How to start a process that calls [`compile_child`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilerCommand {
    /// The program's path.
    pub program: PathBuf,
    /// What it is to be told, such as the hidden subcommand of `fanfold`.
    pub args: Vec<OsString>,
}

/// Waits for a turn to compile something of a tenant's, before what nobody waits for if it is `wanted`.
pub(crate) async fn turn(tenant: &str, wanted: &Wanted) -> Result<Turn, Problem> {
    let turn = CHILDREN.take(tenant, wanted.clone()).await;
    turn.ok_or_else(|| broken("the line before the compilers is gone"))
}

/// Compiles a component in its turn. Dropping the future kills the child.
pub(crate) async fn compile(
    command: &CompilerCommand,
    component: Bytes,
    wanted: &Wanted,
    turn: Turn,
) -> Result<Vec<u8>, Problem> {
    let compiled = run(command, component, wanted).await;
    drop(turn);
    compiled
}

async fn run(command: &CompilerCommand, component: Bytes, wanted: &Wanted) -> Result<Vec<u8>, Problem> {
    if !wanted.is_waited_for() {
        let mut child = start(command, true)?;
        tokio::select! {
            ended = converse(&mut child, component.clone()) => return ended,
            () = pressed(wanted) => {}
        }
        // Another begins, which takes its part of the machine; but not before this one is gone.
        let _ = child.start_kill();
        let _ = timeout(LEAVES_MAX, child.wait()).await;
    }
    let mut child = start(command, false)?;
    within(WALL_TIME_MAX, &mut child, component).await
}

/// Waits so long for a child, whose own limits end it long before unless the machine has no time for it.
async fn within(wall: Duration, child: &mut Child, component: Bytes) -> Result<Vec<u8>, Problem> {
    timeout(wall, converse(child, component)).await.unwrap_or_else(|_| Err(starved(wall)))
}

/// Waits until a child can yield no longer: somebody waits for what it makes or for its turn, or it has had no end.
async fn pressed(wanted: &Wanted) {
    let looks = YIELDS_MAX.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        tokio::time::sleep(LOOK_EVERY).await;
        if wanted.is_waited_for() || CHILDREN.is_pressed() {
            return;
        }
    }
}

/// Starts a child, which runs only where nothing else does if it `yields`.
fn start(command: &CompilerCommand, yields: bool) -> Result<Child, Problem> {
    Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .env("RAYON_NUM_THREADS", THREADS)
        .envs(yields.then_some((child::YIELDS, "1")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| broken(format!("{} did not start: {error}", command.program.display())))
}

async fn converse(child: &mut Child, component: Bytes) -> Result<Vec<u8>, Problem> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(broken("the compiler has no pipes"));
    };
    let send = async move {
        // A child that ends early closes the pipe; its exit says why.
        let _ = stdin.write_all(&component).await;
    };
    let read = |error| broken(format!("reading from the compiler failed: {error}"));
    let ((), artifact, said, status) = tokio::join!(
        send,
        read_all(stdout, ARTIFACT_BYTES_MAX),
        read_all(stderr, STDERR_BYTES_MAX),
        child.wait()
    );
    let (artifact, said, status) = (artifact.map_err(read)?, said.map_err(read)?, status.map_err(read)?);
    if status.success() && !artifact.is_empty() {
        return Ok(artifact);
    }
    if let Ok(problem) = serde_json::from_slice::<Problem>(&said) {
        return Err(problem);
    }
    tracing::warn!(%status, said = %String::from_utf8_lossy(&said), "a compiler ended without an answer");
    match status.code() {
        // A panic: the compiler met what it does not know.
        Some(101) => Err(Problem::new(
            ErrorKind::CompileFailed,
            "expected a component that can be compiled, found one that stops the compiler; \
             build it with another version of its toolchain",
        )),
        Some(code) => Err(broken(format!("the compiler ended with code {code}"))),
        None => Err(over_limit(stopped(status))),
    }
}

/// Which limit a child met that a signal ended.
fn stopped(status: ExitStatus) -> &'static str {
    match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => "it used up its CPU time",
        // So ends who gets no memory.
        Some(signal) if signal == Signal::ABORT.as_raw() => "it needed more memory",
        _ => "it was stopped",
    }
}

/// Reads to the end, also beyond what is kept, so that the writer never blocks.
async fn read_all(mut from: impl AsyncRead + Unpin, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut from).take(bytes_max).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

fn over_limit(how: &str) -> Problem {
    Problem::new(
        ErrorKind::CompileLimit,
        format!(
            "expected the component to compile within {} s of CPU time and {} of memory, found that {how}; \
             make its functions smaller or leave out what it does not need",
            limits::COMPILE_CPU_SECONDS,
            ByteSize(limits::COMPILE_MEMORY_BYTES)
        ),
    )
}

/// That says nothing of the component: another worker may have the time, or this one later.
fn starved(wall: Duration) -> Problem {
    let seconds = wall.as_secs();
    tracing::warn!(seconds, "a compiler did not end in time: the machine is too busy for it");
    Problem::new(
        ErrorKind::WorkerUnavailable,
        format!(
            "expected a worker with time to compile the component, found one so busy that it was not done within \
             {seconds} s; try again later, or ask the operator for more workers"
        ),
    )
}

fn broken(what: impl std::fmt::Display) -> Problem {
    tracing::error!(%what, "the compiler is broken");
    Problem::new(
        ErrorKind::Internal,
        "expected the compiler to run, found it broken; the operator finds the cause in the log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_limit_that_was_met_is_told() {
        let check = async |script: &str, wall: Duration, kind: ErrorKind, part: &str| {
            let args = ["-c", script].map(OsString::from).to_vec();
            let command = CompilerCommand { program: "/bin/sh".into(), args };
            let ended = within(wall, &mut start(&command, false).unwrap(), Bytes::new()).await;
            let problem = ended.unwrap_err();
            assert_eq!(problem.code, kind, "{problem}");
            assert!(problem.detail.contains(part), "{problem}");
        };
        check("ulimit -c 0; kill -XCPU $$", WALL_TIME_MAX, ErrorKind::CompileLimit, "used up its CPU time")
            .await;
        check("ulimit -c 0; kill -ABRT $$", WALL_TIME_MAX, ErrorKind::CompileLimit, "needed more memory")
            .await;
        check("kill -KILL $$", WALL_TIME_MAX, ErrorKind::CompileLimit, "was stopped").await;
        // The machine's, and not the component's.
        let wall = Duration::from_millis(50);
        check("exec /bin/sleep 60", wall, ErrorKind::WorkerUnavailable, "so busy").await;
    }
}
