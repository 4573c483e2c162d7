// SPDX-License-Identifier: Apache-2.0
//! The two ports of `fanfold dev`, and the files that they may take.
//!
//! Ports are bound before anything is started, so that a port in use is told at
//! once and nothing has to be taken back. Invariant: loopback only.

use std::net::SocketAddr;

use fanfold_protocol::limits;
use fanfold_runtime::budget_mistake;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use crate::{
    args::Dev,
    error::{Error, Result},
};

/// Open files that suit thousands of connections.
const OPEN_FILES_WANTED: u64 = 65_536;

/// Bound ports.
pub struct Listeners {
    /// For the gateway.
    pub gateway: TcpListener,
    /// Its address, with the port that was chosen.
    pub gateway_address: SocketAddr,
    /// For the store.
    pub store: TcpListener,
    /// Its address.
    pub store_address: SocketAddr,
}

/// Refuses addresses that others could reach.
pub fn check(args: &Dev) -> Result<()> {
    for (flag, address) in [("--listen", args.listen), ("--s3-listen", args.s3_listen)] {
        if !address.ip().is_loopback() {
            return Err(Error::usage(format!(
                "{flag} must be a loopback address such as 127.0.0.1:7070, found {address}"
            ))
            .help("`fanfold dev` is for one person on one machine; for others run `fanfold gateway`"));
        }
    }
    if args.listen == args.s3_listen && args.listen.port() != 0 {
        return Err(Error::usage(format!(
            "--listen and --s3-listen must differ, found {} for both",
            args.listen
        )));
    }
    let most = limits::SANDBOXES_MAX;
    if let Some(workers) = args.workers.filter(|workers| !(1..=most).contains(workers)) {
        return Err(Error::usage(format!("--workers must be 1 to {most}, found {workers}")));
    }
    if let Some(mistake) = args.memory.and_then(budget_mistake) {
        return Err(Error::usage(format!("--memory: {mistake}")));
    }
    Ok(())
}

impl Listeners {
    /// Binds both.
    pub async fn bind(args: &Dev) -> Result<Self> {
        let (gateway, gateway_address) = bind("--listen", args.listen).await?;
        let (store, store_address) = bind("--s3-listen", args.s3_listen).await?;
        Ok(Self { gateway, gateway_address, store, store_address })
    }
}

async fn bind(flag: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let failed = |cause: std::io::Error| {
        let error = Error::service(format!("expected {address} to be free for {flag}, found: {cause}"));
        match cause.kind() {
            std::io::ErrorKind::AddrInUse => error.help(format!(
                "another service listens there, perhaps another `fanfold dev`; stop it, or give another port by \
                 {flag} {}:PORT (0 takes a free one)",
                address.ip()
            )),
            _ => error.help(format!("give another address by {flag}")),
        }
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Raises the soft limit on open files; every connection and object takes one.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES_WANTED, |hard| hard.min(OPEN_FILES_WANTED));
    if limit.current.is_some_and(|soft| soft < wanted)
        && let Err(error) =
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn args(listen: &str, s3_listen: &str, workers: Option<usize>) -> Dev {
        Dev {
            data: ".".into(),
            listen: listen.parse().unwrap(),
            s3_listen: s3_listen.parse().unwrap(),
            store_endpoint: None,
            workers,
            memory: None,
        }
    }

    #[test]
    fn only_loopback_is_taken() {
        let good = |a: &str, b: &str| assert!(check(&args(a, b, None)).is_ok(), "{a} {b}");
        good("127.0.0.1:7070", "127.0.0.1:7071");
        good("[::1]:7070", "127.0.0.2:7070");
        good("127.0.0.1:0", "127.0.0.1:0");
        assert!(check(&args("127.0.0.1:0", "127.0.0.1:0", Some(256))).is_ok());
        let bad = |a: &str, b: &str, n| {
            assert_eq!(check(&args(a, b, n)).err().map(|e| e.exit()), Some(Exit::Usage), "{a} {b}");
        };
        bad("0.0.0.0:7070", "127.0.0.1:7071", None);
        bad("127.0.0.1:7070", "10.0.0.1:7071", None);
        bad("[::]:7070", "127.0.0.1:7071", None);
        bad("127.0.0.1:7070", "127.0.0.1:7070", None);
        bad("127.0.0.1:7070", "127.0.0.1:7071", Some(0));
        bad("127.0.0.1:7070", "127.0.0.1:7071", Some(257));
    }

    #[tokio::test]
    async fn a_port_in_use_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("--listen", address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
