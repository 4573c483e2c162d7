// SPDX-License-Identifier: Apache-2.0
//! A part of an object that is read once, from front to back, without being held as a whole.
//!
//! Stands between the store and a decoder that asks for bytes and waits for them. Tasks fetch a few
//! large pieces ahead of it; what lies behind it is dropped. Invariant: [`Pieces::get`] is
//! called on a thread that may wait (`spawn_blocking`), never on one that drives those tasks.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use fanfold_protocol::{ErrorKind, Problem, plan::Slice};
use fanfold_storage::Store;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::store_problem;

/// Requests at once, of all pieces of a source.
const PARALLEL: usize = 4;

/// How much is held of what one reader reads in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Bytes of one request.
    piece_bytes: u64,
    /// Pieces that are held or asked for.
    pieces: usize,
}

impl Share {
    /// The least that is asked for at once, of however many parts.
    const PIECE_BYTES_MIN: u64 = 32 << 10;

    /// Of so many parts that are read side by side and take so much all together, and each at most so
    /// much: four pieces, or two where they would be small.
    pub(super) fn of(parts: u64, bytes_max: u64, part_bytes_max: u64) -> Self {
        let share = (bytes_max / parts.max(1)).min(part_bytes_max);
        let good = (share / 4).max(part_bytes_max / 8);
        let piece_bytes = good.min(share / 2).max(Self::PIECE_BYTES_MIN);
        let pieces = usize::try_from(share / piece_bytes).unwrap_or(2).max(2);
        Self { piece_bytes, pieces }
    }

    /// What so many parts hold all together, where none asks for more at once than a piece.
    pub(super) fn bytes(self, parts: u64) -> u64 {
        parts.saturating_mul(self.piece_bytes).saturating_mul(self.pieces as u64)
    }
}

/// An object of which parts are read in pieces.
#[derive(Debug)]
pub(super) struct Source {
    store: Store,
    slice: Slice,
    share: Share,
    tasks: Handle,
    turns: Arc<Semaphore>,
    stop: CancellationToken,
    meter: Arc<Meter>,
}

/// Bytes that are held or asked for: now, and at most so far.
#[derive(Debug, Default)]
struct Meter {
    now: AtomicU64,
    most: AtomicU64,
}

impl Source {
    /// Fetches on the runtime that this is called on. Cancelling `stop` ends all waiting.
    pub(super) fn new(store: &Store, slice: &Slice, share: Share, stop: CancellationToken) -> Self {
        Self {
            store: store.clone(),
            slice: slice.clone(),
            share,
            tasks: Handle::current(),
            turns: Arc::new(Semaphore::new(PARALLEL)),
            stop,
            meter: Arc::default(),
        }
    }

    /// Bytes of the object.
    pub(super) fn size(&self) -> u64 {
        self.slice.object.pin.size
    }

    /// The most bytes that were held or asked for at one time.
    pub(super) fn held_bytes_max(&self) -> u64 {
        self.meter.most.load(Relaxed)
    }

    /// The bytes that are held or asked for now.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        self.meter.now.load(Relaxed)
    }

    fn ask(&self, range: Range<u64>) -> Piece {
        let (store, object, turns) = (self.store.clone(), self.slice.object.clone(), Arc::clone(&self.turns));
        let bytes = range.clone();
        let fetching = self.tasks.spawn(async move {
            // There is always a next turn: those who have theirs wait for the store only.
            let _turn = turns.acquire_owned().await.ok();
            store.get_range(&object.uri, &object.pin, bytes).await.map_err(store_problem)
        });
        let held = Held::new(&self.meter, range.end - range.start);
        Piece { range, content: Content::Asked(AbortOnDropHandle::new(fetching)), _held: held }
    }

    /// Waits for what was asked for.
    fn wait(&self, asked: &mut AbortOnDropHandle<Result<Bytes, Problem>>) -> Result<Bytes, Problem> {
        let stopped =
            |why: &str| Err(Problem::new(ErrorKind::Internal, format!("a read was stopped: {why}")));
        match self.tasks.block_on(self.stop.run_until_cancelled(asked)) {
            Some(Ok(fetched)) => fetched,
            Some(Err(error)) => stopped(&error.to_string()),
            None => stopped("nobody waits for it"),
        }
    }
}

