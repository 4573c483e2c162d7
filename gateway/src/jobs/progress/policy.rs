// SPDX-License-Identifier: Apache-2.0
//! What a job's author decided about trying again and about width.
//!
//! Read by [`super::machine`]; never changes while a job runs.

use fanfold_protocol::{ErrorKind, Problem, error::Fault, limits};

use crate::jobs::case::Case;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Attempts at a task, the first included.
    pub attempts: u32,
    /// Tasks queued or running at once.
    pub outstanding_max: u32,
    /// Leases queued or running at once, each of which runs one task at a time.
    pub leases_max: u32,
    /// Tasks of the first stage that may be given up.
    pub tolerated: u64,
}

impl Policy {
    /// That of a job.
    pub fn of(case: &Case) -> Self {
        let outstanding_max = u32::try_from(limits::TASKS_OUTSTANDING_MAX).unwrap_or(u32::MAX);
        let document = &case.job.document;
        let leases_max = match document.limits.max_parallel {
            0 => u32::MAX,
            width => width,
        };
        let tolerated = document.limits.tolerated_failures.of(u64::from(case.plan.partitions));
        Self { attempts: document.retry.attempts, outstanding_max, leases_max, tolerated }
    }
}

/// Whether another attempt may end otherwise. Data that a caller must mend will
/// not mend itself: the input is pinned. A guest may say so of its own errors.
pub fn may_help(problem: &Problem) -> bool {
    match (problem.guest_retryable, problem.code.fault()) {
        (Some(retryable), _) => retryable,
        // A bound, but on what becomes of pinned bytes: a bomb need not go off three times.
        (None, _) if problem.code == ErrorKind::DecodeLimit => false,
        (None, Fault::Caller) => problem.code.retryable(),
        (None, Fault::Guest | Fault::Limit | Fault::Platform) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pinned_bytes_lead_to_is_not_tried_again() {
        let check = |code, expected| {
            assert_eq!(may_help(&Problem::new(code, "")), expected, "{code}");
        };
        check(ErrorKind::CsvMalformed, false);
        check(ErrorKind::DecodeLimit, false);
        check(ErrorKind::MemoryExceeded, true);
        check(ErrorKind::GuestTrapped, true);
        check(ErrorKind::StoreTimeout, true);
    }
}
