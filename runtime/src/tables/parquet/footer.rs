// SPDX-License-Identifier: Apache-2.0
//! The footer of a Parquet object: read with few requests, with strings to be
//! decoded as views, and the timestamps of old writers as microseconds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem, limits,
    plan::Slice,
    stored::{
        parquet::{TAIL_BYTES, TRAILER_BYTES, corrupt, footer_length},
        schema,
    },
};
use fanfold_storage::Store;
use parquet::{
    arrow::{
        ARROW_SCHEMA_META_KEY, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    },
    basic::{ConvertedType, Type},
    file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader},
    schema::types::ColumnDescriptor,
};

use super::super::{guard::quote, ipc::is_beyond_bounds, ranges::Sparse, store_problem};
use super::{WHOLE_BYTES, selection::Selection};

/// Pairs of metadata of a file: each is copied into every schema that is made of it.
const PAIRS_MAX: usize = 1 << 16;

/// The footer's bytes, and what was read with it: of a small object all.
pub(super) async fn read(store: &Store, slice: &Slice, uri: &str) -> Result<(Bytes, Sparse), Problem> {
    let object = &slice.object;
    let size = object.pin.size;
    let start = if size <= WHOLE_BYTES { 0 } else { size - TAIL_BYTES };
    let tail = store.get_range(&object.uri, &object.pin, start..size).await.map_err(store_problem)?;
    let length = footer_length(uri, &tail, size)?;
    let known = Sparse::of(size, start, tail.clone());
    if length + TRAILER_BYTES <= tail.len() {
        let from = tail.len() - TRAILER_BYTES - length;
        return Ok((tail.slice(from..tail.len() - TRAILER_BYTES), known));
    }
    let end = size - TRAILER_BYTES as u64;
    let range = end - length as u64..end;
    let footer = store.get_range(&object.uri, &object.pin, range).await.map_err(store_problem)?;
    Ok((footer, known))
}

/// The metadata with the places of pages, where some are not read.
pub(super) fn with_places(
    uri: &str,
    metadata: &ArrowReaderMetadata,
    selection: &Selection,
) -> Result<Option<ArrowReaderMetadata>, Problem> {
    if selection.is_empty() {
        return Ok(None);
    }
    let options = ArrowReaderOptions::new().with_schema(Arc::clone(metadata.schema()));
    let builder = ParquetMetaDataBuilder::new_from_metadata(ParquetMetaData::clone(metadata.metadata()));
    let placed = Arc::new(builder.set_page_index(Some(selection.places())).build());
    let failed = |e: parquet::errors::ParquetError| corrupt(&format!("the footer of {uri}"), &e.to_string());
    ArrowReaderMetadata::try_new(placed, options).map(Some).map_err(failed)
}

/// The footer, with the types in which its columns are read.
pub(super) fn parse(uri: &str, footer: &[u8]) -> Result<ArrowReaderMetadata, Problem> {
    let failed = |e: parquet::errors::ParquetError| corrupt(&format!("the footer of {uri}"), &e.to_string());
    schema::check(uri, footer)?;
    let metadata = Arc::new(ParquetMetaDataReader::decode_metadata(footer).map_err(failed)?);
    check_pairs(uri, &metadata)?;
    let stored =
        ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new()).map_err(failed)?;
    let columns = stored.schema().fields().len();
    if columns > limits::COLUMNS_MAX {
        let detail = format!("{uri} must have at most {} columns, found {columns}", limits::COLUMNS_MAX);
        return Err(Problem::new(ErrorKind::DecodeLimit, detail));
    }
    let mut leaves = metadata.file_metadata().schema_descr().columns().iter().map(|leaf| &**leaf);
    let fields: Vec<FieldRef> =
        stored.schema().fields().iter().map(|field| read_field(field, &mut leaves)).collect();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
    ArrowReaderMetadata::try_new(metadata, options).map_err(failed)
}

/// Refuses more pairs of metadata than are worth copies of them, and arrow's own schema, which writers
/// keep as one, where it is short only until it is decoded. One that is damaged is told of by the decoder.
fn check_pairs(uri: &str, metadata: &ParquetMetaData) -> Result<(), Problem> {
    let pairs = metadata.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    if pairs.len() > PAIRS_MAX {
        let found = pairs.len();
        let detail =
            format!("{uri} must have at most {PAIRS_MAX} pairs of metadata, found {found}; write fewer");
        return Err(Problem::new(ErrorKind::DecodeLimit, detail));
    }
    // Of several the decoder takes the last.
    let told = |pair: &&KeyValue| pair.key == ARROW_SCHEMA_META_KEY && pair.value.is_some();
    let text = pairs.iter().rfind(told).and_then(|pair| pair.value.as_deref());
    if text.and_then(|text| STANDARD.decode(text).ok()).is_none_or(|bytes| !is_beyond_bounds(&bytes)) {
        return Ok(());
    }
    let detail = format!(
        "{uri} must name each column and text once in the schema that it keeps as {ARROW_SCHEMA_META_KEY}, found \
         more to decode than its bytes can hold; write the object again without it"
    );
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
}

