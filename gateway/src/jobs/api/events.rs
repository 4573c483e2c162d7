// SPDX-License-Identifier: Apache-2.0
//! A job as a stream of events, for whoever watches.
//!
//! Made from a watch on the job's record, so that any gateway can serve it and
//! a slow reader sees the newest state instead of all of them. An event's id
//! names the record's revision and the failures told of; a reader that comes
//! back with it is told only what is new. Invariant: every failure is told of,
//! by itself or, when too many came at once, by their number. Progress that comes
//! too soon after the last is told when it is due, unless newer has come by then.

use std::{collections::VecDeque, time::Duration};

use fanfold_backbone::{Change, Entry, Watch};
use fanfold_protocol::{Problem, job::JobState, keys};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::view::{FailureView, JobView, ProgressView, SkippedView, StateView};
use crate::jobs::{Jobs, error::Error, record::JobRecord};

/// Between two events of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// An event on its way to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// `state`, `progress`, `task-failed`, `failures-skipped` or `done`.
    pub name: &'static str,
    /// For `Last-Event-ID`.
    pub id: String,
    /// JSON.
    pub data: String,
}

/// What a reader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    revision: u64,
    failures: u64,
    state: Option<JobState>,
    progress: Option<Instant>,
    /// Progress that is not due yet, and the revision that it is of.
    owed: Option<(u64, JobEvent)>,
}

impl Told {
    /// Reads an id made by [`Told::id`]; another is as good as none.
    fn parse(id: &str) -> Self {
        let read = || {
            let (revision, failures) = id.split_once('.')?;
            Some(Self {
                revision: revision.parse().ok()?,
                failures: failures.parse().ok()?,
                ..Self::default()
            })
        };
        read().unwrap_or_default()
    }

    fn id(&self) -> String {
        format!("{}.{}", self.revision, self.failures)
    }

    /// The events that a record brings.
    fn tell(&mut self, record: JobRecord, revision: u64) -> Vec<JobEvent> {
        let ended = record.state.is_terminal();
        if revision == self.revision && !ended {
            self.state = Some(record.state);
            return Vec::new();
        }
        let mut events = Vec::new();
        if self.state != Some(record.state) {
            self.state = Some(record.state);
            let state = StateView { id: record.id.to_string(), state: record.state.as_str() };
            events.push(self.event("state", &state));
        }
        self.tell_failures(&record, &mut events);
        self.owed = None;
        if self.progress.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.progress = Some(Instant::now());
            events.push(self.event("progress", &ProgressView::from(&record)));
        } else if !ended {
            // Until that is told as well, nobody has all that the revision brings.
            self.owed = Some((revision, self.event("progress", &ProgressView::from(&record))));
            return events;
        }
        if ended {
            events.push(self.event("done", &JobView::from(record)));
        }
        self.revision = revision;
        // Only whoever has the last of them has all that the revision brings.
        if let Some(last) = events.last_mut() {
            last.id = self.id();
        }
        events
    }

    /// When the progress that is owed is due.
    fn due(&self) -> Option<Instant> {
        self.owed.as_ref().and(self.progress).map(|last| last + PROGRESS_EVERY)
    }

    /// The progress that is owed.
    fn pay(&mut self) -> Option<JobEvent> {
        let (revision, event) = self.owed.take()?;
        (self.revision, self.progress) = (revision, Some(Instant::now()));
        Some(JobEvent { id: self.id(), ..event })
    }

    /// The failures that a reader does not know. A record keeps the last few: of
    /// those before, it is told how many there are and where they are listed. So it is of
    /// those that were numbered anew after it was told of some.
    fn tell_failures(&mut self, record: &JobRecord, events: &mut Vec<JobEvent>) {
        let kept = record.last_failures.first().map_or(record.failures, |failure| failure.number - 1);
        let renumbered = if self.failures > 0 { record.renumbered } else { 0 };
        let named_after = kept.max(renumbered);
        let skipped = named_after.saturating_sub(self.failures);
        if skipped > 0 {
            self.failures = named_after;
            events.push(self.event("failures-skipped", &SkippedView::new(record, skipped)));
        }
        let known = self.failures;
        for failure in record.last_failures.iter().filter(|failure| failure.number > known) {
            self.failures = failure.number;
            events.push(self.event("task-failed", &FailureView::from(failure)));
        }
        self.failures = record.failures;
    }

    fn event(&self, name: &'static str, data: &impl Serialize) -> JobEvent {
        // Views are made of texts and numbers, which always have a JSON form. Ends of lines, which only
        // an answer's function can have put between its tokens, would part the event's data.
        let data = serde_json::to_string(data).unwrap_or_default().replace(['\r', '\n'], " ");
        JobEvent { name, id: self.id(), data }
    }
}

struct Reader {
    watch: Watch,
    told: Told,
    waiting: VecDeque<JobEvent>,
    ended: bool,
}

