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

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use self::mistakes::Mistakes;
pub use self::{gateway::run as gateway, worker::run as worker};
use crate::{error::Error, output};

/// Warns of addresses that cannot be listened on now, unless something is wrong with what the file has for them.
/// That is no mistake: the service that is checked may be what listens there.
fn warn_of_taken(addresses: &[(&str, SocketAddr)], mistakes: &Mistakes) {
    taken(addresses, mistakes).for_each(|told| output::note(format!("warning: {told}")));
}

fn taken(addresses: &[(&str, SocketAddr)], mistakes: &Mistakes) -> impl Iterator<Item = String> {
    let sound = addresses.iter().filter(move |(key, _)| !mistakes.are_about(&format!("{key}: ")));
    sound.filter_map(|(key, address)| {
        let error = cannot_listen(key, *address, &TcpListener::bind(address).err()?);
        Some(format!("{error}; {}", error.advice()))
    })
}

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
    use super::*;

    #[test]
    fn a_check_tells_whose_port_is_taken() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let addresses = [("listen", held.local_addr().unwrap()), ("probe_listen", free)];
        let mut mistakes = Mistakes::default();
        let told: Vec<_> = taken(&addresses, &mistakes).collect();
        assert!(told.len() == 1 && told[0].starts_with("listen: expected to listen on "), "{told:?}");
        assert!(told[0].contains("; another program listens there"), "{told:?}");
        mistakes.note("listen", "expected an address");
        assert_eq!(taken(&addresses, &mistakes).count(), 0);
    }

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
