// SPDX-License-Identifier: Apache-2.0
//! What the values of a column weigh once they are decoded, told from its type; and what
//! of them the decoder does not check.
//!
//! Pages say how many values there are, and a run of equal ones takes a few bytes
//! however long it is. What is missing takes room as well: a value of fixed width
//! as much as any other, and a list of fixed size as much as all its items.

use arrow::datatypes::DataType;
use parquet::{
    arrow::arrow_reader::ArrowReaderMetadata,
    basic::{ConvertedType, Repetition, Type},
    file::metadata::ColumnChunkMetaData,
    schema::types::{self, ColumnDescriptor},
};

/// What a text is taken to weigh at least: a dictionary has each once, and rows have it again and again.
const TEXT_BYTES: u64 = 24;
/// A view of a text or of bytes.
const VIEW_BYTES: u64 = 16;
/// The definition and the repetition level of an item.
const LEVELS_BYTES: u64 = 4;
/// Where a list of varying length ends.
const OFFSET_BYTES: u64 = 4;

/// A leaf of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Bytes of a value in place, or of the view of one.
    width: u64,
    /// Whether values lie behind views, and pages are kept for them.
    pub(super) views: bool,
    /// The longest value that the decoder takes, of decimals that are stored as bytes.
    pub(super) decimal_bytes_max: Option<u64>,
    /// Whether values are read as texts of which the decoder does not look whether they are UTF-8: it
    /// does so only where the column says that.
    pub(super) unchecked: bool,
    /// The definition level of a value that is there.
    defined: i16,
    /// The lists that it is in, maps included, from the outside in.
    lists: Vec<List>,
}

/// A list around a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    /// How many items it keeps room for, where that is always the same.
    size: Option<u64>,
    /// The definition level from which on there is an item.
    defined: i16,
}

/// The type of a leaf as it is read, and the sizes of the lists around it.
type Read<'a> = (Vec<Option<u64>>, &'a DataType);

impl Leaf {
    /// The leaves in the order of their columns.
    pub(super) fn all(metadata: &ArrowReaderMetadata) -> Vec<Self> {
        let (mut read, mut repeated) = (Vec::new(), Vec::new());
        for field in metadata.schema().fields() {
            within(field.data_type(), &[], &mut read);
        }
        let schema = metadata.parquet_schema();
        for field in schema.root_schema().get_fields() {
            repetitions(field, 0, &[], &mut repeated);
        }
        let mut read = read.into_iter();
        let leaves = schema.columns().iter().zip(repeated);
        leaves
            .map(|(leaf, repeated)| {
                let (sizes, data_type) = read.next().unwrap_or((Vec::new(), &DataType::Null));
                Self::new(leaf, &repeated, &sizes, data_type)
            })
            .collect()
    }

    fn new(
        descriptor: &ColumnDescriptor,
        repeated: &[i16],
        sizes: &[Option<u64>],
        data_type: &DataType,
    ) -> Self {
        let physical = descriptor.physical_type();
        let is = |converted| descriptor.converted_type() == converted;
        let longest = if descriptor.type_precision() > 38 { 32 } else { 16 };
        let decimal = physical == Type::BYTE_ARRAY && is(ConvertedType::DECIMAL);
        let width = match physical {
            Type::BOOLEAN => 1,
            Type::INT32 | Type::FLOAT => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            // Bytes with where they end, and what is made of them.
            Type::BYTE_ARRAY if decimal => 2 * longest + 4,
            Type::BYTE_ARRAY => VIEW_BYTES,
            Type::FIXED_LEN_BYTE_ARRAY => u64::try_from(descriptor.type_length()).unwrap_or(0),
        };
        let size = |list: usize| sizes.get(list).copied().flatten();
        let lists = repeated.iter().enumerate();
        Self {
            width,
            views: physical == Type::BYTE_ARRAY && !decimal,
            decimal_bytes_max: decimal.then_some(longest),
            unchecked: *data_type == DataType::Utf8View && !is(ConvertedType::UTF8),
            defined: descriptor.max_def_level(),
            lists: lists.map(|(list, defined)| List { size: size(list), defined: *defined }).collect(),
        }
    }

    /// Whether it is in lists.
    pub(super) fn is_listed(&self) -> bool {
        !self.lists.is_empty()
    }

    /// The least that a row takes, also where its value is missing.
    pub(super) fn row_bytes_min(&self) -> u64 {
        self.width.saturating_mul(self.places(0))
    }

    /// About how many bytes a row takes, of so many in the chunk.
    pub(super) fn row_bytes(&self, chunk: &ColumnChunkMetaData, rows: u64) -> u64 {
        let stored = u64::try_from(chunk.uncompressed_size()).unwrap_or(0) / rows.max(1);
        let value = if self.views { stored.max(TEXT_BYTES) + 4 } else { 0 };
        let value = value.max(self.row_bytes_min());
        if self.is_listed() { value.max(stored).saturating_add(8) } else { value }
    }

    /// What an item of its lists takes at most, besides what is behind views; none
    /// where it is in no list. A row that is missing as a whole is told by [`Leaf::row_bytes_min`].
    pub(super) fn item_bytes_max(&self) -> Option<u64> {
        let rooms = (1..=self.lists.len()).map(|list| self.room(list));
        rooms.max().map(|room| room.saturating_add(LEVELS_BYTES))
    }

    /// What an item takes by its definition level, besides what is behind views. Where a list is
    /// missing or empty there is an item that says so.
    pub(super) fn item_bytes(&self) -> Vec<u64> {
        let bytes = |level: i16| {
            let missing = self.lists.iter().position(|list| level < list.defined);
            self.room(missing.unwrap_or(self.lists.len())).saturating_add(LEVELS_BYTES)
        };
        (0..=self.defined).map(bytes).collect()
    }

