// SPDX-License-Identifier: Apache-2.0
//! Sorted runs: written by a task for all reducers, read by one of them.

use std::ops::Range;

use arrow::{
    array::{AsArray, BinaryArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    row::Rows,
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem, limits,
    plan::StateRef,
    size::ByteSize,
    uri::{ObjectUri, Pin},
};
use fanfold_storage::{MultipartWriter, PutOptions, Store, client::WRITER_METADATA};

use super::{
    super::{encode, shape, store_problem},
    Keys,
};

/// Bytes of an offset in the index.
const OFFSET_BYTES: usize = size_of::<u64>();

/// Sorts keys and states into runs as they come. Dropped unfinished, it leaves
/// nothing.
pub(crate) struct ShuffleWriter {
    keys: Keys,
    reducers: u32,
    uri: ObjectUri,
    sink: MultipartWriter,
    /// What the next run is made of.
    pending: Vec<RecordBatch>,
    pending_bytes: usize,
    index: Vec<u64>,
}

/// One reducer's part of one run.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(super) uri: ObjectUri,
    pub(super) pin: Pin,
    pub(super) bytes: Range<u64>,
}

impl ShuffleWriter {
    /// A writer of the object at `uri`. Sends nothing yet.
    pub(crate) fn create(store: &Store, uri: ObjectUri, keys: Keys, reducers: u32, writer_id: &str) -> Self {
        let mut options = PutOptions::typed("application/octet-stream");
        options.metadata.insert(WRITER_METADATA.to_owned(), writer_id.to_owned());
        let sink = store.writer(&uri, options);
        Self { keys, reducers, uri, sink, pending: Vec::new(), pending_bytes: 0, index: Vec::new() }
    }

    /// Takes keys and states.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        self.keys.check(&batch.schema())?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = shape::assemble(self.keys.schema(), batch.columns().to_vec(), batch.num_rows())?;
        self.pending_bytes += shape::ipc_bytes(&batch);
        self.pending.push(batch);
        if self.pending_bytes >= limits::RUN_BYTES_TARGET { self.end_run().await } else { Ok(()) }
    }

    /// Ends the object; no object when there was nothing to write.
    pub(crate) async fn finish(mut self) -> Result<StateRef, Problem> {
        self.end_run().await?;
        if self.index.is_empty() {
            return Ok(StateRef::Inline(String::new()));
        }
        let runs = self.index.len() / (self.reducers as usize + 1);
        let index: Vec<u8> = self.index.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        self.sink.write(index.into()).await.map_err(store_problem)?;
        let pin = self.sink.finish().await.map_err(store_problem)?;
        Ok(StateRef::Runs { uri: self.uri, pin, runs: u32::try_from(runs).unwrap_or(u32::MAX) })
    }

    /// Whether there is anything in the store that giving it up would remove.
    pub(crate) fn has_begun(&self) -> bool {
        self.sink.has_begun()
    }

    /// Gives the object up.
    pub(crate) async fn abort(self) {
        if let Err(error) = self.sink.abort().await {
            tracing::warn!(uri = %self.uri, %error, "an upload could not be removed");
        }
    }

    async fn end_run(&mut self) -> Result<(), Problem> {
        let Some(first) = self.pending.first() else { return Ok(()) };
        let run = concat_batches(&first.schema(), &self.pending).map_err(failed)?;
        self.pending.clear();
        self.pending_bytes = 0;
        let reducers = self.keys.reducers(&run, self.reducers)?;
        let rows = self.keys.rows(&run)?;
        let mut order: Vec<u32> = (0..u32::try_from(run.num_rows()).map_err(|e| failed_with(&e))?).collect();
        // The last of the three keeps rows of one key in the order in which they came.
        order.sort_unstable_by(|a, b| {
            let (i, j) = (*a as usize, *b as usize);
            reducers[i].cmp(&reducers[j]).then_with(|| rows.row(i).cmp(&rows.row(j))).then(a.cmp(b))
        });
        let states = run.column(run.num_columns() - 1).as_binary::<i32>().clone();
        let weights = |row: u32| weights(&rows, &states, row as usize);
        let mut rest = &order[..];
        for reducer in 0..self.reducers {
            self.index.push(self.sink.size());
            let (part, later) = rest.split_at(rest.partition_point(|row| reducers[*row as usize] == reducer));
            rest = later;
            for chunk in chunks(part, weights)? {
                let chosen = UInt32Array::from(chunk.to_vec());
                let chunk = framed(&take_record_batch(&run, &chosen).map_err(failed)?)?;
                self.sink.write(chunk).await.map_err(store_problem)?;
            }
        }
        self.index.push(self.sink.size());
        Ok(())
    }
}

