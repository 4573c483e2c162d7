// SPDX-License-Identifier: Apache-2.0
//! A way to a store on which some requests meet with trouble.
//!
//! Requests pass unchanged, signatures included. Which ones are meant is said once, as
//! `METHOD /path?query`; nothing happens to them before the way is shut.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanfold_storage::{Store, StoreConfig};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::world::PATIENCE;

/// What happens to a request that is meant.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// It waits until the way is open.
    Hold,
    /// It is answered so, and the store never sees it.
    Refuse(StatusCode),
    /// The store does it, and it is answered so.
    Mistell(StatusCode),
}

type Means = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// A way to a store, open at first.
pub struct Way {
    shared: Arc<Shared>,
    store: Store,
}

struct Shared {
    upstream: String,
    trouble: Trouble,
    means: Means,
    shut: watch::Sender<bool>,
    met: watch::Sender<usize>,
}

impl Way {
    /// A way to where `store` is, through which no request that failed is sent again.
    pub async fn to(
        store: &Store,
        trouble: Trouble,
        means: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let config = store.config().clone();
        let upstream = config.endpoint.as_deref().unwrap().trim_start_matches("http://").to_owned();
        let (shut, met) = (watch::Sender::new(false), watch::Sender::new(0));
        let shared = Arc::new(Shared { upstream, trouble, means: Box::new(means), shut, met });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let answer = service_fn(move |request| answer(Arc::clone(&shared), request));
                let serve = hyper::server::conn::http1::Builder::new();
                tokio::spawn(serve.serve_connection(TokioIo::new(client), answer));
            }
        });
        let read_timeout = Duration::from_secs(60);
        let store =
            Store::connect(StoreConfig { endpoint, attempts_max: 1, read_timeout, ..config }).unwrap();
        Self { shared, store }
    }

    /// The store at the end of the way.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    pub fn shut(&self) {
        self.shared.shut.send_replace(true);
    }

    pub fn open(&self) {
        self.shared.shut.send_replace(false);
    }

    /// Waits until so many requests have met with trouble.
    pub async fn met(&self, count: usize) {
        let mut met = self.shared.met.subscribe();
        let met = tokio::time::timeout(PATIENCE, met.wait_for(|met| *met >= count)).await;
        assert!(met.is_ok(), "{count} requests never came");
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Full::new(body.collect().await?.to_bytes());
    let asked = format!("{} {}", head.method, head.uri);
    let is_shut = *shared.shut.borrow();
    if is_shut && (shared.means)(&asked) {
        shared.met.send_modify(|met| *met += 1);
        match shared.trouble {
            Trouble::Hold => drop(shared.shut.subscribe().wait_for(|shut| !shut).await),
            Trouble::Refuse(status) => return Ok(refusal(status)),
            Trouble::Mistell(status) => {
                pass(&shared, Request::from_parts(head, body)).await?;
                return Ok(refusal(status));
            }
        }
    }
    pass(&shared, Request::from_parts(head, body)).await
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut refusal = Response::new(Full::default());
    *refusal.status_mut() = status;
    refusal
}

async fn pass(shared: &Shared, request: Request<Full<Bytes>>) -> hyper::Result<Response<Full<Bytes>>> {
    let stream = TokioIo::new(TcpStream::connect(&shared.upstream).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
