// SPDX-License-Identifier: Apache-2.0
//! `fanfold dev`: store, backbone, sandboxes and gateway in one process.
//!
//! It wires the parts and decides nothing about them. Requests reach it by two
//! loopback ports only; what it keeps lies under one folder. Invariant: whoever
//! reads the announcement finds every part answering.

mod data;
mod listen;
mod parts;
mod welcome;

pub use welcome::{exports, variables};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{data::Data, listen::Listeners, parts::Parts};
use crate::{
    args::Dev,
    error::{Error, Result},
    output,
    profile::{self, Profile, StoreProfile},
};

/// The hidden word that makes this program the compiler's child process.
pub const COMPILE_WORD: &str = "__compile";

/// Runs the service until it is told to stop.
pub async fn run(args: Dev) -> Result<()> {
    listen::check(&args)?;
    listen::raise_open_files();
    // Ports first: when one is in use, no folder with new secrets is left behind.
    let listeners = Listeners::bind(&args).await?;
    let data = Data::open(&args.data)?;
    let (gateway, store) = (listeners.gateway_address, listeners.store_address);
    // A start may take long, of a store that did not end well for one, and may be told to stop as well.
    let mut stop = Stop::listen()?;
    let parts = tokio::select! {
        () = stop.told() => return Ok(()),
        started = Parts::start(&data, listeners, &args) => started?,
    };
    keep_profile(&data, gateway, store);
    data.announce(gateway, store)?;
    let ended = match output::data(&welcome::text(&data, gateway, store)) {
        Ok(()) => parts.run_until(stop.told()).await,
        // Whoever reads these lines would not know that it is there.
        Err(error) => parts.run_until(std::future::ready(())).await.and(Err(error.of_service())),
    };
    data.retract();
    ended
}

/// Lets commands in other folders find the service. Without it they need flags,
/// which is no reason not to serve.
fn keep_profile(data: &Data, gateway: std::net::SocketAddr, store: std::net::SocketAddr) {
    let profile = Profile {
        token: data.token.reveal().to_owned(),
        s3: StoreProfile {
            endpoint: format!("http://{store}"),
            region: fanfold_storage::server::REGION.to_owned(),
            access_key: data.credentials.access_key.clone(),
            secret_key: data.credentials.secret_key.clone(),
            session_token: None,
        },
        data: Some(data.folder().to_owned()),
    };
    if let Err(error) = profile::save(&format!("http://{gateway}"), &profile) {
        output::note(format!("warning: other commands need --token and --endpoint, because {error}"));
    }
}

/// SIGINT and SIGTERM, and SIGHUP, which comes when the terminal is closed.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    /// Not where it is ignored: `nohup` has asked for that.
    hangup: Option<Signal>,
}

impl Stop {
    /// Listens from now on.
    pub fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|cause| Error::service(format!("signals cannot be listened to: {cause}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: heeds_hangup().then(|| listen(SignalKind::hangup())).transpose()?,
        })
    }

    /// Comes back when the process is told to stop. A second signal ends it at once.
    pub async fn told(&mut self) {
        self.one().await;
        let again = Self::listen();
        output::note("stopping; once more to stop at once");
        if let Ok(again) = again {
            // Without a thread the process ends all the same, once all is done.
            let _ = std::thread::Builder::new().name("stop".to_owned()).spawn(|| again.ends_process());
        }
    }

    /// Ends the process when it is told. Waits beside the runtime of the service, which no longer
    /// runs what it was given while it is let go, and waits then for files to be read and written.
    fn ends_process(mut self) {
        // A terminal that is closed tells twice: the kernel does, and the shell that it ran.
        self.hangup = None;
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(self.one());
        std::process::exit(130);
    }

    async fn one(&mut self) {
        let Self { interrupt, terminate, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
    }
}

/// Whether this process is to hear of a hangup: whoever listens to a signal no longer ignores it. Where the
/// system does not say, it is left as it is.
fn heeds_hangup() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| heeds(&status))
}

/// The same, of what Linux says of a process: the signals that it ignores are bits, the first one SIGHUP's.
fn heeds(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    ignored.is_some_and(|bits| bits & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_terminal_stops_unless_hangups_are_ignored() {
        use rustix::process::{Signal, getpid, kill_process};
        let mut stop = Stop::listen().unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(5), stop.one()).await;
        assert_eq!(told.is_ok(), heeds_hangup());
        // The shell's, behind the kernel's.
        kill_process(getpid(), Signal::HUP).unwrap();
        let check = |status: &str, expected| assert_eq!(heeds(status), expected, "{status:?}");
        check("Name:\tfanfold\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", true);
        check("SigIgn:\t0000000000001001\n", false);
        check("", false);
    }

    #[tokio::test]
    async fn a_port_in_use_leaves_no_folder_behind() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join(".fanfold");
        let args = Dev {
            data: data.clone(),
            listen: taken.local_addr().unwrap(),
            s3_listen: "127.0.0.1:0".parse().unwrap(),
            store_endpoint: None,
            workers: None,
            memory: None,
        };
        let error = run(args).await.unwrap_err();
        assert!(error.to_string().contains("to be free for --listen"), "{error}");
        assert!(!data.exists());
    }
}
