// SPDX-License-Identifier: Apache-2.0
//! What is counted of the jobs that this gateway coordinates.
//!
//! Counted when a job's end is written down, so that a coordinator that begins
//! anew from the commits counts nothing twice.

use fanfold_protocol::job::{JobOutcome, JobState};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Counters of jobs.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    ended: Family<StateLabels, Counter>,
    dead_letters: Counter,
    second_attempts: Counter,
}

impl Counters {
    /// Names them, without the platform's prefix.
    pub fn describe(&self, registry: &mut Registry) {
        registry.register("jobs_ended", "Jobs that ended, by how", self.ended.clone());
        // The increase of a series that begins with its first count is seen by nobody.
        for state in [JobState::Succeeded, JobState::Failed, JobState::Cancelled] {
            self.ended.get_or_create(&StateLabels { state: state.as_str() }).inc_by(0);
        }
        let help = "Tasks of jobs that failed for good, tolerated ones included";
        registry.register("job_dead_letters", help, self.dead_letters.clone());
        let help = "Leases of jobs begun a second time because the first attempt took long";
        registry.register("job_second_attempts", help, self.second_attempts.clone());
    }

    /// Counts the end of a job.
    pub fn note(&self, outcome: &JobOutcome) {
        self.ended.get_or_create(&StateLabels { state: outcome.state.as_str() }).inc();
        self.dead_letters.inc_by(outcome.tasks.failed);
        self.second_attempts.inc_by(outcome.receipt.second_attempts);
    }
}
