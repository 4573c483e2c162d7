// SPDX-License-Identifier: Apache-2.0
//! The shape in which a guest gets rows: plain types, bounded batches.
//!
//! Decoders give whatever the object holds (views, dictionaries, runs, large
//! offsets); here a batch is first cut by what it will weigh once plain, and only
//! then made plain, so that a dictionary of one huge value named by every row
//! never expands further than one batch. Invariant: weighing takes as long as what is
//! there is, not as what it would become; where that cannot be, [`check_types`] refuses.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, RunArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{
        ArrowNativeType, DataType, Field, FieldRef, Fields, Int16Type, Int32Type, Int64Type, RunEndIndexType,
        Schema,
    },
    error::ArrowError,
};
use fanfold_protocol::{ErrorKind, Problem, limits};

use super::{BATCH_ROWS_MAX, guard::quote};

/// Message, alignment and schema of one column, at most, its name aside.
const COLUMN_OVERHEAD_BYTES: usize = 512;

/// What each item of a list view costs while the list is made plain: its place, twice.
const ITEM_BYTES: usize = 8;

/// What a batch should weigh when it is cut out of a larger one.
const CUT_TARGET_BYTES: usize = 6 << 20;

/// The type in which values of this type are given to guests: no views,
/// dictionaries, runs or 64-bit offsets, at any depth.
pub(super) fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            DataType::List(plain_field(f))
        }
        DataType::FixedSizeList(f, size) => DataType::FixedSizeList(plain_field(f), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect::<Fields>()),
        DataType::Map(f, sorted) => DataType::Map(plain_field(f), *sorted),
        other => other.clone(),
    }
}

/// Refuses columns of a stream or a file in which the same bytes may be named again and again
/// at several levels: each multiplies what is to be weighed.
pub(super) fn check_types(schema: &Schema) -> Result<(), Problem> {
    let Some(field) = schema.fields().iter().find(|field| multiplies(field.data_type())) else {
        return Ok(());
    };
    let detail = format!(
        "column {} must have plain values in its dictionaries and list views, found {}; write lists as List and \
         dictionaries of plain values",
        quote(field.name()),
        quote(&field.data_type().to_string())
    );
    Err(Problem::new(ErrorKind::SchemaMismatch, detail))
}

/// Whether dictionaries or list views hold what is not weighed at a glance.
fn multiplies(data_type: &DataType) -> bool {
    use DataType::{
        BinaryView, Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map, RunEndEncoded,
        Struct, Utf8View,
    };
    let named = |data_type: &DataType| {
        data_type.is_nested() || matches!(data_type, Dictionary(_, _) | RunEndEncoded(_, _))
    };
    match data_type {
        Dictionary(_, values) => named(values),
        ListView(f) | LargeListView(f) => {
            named(f.data_type()) || matches!(f.data_type(), Utf8View | BinaryView)
        }
        List(f) | LargeList(f) | FixedSizeList(f, _) | Map(f, _) | RunEndEncoded(_, f) => {
            multiplies(f.data_type())
        }
        Struct(fields) => fields.iter().any(|f| multiplies(f.data_type())),
        _ => false,
    }
}

/// The field with its plain type and without metadata, which has no order and
/// would make equal tables unequal bytes.
fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), field.is_nullable()))
}

/// The batch with every column in its plain type.
pub(super) fn plain(batch: &RecordBatch) -> Result<RecordBatch, Problem> {
    let fields: Fields = batch.schema_ref().fields().iter().map(plain_field).collect();
    let columns = batch.columns().iter().zip(&fields).map(|(column, field)| cast(column, field.data_type()));
    let columns = columns
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Problem::new(ErrorKind::Internal, format!("a column could not be made plain: {e}")))?;
    assemble(Arc::new(Schema::new(fields)), columns, batch.num_rows())
}

/// A strict cast: what does not fit is an error.
pub(super) fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() })
}

/// A batch of these columns, which may be none.
pub(super) fn assemble(
    schema: Arc<Schema>,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, Problem> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| {
        Problem::new(ErrorKind::SchemaMismatch, format!("columns must make one table, found: {e}"))
    })
}

/// Appends `batch` to `pieces`, in pieces that fit one transfer each.
pub(super) fn cut(batch: RecordBatch, pieces: &mut Vec<RecordBatch>) -> Result<(), Problem> {
    let (rows, bytes) = (batch.num_rows(), ipc_bytes(&batch));
    if rows <= BATCH_ROWS_MAX && bytes as u64 <= limits::BATCH_BYTES_MAX {
        pieces.push(batch);
        return Ok(());
    }
    if rows <= 1 {
        let detail = format!(
            "a row must fit in a batch of {} bytes, found one of {bytes}; select fewer columns",
            limits::BATCH_BYTES_MAX
        );
        return Err(Problem::new(ErrorKind::DecodeLimit, detail));
    }
    let parts = rows.div_ceil(BATCH_ROWS_MAX).max(bytes.div_ceil(CUT_TARGET_BYTES)).clamp(2, rows);
    let step = rows.div_ceil(parts);
    for start in (0..rows).step_by(step) {
        cut(batch.slice(start, step.min(rows - start)), pieces)?;
    }
    Ok(())
}