    /// What is kept for a list, and for what would be within it, though it is missing; behind
    /// the last one, for a value.
    fn room(&self, list: usize) -> u64 {
        let varies = self.lists[list..].iter().any(|list| list.size.is_none());
        self.places(list).saturating_mul(if varies { OFFSET_BYTES } else { self.width })
    }

    /// The items that lists of fixed size keep room for, from this one on up to one that varies.
    fn places(&self, list: usize) -> u64 {
        self.lists[list..].iter().map_while(|list| list.size).fold(1, u64::saturating_mul)
    }
}

/// The leaves of a type that is within lists of these sizes.
fn within<'a>(data_type: &'a DataType, sizes: &[Option<u64>], found: &mut Vec<Read<'a>>) {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct};
    let (item, size) = match data_type {
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) | Map(item, _) => (item, None),
        FixedSizeList(item, size) => (item, Some(u64::try_from(*size).unwrap_or(u64::MAX))),
        Struct(fields) => return fields.iter().for_each(|f| within(f.data_type(), sizes, found)),
        leaf => return found.push((sizes.to_vec(), leaf)),
    };
    within(item.data_type(), &[sizes, &[size]].concat(), found);
}

/// The definition levels of what is repeated around each leaf of a node, from the outside in; each is
/// a list. Format: parquet-format 2.x, README, Nested Encoding.
fn repetitions(node: &types::Type, mut level: i16, around: &[i16], found: &mut Vec<Vec<i16>>) {
    let mut around = around.to_vec();
    let info = node.get_basic_info();
    let repetition = if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED };
    level += i16::from(repetition != Repetition::REQUIRED);
    if repetition == Repetition::REPEATED {
        around.push(level);
    }
    if node.is_group() {
        node.get_fields().iter().for_each(|field| repetitions(field, level, &around, found));
    } else {
        found.push(around);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    fn field(data_type: DataType) -> Arc<Field> {
        Arc::new(Field::new("x", data_type, true))
    }

    fn fixed(of: DataType, size: i32) -> DataType {
        DataType::FixedSizeList(field(of), size)
    }

    fn list(of: DataType) -> DataType {
        DataType::List(field(of))
    }

    #[test]
    fn lists_are_told_from_types() {
        let check = |data_type: DataType, expected: &[&[Option<u64>]]| {
            let mut found = Vec::new();
            within(&data_type, &[], &mut found);
            let found: Vec<_> = found.into_iter().map(|(sizes, _)| sizes).collect();
            assert_eq!(found, expected, "{data_type}");
        };
        check(DataType::Int32, &[&[]]);
        check(fixed(fixed(DataType::Int32, 3), 2), &[&[Some(2), Some(3)]]);
        check(fixed(list(fixed(DataType::Int32, 3)), 2), &[&[Some(2), None, Some(3)]]);
        check(fixed(DataType::Int32, -1), &[&[Some(u64::MAX)]]);
        let both = [DataType::Int8, fixed(DataType::Utf8View, 5)].map(|of| Field::new("x", of, true));
        check(DataType::Struct(both.to_vec().into()), &[&[], &[Some(5)]]);
    }

    #[test]
    fn lists_are_told_from_levels() {
        let check = |message: &str, expected: &[&[i16]]| {
            let mut found = Vec::new();
            let schema = parse_message_type(message).unwrap();
            schema.get_fields().iter().for_each(|field| repetitions(field, 0, &[], &mut found));
            assert_eq!(found, expected, "{message}");
        };
        check("message m { optional int32 a; repeated int32 b; }", &[&[], &[1]]);
        check(
            "message m { required group a { repeated group b { optional int32 c; required group d { \
             repeated int32 e; } } } }",
            &[&[1], &[1, 2]],
        );
        check(
            "message m { optional group a (LIST) { repeated group b { optional group c (LIST) { \
             repeated group d { optional int32 e; } } } } }",
            &[&[2, 4]],
        );
    }

    #[test]
    fn lists_of_fixed_size_keep_room() {
        // Optional lists of optional items, of numbers of 8 bytes.
        let leaf = |sizes: &[Option<u64>]| {
            let list =
                |(list, size): (usize, &Option<u64>)| List { size: *size, defined: 2 * list as i16 + 2 };
            let lists: Vec<_> = sizes.iter().enumerate().map(list).collect();
            let defined = 2 * lists.len() as i16 + 1;
            Leaf { width: 8, views: false, decimal_bytes_max: None, unchecked: false, defined, lists }
        };
        let check = |sizes: &[Option<u64>], row: u64, most: Option<u64>, items: &[u64]| {
            let leaf = leaf(sizes);
            let least = items.iter().map(|item| item + LEVELS_BYTES).collect::<Vec<_>>();
            assert_eq!((leaf.row_bytes_min(), leaf.item_bytes()), (row, least), "{sizes:?}");
            assert_eq!(leaf.item_bytes_max(), most.map(|most| most + LEVELS_BYTES), "{sizes:?}");
        };
        check(&[], 8, None, &[8, 8]);
        check(&[None], 8, Some(8), &[4, 4, 8, 8]);
        check(&[Some(100)], 800, Some(8), &[800, 800, 8, 8]);
        check(&[Some(100), Some(3)], 2_400, Some(24), &[2_400, 2_400, 24, 24, 8, 8]);
        check(&[None, Some(100)], 8, Some(800), &[4, 4, 800, 800, 8, 8]);
        check(&[Some(100), None], 800, Some(8), &[400, 400, 4, 4, 8, 8]);
        check(&[Some(u64::MAX)], u64::MAX, Some(8), &[u64::MAX - 4, u64::MAX - 4, 8, 8]);
    }
}
