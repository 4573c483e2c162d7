// SPDX-License-Identifier: Apache-2.0
//! Rows on their way out, gathered into batches.
//!
//! It owns the buffer between an author's rows and the table being written.
//! Invariant: it is full with [`BATCH_ROWS`] rows or [`BATCH_BYTES`] bytes, and at
//! most [`WEIGHED_ROWS`] rows later.

use super::{Row, finish_columns};
use crate::Result;
use crate::table::BatchSink;

/// Rows gathered before they are written: enough to spread the cost of a host call.
pub(crate) const BATCH_ROWS: usize = 32_768;
/// Bytes of rows gathered before they are written.
pub(crate) const BATCH_BYTES: usize = 4 << 20;
/// Rows after which those gathered are weighed again: few, since each may have
/// megabytes, and enough that nobody feels it.
const WEIGHED_ROWS: usize = 16;

/// Columns that fill up with rows.
pub(crate) struct RowBuffer<R: Row> {
    builders: Option<R::Builders>,
    rows: usize,
    /// How many rows there are when they are weighed next.
    weighed_at: usize,
    written: bool,
}

impl<R: Row> Default for RowBuffer<R> {
    fn default() -> Self {
        Self { builders: None, rows: 0, weighed_at: WEIGHED_ROWS, written: false }
    }
}

impl<R: Row> RowBuffer<R> {
    /// Appends a row.
    #[inline]
    pub(crate) fn push(&mut self, row: R::View<'_>) {
        // Most functions write about as many rows as they read, so a first
        // small batch would only be thrown away for a larger one.
        let builders = self.builders.get_or_insert_with(|| R::builders(1024));
        R::append(builders, row);
        self.rows += 1;
    }

    /// Whether there are enough rows to be written.
    #[inline]
    pub(crate) fn is_full(&mut self) -> bool {
        self.rows >= self.weighed_at && self.weigh()
    }

    /// Kept apart, so that the loop over rows holds no more than a comparison.
    #[inline(never)]
    fn weigh(&mut self) -> bool {
        self.weighed_at = self.rows + WEIGHED_ROWS;
        self.rows >= BATCH_ROWS || self.builders.as_ref().is_some_and(|b| R::bytes(b) >= BATCH_BYTES)
    }

    /// The columns of the rows, of which none are left.
    pub(crate) fn take(&mut self) -> R::Builders {
        (self.rows, self.weighed_at) = (0, WEIGHED_ROWS);
        self.builders.take().unwrap_or_else(|| R::builders(0))
    }

    /// Writes the rows once there are enough of them.
    #[inline]
    pub(crate) fn flush_full(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        if self.is_full() { self.flush(output) } else { Ok(()) }
    }

    /// Writes what is left; at least an empty batch, so that a table without
    /// rows still has its columns.
    pub(crate) fn finish(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        if self.rows > 0 || !self.written { self.flush(output) } else { Ok(()) }
    }

    fn flush(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        let builders = self.take();
        output.write(&finish_columns::<R>(builders)?)?;
        self.written = true;
        Ok(())
    }
}
