// SPDX-License-Identifier: Apache-2.0
//! The parts of WASI 0.2 that a language's standard library needs, with
//! nothing behind them: no files, no arguments, no variables, no network.
//!
//! The context is made when a guest first asks for it; many never do.
//! Standard output and error go to the invocation's log, clocks move in steps
//! of an epoch, random bytes are bounded a call, sockets and look-ups of names
//! are refused before the system is asked for them.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_protocol::{limits, time};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView as _},
    clocks::{WasiClocks, WasiClocksCtxView, WasiClocksView as _},
    filesystem::{WasiFilesystem, WasiFilesystemView as _},
    p2::{OutputStream, Pollable, StreamResult, bindings},
    random::{WasiRandom, WasiRandomCtx, WasiRandomView as _},
    sockets::{WasiSockets, WasiSocketsView as _},
};

use super::Host;
use crate::sandbox::{Log, Source};

/// What a stream takes in one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Links every interface that is offered; HTTP is not among them.
pub(crate) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    use bindings::{cli, clocks, filesystem, io, random};
    io::error::add_to_linker::<Host, Io>(linker, |host| &mut host.table)?;
    io::poll::add_to_linker::<Host, Io>(linker, |host| &mut host.table)?;
    io::streams::add_to_linker::<Host, Io>(linker, |host| &mut host.table)?;
    clocks::wall_clock::add_to_linker::<Host, WasiClocks>(linker, clocks_outside)?;
    clocks::monotonic_clock::add_to_linker::<Host, WasiClocks>(linker, clocks_outside)?;
    random::random::add_to_linker::<Host, WasiRandom>(linker, random_outside)?;
    random::insecure::add_to_linker::<Host, WasiRandom>(linker, random_outside)?;
    // Every program for `wasm32-wasip2` seeds its hash maps here.
    random::insecure_seed::add_to_linker::<Host, WasiRandom>(linker, Host::random)?;
    filesystem::types::add_to_linker::<Host, WasiFilesystem>(linker, Host::filesystem)?;
    filesystem::preopens::add_to_linker::<Host, WasiFilesystem>(linker, Host::filesystem)?;
    cli::environment::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::exit::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::stdin::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::stdout::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::stderr::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::terminal_input::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::terminal_output::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::terminal_stdin::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::terminal_stdout::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    cli::terminal_stderr::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    link_sockets(linker)
}

/// Some languages import sockets whatever a program does. [`context`] allows no
/// use of them, so that a guest gets no resource of these interfaces but handles
/// of the network, which are entries of the table and no more.
fn link_sockets(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    use bindings::sockets::{
        instance_network, ip_name_lookup, network, tcp, tcp_create_socket, udp, udp_create_socket,
    };
    let stable = network::LinkOptions::default();
    network::add_to_linker::<Host, WasiSockets>(linker, &stable, Host::sockets)?;
    instance_network::add_to_linker::<Host, WasiSockets>(linker, Host::sockets)?;
    tcp::add_to_linker::<Host, WasiSockets>(linker, Host::sockets)?;
    tcp_create_socket::add_to_linker::<Host, WasiSockets>(linker, Host::sockets)?;
    udp::add_to_linker::<Host, WasiSockets>(linker, Host::sockets)?;
    udp_create_socket::add_to_linker::<Host, WasiSockets>(linker, Host::sockets)?;
    ip_name_lookup::add_to_linker::<Host, WasiSockets>(linker, Host::sockets)
}

/// The clocks, for a call of the guest: it looks outside.
fn clocks_outside(host: &mut Host) -> WasiClocksCtxView<'_> {
    host.work.look_outside();
    host.clocks()
}

/// Random bytes, likewise.
fn random_outside(host: &mut Host) -> &mut WasiRandomCtx {
    host.work.look_outside();
    host.random()
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        let ctx = self.wasi.get_or_insert_with(|| Box::new(context(log)));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

fn context(log: &Log) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder
        .stdout(Stdio { log: log.clone(), source: Source::Out })
        .stderr(Stdio { log: log.clone(), source: Source::Err })
        .max_random_size(u64::from(limits::RANDOM_BYTES_MAX))
        .wall_clock(CoarseWall)
        .monotonic_clock(CoarseMonotonic(Instant::now()))
        // Said here and not left to the library, whose documentation has TCP and UDP allowed
        // by default. Without them no socket is made; the check is for one that were.
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }));
    builder.build()
}

/// The wall clock in steps of an epoch.
struct CoarseWall;

impl HostWallClock for CoarseWall {
    fn resolution(&self) -> Duration {
        limits::EPOCH_TICK
    }

    fn now(&self) -> Duration {
        step(Duration::from_millis(time::now().0))
    }
}

/// The time since the guest first looked, in steps of an epoch.
struct CoarseMonotonic(Instant);

impl HostMonotonicClock for CoarseMonotonic {
    fn resolution(&self) -> u64 {
        nanoseconds(limits::EPOCH_TICK)
    }

    fn now(&self) -> u64 {
        nanoseconds(step(self.0.elapsed()))
    }
}

fn step(time: Duration) -> Duration {
    let tick = nanoseconds(limits::EPOCH_TICK);
    Duration::from_nanos(nanoseconds(time) / tick * tick)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A standard stream that ends in the log.
#[derive(Clone)]
struct Stdio {
    log: Log,
    source: Source,
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.source, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl Pollable for Stdio {
    fn ready<'life, 'future>(&'life mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(std::future::ready(()))
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.log.write(self.source, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
