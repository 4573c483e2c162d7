// SPDX-License-Identifier: Apache-2.0
//! What is to be known of rows before they become text: how much of it, and whether as JSON it
//! can be read.
//!
//! Text is longer than columns: JSON Lines say every name in every row, and what is
//! missing takes no byte in a column. So rows are written in pieces, each of which
//! stays small whatever the batch declares. Non-goal: exactness; numbers are taken to
//! be of one length, and escapes, which may make a text six times as long, for rare.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use fanfold_protocol::{ErrorKind, Problem, limits};

use crate::tables::{guard::quote, shape::span};

/// Text that is made at once, unless one row is longer.
const PIECE_BYTES: usize = 4 << 20;

/// What stands around a row, a value or a name.
const MARKS_BYTES: usize = 4;
/// A number, a time, or a word for what is missing.
const VALUE_BYTES: usize = 16;

/// Refuses structs that have two members of one name: as objects they would have it twice, and
/// readers keep the one or the other.
pub(super) fn check_members(schema: &Schema) -> Result<(), Problem> {
    let found = |field: &Field| twice(field.data_type()).map(|name| (quote(field.name()), quote(name)));
    let Some((column, name)) = schema.fields().iter().find_map(|field| found(field)) else { return Ok(()) };
    let detail = format!(
        "column {column} must name each member once, found {name} twice; rename one, or write the table as parquet"
    );
    Err(Problem::new(ErrorKind::SchemaMismatch, detail))
}

/// The name that a struct in this type has twice.
fn twice(data_type: &DataType) -> Option<&str> {
    match data_type {
        DataType::List(item) | DataType::FixedSizeList(item, _) => twice(item.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            // What these are called is written nowhere.
            DataType::Struct(halves) => halves.iter().find_map(|half| twice(half.data_type())),
            _ => None,
        },
        DataType::Struct(members) => {
            let mut names: Vec<&str> = members.iter().map(|member| member.name().as_str()).collect();
            names.sort_unstable();
            let pair = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
            pair.or_else(|| members.iter().find_map(|member| twice(member.data_type())))
        }
        _ => None,
    }
}

/// How many of the first rows are written at once: one at least, if there is one.
pub(super) fn rows_at_once(batch: &RecordBatch) -> Result<usize, Problem> {
    let rows = batch.num_rows();
    let bytes = |rows: usize| row_bytes(&batch.slice(0, rows));
    let all = bytes(rows);
    if all <= PIECE_BYTES {
        return Ok(rows);
    }
    // Rows are about equal as a rule: then this is it.
    let share = rows / all.div_ceil(PIECE_BYTES);
    if (PIECE_BYTES / 2..=PIECE_BYTES * 2).contains(&bytes(share)) {
        return Ok(share);
    }
    // So many fit, and so many do not.
    let (mut fit, mut over) = (0, rows);
    while over - fit > 1 {
        let middle = fit.midpoint(over);
        if bytes(middle) <= PIECE_BYTES {
            fit = middle;
        } else {
            over = middle;
        }
    }
    if fit > 0 {
        return Ok(fit);
    }
    let (row, allowed) = (bytes(1) as u64, limits::ROW_TEXT_BYTES_MAX);
    if row <= allowed {
        return Ok(1);
    }
    let detail = format!(
        "a row must take at most {allowed} bytes as text, found one of about {row}; make several rows of it, or write \
         Parquet"
    );
    Err(Problem::new(ErrorKind::TransferTooLarge, detail))
}

/// About how many bytes all rows take.
fn row_bytes(batch: &RecordBatch) -> usize {
    let fields = batch.schema_ref().fields();
    let columns = fields.iter().zip(batch.columns()).map(|(field, column)| member_bytes(field, column));
    columns.fold(batch.num_rows().saturating_mul(MARKS_BYTES), usize::saturating_add)
}

/// Values with their name before each.
fn member_bytes(field: &Field, values: &dyn Array) -> usize {
    let names = values.len().saturating_mul(field.name().len() + MARKS_BYTES);
    names.saturating_add(value_bytes(values))
}

fn value_bytes(array: &dyn Array) -> usize {
    let len = array.len();
    let inner = match array.data_type() {
        DataType::Utf8 => span(array.as_string::<i32>().value_offsets()),
        // In hexadecimal.
        DataType::Binary => span(array.as_binary::<i32>().value_offsets()).saturating_mul(2),
        DataType::FixedSizeBinary(width) => {
            len.saturating_mul(usize::try_from(*width).unwrap_or(0)).saturating_mul(2)
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            items_bytes(lists.values(), lists.value_offsets())
        }
        DataType::Map(_, _) => {
            let maps = array.as_map();
            items_bytes(maps.entries(), maps.value_offsets())
        }
        DataType::FixedSizeList(_, _) => value_bytes(array.as_fixed_size_list().values()),
        DataType::Struct(fields) => {
            let members = fields.iter().zip(array.as_struct().columns());
            members.map(|(field, column)| member_bytes(field, column)).fold(0, usize::saturating_add)
        }
        _ => 0,
    };
    len.saturating_mul(VALUE_BYTES).saturating_add(inner)
}

