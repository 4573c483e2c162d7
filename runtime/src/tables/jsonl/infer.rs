// SPDX-License-Identifier: Apache-2.0
//! The Arrow types of what the lines of JSON are found to hold.

use arrow::datatypes::{DataType, Field};
use fanfold_protocol::stored::jsonl::Shape;

/// The type that takes values of this form; `None` when there is none.
pub(super) fn data_type(shape: &Shape) -> Option<DataType> {
    Some(match shape {
        Shape::Null | Shape::Text => DataType::Utf8,
        Shape::Bool => DataType::Boolean,
        Shape::Int => DataType::Int64,
        Shape::Float => DataType::Float64,
        Shape::List(item) => DataType::new_list(data_type(item)?, true),
        Shape::Object(members) => {
            let field = |(name, shape): &(String, Shape)| Some(Field::new(name, data_type(shape)?, true));
            DataType::Struct(members.iter().map(field).collect::<Option<Vec<_>>>()?.into())
        }
        Shape::Mixed => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expected: &str) {
        let shapes = lines.iter().map(|l| serde_json::from_str::<Shape>(l).unwrap());
        let shape = shapes.fold(Shape::Null, Shape::join);
        let found = data_type(&shape).map_or("none".to_owned(), |t| t.to_string());
        assert_eq!(found, expected, "{lines:?}");
    }

    #[test]
    fn shapes_are_joined() {
        check(&["1", "null", "2"], "Int64");
        check(&["1", "2.5"], "Float64");
        check(&["1", "true"], "Utf8");
        check(&["18446744073709551615"], "Utf8");
        check(&["null"], "Utf8");
        check(&["[1]", "[]", "[2.5]"], "List(Float64)");
        check(&["[1]", "1"], "none");
        check(&[r#"{"b":1}"#, r#"{"a":"x","b":2}"#], r#"Struct("b": Int64, "a": Utf8)"#);
    }
}
