// SPDX-License-Identifier: Apache-2.0
//! Whole numbers that lose digits where a column was told to be of doubles.
//!
//! In the sample such a number makes a text of its column. arrow-json reads one that comes later
//! as the nearest double, so where doubles are as large as that, the lines are looked at in the
//! way in which the sample was.

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, FieldRef, Float64Type},
};
use fanfold_protocol::stored::jsonl::{Shape, sample};

/// Doubles of this size and more may be other numbers than those that stand there.
const LARGE_MIN: f64 = (1_u64 << 53) as f64;

/// Whether there are doubles, at any depth, that may have lost digits.
pub(super) fn has_large(array: &dyn Array) -> bool {
    match array.data_type() {
        DataType::Float64 => {
            let large = |value: &f64| value.abs() >= LARGE_MIN;
            array.as_primitive::<Float64Type>().values().iter().any(large)
        }
        DataType::List(_) => has_large(array.as_list::<i32>().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().any(|column| has_large(column)),
        _ => false,
    }
}

/// The first of these columns that doubles take digits from in a line, if that is an object.
pub(super) fn losing<'a>(fields: &[&'a FieldRef], line: &str) -> Option<&'a FieldRef> {
    let members = sample("", line.as_bytes(), true).ok()?.members;
    let loses = |field: &FieldRef| {
        members.iter().any(|(name, shape)| name == field.name() && loses_digits(shape, field.data_type()))
    };
    fields.iter().copied().find(|field| loses(field))
}

fn loses_digits(shape: &Shape, data_type: &DataType) -> bool {
    match (shape, data_type) {
        (Shape::Long | Shape::Digits, DataType::Float64) => true,
        (Shape::List(item), DataType::List(field)) => loses_digits(item, field.data_type()),
        (Shape::Object(members), DataType::Struct(fields)) => members.iter().any(|(name, shape)| {
            fields.find(name).is_some_and(|(_, field)| loses_digits(shape, field.data_type()))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Float64Array, StructArray},
        datatypes::Field,
    };

    use super::*;

    #[test]
    fn large_doubles_are_found_at_any_depth() {
        let check = |values: &[Option<f64>], expected: bool| {
            let array: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
            assert_eq!(has_large(&array), expected, "{values:?}");
            let field = Arc::new(Field::new("x", DataType::Float64, true));
            let within = StructArray::from(vec![(field, array)]);
            assert_eq!(has_large(&within), expected, "{values:?}");
        };
        check(&[], false);
        check(&[Some(9_007_199_254_740_991.0), None, Some(f64::NAN)], false);
        check(&[Some(0.5), None, Some(9_007_199_254_740_992.0)], true);
        check(&[Some(-1e300)], true);
    }

    #[test]
    fn lines_are_looked_at_as_the_sample_was() {
        let float = |name: &str| Field::new(name, DataType::Float64, true);
        let list = DataType::new_list(DataType::Float64, true);
        let fields: Vec<FieldRef> = vec![
            Arc::new(float("a")),
            Arc::new(Field::new("b", DataType::Struct(vec![float("x")].into()), true)),
            Arc::new(Field::new("c", list, true)),
        ];
        let fields: Vec<&FieldRef> = fields.iter().collect();
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(losing(&fields, line).map(|field| field.name().as_str()), expected, "{line}");
        };
        check(r#"{"a":9007199254740992,"b":{"x":1e300},"c":[1,2.5,-0]}"#, None);
        check(r#"{"a":9007199254740993}"#, Some("a"));
        check(r#"{"a":1,"b":{"x":-18446744073709551616}}"#, Some("b"));
        check(r#"{"c":[0.5,9007199254740993]}"#, Some("c"));
        check(r#"{"d":9007199254740993,"b":{"y":9007199254740993}}"#, None);
        check(r#"{"a":"9007199254740993"}"#, None);
        check("", None);
    }
}
