// SPDX-License-Identifier: Apache-2.0
//! Parts of documents that are objects, whose members are found by their names.
//!
//! What serde derives for a struct takes a list as well, its items for the members in
//! the order of their declaration; for what people write that is a mistake. These stand
//! in `deserialize_with`, and what is no object is refused in the struct's own words.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
    forward_to_deserialize_any,
};

/// Reads an object.
///
/// # Errors
/// As `T` has it, and for a list.
pub fn required<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    T::deserialize(ByName(reader))
}

/// Reads an object, or none.
///
/// # Errors
/// As [`required`].
pub fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(reader)?.map(|Object(value)| value))
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        required(reader).map(Self)
    }
}

/// A reader of a document that shows what it reads from to [`Members`].
struct ByName<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ByName<D> {
    type Error = D::Error;

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Members(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Takes members and nothing else.
struct Members<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Members<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(members)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default, expecting = "point to be an object")]
    struct Point {
        x: u32,
        y: u32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Shape {
        #[serde(default, deserialize_with = "required")]
        centre: Point,
        #[serde(default, deserialize_with = "optional")]
        corner: Option<Point>,
    }

    #[test]
    fn objects_are_read_by_name() {
        let check = |document: Value, centre, corner| {
            assert_eq!(from_value::<Shape>(document).unwrap(), Shape { centre, corner });
        };
        check(json!({}), Point::default(), None);
        check(json!({"centre": {"y": 2}, "corner": null}), Point { x: 0, y: 2 }, None);
        check(json!({"centre": {}, "corner": {"x": 1}}), Point::default(), Some(Point { x: 1, y: 0 }));
    }

    #[test]
    fn lists_and_others_are_no_objects() {
        for (value, found) in
            [(json!([1, 2]), "sequence"), (json!([]), "sequence"), (json!(5), "integer `5`")]
        {
            for name in ["centre", "corner"] {
                let said = from_value::<Shape>(json!({name: value})).unwrap_err().to_string();
                assert_eq!(said, format!("invalid type: {found}, expected point to be an object"));
            }
        }
        let said = from_value::<Shape>(json!({"corner": {"z": 1}})).unwrap_err().to_string();
        assert!(said.contains("unknown field `z`"), "{said}");
        let said = serde_json::from_str::<Shape>("{\"centre\":\n[1]}").unwrap_err();
        assert_eq!(said.line(), 2, "{said}");
    }
}