/// Refuses to read an INTERVAL, of months, days and milliseconds, for which arrow has no decoder: it drops
/// the months. Of what arrow wrote itself it knows which of them are there.
pub(super) fn check_intervals(
    uri: &str,
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
) -> Result<(), Problem> {
    let file = metadata.file_metadata();
    let mut pairs = file.key_value_metadata().into_iter().flatten();
    if pairs.any(|pair| pair.key == ARROW_SCHEMA_META_KEY) {
        return Ok(());
    }
    let mut wanted =
        file.schema_descr().columns().iter().enumerate().filter(|(at, _)| mask.leaf_included(*at));
    let Some((_, interval)) = wanted.find(|(_, leaf)| leaf.converted_type() == ConvertedType::INTERVAL)
    else {
        return Ok(());
    };
    let detail = format!(
        "column {} of {uri} must have a type that is read without loss, found INTERVAL; \
         name the other columns to read, or write it as numbers of months, days and milliseconds",
        quote(&interval.path().string())
    );
    Err(Problem::new(ErrorKind::SchemaMismatch, detail))
}

/// The field as it is read, which takes its own from the leaves.
fn read_field<'a>(field: &FieldRef, leaves: &mut impl Iterator<Item = &'a ColumnDescriptor>) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(read_type(field.data_type(), leaves)))
}

fn read_type<'a>(data_type: &DataType, leaves: &mut impl Iterator<Item = &'a ColumnDescriptor>) -> DataType {
    match data_type {
        DataType::List(f) => DataType::List(read_field(f, leaves)),
        DataType::LargeList(f) => DataType::LargeList(read_field(f, leaves)),
        DataType::ListView(f) => DataType::ListView(read_field(f, leaves)),
        DataType::LargeListView(f) => DataType::LargeListView(read_field(f, leaves)),
        DataType::FixedSizeList(f, size) => DataType::FixedSizeList(read_field(f, leaves), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| read_field(f, leaves)).collect()),
        DataType::Map(f, sorted) => DataType::Map(read_field(f, leaves), *sorted),
        leaf => leaf_type(leaf, leaves.next()),
    }
}

/// How a leaf is read. INT96 holds days and nanoseconds of the day: as nanoseconds of 64 bits
/// its years would end in 2262, as microseconds they reach further than any calendar. The names of an
/// enumeration are texts, which arrow takes for bytes.
fn leaf_type(data_type: &DataType, leaf: Option<&ColumnDescriptor>) -> DataType {
    let int96 = leaf.is_some_and(|leaf| leaf.physical_type() == Type::INT96);
    let names = leaf.is_some_and(|leaf| leaf.converted_type() == ConvertedType::ENUM);
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView if names => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, values) => leaf_type(values, leaf),
        DataType::Timestamp(_, zone) if int96 => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use parquet::{
        file::metadata::FileMetaData,
        schema::types::{SchemaDescriptor, Type as Tree},
    };

    use super::*;

    fn check(count: usize, key: &str, value: &str, expected: Result<(), ErrorKind>) {
        let root = Arc::new(Tree::group_type_builder("schema").build().unwrap());
        let pairs = vec![KeyValue::new(key.to_owned(), value.to_owned()); count];
        let file = FileMetaData::new(1, 0, None, Some(pairs), Arc::new(SchemaDescriptor::new(root)), None);
        let checked = check_pairs("x", &ParquetMetaData::new(file, Vec::new()));
        assert_eq!(checked.map_err(|problem| problem.code), expected, "{count} {key}");
    }

    #[test]
    fn pairs_of_metadata_are_bounded() {
        check(PAIRS_MAX, "k", "v", Ok(()));
        check(PAIRS_MAX + 1, "k", "v", Err(ErrorKind::DecodeLimit));
        // The decoder says what is wrong with it.
        check(1, ARROW_SCHEMA_META_KEY, "no schema", Ok(()));
    }
}
