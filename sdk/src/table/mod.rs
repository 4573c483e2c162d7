// SPDX-License-Identifier: Apache-2.0
//! Tables: batches in, batches out, and tables that a function opens itself.
//!
//! It owns the seam between the author's rows and the host's Arrow streams:
//! [`BatchSource`] and [`BatchSink`] are what maps and aggregates run over, in
//! wasm and in native tests alike. Invariant: batches come and go in the order
//! of the table's rows.

mod dictionary;
// Natively no stream crosses a boundary.
#[cfg(any(test, target_family = "wasm"))]
mod flat;
#[cfg(any(test, target_family = "wasm"))]
pub(crate) mod ipc;
mod tables;
mod values;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

pub use dictionary::{counts, dictionary};
pub use tables::{CsvOptions, Format, ReadOptions, TableReader, TableWriter, Tables, Written};
pub use values::{is_number, numbers, texts};

use crate::Result;
use crate::row::Column;

/// A table being read.
pub trait BatchSource {
    /// The columns' names and types.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    fn schema(&mut self) -> Result<SchemaRef>;

    /// The next batch; `None` after the last.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    fn next(&mut self) -> Result<Option<RecordBatch>>;
}

/// A table being written.
pub trait BatchSink {
    /// Appends a batch. All batches of a table have the same schema.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
}

/// What a map or an aggregate says of itself.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// The columns it reads; `None` for every column as it is stored.
    pub reads: Option<&'static [Column]>,
    /// The columns it writes; `None` when that depends on the input.
    pub writes: Option<&'static [Column]>,
}