impl Jobs {
    /// A job's events from now on, and what is new since `last_id`. Ends after
    /// `done`, or when the engine stops. None for a reader that knows the end already.
    ///
    /// # Errors
    /// `job-not-found`; or the store or backbone does not answer.
    pub async fn events(
        &self,
        id: &Uuid,
        last_id: Option<&str>,
    ) -> Result<Option<impl Stream<Item = JobEvent> + Send + use<>>, Problem> {
        let record = self.get(id).await?;
        let told = last_id.map(Told::parse).unwrap_or_default();
        match self.inner.backbone.get(&keys::job_record(id)).await.map_err(Error::from)? {
            Some(entry) => {
                let ended = read(&entry).is_some_and(|record| record.state.is_terminal());
                if ended && entry.revision == told.revision {
                    return Ok(None);
                }
            }
            // The backbone was lost; a watch needs a record to begin with.
            None => self.note_new(&record).await?,
        }
        let watch = self.inner.backbone.watch(&keys::job_record(id)).await.map_err(Error::from)?;
        let reader = Reader { watch, told, waiting: VecDeque::new(), ended: false };
        let stop = self.inner.shutdown.clone();
        Ok(Some(stream::unfold(reader, next).take_until(async move { stop.cancelled().await })))
    }
}

fn read(entry: &Entry) -> Option<JobRecord> {
    serde_json::from_slice(&entry.value).ok()
}

