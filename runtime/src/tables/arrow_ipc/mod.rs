// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC objects as batches, files and streams.
//!
//! Both are taken message by message; each message is checked as a guest's would
//! be ([`super::ipc`]), compression allowed within its caps, before arrow-ipc
//! decodes it with validation on.

mod file;
mod stream;

use fanfold_protocol::{ErrorKind, Problem, stored::arrow::corrupt};

pub(super) use self::{file::FileReader, stream::StreamReader};

/// One message is held in memory whole.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

fn too_large(place: &str, bytes: u64) -> Problem {
    let detail = format!(
        "{place} must be a message of at most {MESSAGE_BYTES_MAX} bytes, found {bytes}; write smaller batches"
    );
    Problem::new(ErrorKind::DecodeLimit, detail)
}
