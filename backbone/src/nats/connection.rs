// SPDX-License-Identifier: Apache-2.0
//! The connection to NATS: how it is made, what it tells of itself, and what is wrong with the servers behind it.
//!
//! The client connects anew by itself, for as long as it takes; here its events become counts and lines in the log.

use async_nats::{Client, ConnectErrorKind, Event, ServerError, rustls};
use fanfold_protocol::seldom::Seldom;
use tokio::sync::watch;

use super::MESSAGE_BYTES;
use super::config::{NatsConfig, without_key};
use crate::error::{Error, Result};

/// How a server begins to tell of what a user may not do.
const REFUSAL: &str = "permissions violation";

/// A connection, and what it tells of itself from then on.
pub(super) struct Connected {
    pub(super) client: Client,
    /// Counts the times that something may have been lost on the way.
    pub(super) gaps: watch::Receiver<u64>,
    /// What the server said last that we may not do.
    pub(super) refusals: watch::Receiver<Option<String>>,
}

pub(super) async fn connect(config: &NatsConfig) -> Result<Connected> {
    let refused = |problem: String| Error::Misconfigured { problems: vec![problem] };
    let options = config.options().await.map_err(|failure| {
        refused(format!("expected usable credentials, found: {failure}; correct `credentials`"))
    })?;
    let (lost, gaps) = watch::channel(0u64);
    let (refuse, refusals) = watch::channel(None);
    let told = Seldom::new();
    let options = options.event_callback(move |event| {
        match &event {
            Event::Disconnected | Event::SlowConsumer(_) => lost.send_modify(|count| *count += 1),
            Event::ServerError(ServerError::Other(told)) if told.to_lowercase().contains(REFUSAL) => {
                refuse.send_replace(Some(told.clone()));
            }
            _ => {}
        }
        let is_news = told.is_due(&event.to_string());
        async move { tell(&event, is_news) }
    });
    let urls: Vec<&str> = config.urls.iter().map(String::as_str).collect();
    let client = options.connect(urls).await.map_err(|failure| match failure.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            refused(format!("expected credentials that NATS accepts, {}", config.credentials.refused()))
        }
        kind if kind == ConnectErrorKind::Tls || is_of_tls(&failure) => refused(format!(
            "expected TLS to be agreed with NATS at {}, found: {}; correct `ca`, or `cert` and `key`, or leave TLS out \
             where the server has none",
            config.urls.join(", "),
            without_key(&failure.to_string())
        )),
        ConnectErrorKind::ServerParse => {
            refused(format!("expected URLs of NATS, found {}: {failure}; correct `urls`", config.urls.join(", ")))
        }
        _ => Error::OutOfReach { urls: config.urls.join(", "), detail: failure.to_string() },
    })?;
    Ok(Connected { client, gaps, refusals })
}

/// What is wrong with servers that take no large messages.
pub(super) fn too_small(client: &Client) -> Option<String> {
    let bytes_max = client.max_payload();
    (bytes_max < MESSAGE_BYTES).then(|| {
        format!(
            "expected a server that takes messages of {MESSAGE_BYTES} bytes, found max_payload {bytes_max}; raise it"
        )
    })
}

/// What is wrong with a server that is in no cluster and is to keep several copies. How many servers a cluster has is
/// not told: they may keep their addresses to themselves.
pub(super) fn alone(client: &Client, replicas: usize) -> Option<String> {
    let info = client.server_info();
    (replicas > 1 && info.jetstream && info.cluster.is_none()).then(|| {
        format!(
            "expected a cluster of servers to make {replicas} replicas, found one that is alone; correct `replicas`, or \
             see to the cluster"
        )
    })
}

/// Logs what the client says of its connection. What it is refused with it says at each of its tries.
fn tell(event: &Event, is_news: bool) {
    match event {
        _ if !is_news => tracing::debug!(%event, "NATS"),
        Event::Disconnected | Event::ClientError(_) => tracing::warn!(%event, "NATS"),
        _ => tracing::info!(%event, "NATS"),
    }
}

/// Whether it was TLS that a connection failed for, which is told as an error of input and output.
fn is_of_tls(failure: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(failure), |cause| cause.source()).any(|cause| {
        let within = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.is::<rustls::Error>() || within.is_some_and(|within| within.is::<rustls::Error>())
    })
}
