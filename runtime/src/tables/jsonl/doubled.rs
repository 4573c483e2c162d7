// SPDX-License-Identifier: Apache-2.0
//! Names that an object of JSON has twice.
//!
//! RFC 8259, section 4, leaves open what they mean, and they are read as what the last of
//! them is. Looked for only where a line is refused, to say why.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// The first name that an object of the line has twice, at any depth.
pub(super) fn doubled(line: &str) -> Option<String> {
    serde_json::from_str::<Doubled>(line).ok()?.0
}

/// What of a value is doubled.
struct Doubled(Option<String>);

impl<'de> Deserialize<'de> for Doubled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DoubledVisitor)
    }
}

struct DoubledVisitor;

impl<'de> Visitor<'de> for DoubledVisitor {
    type Value = Doubled;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Doubled, E> {
        Ok(Doubled(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Doubled, E> {
        Ok(Doubled(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Doubled, E> {
        Ok(Doubled(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Doubled, E> {
        Ok(Doubled(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Doubled, E> {
        Ok(Doubled(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Doubled, E> {
        Ok(Doubled(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Doubled, A::Error> {
        let mut found = None;
        while let Some(Doubled(within)) = items.next_element()? {
            found = found.or(within);
        }
        Ok(Doubled(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Doubled, A::Error> {
        let (mut names, mut found) = (HashSet::new(), None);
        while let Some((name, Doubled(within))) = entries.next_entry::<String, Doubled>()? {
            found = found.or(within);
            if !names.insert(name.clone()) {
                found = found.or(Some(name));
            }
        }
        Ok(Doubled(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_doubled_in_one_object_only() {
        let check =
            |line: &str, expected: Option<&str>| assert_eq!(doubled(line).as_deref(), expected, "{line}");
        check(r#"{"a":1,"b":{"a":[1.5,-2,true,"a"]},"c":null}"#, None);
        check(r#"[{"a":1},{"a":2}]"#, None);
        check(r#"{"late":3,"late":null}"#, Some("late"));
        check(r#"{"a":[{"x":1},{"y":{"z":1,"w":2,"z":3}}]}"#, Some("z"));
        check(r#"{"a":1,"\u0061":2}"#, Some("a"));
        check(r#"{"a":1,"a":"#, None);
    }
}
