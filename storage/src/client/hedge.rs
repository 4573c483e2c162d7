// SPDX-License-Identifier: Apache-2.0
//! Requests that change nothing, sent a second time while their answer is awaited.
//!
//! A store leaves an answer open now and then and has one at once when it is asked again, while the
//! bounds on waiting are as long as a slow store may take. Whatever comes after such a request would
//! stand still for all of that: a start, a task, its worker's turn. So after a while the request
//! is sent again beside the first, and the answer that comes first counts ("hedged requests" in Dean
//! and Barroso, The Tail at Scale, 2013). Invariants: what is asked so changes nothing; a store that fails
//! is asked as often as retries alone ask it; and one that is slow with every answer is asked twice for
//! [`HEDGES_MAX`] at a time, however many it is asked for.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
        interceptors::FinalizerInterceptorContextRef,
    },
    error::SdkError,
};
use aws_smithy_runtime_api::box_error::BoxError;
use futures::future::select;
use tokio::time::timeout;

use super::Store;

/// Requests that are sent a second time at once, over all handles of a store.
pub(super) const HEDGES_MAX: usize = 8;

/// Whether a try of a request has ended. From then on what takes long is the pause before the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried(Arc<AtomicBool>);

impl Intercept for Tried {
    fn name(&self) -> &'static str {
        "Tried"
    }

    fn read_after_attempt(
        &self,
        _: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Relaxed);
        Ok(())
    }
}

impl Store {
    /// After which an answer, or the rest of a body, is asked for again, if that does no harm.
    pub(super) fn soon(&self) -> Duration {
        self.inner.config.stall_timeout / 4
    }

    /// The first answer to a request that may be sent twice, with what tells of its tries. No answer at all is none: then
    /// the other is waited for.
    pub(super) async fn hedged<T, E, F>(
        &self,
        ask: impl Fn(Tried) -> F,
    ) -> Result<T, SdkError<E, HttpResponse>>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Unpin,
    {
        let tried = Tried::default();
        let mut first = ask(tried.clone());
        if let Ok(answer) = timeout(self.soon(), &mut first).await {
            return answer;
        }
        if tried.0.load(Relaxed) {
            return first.await;
        }
        let Ok(_place) = self.inner.hedges.try_acquire() else { return first.await };
        let (answer, other) = select(first, ask(tried)).await.factor_first();
        let is_answer = matches!(answer, Ok(_) | Err(SdkError::ServiceError(_)));
        if is_answer { answer } else { other.await }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use futures::future::join_all;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{Credentials, Error, StoreConfig};

    /// Reads a request.
    async fn read(connection: &mut TcpStream) {
        let mut head = Vec::<u8>::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if connection.read_buf(&mut head).await.unwrap() == 0 {
                return;
            }
        }
    }

    /// A store that answers all requests but the first so, or none; and the number of those that came.
    async fn start(answer: Option<&'static str>) -> (Store, Arc<AtomicUsize>) {
        start_with(move |number| answer.filter(|_| number > 1)).await
    }

    /// A store with these answers to the requests by their number.
    async fn start_with(
        answer: impl Fn(usize) -> Option<&'static str> + Copy + Send + 'static,
    ) -> (Store, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let counting = Arc::clone(&counting);
                tokio::spawn(async move {
                    read(&mut connection).await;
                    let number = counting.fetch_add(1, SeqCst) + 1;
                    if let Some(answer) = answer(number) {
                        let answer =
                            format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                        connection.write_all(answer.as_bytes()).await.unwrap();
                        return;
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        let config = StoreConfig {
            stall_timeout: Duration::from_millis(400),
            read_timeout: Duration::from_secs(3),
            attempts_max: 1,
            ..StoreConfig::at(endpoint, Credentials::new("key", "secret"))
        };
        (Store::connect(config).unwrap(), asked)
    }

    #[tokio::test]
    async fn an_answer_that_is_left_open_is_asked_for_once_more() {
        for (answer, there) in [("200 OK", true), ("404 Not Found", false)] {
            let (store, asked) = start(Some(answer)).await;
            // With the first answer alone it would be a timeout.
            assert_eq!(store.bucket_exists("bank").await.unwrap(), there);
            assert_eq!(asked.load(SeqCst), 2, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_is_asked_by_retries_alone() {
        let (store, asked) = start_with(|number| Some(if number > 4 { "200 OK" } else { "503 Busy" })).await;
        let config = StoreConfig {
            // A second request would be due after 0.4 s; the pauses of four retries last 1.5 s in the mean.
            stall_timeout: Duration::from_millis(1_600),
            attempts_max: 5,
            ..store.inner.config.clone()
        };
        assert!(Store::connect(config).unwrap().bucket_exists("bank").await.unwrap());
        assert_eq!(asked.load(SeqCst), 5);
    }

    #[tokio::test]
    async fn a_store_that_is_silent_is_asked_twice_for_few_requests() {
        const REQUESTS: usize = 3 * HEDGES_MAX;
        let (store, asked) = start(None).await;
        let all = join_all((0..REQUESTS).map(|_| store.bucket_exists("bank"))).await;
        assert!(all.iter().all(|answer| matches!(answer, Err(Error::Timeout { .. }))), "{all:?}");
        assert_eq!(asked.load(SeqCst), REQUESTS + HEDGES_MAX);
    }
}
