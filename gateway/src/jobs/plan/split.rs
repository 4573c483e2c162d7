// SPDX-License-Identifier: Apache-2.0
//! Objects taken apart: where each may be cut into parts of whole records.
//!
//! Third step of planning, between [`super::input`] and [`super::pack`]. Objects
//! within the target are not looked at. Of larger ones Parquet and Arrow files cost a
//! footer, JSON Lines a short read at each cut, and CSV is read once from end to end,
//! because only that tells which line feeds stand within quotes; its pieces are
//! scanned at once, ahead of their turn. The parts of an object follow from its pinned bytes and the job's document alone.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Column,
    job::{CsvOptions, Format, JobDocument},
    limits,
    plan::{ByteRange, Pruned, Slice},
    stored::{
        self, Compressed, SAMPLE_BYTES, Stored, arrow,
        csv::Scanner,
        cut::{CsvCuts, ahead, line_end, next_aim, ranges},
        parquet::row_group_bytes,
    },
    uri::PinnedObject,
};
use fanfold_storage::{ReadAhead, Store};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::{filter::Pruning, footer};
use crate::jobs::error::{Error, Result, about_input};

/// Objects looked at at once, over all jobs: each holds some chunks.
const OBJECTS_AT_ONCE: usize = 4;
/// Objects at once of which only a footer is read, over all jobs: mostly 64 KiB, for which the store
/// takes much longer than the planner.
pub(super) const FOOTERS_AT_ONCE: usize = 16;
/// How CSV is read from end to end.
const SCAN: ReadAhead = ReadAhead { chunk_bytes: 4 << 20, parallel: 4 };
/// Chunks of one object that are scanned at once, at most.
const SCANS_AT_ONCE: usize = 4;
/// Read where a line's end is looked for.
const LOOK_BYTES: u64 = 64 << 10;
/// Such reads at once in one object.
const LOOKS_AT_ONCE: usize = 8;
/// Row groups in one slice: their numbers travel in a lease.
const SLICE_ROW_GROUPS_MAX: usize = 4_096;
/// Parts of objects that are remembered, together.
const KNOWN_PARTS: usize = 200_000;

/// What decides how an object is taken apart, besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutting {
    format: Format,
    csv: CsvOptions,
    target: u64,
    /// Up to this size an object may as well be one part.
    uncut_max: u64,
    pruning: Option<Pruning>,
}

impl Cutting {
    /// As the job's document has it, for a function that declares to read this, of
    /// these objects. From what they store of the columns that are doubted nothing follows.
    ///
    /// # Errors
    /// `filter-invalid`.
    pub fn new(
        document: &JobDocument,
        reads: Option<&[Column]>,
        objects: &[PinnedObject],
        doubted: Vec<String>,
    ) -> Result<Self, Problem> {
        let total = objects.iter().fold(0, |total: u64, object| total.saturating_add(object.pin.size));
        Ok(Self {
            format: document.format,
            csv: document.csv.clone(),
            target: document.split.target(total),
            uncut_max: document.split.target_max(),
            pruning: Pruning::new(document, reads, doubted)?,
        })
    }

    /// The same with the target of an earlier plan, which is to be parted as before.
    #[must_use]
    pub fn parted_as_before(mut self, target: Option<u64>) -> Self {
        self.target = target.unwrap_or(self.target);
        self
    }

    /// Stored bytes that a partition aims at.
    pub fn target(&self) -> u64 {
        self.target
    }
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    bytes: Option<ByteRange>,
    row_groups: Option<Vec<u32>>,
    weight: u64,
}

/// Why an object cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncut {
    /// It is compressed as a whole.
    Compressed,
    /// It is a stream, which does not say where its batches lie.
    Stream,
}

/// The parts of an object, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    parts: Vec<Part>,
    /// Why it is neither cut nor packed.
    pub uncut: Option<Uncut>,
    /// What the filter leaves out.
    pub pruned: Pruned,
}

impl Parts {
    fn whole(size: u64, uncut: Option<Uncut>) -> Self {
        let parts = vec![Part { bytes: None, row_groups: None, weight: size }];
        Self { parts, uncut, pruned: Pruned::default() }
    }

    /// What remembering them counts.
    fn weight(&self) -> usize {
        self.parts.len() + 1
    }