async fn next(mut reader: Reader) -> Option<(JobEvent, Reader)> {
    loop {
        if let Some(event) = reader.waiting.pop_front() {
            return Some((event, reader));
        }
        if reader.ended {
            return None;
        }
        let change = match reader.told.due() {
            None => reader.watch.next().await?,
            Some(due) => match timeout_at(due, reader.watch.next()).await {
                Ok(change) => change?,
                Err(_) => {
                    reader.waiting.extend(reader.told.pay());
                    continue;
                }
            },
        };
        let Change::Put { entry, .. } = change else { continue };
        let Some(record) = read(&entry) else { continue };
        reader.ended = record.state.is_terminal();
        reader.waiting.extend(reader.told.tell(record, entry.revision));
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::{
        ErrorKind,
        answer::Answer,
        digest::Digest,
        job::{Receipt, TaskCounts},
        plan::Shape,
        time::Timestamp,
    };
    use serde_json::Value;

    use super::*;

    #[test]
    fn ids_read_back() {
        let told = Told { revision: 17, failures: 3, ..Told::default() };
        assert_eq!(Told::parse(&told.id()), told);
        for other in ["", "17", "a.b", "-1.2"] {
            assert_eq!(Told::parse(other), Told::default(), "{other}");
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let answer = Answer::try_from("[1,\r\n \"a\\nb\"]".to_owned()).unwrap();
        let event = Told::default().event("done", &answer);
        assert_eq!(event.data, "[1,   \"a\\nb\"]");
    }

    fn record() -> JobRecord {
        JobRecord {
            id: Uuid::nil(),
            function: "mapper".parse().unwrap(),
            version: 1,
            digest: Digest::of(b"mapper"),
            shape: Shape::Map,
            state: JobState::Running,
            submitted_at: Timestamp(0),
            started_at: None,
            ended_at: None,
            retry: None,
            tasks: TaskCounts::default(),
            partitions: 1,
            input_bytes: 1,
            receipt: Receipt::default(),
            eta_ms: None,
            eta_range_ms: None,
            slowest: Vec::new(),
            output: "s3://bank/out/".parse().unwrap(),
            problem: None,
            manifest: None,
            result_uri: None,
            result: None,
            estimate: None,
            warnings: Vec::new(),
            failures: 0,
            last_failures: Vec::new(),
            renumbered: 0,
        }
    }

    fn fail(record: &mut JobRecord, times: u32) {
        for task in 0..times {
            record.note_failure(0, task, 1, true, Problem::new(ErrorKind::ValueMismatch, "a pear"));
        }
    }

    fn names(events: &[JobEvent]) -> Vec<&str> {
        events.iter().map(|event| event.name).collect()
    }

    /// What was told of failures: the numbers of those by themselves, and how many beside.
    fn failures(events: &[JobEvent]) -> (Vec<u64>, u64) {
        let member = |name: &str, member: &str| {
            let named = events.iter().filter(|event| event.name == name);
            let data = named.map(|event| serde_json::from_str::<Value>(&event.data).unwrap());
            data.filter_map(|data| data[member].as_u64()).collect::<Vec<_>>()
        };
        (member("task-failed", "number"), member("failures-skipped", "skipped").iter().sum())
    }

    #[test]
    fn every_failure_is_told_of() {
        let (mut told, mut record) = (Told::default(), record());
        fail(&mut record, 3);
        assert_eq!(failures(&told.tell(record.clone(), 1)), (vec![1, 2, 3], 0));
        fail(&mut record, 20);
        let events = told.tell(record.clone(), 2);
        assert_eq!(failures(&events), ((16..=23).collect::<Vec<_>>(), 12));
        assert!(events[0].name == "failures-skipped" && events[0].data.contains("/tasks\""), "{events:?}");
        assert_eq!(failures(&told.tell(record, 3)), (vec![], 0));
    }

    #[test]
    fn what_a_new_coordinator_finds_in_another_order_is_told_once() {
        let (mut told, mut before) = (Told::default(), record());
        fail(&mut before, 3);
        assert_eq!(failures(&told.tell(before.clone(), 1)), (vec![1, 2, 3], 0));
        let found = |times: u32| {
            let mut found = JobRecord { failures: 0, last_failures: Vec::new(), ..before.clone() };
            for task in (0..times).rev() {
                found.note_failure(0, task, 1, true, Problem::new(ErrorKind::ValueMismatch, "a pear"));
            }
            found.resume_failures(before.failures, before.last_failures.clone());
            found
        };
        // As many as were shown are the same ones.
        assert_eq!(found(3), before);
        assert_eq!(failures(&told.tell(found(3), 2)), (vec![], 0));
        // Of more, those that are new may bear any number.
        let mut after = found(5);
        assert_eq!(failures(&told.tell(after.clone(), 3)), (vec![], 2));
        fail(&mut after, 1);
        assert_eq!(failures(&told.tell(after.clone(), 4)), (vec![6], 0));
        // Whoever was told of none is told of each.
        assert_eq!(failures(&Told::default().tell(after, 4)), (vec![1, 2, 3, 4, 5, 6], 0));
    }

    #[test]
    fn the_last_event_has_the_answer_as_its_function_wrote_it() {
        let written = r#"{"b": 1.10, "a": 340282366920938463463374607431768211455}"#;
        let result = Some(Answer::try_from(written.to_owned()).unwrap());
        let record = JobRecord { state: JobState::Succeeded, result, ..record() };
        // By way of the backbone.
        let kept = serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap();
        let events = Told::default().tell(kept, 1);
        let done = events.last().unwrap();
        assert!(done.name == "done" && done.data.contains(&format!("\"result\":{written}")), "{done:?}");
    }

    #[test]
    fn whoever_comes_back_is_told_the_rest() {
        let (mut told, mut record) = (Told::default(), record());
        fail(&mut record, 20);
        let events = told.tell(record.clone(), 7);
        for (at, event) in events.iter().enumerate() {
            let rest = Told::parse(&event.id).tell(record.clone(), 7);
            assert_eq!(failures(&rest), failures(&events[at + 1..]), "{event:?}");
        }
        assert!(Told::parse(&events.last().unwrap().id).tell(record, 7).is_empty());
    }

    #[test]
    fn progress_is_told_twice_a_second_at_most() {
        let (mut told, mut record) = (Told::default(), record());
        assert_eq!(names(&told.tell(record.clone(), 1)), ["state", "progress"]);
        assert_eq!(names(&told.tell(record.clone(), 2)), [""; 0]);
        told.progress = Instant::now().checked_sub(PROGRESS_EVERY);
        assert_eq!(names(&told.tell(record.clone(), 3)), ["progress"]);
        // The end comes when it comes: `done` says where the job stands.
        record.state = JobState::Succeeded;
        assert_eq!(names(&told.tell(record, 4)), ["state", "done"]);
    }

    #[test]
    fn progress_that_comes_too_soon_is_told_when_it_is_due() {
        let (mut told, mut record) = (Told::default(), record());
        told.tell(record.clone(), 1);
        assert_eq!((told.due(), told.pay()), (None, None));
        record.tasks.done = 7;
        assert_eq!(names(&told.tell(record.clone(), 2)), [""; 0]);
        record.tasks.done = 8;
        fail(&mut record, 1);
        let events = told.tell(record.clone(), 3);
        assert_eq!(names(&events), ["task-failed"]);
        assert_eq!(told.due(), told.progress.map(|last| last + PROGRESS_EVERY));
        // Whoever comes back before that is told it at once.
        let rest = Told::parse(&events[0].id).tell(record.clone(), 3);
        assert_eq!(names(&rest), ["state", "progress"]);
        let owed = told.pay().unwrap();
        assert_eq!((owed.name, owed.id.as_str()), ("progress", "3.1"));
        assert!(owed.data.contains("\"done\":8"), "{}", owed.data);
        assert!(Told::parse(&owed.id).tell(record.clone(), 3).is_empty());
        assert_eq!(told.due(), None);
        // What is told behind the end is nothing.
        told.tell(record.clone(), 4);
        record.state = JobState::Succeeded;
        assert_eq!(names(&told.tell(record, 5)), ["state", "done"]);
        assert_eq!((told.due(), told.pay()), (None, None));
    }
}
