// SPDX-License-Identifier: Apache-2.0
//! The shape in which a guest gets rows: plain types, bounded batches.
//!
//! Decoders give whatever the object holds (views, dictionaries, runs, large
//! offsets); here a batch is first cut by what it will weigh once plain, and only
//! then made plain, so that a dictionary of one huge value named by every row
//! never expands further than one batch. Invariant: neither weighing nor making plain
//! takes longer than what is there, or what has room, is long: what is named again and
//! again is followed no further than that, and what nothing names is not looked at.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, GenericListViewArray, OffsetSizeTrait, RecordBatch, RecordBatchOptions,
        RunArray,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::{
        ArrowNativeType, BinaryType, BinaryViewType, DataType, Field, FieldRef, Fields, Int16Type, Int32Type,
        Int64Type, RunEndIndexType, Schema, SchemaRef, StringViewType, Utf8Type,
    },
    error::ArrowError,
};
use fanfold_protocol::{ErrorKind, Problem, limits};

use super::{BATCH_ROWS_MAX, fixed::FixedColumns, guard::quote, views::strung};

/// Message, alignment and schema of one column, at most, its name aside.
const COLUMN_OVERHEAD_BYTES: usize = 512;

/// What each item of a list view costs while the list is made plain: its place, twice.
const ITEM_BYTES: usize = 8;

/// What a batch should weigh when it is cut out of a larger one.
const CUT_TARGET_BYTES: usize = 6 << 20;

/// No more is weighed of what weighs more: nothing has room for it whole.
const WEIGHED_BYTES_MAX: usize = limits::PAGE_BYTES_MAX as usize;

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

/// The type with what `change` makes another of made that, at any depth.
pub(super) fn mapped(data_type: &DataType, change: fn(&DataType) -> Option<DataType>) -> DataType {
    use DataType::{
        Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map, RunEndEncoded, Struct,
        Union,
    };
    let field = |f: &FieldRef| mapped_field(f, change);
    if let Some(changed) = change(data_type) {
        return changed;
    }
    match data_type {
        Dictionary(keys, values) => Dictionary(keys.clone(), Box::new(mapped(values, change))),
        RunEndEncoded(ends, values) => RunEndEncoded(Arc::clone(ends), field(values)),
        List(f) => List(field(f)),
        LargeList(f) => LargeList(field(f)),
        ListView(f) => ListView(field(f)),
        LargeListView(f) => LargeListView(field(f)),
        FixedSizeList(f, size) => FixedSizeList(field(f), *size),
        Map(f, sorted) => Map(field(f), *sorted),
        Struct(fields) => Struct(fields.iter().map(field).collect::<Fields>()),
        Union(fields, mode) => Union(fields.iter().map(|(id, f)| (id, field(f))).collect(), *mode),
        other => other.clone(),
    }
}

/// The same field but for its type: where its dictionary is stays known.
fn mapped_field(field: &FieldRef, change: fn(&DataType) -> Option<DataType>) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(mapped(field.data_type(), change)))
}

/// The schema in which a stream or a file is decoded: texts behind views are bytes, which
/// only become texts where [`plain_as`] makes them plain. Decoders look at the text of each
/// view, and many views may be one long text.
pub(super) fn unread(schema: &Schema) -> SchemaRef {
    changed(schema, |data_type| (*data_type == DataType::Utf8View).then_some(DataType::BinaryView))
}

/// The schema with what `change` makes another type of made that, at any depth.
pub(super) fn changed(schema: &Schema, change: fn(&DataType) -> Option<DataType>) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| mapped_field(f, change)).collect::<Fields>()))
}

/// Refuses columns of a stream or a file whose values cannot be taken one by one as they are
/// named: lists and the like in dictionaries, and in unions what is not plain.
pub(super) fn check_types(schema: &Schema) -> Result<(), Problem> {
    let Some(field) = schema.fields().iter().find(|field| is_refused(field.data_type())) else {
        return Ok(());
    };
    let detail = format!(
        "column {} must have plain values in its dictionaries and unions, found {}; write lists and structs without a \
         dictionary",
        quote(field.name()),
        quote(&field.data_type().to_string())
    );
    Err(Problem::new(ErrorKind::SchemaMismatch, detail))
}

