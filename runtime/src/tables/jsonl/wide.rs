// SPDX-License-Identifier: Apache-2.0
//! How many values of JSON are decoded at once.
//!
//! arrow-json holds places for all members of all objects that it decodes together,
//! whether or not a line has them, so that little text could take much memory. Lines are
//! therefore taken fewer at a time the more columns there are. How many objects, and how many
//! values of fixed size, are in arrays is not told by lines: those are counted when they are
//! met, and the lines are then tried again by halves.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arrow::{
    datatypes::{DataType, Field, Schema},
    error::ArrowError,
};

use super::{super::fixed, BATCH_ROWS_MAX};

/// Values that have places at once: of 12 bytes each where they are numbers, and of 36 at most.
pub(super) const VALUES_MAX: usize = 4 << 20;

/// Lines that are decoded at once, by what their objects may hold at any depth.
pub(super) fn lines_max(schema: &Schema) -> u64 {
    (VALUES_MAX / width(schema)).clamp(1, BATCH_ROWS_MAX) as u64
}

/// Values of a line, with those of one object in each array. One of a fixed size counts as
/// often as it has the bytes of a number.
fn width(schema: &Schema) -> usize {
    let fixed = |field: &Arc<Field>| fixed::bytes(field.data_type()) / size_of::<u64>();
    let fixed = schema.fields().iter().map(fixed).fold(0, usize::saturating_add);
    schema.flattened_fields().len().saturating_add(fixed).max(1)
}

/// Values that one of a fixed size counts as where it is in an array: an item of its own has a
/// place in the text besides its bytes.
pub(super) fn fixed_values(data_type: &DataType) -> usize {
    let items = match data_type {
        DataType::FixedSizeList(_, size) => usize::try_from(*size).unwrap_or(0),
        _ => 0,
    };
    (fixed::bytes(data_type) / size_of::<u64>()).max(items / 2)
}

/// What is left of the places of lines that are decoded together. All objects of theirs share
/// it: each of many arrays may be small enough by itself.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    /// For so many lines, and for as many values as there may be of objects in their arrays.
    pub(super) fn of(schema: &Schema, lines: usize) -> Self {
        Self(AtomicUsize::new(lines.saturating_mul(width(schema)).saturating_add(VALUES_MAX)))
    }

    /// Takes the places of these objects with so many members of their own, or of values that count
    /// as so many, or refuses them.
    pub(super) fn take(&self, objects: usize, members: usize) -> Result<(), ArrowError> {
        // One thread decodes; it is atomic since decoders may be sent elsewhere.
        let left = self.0.load(Ordering::Relaxed);
        // Of this kind are no mistakes in the text.
        let rest = left.checked_sub(objects.saturating_mul(members)).ok_or_else(|| {
            ArrowError::MemoryError(format!(
                "expected at most {left} more values at once, found {objects} times {members}"
            ))
        })?;
        self.0.store(rest, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether lines were refused by [`Room::take`], as which they may be decoded by halves.
pub(super) fn is_too_wide(error: &ArrowError) -> bool {
    matches!(error, ArrowError::MemoryError(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(data_types: impl IntoIterator<Item = DataType>) -> Schema {
        let named = |(n, data_type)| Field::new(format!("c{n}"), data_type, true);
        Schema::new(data_types.into_iter().enumerate().map(named).collect::<Vec<_>>())
    }

    #[test]
    fn the_wider_the_fewer() {
        let check = |columns: usize, expected: u64| {
            assert_eq!(lines_max(&schema(vec![DataType::Boolean; columns])), expected, "{columns}");
        };
        check(0, 131_072);
        check(32, 131_072);
        check(64, 65_536);
        check(10_000, 419);
        let wide = |bytes| lines_max(&schema([DataType::FixedSizeBinary(bytes)]));
        assert_eq!((wide(16), wide(65_536), wide(i32::MAX)), (131_072, 511, 1));
    }

    #[test]
    fn what_is_within_counts() {
        let inner = DataType::Struct(schema(vec![DataType::Boolean; 99]).fields);
        let list = DataType::new_list(inner.clone(), true);
        let both = schema([inner, list]);
        // The list, its items, and the members of these.
        assert_eq!(width(&both), 201);
        assert_eq!(lines_max(&both), (VALUES_MAX / 201) as u64);
    }

    #[test]
    fn all_objects_share_the_room() {
        let room = Room::of(&schema(vec![DataType::Boolean; 10]), 2);
        assert!(room.take(2, 10).is_ok() && room.take(VALUES_MAX / 2, 1).is_ok());
        assert!(is_too_wide(&room.take(VALUES_MAX / 2 + 1, 1).unwrap_err()));
        assert!(is_too_wide(&room.take(usize::MAX, 2).unwrap_err()));
        assert!(room.take(VALUES_MAX / 4, 2).is_ok() && room.take(1, 1).is_err());
    }
}