    /// Whether the filter leaves out all of the object.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts as slices of the object, each with its stored bytes.
    pub fn slices(&self, object: &PinnedObject) -> impl Iterator<Item = (Slice, u64)> {
        self.parts.iter().map(|part| {
            let row_groups = part.row_groups.clone();
            (Slice { object: object.clone(), bytes: part.bytes, row_groups }, part.weight)
        })
    }
}

/// Takes objects apart and remembers the parts of those that it had to look at:
/// pinned bytes do not change.
pub struct Splitter {
    store: Store,
    room: Semaphore,
    footers: Semaphore,
    known: Mutex<Known>,
}

/// Parts of objects that were looked at, up to [`KNOWN_PARTS`] of them: the oldest are
/// forgotten first.
#[derive(Default)]
struct Known {
    of: HashMap<Arc<PinnedObject>, Vec<(Cutting, Arc<Parts>)>>,
    /// The objects of these, oldest first.
    order: VecDeque<Arc<PinnedObject>>,
    parts: usize,
}

impl Known {
    fn find(&self, object: &PinnedObject, cutting: &Cutting) -> Option<&Arc<Parts>> {
        self.of.get(object)?.iter().find(|(known, _)| known == cutting).map(|(_, parts)| parts)
    }

    /// Stored bytes of the part of an object that these row groups are.
    fn weight(&self, object: &PinnedObject, row_groups: &[u32]) -> Option<u64> {
        let mut parts = self.of.get(object)?.iter().flat_map(|(_, parts)| &parts.parts);
        parts.find(|part| part.row_groups.as_deref() == Some(row_groups)).map(|part| part.weight)
    }

    fn note(&mut self, object: &PinnedObject, cutting: &Cutting, parts: &Arc<Parts>) {
        if self.find(object, cutting).is_some() {
            return;
        }
        let object = Arc::new(object.clone());
        self.of.entry(Arc::clone(&object)).or_default().push((cutting.clone(), Arc::clone(parts)));
        self.order.push_back(object);
        self.parts += parts.weight();
        while self.parts > KNOWN_PARTS && self.forget_oldest() {}
    }

    /// Forgets what was looked at first; false when nothing is left.
    fn forget_oldest(&mut self) -> bool {
        let Some(object) = self.order.pop_front() else { return false };
        if let Some(known) = self.of.get_mut(&object) {
            // Of one object the oldest comes first, as among all.
            self.parts -= known.remove(0).1.weight();
            if known.is_empty() {
                self.of.remove(&object);
            }
        }
        true
    }
}

impl Splitter {
    /// A splitter of this store's objects.
    pub fn new(store: Store) -> Self {
        let (room, footers) = (Semaphore::new(OBJECTS_AT_ONCE), Semaphore::new(FOOTERS_AT_ONCE));
        Self { store, room, footers, known: Mutex::default() }
    }

    /// The parts of an object.
    ///
    /// # Errors
    /// What is wrong with the head or footer of a large one, or why it cannot be read; and
    /// `partition-limit` when the target is far too small for it.
    pub async fn split(&self, object: &PinnedObject, cutting: &Cutting) -> Result<Arc<Parts>> {
        let size = object.pin.size;
        if size <= cutting.target {
            return Ok(Arc::new(small(object, cutting)));
        }
        if cutting.format == Format::Bytes {
            return Ok(Arc::new(Parts::whole(size, None)));
        }
        if let Some(parts) = self.recall(object, cutting) {
            return Ok(parts);
        }
        let room = if is_parquet(object, cutting) { &self.footers } else { &self.room };
        let _room = room.acquire().await.map_err(|e| Error::Refused(crate::problem::internal(e)))?;
        let parts = match self.look(object, cutting).await {
            // One task for it is what its size asks for, and its reader tells what is wrong with it.
            Ok(Parts { uncut: Some(_), .. }) | Err(Error::Refused(_)) if size <= cutting.uncut_max => {
                small(object, cutting)
            }
            looked => looked?,
        };
        let parts = Arc::new(parts);
        self.remember(object, cutting, &parts);
        Ok(parts)
    }

    /// Stored bytes of a slice. Those of row groups are not in the plan: `None` where this process
    /// has not taken the object apart, or not lately.
    pub fn weight(&self, slice: &Slice) -> Option<u64> {
        let object = &slice.object;
        match (&slice.row_groups, slice.bytes) {
            (Some(row_groups), _) => self.known().weight(object, row_groups),
            (None, Some(range)) => Some(range.end - range.start),
            (None, None) => Some(object.pin.size),
        }
    }

