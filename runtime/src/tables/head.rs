// SPDX-License-Identifier: Apache-2.0
//! What is read of an object before its table is: as much of its beginning as tells its
//! format and what is not declared of its columns.

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    job::Format,
    plan::Slice,
    stored::{Compressed, SAMPLE_BYTES, Stored},
};
use fanfold_storage::Store;

use super::{select::Wanted, store_problem, text::Text};

/// What is read of an object for the names of its columns alone; more where they do not end there.
const NAMES_BYTES: usize = 64 << 10;
/// What is read of an object for its format alone, and whether it is compressed.
const FORMAT_BYTES: usize = 16;

/// The first bytes of the slice's object, `told` to be stored so: enough for its format and,
/// where it is a sample of it, its types.
pub(super) async fn head(
    store: &Store,
    slice: &Slice,
    told: Option<Stored>,
    wanted: &Wanted,
) -> Result<Bytes, Problem> {
    let object = &slice.object;
    let end = object.pin.size.min(head_bytes(slice, told, wanted) as u64);
    store.get_range(&object.uri, &object.pin, 0..end).await.map_err(store_problem)
}

/// The first bytes of the object's text, where the format hangs on them.
pub(super) async fn beginning(
    store: &Store,
    slice: &Slice,
    asked: Format,
    head: &Bytes,
) -> Result<Bytes, Problem> {
    if asked != Format::Auto || Compressed::of(head) == Compressed::No {
        return Ok(head.clone());
    }
    let mut text = Text::open(store, slice, head, ErrorKind::FormatUnknown)?;
    text.fill().await?;
    Ok(Bytes::copy_from_slice(text.data()))
}

/// How much of the object's beginning is asked: of a part behind the first, whose types are
/// declared, the names of its columns at most, and JSON has those in every line.
fn head_bytes(slice: &Slice, told: Option<Stored>, wanted: &Wanted) -> usize {
    match told {
        Some(Stored::Csv) if wanted.needs_no_sample(slice) => NAMES_BYTES,
        Some(Stored::Jsonl) if wanted.needs_no_sample(slice) => FORMAT_BYTES,
        _ => SAMPLE_BYTES,
    }
}