/// Bytes of the key of a row, in the form that compares, and of its state.
pub(super) fn weights(keys: &Rows, states: &BinaryArray, row: usize) -> (usize, usize) {
    (keys.row(row).as_ref().len(), usize::try_from(states.value_length(row)).unwrap_or_default())
}

/// Runs of rows that make good chunks, by the bytes of their keys and states.
fn chunks(rows: &[u32], weights: impl Fn(u32) -> (usize, usize)) -> Result<Vec<&[u32]>, Problem> {
    let (mut chunks, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, row) in rows.iter().enumerate() {
        let (key, state) = weights(*row);
        check(key, state)?;
        if bytes > 0 && bytes + key + state > limits::RUN_CHUNK_BYTES_TARGET {
            chunks.push(&rows[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += key + state;
    }
    if begin < rows.len() {
        chunks.push(&rows[begin..]);
    }
    Ok(chunks)
}

/// Refuses keys and states that take too much, in the words of whichever it is.
fn check(key: usize, state: usize) -> Result<(), Problem> {
    let (what, most, found, advice) = if key > limits::KEY_BYTES_MAX {
        (
            "key, as it is compared,",
            limits::KEY_BYTES_MAX,
            key,
            "group by a shorter value, such as its digest",
        )
    } else if state > limits::KEY_STATE_BYTES_MAX {
        let advice = "keep a sketch instead of every value";
        ("partial state of a key", limits::KEY_STATE_BYTES_MAX, state, advice)
    } else {
        return Ok(());
    };
    let most = ByteSize(most as u64);
    let detail = format!("a {what} must take at most {most}, found {found} bytes; {advice}");
    Err(Problem::new(ErrorKind::TransferTooLarge, detail))
}

/// A chunk as it is stored.
pub(super) fn framed(batch: &RecordBatch) -> Result<Bytes, Problem> {
    let stream = encode(batch)?;
    let mut chunk = Vec::with_capacity(4 + stream.len());
    chunk.extend(u32::try_from(stream.len()).map_err(|e| failed_with(&e))?.to_le_bytes());
    chunk.extend(stream);
    Ok(chunk.into())
}

/// One reducer's parts of what a task wrote, in the order of its runs; those that
/// hold nothing are left out.
pub(crate) async fn parts(
    store: &Store,
    state: &StateRef,
    reducer: u32,
    reducers: u32,
) -> Result<Vec<Part>, Problem> {
    let StateRef::Runs { uri, pin, runs } = state else { return Ok(Vec::new()) };
    let each = reducers as usize + 1;
    let length = (*runs as usize * each * OFFSET_BYTES) as u64;
    let damaged =
        || crate::internal(format!("expected {runs} runs in {uri}, found none there; run the job again"));
    let begin = pin.size.checked_sub(length).ok_or_else(damaged)?;
    let index = store.get_range(uri, pin, begin..pin.size).await.map_err(store_problem)?;
    let offsets: Vec<u64> =
        index.as_chunks::<OFFSET_BYTES>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let mut parts = Vec::new();
    for run in offsets.chunks_exact(each) {
        let place = reducer as usize;
        let (Some(start), Some(end)) = (run.get(place), run.get(place + 1)) else { return Err(damaged()) };
        if start > end || *end > begin {
            return Err(damaged());
        }
        if start < end {
            parts.push(Part { uri: uri.clone(), pin: pin.clone(), bytes: *start..*end });
        }
    }
    Ok(parts)
}

pub(super) fn failed(error: arrow::error::ArrowError) -> Problem {
    failed_with(&error)
}

fn failed_with(error: &dyn std::fmt::Display) -> Problem {
    crate::internal(format!("keys and states could not be arranged: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_much_is_named() {
        let refused = |key: usize, state: usize| chunks(&[0], |_| (key, state)).unwrap_err();
        for (key, state, expected, other) in [
            (
                limits::KEY_BYTES_MAX + 1,
                9,
                "a key, as it is compared, must take at most 64KiB, found 65537",
                "sketch",
            ),
            (
                9,
                limits::KEY_STATE_BYTES_MAX + 1,
                "a partial state of a key must take at most 1MiB, found 1048577",
                "digest",
            ),
        ] {
            let problem = refused(key, state);
            assert_eq!(problem.code, ErrorKind::TransferTooLarge);
            assert!(problem.detail.starts_with(expected) && !problem.detail.contains(other), "{problem}");
        }
        assert_eq!(chunks(&[0], |_| (limits::KEY_BYTES_MAX, limits::KEY_STATE_BYTES_MAX)).unwrap(), [[0]]);
    }
}
