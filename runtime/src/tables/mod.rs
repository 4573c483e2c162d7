// SPDX-License-Identifier: Apache-2.0
//! Tables on their way between object storage and guests: the host decodes and
//! encodes, the guest sees Arrow IPC.
//!
//! [`TableReader`] turns the slices of a partition into record batches that fit
//! one host call; [`TableWriter`] turns a guest's batches into one object;
//! [`encode`] and [`decode`] stand at the border itself. Everything here treats
//! its input as hostile: a damaged or malicious object or stream ends in a
//! [`Problem`] that names the place, never in a panic,
//! and memory is bounded.
//!
//! # Memory
//!
//! A reader holds two batches of at most 8 MiB and, by format:
//! Parquet the selected columns of one row group as stored, up to 256 MiB (of more
//! than 64 columns up to 1 GiB), or of a larger one pieces of 256 MiB together (of more than
//! 4,096 columns up to 1 GiB), a column's of 64 MiB unless a page is longer; those of the
//! next one when they are small enough to be read ahead (128 MiB), and of lists
//! what the rows of a batch take, 1 GiB at most; Arrow files
//! up to two runs of blocks, 16 MiB each unless one block is larger; text about
//! four chunks of 4 MiB, and one record (at most 8 MiB). A writer holds one
//! Parquet row group (64 MiB) or a few MiB of text, and the parts in flight.
//!
//! # Row numbers
//!
//! Rows are counted from 1 within their object, a header not being one; lines
//! and byte offsets of text are those of the decompressed object. In a slice
//! that begins in the middle of a text object, rows and lines are counted from
//! there, and the text of the problem says so.

mod arrow_ipc;
mod convert;
mod csv;
mod filter;
mod fixed;
mod gathered;
mod guard;
mod gzip;
mod head;
mod ipc;
mod jsonl;
mod layout;
mod objects;
mod parquet;
mod pieces;
mod pipe;
mod ranges;
mod reader;
mod select;
mod settled;
mod shape;
mod shuffle;
mod text;
mod union;
mod views;
mod writer;
mod zones;

use fanfold_protocol::{
    Problem,
    function::Column,
    job::{CsvOptions, Format, SchemaRule},
    plan::Slice,
};

pub(crate) use self::{
    fixed::check as check_width,
    layout::check_declared,
    pipe::{PipeReader, PipeWriter, pipe},
    shuffle::{Keys, ShuffleWriter, merge, parts},
};
pub use self::{
    ipc::{decode, encode, encode_schema},
    reader::TableReader,
    settled::{Like, Settled},
    writer::TableWriter,
};

/// What to read: slices that make one table, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSource {
    /// In the order in which they are read.
    pub slices: Vec<Slice>,
    /// How the objects are stored.
    pub format: Format,
    /// The columns that the caller wants, in this order; `None` for those that
    /// the function declares, or else all.
    pub columns: Option<Vec<String>>,
    /// What the function declares: values are given to it in these types.
    pub declared: Option<Vec<Column>>,
    /// How CSV is read.
    pub csv: CsvOptions,
    /// Which objects make one table.
    pub schema: SchemaRule,
    /// Which rows the caller wants; all when absent.
    pub filter: Option<String>,
}

/// What a filter left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Rows that were decoded and did not pass.
    pub rows: u64,
    /// Row groups that were not read, by their statistics.
    pub row_groups: u64,
    /// Pages of other row groups that were not read, by the index of pages.
    pub pages: u64,
    /// Rows of these row groups that were not decoded for that.
    pub rows_unread: u64,
    /// Stored bytes of what was not read.
    pub bytes: u64,
}

impl Skipped {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.row_groups += other.row_groups;
        self.pages += other.pages;
        self.rows_unread += other.rows_unread;
        self.bytes += other.bytes;
    }
}

/// A batch holds at most this many rows, so that a guest's own columns over it
/// stay small.
pub const BATCH_ROWS_MAX: usize = 131_072;

fn store_problem(error: fanfold_storage::Error) -> Problem {
    crate::host::store_problem(&error)
}