/// A part of the object, from the reader's place on.
#[derive(Debug)]
pub(super) struct Pieces {
    source: Arc<Source>,
    /// In order, each beginning where the one before ends.
    pieces: VecDeque<Piece>,
    /// What was not asked for yet.
    rest: Range<u64>,
}

#[derive(Debug)]
struct Piece {
    range: Range<u64>,
    content: Content,
    _held: Held,
}

#[derive(Debug)]
enum Content {
    Asked(AbortOnDropHandle<Result<Bytes, Problem>>),
    Here(Bytes),
}

impl Pieces {
    /// Asks for the first piece.
    pub(super) fn new(source: &Arc<Source>, range: Range<u64>) -> Self {
        let mut pieces = Self { source: Arc::clone(source), pieces: VecDeque::new(), rest: range };
        pieces.ask();
        pieces
    }

    /// These bytes, for which it waits. What is before them is dropped, and must not be asked for again.
    ///
    /// # Errors
    /// What the store has to say. After an error there is nothing to be had.
    pub(super) fn get(&mut self, range: Range<u64>) -> Result<Bytes, Problem> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        while self.pieces.front().is_some_and(|piece| piece.range.end <= range.start) {
            self.pieces.pop_front();
        }
        while self.pieces.len() < self.source.share.pieces && self.ask() {}
        let (mut parts, mut at) = (Vec::new(), range.start);
        for index in 0.. {
            // Of what is longer more is held meanwhile.
            if index == self.pieces.len() && !self.ask() {
                return Err(outside(&range));
            }
            let piece = &mut self.pieces[index];
            if !piece.range.contains(&at) {
                return Err(outside(&range));
            }
            let end = piece.range.end.min(range.end);
            // Within one piece, whose bytes are in memory.
            let (from, to) = ((at - piece.range.start) as usize, (end - piece.range.start) as usize);
            parts.push(piece.bytes(&self.source)?.slice(from..to));
            at = end;
            if at == range.end {
                break;
            }
        }
        Ok(join(parts))
    }

    /// Asks for the next piece; false where there is none.
    fn ask(&mut self) -> bool {
        if self.rest.is_empty() {
            return false;
        }
        let end = self.rest.end.min(self.rest.start + self.source.share.piece_bytes);
        self.pieces.push_back(self.source.ask(self.rest.start..end));
        self.rest.start = end;
        true
    }
}

impl Piece {
    fn bytes(&mut self, source: &Source) -> Result<Bytes, Problem> {
        match &mut self.content {
            Content::Here(bytes) => Ok(bytes.clone()),
            Content::Asked(asked) => {
                let bytes = source.wait(asked)?;
                self.content = Content::Here(bytes.clone());
                Ok(bytes)
            }
        }
    }
}

fn join(mut parts: Vec<Bytes>) -> Bytes {
    if let [_] = parts[..] {
        return parts.pop().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| joined.extend_from_slice(part));
    joined.freeze()
}

fn outside(range: &Range<u64>) -> Problem {
    let detail = format!("bytes {}..{} were asked for out of order", range.start, range.end);
    Problem::new(ErrorKind::Internal, detail)
}

/// Bytes that count as long as it is there.
#[derive(Debug)]
struct Held(Arc<Meter>, u64);

impl Held {
    fn new(meter: &Arc<Meter>, bytes: u64) -> Self {
        let now = meter.now.fetch_add(bytes, Relaxed) + bytes;
        meter.most.fetch_max(now, Relaxed);
        Self(Arc::clone(meter), bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.now.fetch_sub(self.1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_large_and_few() {
        let mib = 1 << 20;
        let check = |parts, piece_bytes: u64, pieces| {
            let share = Share::of(parts, 256 * mib, 64 * mib);
            assert_eq!(share, Share { piece_bytes, pieces }, "{parts}");
            assert_eq!(share.bytes(parts), parts * piece_bytes * pieces as u64, "{parts}");
        };
        check(1, 16 * mib, 4);
        check(4, 16 * mib, 4);
        check(8, 8 * mib, 4);
        check(16, 8 * mib, 2);
        check(64, 2 * mib, 2);
        check(100_000, 32 << 10, 2);
    }
}
