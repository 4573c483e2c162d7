// SPDX-License-Identifier: Apache-2.0
//! The accept loop: who may connect, and how long stopping may take.
//!
//! Own rather than the framework's, which sets no timers: see [`connection`]
//! for what each connection is held to. Accepting never fails for good: when
//! the process has no file left, it waits for one.
//!
//! [`connection`]: crate::connection

use std::{io, iter, os::fd::AsFd, sync::Arc, time::Duration};

use axum::Router;
use fanfold_protocol::seldom::Seldom;
use socket2::{SockFilter, SockRef};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    GatewayConfig,
    connection::{self, LAST_REQUESTS},
};

/// Before accepting is tried again after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then drains: who has connected by then is answered
/// and told to connect elsewhere, answers under way are finished, and what still
/// runs after the drain timeout is dropped. `draining` is cancelled when that
/// begins. After `handed_on` the same, but that who connects is left to whoever
/// serves next on this port, which somebody else holds as well.
pub(crate) async fn run(
    listener: TcpListener,
    router: Router,
    config: &GatewayConfig,
    draining: CancellationToken,
    shutdown: CancellationToken,
    handed_on: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let (tracker, cut) = (TaskTracker::new(), CancellationToken::new());
    let bounds = connection::Bounds::of(config);
    let serve = |stream, slot: OwnedSemaphorePermit| {
        let (router, draining, cut) = (router.clone(), draining.clone(), cut.clone());
        tracker.spawn(async move {
            cut.run_until_cancelled(connection::serve(stream, router, bounds, draining)).await;
            drop(slot);
        });
    };
    let accepting = async || {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            serve(accept(&listener).await, slot);
        }
    };
    shutdown.run_until_cancelled(handed_on.run_until_cancelled(accepting())).await;
    draining.cancel();
    if handed_on.is_cancelled() {
        // The port stays, so the kernel goes on connecting: who was not answered would ask again later and later.
        drop(listener);
    } else {
        // Closing resets whoever was connected and not accepted, so nobody else is connected
        // and all who are get accepted.
        if let Err(error) = hush(&listener) {
            tracing::debug!(%error, "who connects while the listener closes may be reset");
        }
        let _ = tokio::time::timeout(LAST_REQUESTS, accepting()).await;
        for stream in taken(listener) {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { break };
            serve(stream, slot);
        }
    }
    tracker.close();
    if tokio::time::timeout(config.drain_timeout, tracker.wait()).await.is_err() {
        tracing::warn!(
            connections = tracker.len(),
            "requests still ran after the drain timeout; they are dropped"
        );
        cut.cancel();
        tracker.wait().await;
    }
}

/// Has the kernel answer nobody who asks for a connection, until the listener is closed;
/// handshakes that have begun go on.
///
/// # Errors
/// The system knows no filters of sockets.
fn hush(listener: &impl AsFd) -> io::Result<()> {
    // Of TCP's flags, at byte 13: SYN without ACK is dropped, all else passes whole.
    let (load, mask, equal, end) = (0x30, 0x54, 0x15, 0x06);
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(load, 0, 0, 13),
        SockFilter::new(mask, 0, 0, 0x12),
        SockFilter::new(equal, 0, 1, 0x02),
        SockFilter::new(end, 0, 0, 0),
        SockFilter::new(end, 0, 0, u32::MAX),
    ])
}

/// What waits to be accepted; then the listener is closed.
fn taken(listener: TcpListener) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std().ok();
    iter::from_fn(move || {
        let (stream, _) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    })
}

async fn accept(listener: &TcpListener) -> TcpStream {
    static TOLD: Seldom = Seldom::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if TOLD.is_due(&error.to_string()) {
                    tracing::warn!(%error, "connections cannot be accepted; this is tried again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn who_connects_to_a_port_that_is_handed_on_waits_for_the_next() {
        let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        kept.set_nonblocking(true).unwrap();
        let ours = || TcpListener::from_std(kept.try_clone().unwrap()).unwrap();
        let router = || Router::new().fallback(|| async { "well" });
        let config = GatewayConfig::new("default".parse().unwrap(), Vec::new());
        let token = CancellationToken::new;
        let (handed_on, stop) = (token(), token());
        handed_on.cancel();
        run(ours(), router(), &config, token(), token(), handed_on).await;
        // The kernel asks again after a second where it had no answer, and then later and later.
        let connecting = TcpStream::connect(kept.local_addr().unwrap());
        let mut waiting = timeout(Duration::from_millis(800), connecting).await.unwrap().unwrap();
        let asking = async {
            let mut answer = String::new();
            waiting.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            waiting.read_to_string(&mut answer).await.unwrap();
            stop.cancel();
            answer
        };
        let (answer, ()) =
            tokio::join!(asking, run(ours(), router(), &config, token(), stop.clone(), token()));
        assert!(answer.ends_with("well"), "{answer}");
    }
}
