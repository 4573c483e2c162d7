// SPDX-License-Identifier: Apache-2.0
//! How many values of JSON are decoded at once.
//!
//! arrow-json holds places for all members of all objects that it decodes together,
//! whether or not a line has them, so that little text could take much memory. Lines are
//! therefore taken fewer at a time the more columns there are. How many objects are in
//! arrays is not told by lines: those are counted when they are met, and the lines are
//! then tried again by halves.

use arrow::{
    datatypes::{DataType, Fields, Schema},
    error::ArrowError,
};

use super::BATCH_ROWS_MAX;

/// Values that have places at once: of 36 bytes at most, most of which are never touched.
pub(super) const VALUES_MAX: usize = 4 << 20;

/// Lines that are decoded at once, by what their objects may hold at any depth.
pub(super) fn lines_max(schema: &Schema) -> u64 {
    let fields = schema.flattened_fields().len().max(1);
    (VALUES_MAX / fields).clamp(1, BATCH_ROWS_MAX) as u64
}

/// Values of an object, with those of objects in it, but for what is in arrays.
pub(super) fn width(fields: &Fields) -> usize {
    let within = |data_type: &DataType| match data_type {
        DataType::Struct(inner) => width(inner),
        _ => 0,
    };
    fields.iter().map(|field| 1 + within(field.data_type())).sum()
}

/// Refuses objects of this width that are too many for one block. A single one never is.
pub(super) fn check(objects: usize, width: usize) -> Result<(), ArrowError> {
    if objects <= 1 || objects.saturating_mul(width) <= VALUES_MAX {
        return Ok(());
    }
    // Of this kind are no mistakes in the text.
    Err(ArrowError::MemoryError(format!(
        "expected at most {VALUES_MAX} values at once, found {objects} objects of {width}"
    )))
}

/// Whether lines were refused by [`check`], as which they may be decoded by halves.
pub(super) fn is_too_wide(error: &ArrowError) -> bool {
    matches!(error, ArrowError::MemoryError(_))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

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
    }

    #[test]
    fn what_is_within_counts() {
        let inner = DataType::Struct(schema(vec![DataType::Boolean; 99]).fields);
        let list = DataType::new_list(inner.clone(), true);
        let both = schema([inner, list]);
        assert_eq!(width(&both.fields), 101);
        // The list, its items, and the members of these.
        assert_eq!(lines_max(&both), (VALUES_MAX / 201) as u64);
        assert!(check(VALUES_MAX / 101, 101).is_ok() && check(1, VALUES_MAX + 1).is_ok());
        assert!(is_too_wide(&check(VALUES_MAX / 101 + 1, 101).unwrap_err()));
    }
}
