// SPDX-License-Identifier: Apache-2.0
//! The one writer of the index: changes come in from all requests and go to
//! disk together.
//!
//! While one batch is being synced the next gathers, so that many small puts
//! share one sync. Conditions are decided here, one change after another, which
//! is why exactly one of a hundred racing writers wins. A change is answered
//! only after its batch is on disk.

use std::{sync::Arc, thread};

use bytes::Bytes;
use fanfold_protocol::time::now;
use s3s::S3ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::{
    apply::Tables,
    blobs::{BlobId, Blobs, Draft},
    events::Observers,
    failure::Failure,
    index::Index,
    record::{ObjectRecord, PartRecord, UploadRecord},
};

/// Changes in one batch.
const BATCH_MAX: usize = 512;
/// Changes that wait for the next batch; more make their requests wait.
const QUEUE_MAX: usize = 2 * BATCH_MAX;
/// Room that a change of the index may need, in bytes, besides its body.
const CHANGE_BYTES: u64 = 64 << 10;

/// What must hold of the object that is there, for a write over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing.
    Always,
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// It has this ETag.
    Match(String),
}

/// One change of the store.
#[derive(Debug)]
pub(super) enum Change {
    CreateBucket { bucket: String },
    DeleteBucket { bucket: String },
    Put(Box<Put>),
    Delete { bucket: String, victims: Vec<Victim> },
    CreateUpload { bucket: String, key: String, id: String, record: Box<UploadRecord> },
    PutPart(Box<PutPart>),
    Complete(Box<Complete>),
    Abort { bucket: String, key: String, id: String },
}

/// Writes an object.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) record: ObjectRecord,
    /// The bytes, when they go into the index.
    pub(super) inline: Option<Bytes>,
    /// The file with the bytes, when they do not.
    pub(super) draft: Option<Draft>,
    pub(super) condition: Condition,
    /// What the event of this write is called.
    pub(super) event: &'static str,
}

/// An object to be deleted.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) key: String,
    pub(super) condition: Condition,
}

/// Adds a part to an upload, or replaces it.
#[derive(Debug)]
pub(super) struct PutPart {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) id: String,
    pub(super) number: u32,
    pub(super) record: PartRecord,
    pub(super) draft: Draft,
}

/// Makes an object of an upload's parts.
#[derive(Debug)]
pub(super) struct Complete {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) id: String,
    /// Numbers and ETags (without quotes) as the client lists them.
    pub(super) parts: Vec<(u32, String)>,
    /// The object as it is to be, worked out from the parts that were read before.
    pub(super) record: ObjectRecord,
    pub(super) condition: Condition,
}

/// How a change ended.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// As asked.
    Plain,
    /// With this object there.
    Object(Box<ObjectRecord>),
    /// With this for each victim, in their order.
    Deleted(Vec<Result<(), S3ErrorCode>>),
}

/// A change that was worked into the tables, with the files that it frees.
pub(super) struct Applied {
    pub(super) done: Done,
    pub(super) freed: Vec<BlobId>,
}

type Answer = Result<Done, Failure>;

struct Job {
    change: Change,
    answer: oneshot::Sender<Answer>,
}

/// The way to the writer, which ends with it: dropping waits until the writer
/// has let go of the index.
pub(super) struct Committer {
    /// None only while being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
    blobs: Arc<Blobs>,
    observers: Arc<Observers>,
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.jobs = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the index had panicked");
        }
    }
}

impl Committer {
    /// Starts the writer's thread.
    pub(super) fn start(index: Arc<Index>, blobs: Arc<Blobs>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::clone(&blobs);
        let observers = Arc::new(Observers::default());
        let told = Arc::clone(&observers);
        let thread = thread::Builder::new().name("s3-commit".to_owned());
        let writer = thread.spawn(move || run(&index, &shared, &told, queue))?;
        Ok(Self { jobs: Some(jobs), writer: Some(writer), blobs, observers })
    }

    /// Whom commits are told to.
    pub(super) fn observers(&self) -> &Observers {
        &self.observers
    }

    /// Makes a change and waits until it is on disk. Once handed over it is made
    /// even when the caller goes away.
    pub(super) async fn commit(&self, change: Change) -> Answer {
        if change.grows() {
            self.blobs.check_room(CHANGE_BYTES)?;
        }
        let (answer, done) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(Failure::Stopping)?;
        jobs.send(Job { change, answer }).await.map_err(|_| Failure::Stopping)?;
        done.await.map_err(|_| Failure::Stopping)?
    }
}

impl Change {
    /// Whether it needs room. Deleting goes on when the disk is full.
    fn grows(&self) -> bool {
        !matches!(self, Self::DeleteBucket { .. } | Self::Delete { .. } | Self::Abort { .. })
    }

    fn into_draft(self) -> Option<Draft> {
        match self {
            Self::Put(put) => put.draft,
            Self::PutPart(put) => Some(put.draft),
            _ => None,
        }
    }
}

fn run(index: &Index, blobs: &Blobs, observers: &Observers, mut queue: mpsc::Receiver<Job>) {
    let mut sequence = 0;
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(job) = queue.try_recv()
        {
            batch.push(job);
        }
        match write(index, &batch) {
            Ok((results, now_ms)) => {
                for (job, result) in batch.into_iter().zip(results) {
                    if let Ok(applied) = &result {
                        observers.tell(&job.change, &applied.done, &mut sequence, now_ms);
                    }
                    finish(blobs, job, result);
                }
            }
            Err(failure) => fail(batch, failure),
        }
    }
}