    async fn look(&self, object: &PinnedObject, cutting: &Cutting) -> Result<Parts> {
        let (uri, size) = (&object.uri, object.pin.size);
        if is_parquet(object, cutting) {
            return self.row_groups(object, cutting).await;
        }
        let head = self.read(object, 0..size.min(SAMPLE_BYTES as u64)).await?;
        if Compressed::of(&head) != Compressed::No {
            return Ok(Parts::whole(size, Some(Uncut::Compressed)));
        }
        let cuts = match stored::tell(uri, cutting.format, &head, &head, &cutting.csv)? {
            Stored::Parquet => return self.row_groups(object, cutting).await,
            Stored::ArrowStream => return Ok(Parts::whole(size, Some(Uncut::Stream))),
            Stored::ArrowFile => {
                let footer = footer::of_arrow(&self.store, object).await?;
                // What is wrong with it, its reader tells.
                arrow::cuts(&arrow::batches(&footer, size).unwrap_or_default(), cutting.target)
            }
            Stored::Csv => {
                bounded(object, cutting.target)?;
                self.csv(object, cutting).await?
            }
            Stored::Jsonl => {
                bounded(object, cutting.target)?;
                self.lines(object, cutting.target).await?
            }
        };
        if cuts.is_empty() {
            return Ok(Parts::whole(size, None));
        }
        let part =
            |range: ByteRange| Part { bytes: Some(range), row_groups: None, weight: range.end - range.start };
        let parts = ranges(size, &cuts).into_iter().map(part).collect();
        Ok(Parts { parts, uncut: None, pruned: Pruned::default() })
    }

