// SPDX-License-Identifier: Apache-2.0
//! What the tasks of a lease logged, on its way beside the commit.
//!
//! Kept while the lease runs, put as objects of their own before the commit that
//! makes them count, so that commits stay small and nobody reads lines but who asks
//! for them. Invariant: a lease keeps at most twice [`limits::LEASE_LOG_BYTES_MAX`], and each
//! task of which something is left out says so. Without lines nothing is written.

use std::fmt::Write as _;

use fanfold_protocol::{
    Problem,
    commit::TaskLog,
    invocation::{Level, LogLine},
    keys::LogKey,
    limits,
    plan::{Lease, Task},
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use uuid::Uuid;

use crate::{
    host::{Data, store_problem},
    sandbox::LINE_BYTES,
};

/// Stands at the end of what is kept of a task's log that was cut here.
const CUT: &str = "[log cut: the tasks that run one after the other keep 256 KiB together]";

/// What the tasks of a lease logged. Those that failed are read most, and none of
/// the others takes their room.
#[derive(Debug, Default)]
pub(super) struct Logs {
    failed: Kept,
    succeeded: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    tasks: Vec<TaskLog>,
    bytes: usize,
}

impl Logs {
    /// Adds what a task logged.
    pub(super) fn add(&mut self, task: &Task, failed: bool, lines: Vec<LogLine>) {
        let kept = if failed { &mut self.failed } else { &mut self.succeeded };
        kept.add(task, lines);
    }

    /// Puts them where whoever reads the commit of this attempt looks for them;
    /// answers where.
    pub(super) async fn put(
        &self,
        data: &Data,
        lease: &Lease,
        attempt: Uuid,
    ) -> Result<Vec<ObjectUri>, Problem> {
        let Lease { job, stage, group, round, .. } = *lease;
        let mut written = Vec::new();
        for (failed, kept) in [(true, &self.failed), (false, &self.succeeded)] {
            if kept.tasks.is_empty() {
                continue;
            }
            let key = LogKey { failed, stage, group, round, attempt }.key(&job);
            let uri = ObjectUri::new(&data.tenant.system_bucket, key)?;
            let options = PutOptions::typed("application/jsonl");
            let put = data.store.put(&uri, kept.text()?.into(), options).await;
            put.map_err(|error| store_problem(&error))?;
            written.push(uri);
        }
        Ok(written)
    }
}

impl Kept {
    fn add(&mut self, task: &Task, mut lines: Vec<LogLine>) {
        if lines.is_empty() {
            return;
        }
        let mut count = 0;
        for line in &lines {
            let bytes = self.bytes + LINE_BYTES + line.message.len();
            if bytes > limits::LEASE_LOG_BYTES_MAX {
                break;
            }
            (self.bytes, count) = (bytes, count + 1);
        }
        if let Some(at) = lines.get(count).map(|line| line.at) {
            lines.truncate(count);
            lines.push(LogLine { at, level: Level::Warn, message: CUT.to_owned() });
            lines.shrink_to_fit();
        }
        self.tasks.push(TaskLog { task: task.index, attempt: task.attempt, lines });
    }

    /// A task a line, in order.
    fn text(&self) -> Result<String, Problem> {
        let mut text = String::new();
        for task in &self.tasks {
            let line = serde_json::to_string(task);
            let line =
                line.map_err(|error| crate::internal(format!("a log cannot be written as JSON: {error}")))?;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        Ok(text)
    }
}

/// Removes what an attempt put that does not count. What is left is never read.
pub(super) async fn remove(data: &Data, written: &[ObjectUri]) {
    for uri in written {
        if let Err(error) = data.store.delete(uri).await {
            tracing::warn!(%error, %uri, "a log that does not count cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::{plan::Work, time::Timestamp};

    use super::*;

    fn task(index: u32) -> Task {
        Task { index, attempt: 1, work: Work::Merge { states: Vec::new(), finish: false } }
    }

    fn lines(count: usize, message: &str) -> Vec<LogLine> {
        let line = LogLine { at: Timestamp(1), level: Level::Info, message: message.to_owned() };
        vec![line; count]
    }

    #[test]
    fn a_task_that_logs_much_leaves_room_to_those_that_fail() {
        let mut logs = Logs::default();
        for index in 0..64 {
            logs.add(&task(index), false, lines(30, &"x".repeat(8 << 10)));
        }
        logs.add(&task(64), true, lines(2, "why"));
        logs.add(&task(65), true, Vec::new());
        let bytes: usize =
            logs.succeeded.tasks.iter().flat_map(|task| &task.lines).map(|line| line.message.len()).sum();
        assert!(bytes <= limits::LEASE_LOG_BYTES_MAX + 64 * CUT.len(), "{bytes}");
        let last = |log: &TaskLog| log.lines.last().map(|line| line.message.clone());
        assert_eq!(logs.succeeded.tasks.len(), 64, "each says that it was cut");
        assert_eq!(logs.succeeded.tasks[0].lines.len(), 30);
        assert!(logs.succeeded.tasks[1..].iter().all(|log| last(log).as_deref() == Some(CUT)));
        assert_eq!(logs.failed.tasks, [TaskLog { task: 64, attempt: 1, lines: lines(2, "why") }]);
    }

    #[test]
    fn a_lease_of_one_task_keeps_a_whole_log_and_reads_back() {
        let mut logs = Logs::default();
        let log = crate::sandbox::Log::default();
        (0..100).for_each(|_| log.line(Level::Info, &"y\"".repeat(4 << 10)));
        let whole = log.take();
        logs.add(&task(3), false, whole.clone());
        assert_eq!(logs.succeeded.tasks[0].lines, whole);
        let text = logs.succeeded.text().unwrap();
        let read: Vec<TaskLog> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, logs.succeeded.tasks);
    }
}
