// SPDX-License-Identifier: Apache-2.0
//! `fanfold gateway` and `fanfold worker`: processes of a deployment of many hosts.
//!
//! Each reads one file, checks all of it, reaches everything that it stands on,
//! and only then binds a port. Both keep nothing of their own that matters: any
//! number can be added, stopped or killed. Invariant: whatever is wrong at the
//! start is told together, with the key to change.

pub mod certs;
mod config;
mod gateway;
mod mistakes;
pub mod nats_users;
mod open;
mod probes;
mod renewal;
mod tls;
mod worker;

use std::{io, net::SocketAddr};

pub use self::{gateway::run as gateway, worker::run as worker};
use crate::error::Error;

/// Why an address is not listened on, and what to do.
fn cannot_listen(key: &str, address: SocketAddr, cause: &io::Error) -> Error {
    let help = match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there, perhaps an earlier start of this one; stop it, or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "choose an address of this machine; 0.0.0.0 is each of them, and [::] with those of version 6"
        }
        _ => "choose another address or port",
    };
    Error::service(format!("{key}: expected to listen on {address}, found: {cause}")).help(help)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_cannot_listen_is_told_what_to_do() {
        let check = |address: SocketAddr, expected: &str| {
            let cause = TcpListener::bind(address).unwrap_err();
            let error = cannot_listen("listen", address, &cause);
            assert!(
                error.to_string().starts_with(&format!("listen: expected to listen on {address}")),
                "{error}"
            );
            assert!(error.advice().starts_with(expected), "{}", error.advice());
        };
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        check(taken.local_addr().unwrap(), "another program listens there");
        // An address for documents (RFC 5737), which no machine has.
        check("192.0.2.1:0".parse().unwrap(), "choose an address of this machine");
    }
}
