// SPDX-License-Identifier: Apache-2.0
//! Rows on their way out, gathered into batches.
//!
//! It owns the buffer between an author's rows and the table being written.
//! Invariant: it never holds more than [`BATCH_ROWS`] rows.

use super::{Row, finish_columns};
use crate::Result;
use crate::table::BatchSink;

/// Rows gathered before they are written: enough to spread the cost of a host
/// call, few enough that rows of a kilobyte stay within 32 MiB.
pub(crate) const BATCH_ROWS: usize = 32_768;

/// Columns that fill up with rows.
pub(crate) struct RowBuffer<R: Row> {
    builders: Option<R::Builders>,
    rows: usize,
    written: bool,
}

impl<R: Row> Default for RowBuffer<R> {
    fn default() -> Self {
        Self { builders: None, rows: 0, written: false }
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

    /// Writes the rows once there are enough of them.
    pub(crate) fn flush_full(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        if self.rows < BATCH_ROWS { Ok(()) } else { self.flush(output) }
    }

    /// Writes what is left; at least an empty batch, so that a table without
    /// rows still has its columns.
    pub(crate) fn finish(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        if self.rows > 0 || !self.written { self.flush(output) } else { Ok(()) }
    }

    fn flush(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        let builders = self.builders.take().unwrap_or_else(|| R::builders(0));
        output.write(&finish_columns::<R>(builders)?)?;
        self.rows = 0;
        self.written = true;
        Ok(())
    }
}
