//! What JSON Lines hold, told from the first lines of their object.
//!
//! Looked at are the whole lines within the first 1 MiB of the (decompressed)
//! object, wherever in it a slice lies. Columns come in the order in which they
//! are first met. Numbers are `Int64` when all are whole and fit, else `Float64`;
//! texts are `Utf8`, dates too; plain values of several kinds are `Utf8`, and so
//! are columns without values; arrays are lists, objects are structs.

use std::fmt;

use arrow::datatypes::{DataType, Field};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// The form of a JSON value, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Null,
    Bool,
    Int,
    Float,
    Text,
    List(Box<Shape>),
    Object(Vec<(String, Shape)>),
    /// Arrays or objects in one place and something else in another.
    Mixed,
}

impl Shape {
    /// The form that both have.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Null, shape) | (shape, Self::Null) => shape,
            (a, b) if a == b => a,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.join(*b))),
            (Self::Object(mut members), Self::Object(others)) => {
                others.into_iter().for_each(|(name, shape)| add(&mut members, name, shape));
                Self::Object(members)
            }
            (Self::List(_) | Self::Object(_) | Self::Mixed, _)
            | (_, Self::List(_) | Self::Object(_) | Self::Mixed) => Self::Mixed,
            _ => Self::Text,
        }
    }

    /// The Arrow type that takes values of this form; `None` when there is none.
    pub(super) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Null | Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::List(item) => DataType::new_list(item.data_type()?, true),
            Self::Object(members) => {
                let field = |(name, shape): &(String, Self)| Some(Field::new(name, shape.data_type()?, true));
                DataType::Struct(members.iter().map(field).collect::<Option<Vec<_>>>()?.into())
            }
            Self::Mixed => return None,
        })
    }
}

/// Adds a member to an object's, joined with what is there of its name. Members
/// mostly come in the order of the objects before, so the search is short.
fn add(members: &mut Vec<(String, Shape)>, name: String, shape: Shape) {
    match members.iter_mut().find(|(n, _)| *n == name) {
        Some((_, old)) => *old = std::mem::replace(old, Shape::Null).join(shape),
        None => members.push((name, shape)),
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Int)
    }

    /// Whole numbers beyond `Int64` keep their digits as text.
    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(if i64::try_from(value).is_ok() { Shape::Int } else { Shape::Text })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Float)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::Null;
        while let Some(item) = items.next_element::<Shape>()? {
            shape = shape.join(item);
        }
        Ok(Shape::List(Box::new(shape)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut members = Vec::new();
        while let Some((name, shape)) = entries.next_entry::<String, Shape>()? {
            add(&mut members, name, shape);
        }
        Ok(Shape::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expected: &str) {
        let shapes = lines.iter().map(|l| serde_json::from_str::<Shape>(l).unwrap());
        let shape = shapes.fold(Shape::Null, Shape::join);
        let found = shape.data_type().map_or("none".to_owned(), |t| t.to_string());
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
