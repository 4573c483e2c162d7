// SPDX-License-Identifier: Apache-2.0
//! Ctrl-C, SIGTERM and closed terminals, for commands that have something to give up before they end.
//!
//! Others leave them to the system, which ends them at once. A thread of its own listens, since the
//! program's may stand still in a pipe that nobody reads. Invariant: the second signal ends the program
//! at once, and the first one within [`GRACE`].

use std::{sync::mpsc, thread, time::Duration};

use tokio::{runtime, sync::oneshot};

use crate::{dev::Stop, error::Exit};

/// For what was begun to be given up.
const GRACE: Duration = Duration::from_secs(3);

/// Whether the program was told to stop.
pub struct Interrupt(oneshot::Receiver<()>);

impl Interrupt {
    /// Listens from now on. Where that cannot be, signals end the program as they end others.
    pub fn listen() -> Self {
        let (tell, told) = oneshot::channel();
        let (ready, listens) = mpsc::channel();
        let started = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(heed(ready, tell)))
        });
        if let Err(error) = started {
            tracing::debug!(%error, "nobody listens to signals");
        }
        // It comes to its end when the thread listens, or does not.
        let _ = listens.recv();
        Self(told)
    }

    /// Comes back when the program is told to stop.
    pub async fn told(self) {
        if self.0.await.is_err() {
            std::future::pending().await
        }
    }
}

async fn heed(ready: mpsc::Sender<()>, tell: oneshot::Sender<()>) {
    let Ok(mut stop) = Stop::listen() else { return };
    drop(ready);
    stop.told().await;
    // Nobody may be left who gives anything up.
    let _ = tell.send(());
    tokio::time::sleep(GRACE).await;
    std::process::exit(Exit::Interrupted as i32);
}
