// SPDX-License-Identifier: Apache-2.0
//! What the tasks of a lease logged, on its way beside the commit.
//!
//! Kept while the lease runs, put as objects of their own before the commit that
//! makes them count, so that commits stay small and nobody reads lines but who asks
//! for them. Invariant: a lease keeps at most twice [`limits::LEASE_LOG_BYTES_MAX`]: what its tasks logged, in their
//! order, up to there, however they ended; each task of which something is left out says so. Without lines
//! nothing is written.

use std::fmt::Write as _;

use fanfold_protocol::{
    Problem,
    commit::TaskLog,
    invocation::{Level, LogLine},
    keys::LogKey,
    limits,
    plan::{Lease, Task},
    time::Timestamp,
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use uuid::Uuid;

use crate::{
    host::{Data, store_problem},
    sandbox::LINE_BYTES,
};

/// Stands at the end of what is kept of a task's log that was cut here.
const CUT: &str = "[log cut: the tasks of one lease keep 256 KiB together]";

/// What the tasks of a lease logged. Those that failed are read most, and none of
/// the others takes their room.
#[derive(Debug, Default)]
pub(super) struct Logs {
    failed: Kept,
    succeeded: Kept,
}

/// What is kept of tasks, in their order.
#[derive(Debug, Default)]
struct Kept(Vec<Part>);

/// What is kept of a task.
#[derive(Debug)]
struct Part {
    log: TaskLog,
    /// When it wrote the first line that is left out.
    cut: Option<Timestamp>,
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
            if kept.0.is_empty() {
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
    fn add(&mut self, task: &Task, lines: Vec<LogLine>) {
        if lines.is_empty() {
            return;
        }
        let at = self.0.partition_point(|part| part.log.task < task.index);
        let log = TaskLog { task: task.index, attempt: task.attempt, lines };
        self.0.insert(at, Part { log, cut: None });
        self.fit();
    }

    /// Leaves out all from the first line on that does not fit. What was left out once no task that
    /// comes later brings back.
    fn fit(&mut self) {
        let (mut bytes, mut full) = (0, false);
        for Part { log, cut } in &mut self.0 {
            let fits = |line: &&LogLine| {
                bytes += LINE_BYTES + line.message.len();
                !full && bytes <= limits::LEASE_LOG_BYTES_MAX
            };
            let count = log.lines.iter().take_while(fits).count();
            if let Some(first) = log.lines.get(count) {
                *cut = Some(first.at);
                log.lines.truncate(count);
                log.lines.shrink_to_fit();
            }
            full |= cut.is_some();
        }
    }

    /// What is kept, with a mark where something is left out.
    fn tasks(&self) -> impl Iterator<Item = TaskLog> {
        self.0.iter().map(|Part { log, cut }| {
            let mark = |at| LogLine { at, level: Level::Warn, message: CUT.to_owned() };
            let mut log = log.clone();
            log.lines.extend(cut.map(mark));
            log
        })
    }

    /// A task a line, in order.
    fn text(&self) -> Result<String, Problem> {
        let mut text = String::new();
        for task in self.tasks() {
            let line = serde_json::to_string(&task);
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
    use fanfold_protocol::plan::Work;

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
        let succeeded: Vec<TaskLog> = logs.succeeded.tasks().collect();
        let bytes: usize = succeeded.iter().flat_map(|task| &task.lines).map(|line| line.message.len()).sum();
        assert!(bytes <= limits::LEASE_LOG_BYTES_MAX + 64 * CUT.len(), "{bytes}");
        let last = |log: &TaskLog| log.lines.last().map(|line| line.message.clone());
        assert_eq!(succeeded.len(), 64, "each says that it was cut");
        assert_eq!(succeeded[0].lines.len(), 30);
        assert!(succeeded[1..].iter().all(|log| last(log).as_deref() == Some(CUT)));
        let failed: Vec<TaskLog> = logs.failed.tasks().collect();
        assert_eq!(failed, [TaskLog { task: 64, attempt: 1, lines: lines(2, "why") }]);
    }

    #[test]
    fn what_is_kept_does_not_depend_on_who_ended_first() {
        let kept = |order: [u32; 5]| {
            let mut logs = Logs::default();
            for index in order {
                // Of the third some lines fit, and none of those after it, be they as short as they may.
                let lines = if index < 4 { lines(12, &"x".repeat(8 << 10)) } else { lines(1, "x") };
                logs.add(&task(index), false, lines);
            }
            logs.succeeded.text().unwrap()
        };
        let expected = kept([0, 1, 2, 3, 4]);
        let read: Vec<TaskLog> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let counts: Vec<_> = read.iter().map(|log| (log.task, log.lines.len())).collect();
        assert_eq!(counts, [(0, 12), (1, 12), (2, 8), (3, 1), (4, 1)]);
        assert!(read[2..].iter().all(|log| log.lines.last().unwrap().message == CUT));
        for order in [[4, 3, 2, 1, 0], [2, 4, 0, 3, 1], [3, 0, 4, 1, 2], [2, 3, 4, 0, 1]] {
            assert!(kept(order) == expected, "{order:?}");
        }
    }

    #[test]
    fn a_lease_of_one_task_keeps_a_whole_log_and_reads_back() {
        let mut logs = Logs::default();
        let log = crate::sandbox::Log::default();
        (0..100).for_each(|_| log.line(Level::Info, &"y\"".repeat(4 << 10)));
        let whole = log.take();
        logs.add(&task(3), false, whole.clone());
        assert_eq!(logs.succeeded.0[0].log.lines, whole);
        let text = logs.succeeded.text().unwrap();
        let read: Vec<TaskLog> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, [logs.succeeded.0[0].log.clone()]);
    }
}
