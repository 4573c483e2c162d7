// SPDX-License-Identifier: Apache-2.0
//! What a start waits for: a store or a NATS that cannot be reached yet, or a store that fails on its side.
//!
//! Processes are started in any order, and a store that comes up refuses connections first, and answers with errors
//! then. For servers of NATS that are reached and have no leader the backbone waits itself. Invariant: what no time mends
//! ends a start at once.

use std::{
    collections::BTreeSet,
    fmt::Display,
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_protocol::limits;
use fanfold_storage::{Error, Result};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the store may take to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Before what it could not serve is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long a start still waits, over all that it asks for.
pub struct Patience {
    begun: Instant,
    longest: Duration,
    /// There is nothing to wait for any more.
    over: CancellationToken,
    /// What was told to be waited for.
    warned: Mutex<BTreeSet<&'static str>>,
}

impl Patience {
    /// That of a start.
    pub fn of_start() -> Self {
        Self::new(limits::START_PATIENCE)
    }

    /// That of whoever wants to know how things are.
    pub fn none() -> Self {
        Self::new(Duration::ZERO)
    }

    fn new(longest: Duration) -> Self {
        let (begun, over) = (Instant::now(), CancellationToken::new());
        Self { begun, longest, over, warned: Mutex::default() }
    }

    /// Waits no longer: whatever comes, the start fails.
    pub fn give_up(&self) {
        self.over.cancel();
    }

    /// The store's answer about a bucket, which is asked for again for as long as what is wrong may pass.
    pub async fn insist<T, F: Future<Output = Result<T>>>(
        &self,
        bucket: &str,
        ask: impl Fn() -> F,
    ) -> Result<T> {
        let in_time = || async { timeout(ANSWER, ask()).await.unwrap_or_else(|_| Err(silent(bucket))) };
        self.insist_on("the store", in_time, may_pass).await
    }

    /// The answer of somebody to a question, which is put again for as long as what is wrong may pass.
    pub async fn insist_on<T, E: Display, F: Future<Output = std::result::Result<T, E>>>(
        &self,
        whom: &'static str,
        ask: impl Fn() -> F,
        may_pass: impl Fn(&E) -> bool,
    ) -> std::result::Result<T, E> {
        loop {
            let error = match ask().await {
                Err(error) => error,
                answer => return answer,
            };
            if !may_pass(&error) || self.begun.elapsed() + AGAIN >= self.longest {
                return Err(error);
            }
            self.warn(whom, &error);
            if self.over.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return Err(error);
            }
        }
    }

    fn warn(&self, whom: &'static str, found: &impl Display) {
        let is_new = || self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(whom);
        if !self.over.is_cancelled() && is_new() {
            tracing::warn!(
                "{whom} cannot serve yet ({found}); the start waits up to {} s for it",
                self.longest.as_secs()
            );
        }
    }
}

/// Whether it may be gone by itself: room is made by people.
fn may_pass(error: &Error) -> bool {
    error.is_transient() && !matches!(error, Error::Full { .. })
}

fn silent(bucket: &str) -> Error {
    Error::Timeout {
        target: format!("the bucket {bucket}"),
        detail: format!("none within {} s", ANSWER.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicU32, Ordering},
    };

    use fanfold_storage::{Credentials, Store, StoreConfig};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn unavailable() -> Error {
        Error::Unavailable { target: "s3://bank/".to_owned(), detail: "HTTP status 503".to_owned() }
    }

    async fn tries(patience: &Patience, error: Error) -> u32 {
        let count = AtomicU32::new(0);
        let ask = || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<(), Error>(error.clone()))
        };
        let told = patience.insist("bank", ask).await.unwrap_err();
        assert_eq!(told.to_string(), error.to_string());
        count.into_inner()
    }

    #[tokio::test]
    async fn only_what_may_pass_is_waited_for() {
        let (target, detail) = ("s3://bank/".to_owned(), "the store says so".to_owned());
        let patience = || Patience::new(Duration::from_secs(2));
        assert!(tries(&patience(), unavailable()).await > 1);
        assert!(tries(&patience(), silent("bank")).await > 1);
        for stays in [
            Error::AccessDenied { target: target.clone(), detail: detail.clone() },
            Error::NoSuchBucket { bucket: "bank".to_owned() },
            Error::Full { target, detail },
            Error::Config("region must be set".to_owned()),
        ] {
            assert_eq!(tries(&patience(), stays.clone()).await, 1, "{stays}");
        }
        assert_eq!(tries(&Patience::none(), unavailable()).await, 1);
    }

    #[tokio::test]
    async fn a_start_that_fails_in_any_case_waits_no_longer() {
        let patience = Patience::of_start();
        let (told, ()) = tokio::join!(tries(&patience, unavailable()), async { patience.give_up() });
        assert_eq!(told, 1);
        assert_eq!(tries(&patience, unavailable()).await, 1);
    }

    /// Nobody listens there at first, then one breaks off, then one is busy, and then all is well.
    async fn comes_up(address: SocketAddr) {
        sleep(AGAIN).await;
        let listener = TcpListener::bind(address).await.unwrap();
        for answer in ["", "503 Service Unavailable", "503 Service Unavailable", "200 OK"] {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::<u8>::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0);
            }
            if !answer.is_empty() {
                let answer = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_comes_up_is_waited_for() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = StoreConfig::at(format!("http://{address}"), Credentials::new("key", "secret"));
        let store = Store::connect(StoreConfig { attempts_max: 1, ..config }).unwrap();
        let patience = Patience::new(Duration::from_secs(60));
        let asking = patience.insist("bank", || store.bucket_exists("bank"));
        let (there, ()) = tokio::join!(asking, comes_up(address));
        assert!(there.unwrap());
        assert!(patience.warned.into_inner().unwrap().contains("the store"));
    }
}