/// Works a batch into the index. A refused change leaves no trace in it; any
/// other failure fails the batch.
fn write(index: &Index, batch: &[Job]) -> Result<(Vec<Result<Applied, Failure>>, u64), Failure> {
    let now_ms = now().0;
    index.write(|transaction| {
        let mut results = Vec::with_capacity(batch.len());
        {
            let mut tables = Tables::open(&transaction)?;
            for job in batch {
                results.push(match tables.apply(&job.change, now_ms) {
                    Err(failure) if !matches!(failure, Failure::Refused { .. }) => return Err(failure),
                    result => result,
                });
            }
        }
        if results.iter().any(Result::is_ok) {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok((results, now_ms))
    })
}

fn finish(blobs: &Blobs, job: Job, result: Result<Applied, Failure>) {
    let answer = result.map(|applied| {
        if let Some(draft) = job.change.into_draft() {
            draft.keep();
        }
        blobs.retire(applied.freed);
        applied.done
    });
    // A caller that went away needs no answer.
    let _ = job.answer.send(answer);
}

/// Whether the batch reached the disk is not known, so its files stay for the
/// next start to sort out.
fn fail(batch: Vec<Job>, failure: Failure) {
    tracing::error!(%failure, changes = batch.len(), "a batch of changes failed");
    let full = failure.is_full();
    let text = failure.to_string();
    for job in batch {
        if let Some(draft) = job.change.into_draft() {
            draft.keep();
        }
        let kind = if full { std::io::ErrorKind::StorageFull } else { std::io::ErrorKind::Other };
        let _ = job.answer.send(Err(Failure::Io(std::io::Error::new(kind, text.clone()))));
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::atomic::Ordering};

    use super::*;
    use crate::server::{index::tests::failing, record::Segment};

    const BODY: &[u8] = b"bytes";

    fn put(blobs: &Arc<Blobs>, condition: Condition) -> (Change, BlobId) {
        let mut draft = blobs.draft().unwrap();
        draft.file().unwrap().write_all(BODY).unwrap();
        let blob = draft.sync().unwrap();
        let segments = vec![Segment { blob, size: BODY.len() as u64 }];
        let record = ObjectRecord {
            etag: "e".into(),
            size: BODY.len() as u64,
            modified_ms: 0,
            attributes: Default::default(),
            sums: Default::default(),
            upload_id: None,
            segments,
        };
        let (bucket, key, event) = ("bank".to_owned(), "k".to_owned(), "ObjectCreated:Put");
        let put = Put { bucket, key, record, inline: None, draft: Some(draft), condition, event };
        (Change::Put(Box::new(put)), blob)
    }

    /// The commit is visible and not acknowledged; what it names is there, whatever comes next.
    #[tokio::test]
    async fn a_sync_that_fails_loses_no_file() {
        for condition in [Condition::Always, Condition::Absent] {
            let root = tempfile::tempdir().unwrap();
            let (index, is_due) = failing(&root.path().join("index.redb"));
            let index = Arc::new(index);
            let blobs = Blobs::open(root.path().join("blobs"), 1, 0).unwrap();
            let committer = Committer::start(Arc::clone(&index), Arc::clone(&blobs)).unwrap();
            committer.commit(Change::CreateBucket { bucket: "bank".into() }).await.unwrap();
            is_due.store(true, Ordering::SeqCst);
            let (change, blob) = put(&blobs, condition.clone());
            let answer = committer.commit(change).await;
            assert!(!is_due.load(Ordering::SeqCst), "a sync failed");
            assert!(matches!(answer, Err(Failure::Io(_))), "{condition:?}: {answer:?}");
            // The next change goes to an index that was opened anew.
            committer.commit(Change::CreateBucket { bucket: "next".into() }).await.unwrap();
            let found = index.object("bank", "k", false).unwrap().unwrap();
            let (record, _) = found.expect("what was written is seen when the index is opened anew");
            assert_eq!(record.segments[0].blob, blob);
            let (change, newer) = put(&blobs, Condition::Present);
            assert!(
                blobs.read(blob).is_ok() && matches!(committer.commit(change).await, Ok(Done::Object(_)))
            );
            assert!(blobs.read(newer).is_ok());
        }
    }

    #[test]
    fn a_put_over_itself_frees_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (index, _) = failing(&root.path().join("index.redb"));
        let blobs = Blobs::open(root.path().join("blobs"), 1, 0).unwrap();
        let (put, first) = put(&blobs, Condition::Always);
        let (other, _) = self::put(&blobs, Condition::Always);
        let freed = |change: &Change| {
            let done = index.write(|transaction| {
                let applied = Tables::open(&transaction)?.apply(change, 0)?;
                transaction.commit()?;
                Ok(applied.freed)
            });
            done.unwrap()
        };
        assert!(freed(&Change::CreateBucket { bucket: "bank".into() }).is_empty());
        assert!(freed(&put).is_empty());
        assert!(freed(&put).is_empty());
        assert_eq!(freed(&other), [first]);
    }
}
