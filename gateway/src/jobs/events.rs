// SPDX-License-Identifier: Apache-2.0
//! A job as a stream of events, for whoever watches.
//!
//! Made from a watch on the job's record, so that any gateway can serve it and
//! a slow reader sees the newest state instead of all of them. An event's id
//! names the record's revision and the failures told of; a reader that comes
//! back with it is told only what is new.

use std::{collections::VecDeque, time::Duration};

use fanfold_backbone::{Change, Watch};
use fanfold_protocol::{Problem, job::JobState, keys};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Jobs,
    error::Error,
    record::JobRecord,
    view::{FailureView, JobView, ProgressView, StateView, state_word},
};

/// Between two events of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// An event on its way to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// `state`, `progress`, `task-failed` or `done`.
    pub name: &'static str,
    /// For `Last-Event-ID`.
    pub id: String,
    /// JSON.
    pub data: String,
}

/// What a reader knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    revision: u64,
    failures: u64,
    state: Option<JobState>,
    progress: Option<Instant>,
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
        self.revision = revision;
        let mut events = Vec::new();
        for failure in record.last_failures.iter().filter(|failure| failure.number > self.failures) {
            events.push(("task-failed", json(&FailureView::from(failure))));
        }
        self.failures = record.failures;
        if self.state != Some(record.state) {
            self.state = Some(record.state);
            let state = StateView { id: record.id.to_string(), state: state_word(record.state) };
            events.insert(0, ("state", json(&state)));
        }
        if ended || self.progress.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.progress = Some(Instant::now());
            events.push(("progress", json(&ProgressView::from(&record))));
        }
        if ended {
            events.push(("done", json(&JobView::from(record))));
        }
        let id = self.id();
        events.into_iter().map(|(name, data)| JobEvent { name, id: id.clone(), data }).collect()
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // Views are made of texts and numbers, which always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

struct Reader {
    watch: Watch,
    told: Told,
    waiting: VecDeque<JobEvent>,
    ended: bool,
}

impl Jobs {
    /// A job's events from now on, and what is new since `last_id`. Ends after
    /// `done`, or when the engine stops.
    ///
    /// # Errors
    /// `job-not-found`; or the store or backbone does not answer.
    pub async fn events(
        &self,
        id: &Uuid,
        last_id: Option<&str>,
    ) -> Result<impl Stream<Item = JobEvent> + Send + use<>, Problem> {
        let record = self.get(id).await?;
        if self.inner.backbone.get(&keys::job_record(id)).await.map_err(Error::from)?.is_none() {
            // The backbone was lost; a watch needs a record to begin with.
            self.note_new(&record).await?;
        }
        let watch = self.inner.backbone.watch(&keys::job_record(id)).await.map_err(Error::from)?;
        let told = last_id.map(Told::parse).unwrap_or_default();
        let reader = Reader { watch, told, waiting: VecDeque::new(), ended: false };
        let stop = self.inner.shutdown.clone();
        Ok(stream::unfold(reader, next).take_until(async move { stop.cancelled().await }))
    }
}

async fn next(mut reader: Reader) -> Option<(JobEvent, Reader)> {
    loop {
        if let Some(event) = reader.waiting.pop_front() {
            return Some((event, reader));
        }
        if reader.ended {
            return None;
        }
        let change = reader.watch.next().await?;
        let Change::Put { entry, .. } = change else { continue };
        let Ok(record) = serde_json::from_slice::<JobRecord>(&entry.value) else { continue };
        reader.ended = record.state.is_terminal();
        reader.waiting.extend(reader.told.tell(record, entry.revision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        let told = Told { revision: 17, failures: 3, ..Told::default() };
        assert_eq!(Told::parse(&told.id()), told);
        for other in ["", "17", "a.b", "-1.2"] {
            assert_eq!(Told::parse(other), Told::default(), "{other}");
        }
    }
}
