// SPDX-License-Identifier: Apache-2.0
//! What the values of a column weigh once they are decoded, told from its type; and what
//! of them the decoder does not check.
//!
//! Pages say how many values there are, and a run of equal ones takes a few bytes
//! however long it is. What is missing takes room as well: a value of fixed width
//! as much as any other, and a list of fixed size as much as all its items.

use std::iter;

use arrow::datatypes::DataType;
use parquet::{
    arrow::arrow_reader::ArrowReaderMetadata,
    basic::{ConvertedType, Type},
    file::metadata::ColumnChunkMetaData,
    schema::types::ColumnDescriptor,
};

/// What a text is taken to weigh at least: a dictionary has each once, and rows have it again and again.
const TEXT_BYTES: u64 = 24;
/// A view of a text or of bytes.
const VIEW_BYTES: u64 = 16;
/// The definition and the repetition level of an item.
const LEVELS_BYTES: u64 = 4;

/// A leaf of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Whether it is in lists, maps included.
    listed: bool,
    places: Places,
}

/// The values that lists of fixed size keep room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    /// In each row.
    per_row: u64,
    /// In each item of lists whose length varies.
    per_item: u64,
}

impl Leaf {
    /// The leaves in the order of their columns.
    pub(super) fn all(metadata: &ArrowReaderMetadata) -> Vec<Self> {
        let mut read = Vec::new();
        for field in metadata.schema().fields() {
            Places::NONE.within(field.data_type(), false, &mut read);
        }
        let none = (Places::NONE, &DataType::Null);
        let read = read.into_iter().chain(iter::repeat(none));
        let leaves = metadata.parquet_schema().columns().iter().zip(read);
        leaves.map(|(leaf, (places, data_type))| Self::new(leaf, places, data_type)).collect()
    }

    fn new(descriptor: &ColumnDescriptor, places: Places, data_type: &DataType) -> Self {
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
        Self {
            width,
            views: physical == Type::BYTE_ARRAY && !decimal,
            decimal_bytes_max: decimal.then_some(longest),
            unchecked: *data_type == DataType::Utf8View && !is(ConvertedType::UTF8),
            listed: descriptor.max_rep_level() > 0,
            places,
        }
    }

    /// The least that a row takes, also where its value is missing.
    pub(super) fn row_bytes_min(&self) -> u64 {
        self.width.saturating_mul(self.places.per_row)
    }

    /// About how many bytes a row takes, of so many in the chunk.
    pub(super) fn row_bytes(&self, chunk: &ColumnChunkMetaData, rows: u64) -> u64 {
        let stored = u64::try_from(chunk.uncompressed_size()).unwrap_or(0) / rows.max(1);
        let value = if self.views { stored.max(TEXT_BYTES) + 4 } else { 0 };
        let value = value.max(self.row_bytes_min());
        if self.listed { value.max(stored).saturating_add(8) } else { value }
    }

    /// What an item of its lists takes at most, besides what is behind views; none
    /// where it is in no list.
    pub(super) fn item_bytes_max(&self) -> Option<u64> {
        let values = self.width.saturating_mul(self.places.per_item);
        self.listed.then_some(values.saturating_add(LEVELS_BYTES))
    }
}

impl Places {
    const NONE: Self = Self { per_row: 1, per_item: 1 };

    /// Those of the leaves of a type, which may be within lists whose length varies, and their types.
    fn within<'a>(self, data_type: &'a DataType, varies: bool, found: &mut Vec<(Self, &'a DataType)>) {
        use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct};
        match data_type {
            List(item) | LargeList(item) | ListView(item) | LargeListView(item) | Map(item, _) => {
                self.within(item.data_type(), true, found);
            }
            FixedSizeList(item, size) => {
                let mut places = self;
                let count = if varies { &mut places.per_item } else { &mut places.per_row };
                *count = count.saturating_mul(u64::try_from(*size).unwrap_or(u64::MAX));
                places.within(item.data_type(), varies, found);
            }
            Struct(fields) => fields.iter().for_each(|f| self.within(f.data_type(), varies, found)),
            leaf => found.push((self, leaf)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn lists_of_fixed_size_keep_room() {
        let field = |data_type| Arc::new(Field::new("x", data_type, true));
        let fixed = |of, size| DataType::FixedSizeList(field(of), size);
        let list = |of| DataType::List(field(of));
        let check = |data_type: DataType, expected: &[(u64, u64)]| {
            let mut found = Vec::new();
            Places::NONE.within(&data_type, false, &mut found);
            let found: Vec<_> = found.iter().map(|(p, _)| (p.per_row, p.per_item)).collect();
            assert_eq!(found, expected, "{data_type}");
        };
        check(DataType::Int32, &[(1, 1)]);
        check(fixed(fixed(DataType::Int32, 3), 2), &[(6, 1)]);
        check(list(fixed(DataType::Int32, 3)), &[(1, 3)]);
        check(fixed(list(fixed(DataType::Int32, 3)), 2), &[(2, 3)]);
        check(fixed(DataType::Int32, -1), &[(u64::MAX, 1)]);
        let both = [DataType::Int8, fixed(DataType::Utf8View, 5)].map(|of| Field::new("x", of, true));
        check(DataType::Struct(both.to_vec().into()), &[(1, 1), (5, 1)]);
    }
}
