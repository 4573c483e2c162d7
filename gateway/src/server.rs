// SPDX-License-Identifier: Apache-2.0
//! The accept loop: who may connect, and how long stopping may take.
//!
//! Own rather than the framework's, which sets no timers: see [`connection`]
//! for what each connection is held to. Accepting never fails for good: when
//! the process has no file left, it waits for one.
//!
//! [`connection`]: crate::connection

use std::{sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{GatewayConfig, connection};

/// Before accepting is tried again after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then drains: no new connections, answers under way
/// are finished, and what still runs after the drain timeout is dropped.
/// `draining` is cancelled when that begins.
pub(crate) async fn run(
    listener: TcpListener,
    router: Router,
    config: &GatewayConfig,
    draining: CancellationToken,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let (tracker, cut) = (TaskTracker::new(), CancellationToken::new());
    let bounds = connection::Bounds::of(config);
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let stream = accept(&listener).await;
            let (router, draining, cut) = (router.clone(), draining.clone(), cut.clone());
            tracker.spawn(async move {
                cut.run_until_cancelled(connection::serve(stream, router, bounds, draining)).await;
                drop(slot);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    draining.cancel();
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

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