fn is_refused(data_type: &DataType) -> bool {
    use DataType::{
        Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map, RunEndEncoded, Struct,
        Union,
    };
    match data_type {
        Dictionary(_, values) => {
            values.is_nested() || matches!(**values, Dictionary(_, _) | RunEndEncoded(_, _))
        }
        Union(fields, _) => fields.iter().any(|(_, f)| plain_type(f.data_type()) != *f.data_type()),
        List(f)
        | LargeList(f)
        | ListView(f)
        | LargeListView(f)
        | FixedSizeList(f, _)
        | Map(f, _)
        | RunEndEncoded(_, f) => is_refused(f.data_type()),
        Struct(fields) => fields.iter().any(|f| is_refused(f.data_type())),
        _ => false,
    }
}

/// The field with its plain type and without metadata, which has no order and
/// would make equal tables unequal bytes.
fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), field.is_nullable()))
}

/// The schema with every column in its plain type.
pub(super) fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(plain_field).collect::<Fields>()))
}

/// The batch with every column in its plain type.
pub(super) fn plain(batch: &RecordBatch) -> Result<RecordBatch, Problem> {
    plain_as(batch, &plain_schema(batch.schema_ref()))
        .map_err(|e| Problem::new(ErrorKind::Internal, format!("a column could not be made plain: {e}")))
}

/// The batch in the plain types of the schema that it was stored with.
pub(super) fn plain_as(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(&unpacked(column)?, field.data_type()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<Vec<_>, _>>()?, &options)
}

/// The column in its plain type.
pub(super) fn plain_column(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    cast(&unpacked(column)?, &plain_type(column.data_type()))
}

/// The column without dictionaries and views of lists, from the outside in: what they name is
/// taken as it is, and only then made something else. All that might be named is more than
/// was weighed.
fn unpacked(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let outermost = |data_type: &DataType| match data_type {
        DataType::Dictionary(_, values) => Some((**values).clone()),
        DataType::ListView(f) | DataType::LargeListView(f) => Some(DataType::List(Arc::clone(f))),
        _ => None,
    };
    let mut column = Arc::clone(column);
    loop {
        let next = mapped(column.data_type(), outermost);
        if next == *column.data_type() {
            return Ok(column);
        }
        column = cast(&column, &next)?;
    }
}

/// A strict cast: what does not fit is an error.
pub(super) fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (column.data_type(), to) {
        (from, to) if from == to => return Ok(Arc::clone(column)),
        (DataType::Utf8View, DataType::Utf8) => {
            return strung::<StringViewType, Utf8Type>(column.as_string_view());
        }
        (DataType::BinaryView, DataType::Binary) => {
            return strung::<BinaryViewType, BinaryType>(column.as_binary_view());
        }
        _ => {}
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

/// A batch in pieces that fit one transfer each, made as they are asked for: a small batch may
/// be very many of them.
#[derive(Default)]
pub(super) struct Pieces {
    /// What is left, the first rows last.
    rest: Vec<RecordBatch>,
    /// What rows are to be made, whatever is in them.
    columns: FixedColumns,
}

impl Pieces {
    pub(super) fn of(batch: RecordBatch) -> Self {
        Self::fitting(batch, FixedColumns::default())
    }

    /// Pieces that fit also when they have been made parts of a table with these columns.
    pub(super) fn fitting(batch: RecordBatch, columns: FixedColumns) -> Self {
        Self { rest: vec![batch], columns }
    }

    /// Bytes of a piece, up to [`WEIGHED_BYTES_MAX`].
    fn bytes(&self, batch: &RecordBatch) -> usize {
        let stored = ipc_bytes(batch);
        if stored as u64 > limits::BATCH_BYTES_MAX {
            return stored;
        }
        stored.max(self.columns.bytes(batch)).min(WEIGHED_BYTES_MAX + 1)
    }
}

impl Iterator for Pieces {
    type Item = Result<RecordBatch, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let batch = self.rest.pop()?;
            let (rows, bytes) = (batch.num_rows(), self.bytes(&batch));
            if rows <= BATCH_ROWS_MAX && bytes as u64 <= limits::BATCH_BYTES_MAX {
                return Some(Ok(batch));
            }
            if rows <= 1 {
                self.rest.clear();
                let detail = format!(
                    "a row must fit in a batch of {} bytes, found one of {bytes} at least; select fewer columns",
                    limits::BATCH_BYTES_MAX
                );
                return Some(Err(Problem::new(ErrorKind::DecodeLimit, detail)));
            }
            let parts = rows.div_ceil(BATCH_ROWS_MAX).max(bytes.div_ceil(CUT_TARGET_BYTES)).clamp(2, rows);
            let step = rows.div_ceil(parts);
            let part = |start: usize| batch.slice(start, step.min(rows - start));
            self.rest.extend((0..rows).step_by(step).rev().map(part));
        }
    }
}

