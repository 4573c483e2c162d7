// SPDX-License-Identifier: Apache-2.0
//! Certificates that are renewed while a gateway or a worker runs.
//!
//! Their files are looked at all the time, and what is new in them is made into what connections are made with by the
//! very thing that a start makes it with. Connections that are there stay as they are. Invariant: files that do not fit
//! are told and change nothing.

use std::{thread, time::Duration};

use tokio::sync::watch;

use super::tls::Files;
use crate::error::{Error, Result};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);

/// Makes `T`, with which connections are made, out of the files, time and again.
pub struct Renewal<T, F> {
    make: F,
    identity: watch::Sender<T>,
    /// What that is made of.
    used: Files,
    /// What the last look found.
    found: Files,
    /// Whether it was told that this does not fit.
    is_told: bool,
}

impl<T, F> Renewal<T, F>
where
    T: Send + Sync + 'static,
    F: Fn(&Files) -> std::result::Result<T, Vec<String>> + Send + 'static,
{
    /// Makes it for the first time.
    ///
    /// # Errors
    /// All that is wrong with the files, each with its key.
    pub fn start(files: Files, make: F) -> std::result::Result<Self, Vec<String>> {
        let identity = watch::Sender::new(make(&files)?);
        Ok(Self { make, identity, used: files.clone(), found: files, is_told: false })
    }

    /// Gives what the next connection is to be made with, at any time, and looks at the files for as long as anybody
    /// has it. That is done by a thread of its own, so that a disk that hangs holds nothing up, the end included.
    ///
    /// # Errors
    /// There can be no such thread.
    pub fn keep(mut self) -> Result<watch::Receiver<T>> {
        let identity = self.identity.subscribe();
        let looking = move || {
            while !self.identity.is_closed() {
                thread::sleep(PAUSE);
                self.take(self.found.again());
            }
        };
        let started = thread::Builder::new().name("fanfold-certs".to_owned()).spawn(looking);
        started.map(|_| identity).map_err(|cause| {
            Error::service(format!("a thread that looks at certificates could not be started: {cause}"))
        })
    }

    /// Whoever renews writes one file after the other, so what is not yet as the last look found it may be half done.
    fn take(&mut self, found: Files) {
        if found != self.found {
            (self.found, self.is_told) = (found, false);
            return;
        }
        if found == self.used {
            return;
        }
        match (self.make)(&found) {
            Ok(identity) => {
                self.identity.send_replace(identity);
                self.used = found;
                tracing::info!("certificates were renewed: new connections are made with what tls names now");
            }
            // It was tried all the same: a certificate may be good from a later time on.
            Err(_) if self.is_told => {}
            Err(problems) => {
                self.is_told = true;
                tracing::warn!(
                    found = %problems.join("; "),
                    "certificates that do not fit were not taken: new connections are made with those before; correct \
                     what tls names"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use fanfold_gateway::Identity as Gateway;
    use fanfold_runtime::remote::Identity as Worker;
    use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection, pki_types::CertificateDer};

    use super::*;
    use crate::{
        args::Certs,
        hosts::{certs, config::Tls, tls},
    };

    const HOST: &str = "127.0.0.1";

    type Made<T> = std::result::Result<T, Vec<String>>;
    type Make<T> = Box<dyn Fn(&Files) -> Made<T> + Send>;
    /// What a worker sees of a gateway, and a gateway of a worker.
    type Shown = [CertificateDer<'static>; 2];

    /// A gateway and a worker whose files are in `here`.
    struct Pair {
        folder: tempfile::TempDir,
        here: PathBuf,
        gateway: Renewal<Gateway, Make<Gateway>>,
        worker: Renewal<Worker, Make<Worker>>,
    }

    impl Pair {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let here = folder.path().join("here");
            certify(&here);
            let make: Make<Gateway> = Box::new(tls::client);
            let gateway = Renewal::start(files(&here, "gateway"), make).unwrap();
            let make: Make<Worker> = Box::new(|files| tls::server(files, "127.0.0.1:7080"));
            let worker = Renewal::start(files(&here, "worker"), make).unwrap();
            Self { folder, here, gateway, worker }
        }

        /// A folder with certificates for both: of the same authority, or of another.
        fn others(&self, name: &str, of_same: bool) -> PathBuf {
            let others = self.folder.path().join(name);
            fs::create_dir(&others).unwrap();
            for file in ["ca.pem", "ca.key"].into_iter().filter(|_| of_same) {
                fs::copy(self.here.join(file), others.join(file)).unwrap();
            }
            certify(&others);
            others
        }

        /// Puts a file into the place of one of theirs, as those do who renew.
        fn replace(&self, name: &str, from: &Path) {
            let new = self.folder.path().join("new");
            fs::copy(from, &new).unwrap();
            fs::rename(new, self.here.join(name)).unwrap();
        }

        /// Puts what is one part's into the place of what is another's.
        fn replace_both(&self, part: &str, from: &Path, of_part: &str) {
            for ending in ["pem", "key"] {
                self.replace(&own(part, ending), &from.join(own(of_part, ending)));
            }
        }

        /// As often as it takes until files are taken that do not change.
        fn look(&mut self) {
            for _ in 0..2 {
                self.gateway.take(self.gateway.found.again());
                self.worker.take(self.worker.found.again());
            }
        }

        fn are_told(&self) -> [bool; 2] {
            [self.gateway.is_told, self.worker.is_told]
        }

        /// What both show on a new connection.
        fn shown(&self) -> Shown {
            meet(&self.gateway.identity.borrow(), &self.worker.identity.borrow()).unwrap()
        }
    }

    /// A gateway's and a worker's, of the authority that is in the folder, or of a new one.
    fn certify(folder: &Path) {
        let named = || vec![HOST.to_owned()];
        certs::run(&Certs { out: folder.to_owned(), gateway: named(), worker: named() }).unwrap();
    }

    fn own(part: &str, ending: &str) -> String {
        format!("{part}-{HOST}.{ending}")
    }

    fn files(folder: &Path, part: &str) -> Files {
        let [cert, key] = ["pem", "key"].map(|ending| folder.join(own(part, ending)));
        Files::read(&Tls { cert, key, ca: folder.join("ca.pem") })
    }

    fn meet(gateway: &Gateway, worker: &Worker) -> std::result::Result<Shown, rustls::Error> {
        let gateway = ClientConnection::new(gateway.tls.clone(), HOST.try_into().unwrap())?;
        let worker = ServerConnection::new(worker.tls.clone())?;
        let (mut gateway, mut worker) = (Connection::from(gateway), Connection::from(worker));
        while gateway.is_handshaking() || worker.is_handshaking() {
            carry(&mut gateway, &mut worker)?;
            carry(&mut worker, &mut gateway)?;
        }
        // However often they have met before.
        assert_ne!(worker.handshake_kind(), Some(HandshakeKind::Resumed));
        Ok([&worker, &gateway].map(|side| side.peer_certificates().unwrap()[0].clone()))
    }

    fn carry(from: &mut Connection, to: &mut Connection) -> std::result::Result<(), rustls::Error> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn new_connections_are_made_with_renewed_certificates_and_never_with_wrong_ones() {
        let mut pair = Pair::new();
        let (next, other) = (pair.others("next", true), pair.others("other", false));
        let [of_gateway, of_worker] = pair.shown();

        // One file after the other: that they do not fit is told once they stay so.
        pair.replace(&own("worker", "pem"), &next.join(own("worker", "pem")));
        pair.worker.take(pair.worker.found.again());
        assert_eq!(pair.are_told(), [false, false]);
        pair.look();
        assert_eq!(pair.are_told(), [false, true]);
        assert_eq!(pair.shown(), [of_gateway.clone(), of_worker.clone()]);
        pair.replace(&own("worker", "key"), &next.join(own("worker", "key")));
        pair.look();
        let renewed = pair.shown();
        assert!(renewed[0] == of_gateway && renewed[1] != of_worker);
        assert_eq!(pair.are_told(), [false, false]);

        // What is for the other part, is of another authority or is not there changes nothing.
        for (from, part) in [(&next, "worker"), (&other, "gateway")] {
            pair.replace_both("gateway", from, part);
            pair.look();
            assert_eq!((pair.are_told(), pair.shown()), ([true, false], renewed.clone()));
        }
        fs::write(pair.here.join(own("gateway", "pem")), "none").unwrap();
        fs::remove_file(pair.here.join(own("gateway", "key"))).unwrap();
        pair.look();
        assert_eq!((pair.are_told(), pair.shown()), ([true, false], renewed.clone()));
        pair.replace_both("gateway", &next, "gateway");
        pair.look();
        let last = pair.shown();
        assert!(last[0] != of_gateway && last[1] == renewed[1]);
        assert_eq!(pair.are_told(), [false, false]);
    }

    #[test]
    fn an_authority_is_followed_by_another_without_a_moment_in_which_one_side_is_a_stranger() {
        let mut pair = Pair::new();
        let (next, other) = (pair.others("next", true), pair.others("other", false));
        let first = pair.shown();
        // Both are believed, then certificates of the new one are shown, then it alone is believed.
        let both = [&pair.here, &other].map(|folder| fs::read_to_string(folder.join("ca.pem")).unwrap());
        let bundle = pair.folder.path().join("both.pem");
        fs::write(&bundle, both.concat()).unwrap();
        pair.replace("ca.pem", &bundle);
        pair.look();
        assert_eq!(pair.shown(), first);
        for part in ["gateway", "worker"] {
            pair.replace_both(part, &other, part);
            pair.look();
            pair.shown();
        }
        let last = pair.shown();
        assert!(last[0] != first[0] && last[1] != first[1]);
        pair.replace("ca.pem", &other.join("ca.pem"));
        pair.look();
        assert_eq!((pair.are_told(), pair.shown()), ([false, false], last));
        // Whoever has stayed with the old one is a stranger now.
        let stranger = tls::client(&files(&next, "gateway")).unwrap();
        assert!(meet(&stranger, &pair.worker.identity.borrow()).is_err());
    }
}