/// What is in all lists.
fn items_bytes(items: &dyn Array, offsets: &[i32]) -> usize {
    let begin = offsets.first().and_then(|begin| usize::try_from(*begin).ok()).unwrap_or(0);
    value_bytes(&items.slice(begin, span(offsets)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, ListArray, NullArray, StringArray, StructArray},
        buffer::OffsetBuffer,
    };
    use fanfold_protocol::job::Format;

    use super::*;
    use crate::tables::writer::encoder::Encoder;

    fn batch(name: &str, values: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([(name, values, true)]).unwrap()
    }

    /// The pieces of a batch, as rows.
    fn pieces(mut batch: RecordBatch) -> Vec<usize> {
        let mut pieces = Vec::new();
        while batch.num_rows() > 0 {
            let rows = rows_at_once(&batch).unwrap();
            batch = batch.slice(rows, batch.num_rows() - rows);
            pieces.push(rows);
        }
        pieces
    }

    #[test]
    fn a_small_batch_is_one_piece() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"; 1_000]));
        assert_eq!(pieces(batch("a", Arc::clone(&texts))), [1_000]);
        assert_eq!(rows_at_once(&batch("a", texts.slice(0, 0))), Ok(0));
    }

    #[test]
    fn rows_without_bytes_are_text_all_the_same() {
        let nulls: ArrayRef = Arc::new(NullArray::new(16 << 20));
        let pieces = pieces(batch(&"n".repeat(1_000), nulls));
        assert_eq!(pieces.iter().sum::<usize>(), 16 << 20);
        assert!(pieces.iter().all(|rows| *rows <= PIECE_BYTES / 1_000), "{:?}", pieces.iter().max());
        assert!(pieces.len() < 5_000, "{}", pieces.len());
    }

    #[test]
    fn long_rows_among_short_ones_are_pieces_of_their_own() {
        let long = "x".repeat(12 << 20);
        let mut texts = vec!["x"; 100_000];
        texts[70_000] = &long;
        let texts: ArrayRef = Arc::new(StringArray::from(texts));
        assert_eq!(pieces(batch("a", texts)), [70_000, 1, 29_999]);
    }

    #[test]
    fn a_row_that_would_be_endless_is_refused() {
        // A list of structs whose members have a name and no bytes.
        let members: ArrayRef = Arc::new(NullArray::new(1 << 20));
        let field = Arc::new(Field::new("n".repeat(1_000), DataType::Null, true));
        let structs: ArrayRef = Arc::new(StructArray::from(vec![(field, members)]));
        let item = Arc::new(Field::new_list_field(structs.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([1, 0, (1 << 20) - 1]);
        let lists: ArrayRef = Arc::new(ListArray::new(item, offsets, structs, None));
        let lists = batch("a", lists);
        assert_eq!(rows_at_once(&lists), Ok(2));
        let problem = rows_at_once(&lists.slice(2, 1)).unwrap_err();
        assert_eq!(problem.code, ErrorKind::TransferTooLarge);
        assert!(problem.detail.contains("67108864"), "{problem}");
    }

    #[test]
    fn members_of_one_name_are_refused_however_deep() {
        let member = |name: &str, data_type| Field::new(name, data_type, true);
        let record = |names: &[&str]| {
            DataType::Struct(names.iter().map(|name| member(name, DataType::Int64)).collect())
        };
        let map = |key: DataType, value: DataType| {
            let entries = DataType::Struct(vec![member("e", key), member("e", value)].into());
            DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
        };
        let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
        let check = |data_type: DataType, expected: Option<&str>| {
            let schema = Schema::new(vec![member("a", DataType::Int64), member("s", data_type.clone())]);
            let refused = Encoder::create(Format::Jsonl, &Arc::new(schema.clone())).err();
            let told = refused.map(|problem| (problem.code, problem.detail));
            let name =
                expected.map(|name| format!("column \"s\" must name each member once, found {name:?} twice"));
            match (&told, &name) {
                (Some((ErrorKind::SchemaMismatch, detail)), Some(name)) => {
                    assert!(detail.starts_with(name), "{detail}");
                }
                (None, None) => {}
                _ => panic!("{data_type}: {told:?}, and not {name:?}"),
            }
            assert!(Encoder::create(Format::Arrow, &Arc::new(schema)).is_ok(), "{data_type}");
        };
        check(record(&["a", "b", "s"]), None);
        check(record(&["x", "y", "x"]), Some("x"));
        check(DataType::Struct(vec![member("x", list(record(&["y", "y"])))].into()), Some("y"));
        check(map(DataType::Utf8, record(&["x", "y"])), None);
        check(map(DataType::Utf8, list(record(&["z", "z"]))), Some("z"));
    }
}
