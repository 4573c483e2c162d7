// SPDX-License-Identifier: Apache-2.0
//! Small pieces of a table that become batches of good size.

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use fanfold_protocol::{ErrorKind, Problem, limits};

use super::{BATCH_ROWS_MAX, shape};

/// A batch of at least this weight is given out as it is: what each costs by itself does not count beside it,
/// and it stays in a near cache on its way through the guest.
const ENOUGH_BYTES: usize = 1 << 20;

/// Small pieces that become one batch.
#[derive(Default)]
pub(super) struct Gathered {
    pieces: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Gathered {
    /// Adds a piece; gives a batch when there is enough for one.
    pub(super) fn add(
        &mut self,
        piece: RecordBatch,
        schema: &SchemaRef,
    ) -> Result<Option<RecordBatch>, Problem> {
        let (rows, bytes) = (piece.num_rows(), shape::ipc_bytes(&piece));
        let fits =
            self.rows + rows <= BATCH_ROWS_MAX && (self.bytes + bytes) as u64 <= limits::BATCH_BYTES_MAX;
        let full = if fits { None } else { self.take(schema)? };
        self.rows += rows;
        self.bytes += bytes;
        self.pieces.push(piece);
        if full.is_none() && (self.bytes >= ENOUGH_BYTES || self.rows == BATCH_ROWS_MAX) {
            return self.take(schema);
        }
        Ok(full)
    }

    /// What there is, as one batch.
    pub(super) fn take(&mut self, schema: &SchemaRef) -> Result<Option<RecordBatch>, Problem> {
        let Self { mut pieces, .. } = std::mem::take(self);
        if pieces.len() <= 1 {
            return Ok(pieces.pop());
        }
        let joined = concat_batches(schema, &pieces);
        joined
            .map(Some)
            .map_err(|e| Problem::new(ErrorKind::Internal, format!("batches could not be joined: {e}")))
    }
}
