// SPDX-License-Identifier: Apache-2.0
//! Attempts that a job stops as it ends, and what they took.
//!
//! No commit says that, only their workers on the bus. Invariant: how the job ends is decided before,
//! and nothing that is heard here changes it; who does not tell in time is not waited for.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::timeout;

use super::Coordinator;
use crate::jobs::{
    coordinate::heard::Heard,
    end::finish,
    error::{Error, Result},
};

/// How long a job that ends waits for what the attempts took that it stops, and for what it was taking over.
pub(super) const STOPPED_WAIT: Duration = Duration::from_secs(1);
/// The same where no worker has told that it works on any: it may have begun a moment ago, and be committing to a
/// store that takes a tenth of a second for each answer.
const UNTOLD_WAIT: Duration = Duration::from_millis(400);

impl Coordinator {
    /// Stops attempts that were overtaken and may still run; waits a little for what they took.
    pub(super) async fn stop_overtaken(
        &self,
        mut events: Pin<&mut (impl Stream<Item = Vec<Heard>> + Send)>,
    ) -> Result<()> {
        finish::stop_tasks(&self.jobs.inner.backbone, &self.case.job.id).await?;
        let told = async {
            while self.live.progress().awaits_overtaken()
                && let Some(chunk) = events.next().await
            {
                for event in chunk {
                    self.note_overtaken(&event);
                }
            }
        };
        // Whoever does not tell in time has gone, or had not begun.
        let _ = timeout(STOPPED_WAIT, told).await;
        Ok(())
    }

    /// Stops all attempts at a job that fails or is cancelled; waits a little for what they took, and for
    /// commits that came before they heard of it.
    pub(super) async fn stop_rest(
        &mut self,
        mut events: Pin<&mut (impl Stream<Item = Vec<Heard>> + Send)>,
    ) -> Result<()> {
        if self.live.progress().counts().running == 0 {
            return Ok(());
        }
        finish::stop_tasks(&self.jobs.inner.backbone, &self.case.job.id).await?;
        let told = async {
            loop {
                let wait = if self.is_worked_on() { STOPPED_WAIT } else { UNTOLD_WAIT };
                let Ok(Some(chunk)) = timeout(wait, events.next()).await else { return Ok::<_, Error>(()) };
                self.take_in(chunk).await?;
            }
        };
        timeout(STOPPED_WAIT, told).await.unwrap_or(Ok(()))
    }

    /// Whether workers have told of leases that they work on, and not yet of their end.
    fn is_worked_on(&self) -> bool {
        let progress = self.live.progress();
        let mut stragglers = self.live.stragglers();
        stragglers.forget_done(&progress);
        stragglers.is_any()
    }

    /// Whether an attempt tells what it took for nothing; that is counted.
    pub(super) fn note_overtaken(&self, event: &Heard) -> bool {
        let Heard::Running(notice) = event else { return false };
        let Some(overtaken) = &notice.overtaken else { return false };
        self.live.progress().note_overtaken(overtaken);
        self.live.stragglers().forget(notice);
        true
    }
}
