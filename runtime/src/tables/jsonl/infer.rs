// SPDX-License-Identifier: Apache-2.0
//! The Arrow types of what the lines of JSON are found to hold.

use arrow::datatypes::{DataType, Field};
use fanfold_protocol::stored::jsonl::Shape;

/// The type that takes values of this form, where none was seen `unseen`; `None` when there is none.
pub(super) fn data_type(shape: &Shape, unseen: &DataType) -> Option<DataType> {
    Some(match shape {
        Shape::Null => unseen.clone(),
        Shape::Digits | Shape::Text => DataType::Utf8,
        Shape::Bool => DataType::Boolean,
        Shape::Int | Shape::Long => DataType::Int64,
        Shape::Float => DataType::Float64,
        Shape::List(item) => DataType::new_list(data_type(item, unseen)?, true),
        Shape::Object(members) => {
            let field =
                |(name, shape): &(String, Shape)| Some(Field::new(name, data_type(shape, unseen)?, true));
            DataType::Struct(members.iter().map(field).collect::<Option<Vec<_>>>()?.into())
        }
        Shape::Mixed => return None,
    })
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::stored::jsonl::sample;

    use super::*;

    fn check(values: &[&str], expected: &str) {
        let lines: Vec<String> = values.iter().map(|value| format!("{{\"a\":{value}}}")).collect();
        let sample = sample("s3://bank/a", lines.join("\n").as_bytes(), true).unwrap();
        let found =
            data_type(&sample.members[0].1, &DataType::Utf8).map_or("none".to_owned(), |t| t.to_string());
        assert_eq!(found, expected, "{values:?}");
    }

    #[test]
    fn shapes_are_joined() {
        check(&["1", "null", "2"], "Int64");
        check(&["1", "2.5"], "Float64");
        check(&["1", "true"], "Utf8");
        check(&["18446744073709551615"], "Utf8");
        check(&["-0", "9007199254740993"], "Int64");
        check(&["0.5", "9007199254740993"], "Utf8");
        check(&["null"], "Utf8");
        check(&["[1]", "[]", "[2.5]"], "List(Float64)");
        check(&["[1]", "1"], "none");
        check(&[r#"{"b":1}"#, r#"{"a":"x","b":2}"#], r#"Struct("b": Int64, "a": Utf8)"#);
    }
}
