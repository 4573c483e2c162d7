// SPDX-License-Identifier: Apache-2.0
//! Which jobs there are: a small copy of all records, newest last.
//!
//! Fed by a watch on the backbone, so that lists are served from memory and
//! jobs without a coordinator are noticed. It holds a few words a job, never
//! a record.

use std::{
    collections::BTreeMap,
    ops::RangeBounds,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_protocol::{
    ErrorKind, Problem, job::JobState, names::FunctionName, time::Timestamp, uri::ObjectUri,
};
use uuid::Uuid;

use super::{prints::Fingerprint, record::JobRecord};
use crate::page;

/// Where there is no room for a job, when to ask again: of so many that have not ended some end by then.
const FULL_FOR: Duration = Duration::from_secs(30);

/// What a list is narrowed by.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Jobs in this state only.
    pub state: Option<JobState>,
    /// Jobs of this function only.
    pub function: Option<FunctionName>,
}

impl Filter {
    /// Whether jobs in this state are listed.
    pub(super) fn takes(&self, found: JobState) -> bool {
        self.state.is_none_or(|state| state == found)
    }
}

/// The jobs that there are.
#[derive(Debug, Default)]
pub struct Index {
    jobs: Mutex<BTreeMap<Uuid, Line>>,
    /// Jobs that are being planned, of which nothing is known here yet.
    coming: Arc<AtomicUsize>,
}

/// Room for a job that is being planned, given back when it is dropped.
#[derive(Debug)]
pub struct Room(Arc<AtomicUsize>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Line {
    state: JobState,
    ended_at: Option<Timestamp>,
    function: FunctionName,
    output: Fingerprint,
}

impl Index {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<Uuid, Line>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a record.
    pub fn note(&self, record: &JobRecord) {
        let (state, ended_at) = (record.state, record.ended_at);
        let output = Fingerprint::of_object(&record.output);
        let line = Line { state, ended_at, function: record.function.name.clone(), output };
        self.jobs().insert(record.id, line);
    }

    /// Takes in a record of a job that is not known.
    pub fn note_unknown(&self, record: &JobRecord) {
        if !self.contains(&record.id) {
            self.note(record);
        }
    }

    /// Forgets a job.
    pub fn forget(&self, id: &Uuid) {
        self.jobs().remove(id);
    }

    /// Whether the job is known.
    pub fn contains(&self, id: &Uuid) -> bool {
        self.jobs().contains_key(id)
    }

    /// Jobs that have not ended.
    pub fn active(&self) -> Vec<Uuid> {
        self.jobs().iter().filter(|(_, line)| !line.state.is_terminal()).map(|(id, _)| *id).collect()
    }

    /// Jobs that ended in a span of time, oldest first, and how.
    pub fn ended(&self, span: impl RangeBounds<Timestamp>) -> Vec<(Uuid, JobState)> {
        let within = |line: &Line| line.ended_at.is_some_and(|at| span.contains(&at));
        let ended = |line: &Line| line.state.is_terminal() && within(line);
        self.jobs().iter().filter(|(_, line)| ended(line)).map(|(id, line)| (*id, line.state)).collect()
    }

    /// Whether all jobs that are known of an output prefix have failed or been cancelled.
    pub fn is_in_vain(&self, output: &ObjectUri) -> bool {
        let output = Fingerprint::of_object(output);
        let stopped = |line: &Line| matches!(line.state, JobState::Failed | JobState::Cancelled);
        self.jobs().values().filter(|line| line.output == output).all(stopped)
    }

    /// At most `limit` jobs, newest first, from before `before`; and the last of
    /// them, when there are more.
    pub fn page(&self, filter: &Filter, before: Option<Uuid>, limit: usize) -> (Vec<Uuid>, Option<Uuid>) {
        let jobs = self.jobs();
        let fits = |line: &Line| {
            filter.takes(line.state)
                && filter.function.as_ref().is_none_or(|function| *function == line.function)
        };
        let older = jobs.range(..before.unwrap_or(Uuid::max())).rev().filter(|(_, line)| fits(line));
        let mut ids: Vec<Uuid> = older.map(|(id, _)| *id).take(limit + 1).collect();
        let next = page::cut(&mut ids, limit).copied();
        (ids, next)
    }

    /// Room for one more job, to be held until it is noted.
    ///
    /// # Errors
    /// `queue-full` while as many jobs have not ended, those that are being planned among them.
    pub fn room(&self, most: usize) -> Result<Room, Problem> {
        let jobs = self.jobs();
        let noted = jobs.values().filter(|line| !line.state.is_terminal()).count();
        let unfinished = noted + self.coming.load(Ordering::Relaxed);
        if unfinished < most {
            self.coming.fetch_add(1, Ordering::Relaxed);
            return Ok(Room(Arc::clone(&self.coming)));
        }
        let detail = format!(
            "at most {most} jobs may be queued or running, found {unfinished}; submit it again when some have ended"
        );
        Err(Problem { wait: Some(FULL_FOR), ..Problem::new(ErrorKind::QueueFull, detail) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_are_being_planned_take_room() {
        let index = Index::default();
        let held = [index.room(2).unwrap(), index.room(2).unwrap()];
        let problem = index.room(2).unwrap_err();
        assert_eq!(problem.code, ErrorKind::QueueFull);
        assert!(problem.detail.contains("at most 2 jobs may be queued or running, found 2"), "{problem}");
        assert_eq!(problem.wait, Some(FULL_FOR));
        drop(held);
        assert!(index.room(1).is_ok());
    }
}