/// Bytes of the batch as an Arrow IPC stream once its columns are plain: an
/// upper bound that is near.
pub(super) fn ipc_bytes(batch: &RecordBatch) -> usize {
    let schema: usize = batch.schema_ref().fields().iter().map(|f| overhead(f)).sum();
    batch.columns().iter().fold(schema + 1_024, |sum, column| sum.saturating_add(content_bytes(column)))
}

fn overhead(field: &Field) -> usize {
    let own = COLUMN_OVERHEAD_BYTES + field.name().len();
    let inner: usize = match field.data_type() {
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _) => overhead(f),
        DataType::Struct(fields) => fields.iter().map(|f| overhead(f)).sum(),
        _ => 0,
    };
    own + inner
}

/// Bytes of the buffers of the array once it is plain.
fn content_bytes(array: &dyn Array) -> usize {
    array.len().div_ceil(8).saturating_add(value_bytes(array))
}

fn value_bytes(array: &dyn Array) -> usize {
    let len = array.len();
    let offsets = (len + 1) * 4;
    match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => len.div_ceil(8),
        DataType::Utf8 => offsets + span(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => offsets + span(array.as_string::<i64>().value_offsets()),
        DataType::Binary => offsets + span(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => offsets + span(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => offsets + view_bytes(array.as_string_view().views()),
        DataType::BinaryView => offsets + view_bytes(array.as_binary_view().views()),
        DataType::FixedSizeBinary(width) => len.saturating_mul(usize::try_from(*width).unwrap_or(0)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            offsets + children(list.values(), list.value_offsets())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            offsets + children(list.values(), list.value_offsets())
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            offsets.saturating_add(rows((0..len).map(|i| list.value(i))))
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            offsets.saturating_add(rows((0..len).map(|i| list.value(i))))
        }
        DataType::FixedSizeList(_, _) => content_bytes(array.as_fixed_size_list().values()),
        DataType::Map(_, _) => {
            let map = array.as_map();
            offsets + children(map.entries(), map.value_offsets())
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().map(|c| content_bytes(c)).fold(0, usize::saturating_add)
        }
        DataType::Dictionary(_, _) => dictionary_bytes(array),
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_bytes::<Int16Type>(array),
            DataType::Int32 => run_bytes::<Int32Type>(array),
            _ => run_bytes::<Int64Type>(array),
        },
        other => match other.primitive_width() {
            Some(width) => len.saturating_mul(width),
            None => array.get_buffer_memory_size(),
        },
    }
}

/// How many of the values behind them these offsets reach over.
pub(super) fn span<O: Copy + TryInto<usize>>(offsets: &[O]) -> usize {
    let at = |o: Option<&O>| o.and_then(|o| (*o).try_into().ok()).unwrap_or(0);
    at(offsets.last()).saturating_sub(at(offsets.first()))
}

fn children<O: Copy + TryInto<usize>>(values: &dyn Array, offsets: &[O]) -> usize {
    let start = offsets.first().and_then(|o| (*o).try_into().ok()).unwrap_or(0);
    content_bytes(&values.slice(start, span(offsets)))
}

fn rows(values: impl Iterator<Item = ArrayRef>) -> usize {
    let weight = |v: ArrayRef| content_bytes(&v).saturating_add(v.len().saturating_mul(ITEM_BYTES));
    values.map(weight).fold(0, usize::saturating_add)
}

/// The low 32 bits of a view are its length.
fn view_bytes(views: &[u128]) -> usize {
    views.iter().map(|v| *v as u32 as usize).fold(0, usize::saturating_add)
}

/// Keys of missing rows count as well: the sum is a bound, not a measure.
fn dictionary_bytes(array: &dyn Array) -> usize {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    if values.is_empty() {
        return (array.len() + 1) * 16;
    }
    if let Some(width) = values.data_type().primitive_width() {
        return array.len().saturating_mul(width);
    }
    let weight = |place: usize| value_bytes(&values.slice(place, 1));
    let keys = dictionary.normalized_keys();
    // Those that are fewer are looked at: many small batches may share one large dictionary.
    if keys.len() < values.len() {
        return keys.into_iter().map(weight).fold(4, usize::saturating_add);
    }
    let weights: Vec<usize> = (0..values.len()).map(weight).collect();
    let weight = |key: usize| weights.get(key).copied().unwrap_or(0);
    keys.into_iter().map(weight).fold(4, usize::saturating_add)
}

/// Run by run, for a few of them may be very many rows.
fn run_bytes<R: RunEndIndexType>(array: &dyn Array) -> usize {
    let Some(runs) = array.as_any().downcast_ref::<RunArray<R>>() else {
        return array.get_buffer_memory_size();
    };
    let (mut begin, mut bytes) = (0, 0_usize);
    for (place, end) in (runs.get_start_physical_index()..).zip(runs.run_ends().sliced_values()) {
        let end = end.as_usize();
        let weight = value_bytes(&runs.values().slice(place, 1));
        bytes = bytes.saturating_add(weight.saturating_mul(end - begin));
        begin = end;
    }
    bytes
}