    /// The cuts of a CSV object, all of which is read. Chunks are scanned at once;
    /// what that found counts when their turn comes.
    async fn csv(&self, object: &PinnedObject, cutting: &Cutting) -> Result<Vec<u64>> {
        let (size, target) = (object.pin.size, cutting.target);
        let scanner = Scanner::new(object.uri.key(), &cutting.csv)?;
        let mut cuts = CsvCuts::new(scanner, cutting.csv.header, target);
        let chunks = self.store.reader(&object.uri, &object.pin, 0..size, SCAN).map_err(about_input);
        let mut offset = 0;
        let scans = chunks.map_ok(|chunk| {
            let at = offset;
            offset += chunk.len() as u64;
            // A chunk keeps a core busy for milliseconds: not a thread of the gateway's own.
            blocking(move || {
                let found = if at > 0 { ahead(scanner, &chunk, at, target) } else { None };
                (chunk, found)
            })
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut scans = std::pin::pin!(scans.try_buffered(cores.clamp(1, SCANS_AT_ONCE)));
        while let Some((chunk, found)) = scans.try_next().await? {
            cuts = blocking(move || {
                match found {
                    Some(found) => cuts.feed_ahead(&chunk, found),
                    None => cuts.feed(&chunk),
                }
                cuts
            })
            .await?;
            if cuts.is_faulty() {
                break;
            }
        }
        Ok(cuts.finish(size))
    }

    /// The cuts of JSON Lines: each is looked for where it is due, and those
    /// that are due within one look together.
    async fn lines(&self, object: &PinnedObject, target: u64) -> Result<Vec<u64>> {
        let size = object.pin.size;
        let step = target * (LOOK_BYTES / target).max(1);
        let first = next_aim(0, target);
        let due = std::iter::successors(Some(first), move |aim| aim.checked_add(step));
        let looks = due.take_while(|aim| *aim < size).map(|aim| {
            let aims = aim..aim.saturating_add(step).min(size);
            self.line_cuts(object, aims, target)
        });
        let found: Vec<Vec<u64>> = stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
        let mut cuts = found.concat();
        cuts.dedup();
        cuts.retain(|cut| *cut < size);
        Ok(cuts)
    }

    /// The cuts that are due within this range, which begins with one.
    async fn line_cuts(&self, object: &PinnedObject, aims: Range<u64>, target: u64) -> Result<Vec<u64>> {
        let (size, mut cuts) = (object.pin.size, Vec::new());
        let (mut aim, mut offset) = (aims.start, aims.start - 1);
        let mut window = BytesMut::new();
        while aim < aims.end {
            if let Some(cut) = line_end(&window, offset, aim) {
                cuts.push(cut);
                aim = next_aim(cut, target);
                continue;
            }
            let end = offset + window.len() as u64;
            if end - aim.min(end) > limits::RECORD_BYTES_MAX || end >= size {
                // The rest is one part; its reader tells what is wrong with the line, if anything.
                break;
            }
            if end < aim {
                (window, offset) = (BytesMut::new(), aim - 1);
            }
            // Twice as far each time, so that a long line is not looked through again and again.
            let (from, more) = (offset + window.len() as u64, LOOK_BYTES.max(window.len() as u64));
            window.extend_from_slice(&self.read(object, from..size.min(from + more)).await?);
        }
        Ok(cuts)
    }

    /// Runs of neighbouring row groups of a Parquet object, without those that the
    /// filter leaves out.
    async fn row_groups(&self, object: &PinnedObject, cutting: &Cutting) -> Result<Parts> {
        let (uri, size) = (object.uri.to_string(), object.pin.size);
        let footer = footer::of_parquet(&self.store, object).await?;
        let weights = row_group_bytes(&uri, &footer)?;
        let passing = cutting.pruning.as_ref().and_then(|pruning| pruning.may_pass(&footer));
        let passing = passing.unwrap_or_default();
        let (kept, left_out): (Vec<_>, Vec<_>) = (0..)
            .zip(&weights)
            .map(|(group, weight)| (group, *weight))
            .partition(|(group, _)| passing.get(*group as usize).copied().unwrap_or(true));
        let bytes = left_out.iter().fold(0, |sum: u64, (_, weight)| sum.saturating_add(*weight));
        let pruned = Pruned { row_groups: left_out.len() as u64, bytes };
        let runs = runs(&kept, cutting.target);
        if runs.len() <= 1 && pruned.is_nothing() {
            return Ok(Parts::whole(size, None));
        }
        let part = |(groups, weight)| Part { bytes: None, row_groups: Some(groups), weight };
        Ok(Parts { parts: runs.into_iter().map(part).collect(), uncut: None, pruned })
    }

    async fn read(&self, object: &PinnedObject, range: Range<u64>) -> Result<Bytes> {
        self.store.get_range(&object.uri, &object.pin, range).await.map_err(about_input)
    }

    fn recall(&self, object: &PinnedObject, cutting: &Cutting) -> Option<Arc<Parts>> {
        self.known().find(object, cutting).cloned()
    }

    fn remember(&self, object: &PinnedObject, cutting: &Cutting, parts: &Arc<Parts>) {
        self.known().note(object, cutting, parts);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Refused(crate::problem::internal(e)))
}

/// Whether an object is Parquet without a look at it.
fn is_parquet(object: &PinnedObject, cutting: &Cutting) -> bool {
    match cutting.format {
        Format::Auto => stored::is_parquet_by_name(object.uri.key()),
        format => format == Format::Parquet,
    }
}

/// An object within the target: its name is all that is asked.
fn small(object: &PinnedObject, cutting: &Cutting) -> Parts {
    let text = matches!(cutting.format, Format::Auto | Format::Csv | Format::Jsonl);
    let compressed = text && stored::compressed_by_name(object.uri.key());
    Parts::whole(object.pin.size, compressed.then_some(Uncut::Compressed))
}

/// Runs of these row groups of at most `target` bytes together, one at least.
fn runs(groups: &[(u32, u64)], target: u64) -> Vec<(Vec<u32>, u64)> {
    let mut runs: Vec<(Vec<u32>, u64)> = Vec::new();
    for (group, weight) in groups {
        match runs.last_mut() {
            Some((run, sum)) if sum.saturating_add(*weight) <= target && run.len() < SLICE_ROW_GROUPS_MAX => {
                run.push(*group);
                *sum += weight;
            }
            _ => runs.push((vec![*group], *weight)),
        }
    }
    runs
}

/// Refuses, before it is looked at, an object that alone exceeds the partitions of a job.
fn bounded(object: &PinnedObject, target: u64) -> Result<(), Problem> {
    let parts = object.pin.size / target;
    if parts <= limits::PARTITIONS_MAX as u64 {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::PartitionLimit,
        format!(
            "a job must have at most {} partitions, found about {parts} in {} alone; raise split.target_bytes",
            limits::PARTITIONS_MAX,
            object.uri
        ),
    ))
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::uri::{ObjectUri, Pin};
    use fanfold_storage::{Credentials, StoreConfig};

    use super::*;

    #[test]
    fn the_oldest_parts_are_forgotten_first() {
        let object = |n: u64| {
            let pin = Pin { etag: n.to_string(), size: n, version_id: None };
            PinnedObject { uri: ObjectUri::new("bank", "x").unwrap(), pin }
        };
        let cutting = |target| Cutting {
            format: Format::Csv,
            csv: CsvOptions::default(),
            target,
            uncut_max: 9,
            pruning: None,
        };
        let parts = |count: usize| {
            let part = Part { bytes: None, row_groups: None, weight: 1 };
            let parts = vec![part; count];
            Arc::new(Parts { parts, uncut: None, pruned: Pruned::default() })
        };
        let third = parts(KNOWN_PARTS / 3);
        let mut known = Known::default();
        for target in [1, 2, 1] {
            known.note(&object(0), &cutting(target), &third);
        }
        assert_eq!((known.order.len(), known.parts), (2, 2 * third.weight()));
        assert!(known.find(&object(0), &cutting(3)).is_none());
        assert!(known.find(&object(1), &cutting(1)).is_none());
        // With a third one the first is too much.
        known.note(&object(1), &cutting(1), &third);
        let held = |known: &Known, n, target| known.find(&object(n), &cutting(target)).is_some();
        assert_eq!([held(&known, 0, 1), held(&known, 0, 2), held(&known, 1, 1)], [false, true, true]);
        for n in 2..100 {
            known.note(&object(n), &cutting(1), &parts(KNOWN_PARTS / 2));
        }
        assert_eq!((known.of.len(), known.order.len(), held(&known, 99, 1)), (1, 1, true));
        known.note(&object(100), &cutting(1), &parts(2 * KNOWN_PARTS));
        assert_eq!((known.of.len(), known.order.len(), known.parts), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_slice_weighs_what_its_part_did() {
        let pin = Pin { etag: "e".to_owned(), size: 900, version_id: None };
        let object = PinnedObject { uri: ObjectUri::new("bank", "x").unwrap(), pin };
        let config = StoreConfig::at("http://127.0.0.1:9", Credentials::new("key", "secret"));
        let splitter = Splitter::new(Store::connect(config).unwrap());
        let cutting = Cutting {
            format: Format::Parquet,
            csv: CsvOptions::default(),
            target: 100,
            uncut_max: 900,
            pruning: None,
        };
        let part = |groups: &[u32], weight| Part { bytes: None, row_groups: Some(groups.to_vec()), weight };
        let parts = vec![part(&[0, 1], 80), part(&[2], 700)];
        let parts = Arc::new(Parts { parts, uncut: None, pruned: Pruned::default() });
        splitter.remember(&object, &cutting, &parts);
        let slice = |groups: Option<&[u32]>, bytes| Slice {
            object: object.clone(),
            bytes,
            row_groups: groups.map(<[u32]>::to_vec),
        };
        assert_eq!(splitter.weight(&slice(Some(&[0, 1]), None)), Some(80));
        assert_eq!(splitter.weight(&slice(Some(&[2]), None)), Some(700));
        assert_eq!(splitter.weight(&slice(Some(&[3]), None)), None);
        assert_eq!(splitter.weight(&slice(None, Some(ByteRange { start: 7, end: 9 }))), Some(2));
        assert_eq!(splitter.weight(&slice(None, None)), Some(900));
    }

    #[test]
    fn row_groups_run_up_to_the_target() {
        let check = |weights: &[u64], target, expected: &[(&[u32], u64)]| {
            let groups: Vec<_> = (0..).zip(weights.iter().copied()).collect();
            let found = runs(&groups, target);
            let found: Vec<_> = found.iter().map(|(groups, weight)| (groups.as_slice(), *weight)).collect();
            assert_eq!(found, expected, "{weights:?} by {target}");
        };
        check(&[], 10, &[]);
        check(&[4, 4, 4, 20, 1, 1], 10, &[(&[0, 1], 8), (&[2], 4), (&[3], 20), (&[4, 5], 2)]);
        check(&[0, 0], 1, &[(&[0, 1], 0)]);
        check(&[u64::MAX, u64::MAX], 10, &[(&[0], u64::MAX), (&[1], u64::MAX)]);
        assert_eq!(runs(&[(1, 4), (7, 4), (8, 4)], 8), [(vec![1, 7], 8), (vec![8], 4)]);
        assert_eq!(runs(&vec![(0, 0); SLICE_ROW_GROUPS_MAX + 1], 1).len(), 2);
    }
}