/// Bytes of the batch as an Arrow IPC stream once its columns are plain: an
/// upper bound that is near, up to [`WEIGHED_BYTES_MAX`].
pub(super) fn ipc_bytes(batch: &RecordBatch) -> usize {
    let schema: usize = batch.schema_ref().fields().iter().map(|f| overhead(f)).sum();
    schema + 1_024 + total(batch.columns().iter().map(|column| content_bytes(column)))
}

/// The sum of these, one after the other until it is beyond [`WEIGHED_BYTES_MAX`].
fn total(weights: impl IntoIterator<Item = usize>) -> usize {
    let mut sum = 0_usize;
    for weight in weights {
        sum = sum.saturating_add(weight);
        if sum > WEIGHED_BYTES_MAX {
            return WEIGHED_BYTES_MAX + 1;
        }
    }
    sum
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
        DataType::ListView(_) => offsets.saturating_add(viewed_bytes(array.as_list_view::<i32>())),
        DataType::LargeListView(_) => offsets.saturating_add(viewed_bytes(array.as_list_view::<i64>())),
        DataType::FixedSizeList(_, _) => content_bytes(array.as_fixed_size_list().values()),
        DataType::Map(_, _) => {
            let map = array.as_map();
            offsets + children(map.entries(), map.value_offsets())
        }
        DataType::Struct(_) => total(array.as_struct().columns().iter().map(|c| content_bytes(c))),
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

/// What is in all views of lists, which may overlap.
fn viewed_bytes<O: OffsetSizeTrait>(lists: &GenericListViewArray<O>) -> usize {
    let full = (0..lists.len()).filter(|row| lists.value_size(*row).as_usize() > 0);
    total(full.map(|row| {
        let items = lists.value(row);
        content_bytes(&items).saturating_add(items.len().saturating_mul(ITEM_BYTES))
    }))
}

/// The low 32 bits of a view are its length.
fn view_bytes(views: &[u128]) -> usize {
    views.iter().map(|v| *v as u32 as usize).sum()
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
        return 4 + total(keys.into_iter().map(weight));
    }
    let weights: Vec<usize> = (0..values.len()).map(weight).collect();
    let weight = |key: usize| weights.get(key).copied().unwrap_or(0);
    4 + total(keys.into_iter().map(weight))
}

/// Run by run, for a few of them may be very many rows.
fn run_bytes<R: RunEndIndexType>(array: &dyn Array) -> usize {
    let Some(runs) = array.as_any().downcast_ref::<RunArray<R>>() else {
        return array.get_buffer_memory_size();
    };
    let (mut begin, ends) = (0, runs.run_ends().sliced_values());
    total((runs.get_start_physical_index()..).zip(ends).map(|(place, end)| {
        let rows = end.as_usize() - std::mem::replace(&mut begin, end.as_usize());
        value_bytes(&runs.values().slice(place, 1)).saturating_mul(rows)
    }))
}
