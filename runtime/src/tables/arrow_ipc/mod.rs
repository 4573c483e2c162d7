// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC objects as batches, files and streams.
//!
//! Both are taken message by message; each message is checked as a guest's would
//! be ([`super::ipc`]), compression allowed within its caps, before arrow-ipc
//! decodes it with validation on. Invariant: what they give is in plain types.

mod file;
mod stream;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use fanfold_protocol::{ErrorKind, Problem, stored::arrow::corrupt};

pub(super) use self::{file::FileReader, stream::StreamReader};
use super::{
    guard::guard,
    ipc::MESSAGE_BYTES_MAX,
    shape::{self, Pieces},
};

fn too_large(place: &str, bytes: u64) -> Problem {
    let detail = format!(
        "{place} must be a message of at most {MESSAGE_BYTES_MAX} bytes, found {bytes}; write smaller batches"
    );
    Problem::new(ErrorKind::DecodeLimit, detail)
}

/// What is wrong with a message, as a problem of the object that it lies in.
fn of_object(problem: Problem, place: &str) -> Problem {
    match problem.code {
        ErrorKind::ArrowCorrupt => corrupt(place, &problem.detail),
        _ => problem.within(place),
    }
}

/// The next piece of a decoded batch, which is in the schema as [`shape::unread`] has it.
fn next_piece(pieces: &mut Pieces, plain: &SchemaRef, uri: &str) -> Result<Option<RecordBatch>, Problem> {
    let Some(piece) = pieces.next() else { return Ok(None) };
    let piece = piece.map_err(|p| p.within(uri))?;
    guard(
        ErrorKind::ArrowCorrupt,
        || uri.to_owned(),
        || shape::plain_as(&piece, plain).map(Some).map_err(|e| corrupt(uri, &e.to_string())),
    )
}
