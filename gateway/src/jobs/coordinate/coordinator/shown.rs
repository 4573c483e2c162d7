// SPDX-License-Identifier: Apache-2.0
//! What a coordinator shows of its job.
//!
//! Brings the record up to the progress now and then; nothing is decided by it.

use fanfold_protocol::{
    job::JobState,
    time::{self, whole_ms},
};

use super::Coordinator;
use crate::jobs::{
    error::Result,
    progress::{slots::Leased, stragglers},
    record::SlowLease,
};

/// Leases shown of those that have been worked on the longest.
const SLOWEST_TOLD: usize = 3;

impl Coordinator {
    /// Says that the job runs.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.case.record.state = JobState::Running;
        self.case.record.started_at.get_or_insert_with(time::now);
        self.flush().await
    }

    /// Brings the record up to the progress, where it has changed.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        let now = time::now();
        let running = now.since(self.case.record.started_at.unwrap_or(now));
        let (counts, (usage, attempts), (second_attempts, taken_over), eta) = {
            let progress = self.live.progress();
            let apart = (progress.second_attempts(), progress.taken_over());
            (progress.counts(), progress.usage(), apart, progress.eta(running))
        };
        let slowest = self.slowest().await?;
        let record = &mut self.case.record;
        record.tasks = counts;
        (record.receipt.usage, record.receipt.attempts) = (usage, attempts);
        (record.receipt.second_attempts, record.receipt.cache_hits) = (second_attempts, taken_over);
        record.receipt.elapsed_ms = whole_ms(now.since(record.submitted_at));
        record.eta_ms = eta.map(|eta| whole_ms(eta.expected));
        record.eta_range_ms =
            eta.and_then(|eta| eta.range).map(|(low, high)| (whole_ms(low), whole_ms(high)));
        record.slowest = slowest;
        self.case.write_record(&self.jobs.inner.backbone).await
    }

    /// The leases that have been worked on the longest, and what sets them apart.
    async fn slowest(&mut self) -> Result<Vec<SlowLease>> {
        let slowest = self.live.stragglers().slowest(SLOWEST_TOLD);
        let mut told = Vec::with_capacity(slowest.len());
        for ((stage, group, round), running) in slowest {
            let leased = self.live.progress().lease(stage, group, round);
            let Some(Leased { spec, second, failed }) = leased else { continue };
            let mean = self.case.plan.bytes / u64::from(self.case.plan.partitions).max(1);
            let bytes = match stage {
                0 => self.leases.bytes(&spec.tasks, &self.jobs.inner.splitter).await?,
                _ => Some(0),
            };
            told.push(SlowLease {
                stage,
                task: spec.tasks.first().copied().unwrap_or_default(),
                tasks: u32::try_from(spec.tasks.len()).unwrap_or(u32::MAX),
                worker: running.worker,
                running_ms: whole_ms(running.since.elapsed()),
                progress: running.progress,
                why: stragglers::why(&spec, running.width, bytes, mean, failed, second),
            });
        }
        Ok(told)
    }
}
