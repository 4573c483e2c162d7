// SPDX-License-Identifier: Apache-2.0
//! What JSON Lines hold, told from the first lines of their object.
//!
//! Looked at are the whole lines within the first 1 MiB of the (decompressed)
//! object, wherever in it a slice lies. Columns come in the order in which they
//! are first met. Numbers are `Int64` when all are whole and fit, else `Float64`, or
//! `Utf8` where that would take digits from a whole one;
//! texts are `Utf8`, dates too; plain values of several kinds are `Utf8`, and so
//! are columns without values; arrays are lists, objects are structs.

mod number;

use std::{collections::HashMap, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use self::number::Numbers;
use super::{BOM, SAMPLE_BYTES};
use crate::{
    error::{ErrorKind, Problem},
    limits,
};

/// The form of a JSON value, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `null`.
    Null,
    /// `true` and `false`.
    Bool,
    /// Whole numbers of 64 bits.
    Int,
    /// Such of which one at least is larger than all whole numbers that doubles keep.
    Long,
    /// Numbers.
    Float,
    /// Numbers of which only their texts have all digits.
    Digits,
    /// Texts, and plain values of several kinds.
    Text,
    /// Arrays.
    List(Box<Shape>),
    /// Objects.
    Object(Members),
    /// Arrays or objects in one place and something else in another.
    Mixed,
}

impl Shape {
    /// The form of a whole number.
    fn whole(value: i64) -> Self {
        if value.unsigned_abs() <= number::KEPT_MAX { Self::Int } else { Self::Long }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Long | Self::Float | Self::Digits)
    }

    /// The form that both have.
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Null, shape) | (shape, Self::Null) => shape,
            (a, b) if a == b => a,
            (Self::Int, Self::Long) | (Self::Long, Self::Int) => Self::Long,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (a, b) if a.is_number() && b.is_number() => Self::Digits,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.join(*b))),
            (Self::Object(mut members), Self::Object(others)) => {
                members.join(others);
                Self::Object(members)
            }
            (Self::List(_) | Self::Object(_) | Self::Mixed, _)
            | (_, Self::List(_) | Self::Object(_) | Self::Mixed) => Self::Mixed,
            _ => Self::Text,
        }
    }
}

/// The members of objects, in the order in which they are first met.
#[derive(Clone, Default)]
pub struct Members {
    list: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
}

impl Members {
    /// Their names and forms.
    pub fn iter(&self) -> impl Iterator<Item = &(String, Shape)> {
        self.list.iter()
    }

    /// Adds a member, joined with what is there of its name.
    fn add(&mut self, name: String, shape: Shape) {
        match self.places.get(&name) {
            Some(place) => {
                let (_, old) = &mut self.list[*place];
                *old = std::mem::replace(old, Shape::Null).join(shape);
            }
            None => {
                self.places.insert(name.clone(), self.list.len());
                self.list.push((name, shape));
            }
        }
    }

    fn join(&mut self, others: Self) {
        others.list.into_iter().for_each(|(name, shape)| self.add(name, shape));
    }

    /// The members of an object; of one that has more than `most` one more than that.
    fn read<'de, A: MapAccess<'de>>(
        mut entries: A,
        most: usize,
        numbers: &mut Numbers<'_>,
    ) -> Result<Self, A::Error> {
        let mut members = Self::default();
        while let Some(name) = entries.next_key()? {
            members.add(name, entries.next_value_seed(OneShape(numbers))?);
            if members.list.len() > most {
                // All behind it only has to be JSON.
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(members)
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Members {}

/// What the sample's lines hold.
#[derive(Debug)]
pub struct Sample {
    /// The members of their objects.
    pub members: Vec<(String, Shape)>,
    /// Where lines begin that are no objects, in bytes from the object's start.
    /// Their members are not among the others: who reads such a line must refuse it.
    pub malformed: Vec<u64>,
}

/// Looks at the lines of an object that begins with `data`.
///
/// # Errors
/// `empty-object` where the whole object holds no line; `decode-limit` for too many members.
pub fn sample(uri: &str, data: &[u8], ended: bool) -> Result<Sample, Problem> {
    let mut at = if data.starts_with(BOM) { BOM.len() } else { 0 };
    let data = &data[at..];
    // The mark before the text counts, as whoever fetches the sample has no more.
    let cut = data.len().min(SAMPLE_BYTES - at);
    // A first line that is longer than the sample is looked at all the same.
    let first_end = data.iter().position(|b| *b == b'\n').map_or(data.len(), |at| at + 1);
    let end = cut.max(first_end);
    let (mut joined, mut malformed, mut any) = (Members::default(), Vec::new(), false);
    for line in data[..end].split_inclusive(|b| *b == b'\n') {
        let whole = line.ends_with(b"\n") || (ended && end == data.len());
        any |= !line.trim_ascii().is_empty();
        match whole.then(|| members_of(line)) {
            Some(Ok(members)) => joined.join(members),
            Some(Err(_)) if !is_blank(line) => malformed.push(at as u64),
            _ => {}
        }
        at += line.len();
        if joined.list.len() > limits::COLUMNS_MAX {
            let detail = format!("{uri} must have at most {} columns, found more", limits::COLUMNS_MAX);
            return Err(Problem::new(ErrorKind::DecodeLimit, detail));
        }
    }
    // Behind blank lines as long as the sample others may follow.
    if any || !ended || end < data.len() {
        return Ok(Sample { members: joined.list, malformed });
    }
    let detail = format!("{uri} must hold a table, found no line; leave it out of the input");
    Err(Problem::new(ErrorKind::EmptyObject, detail))
}

/// Whether the line holds nothing but what JSON takes as white space.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'))
}

/// The members of a line, which must be an object: as many as columns can be, and one more.
fn members_of(line: &[u8]) -> serde_json::Result<Members> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let members = OneLine(&mut Numbers::of(line)).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(members)
}

/// Reads a line.
struct OneLine<'n, 'a>(&'n mut Numbers<'a>);

impl<'de> DeserializeSeed<'de> for OneLine<'_, '_> {
    type Value = Members;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Members, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneLine<'_, '_> {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Members, A::Error> {
        Members::read(entries, limits::COLUMNS_MAX, self.0)
    }
}

/// Reads the form of one value, whose numbers are the next ones of the line.
struct OneShape<'n, 'a>(&'n mut Numbers<'a>);

impl<'de> DeserializeSeed<'de> for OneShape<'_, '_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneShape<'_, '_> {
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

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        self.0.pass();
        Ok(Shape::whole(value))
    }

    /// Whole numbers beyond `Int64` keep their digits as text.
    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        self.0.pass();
        Ok(i64::try_from(value).map_or(Shape::Digits, Shape::whole))
    }

    /// Also what stands as a whole number and is beyond 64 bits, or `-0`.
    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(match self.0.is_whole(value) {
            false => Shape::Float,
            true if value == 0.0 => Shape::Int,
            true => Shape::Digits,
        })
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::Null;
        while let Some(item) = items.next_element_seed(OneShape(self.0))? {
            shape = shape.join(item);
        }
        Ok(Shape::List(Box::new(shape)))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Shape, A::Error> {
        Members::read(entries, usize::MAX, self.0).map(Shape::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        sample("s3://bank/a", text.as_bytes(), true)
            .map_or_else(|p| format!("{}: {}", p.code, p.detail), |sample| format!("{:?}", sample.members))
    }

    #[test]
    fn members_are_joined_by_their_names() {
        let check = |text: &str, expected: &str| assert_eq!(told(text), expected, "{text}");
        check(
            "{\"b\":1,\"a\":true}\n{\"a\":null,\"c\":\"x\",\"b\":2.5}",
            r#"[("b", Float), ("a", Bool), ("c", Text)]"#,
        );
        check("{\"a\":{\"x\":1}}\n{\"a\":{\"y\":1,\"x\":2}}", r#"[("a", Object([("x", Int), ("y", Int)]))]"#);
        check("{\"a\":1,\"a\":\"x\"}", r#"[("a", Text)]"#);
        check("{\"a\":1}\n[1]\n{\"b\":}\n", r#"[("a", Int)]"#);
    }

    #[test]
    fn numbers_are_told_by_their_digits() {
        let check = |values: &[&str], expected: &str| {
            let lines: Vec<String> = values.iter().map(|value| format!("{{\"a\":{value}}}")).collect();
            assert_eq!(told(&lines.join("\n")), format!("[(\"a\", {expected})]"), "{values:?}");
        };
        check(&["-0", "9007199254740992"], "Int");
        check(&["9007199254740993"], "Long");
        check(&["-9223372036854775808", "9223372036854775807", "1"], "Long");
        for beyond in ["9223372036854775808", "18446744073709551616", "-9223372036854775809"] {
            check(&[beyond], "Digits");
            check(&[beyond, "1"], "Digits");
            check(&["0.5", "null", beyond], "Digits");
            check(&[beyond, "\"x\""], "Text");
        }
        check(&["-0", "0.5", "9007199254740992"], "Float");
        check(&["9007199254740993", "0.5"], "Digits");
        check(&["0.5", "-9007199254740993", "1"], "Digits");
        for float in [
            "-0.0",
            "-0e0",
            "1e300",
            "9223372036854775808.0",
            "-1.8446744073709552e19",
            "18446744073709551616E0",
        ] {
            check(&[float, "1"], "Float");
        }
        // Each is looked up in its own place, whatever stands around it.
        check(&["[1.5,18446744073709551616]", "[\"2\\\"3\",4]"], "List(Text)");
        check(
            &[r#"[{"1":"-0 \" 5","x":[1e300,7]},{"\\":2,"x":[-0.0]}]"#],
            r#"List(Object([("1", Text), ("x", List(Float)), ("\\", Int)]))"#,
        );
        check(&["[1, 2.5, -0,\t1e300 , 20000000000000000000]"], "List(Digits)");
        check(&["[20000000000000000000, 2.5]"], "List(Digits)");
        check(&["{\"x\":1e300,\"y\":-0}"], r#"Object([("x", Float), ("y", Int)])"#);
    }

    #[test]
    fn a_sample_is_the_same_however_much_follows() {
        let (line, last) = ("{\"a\":1}\n", "{\"a\":0.5}\n");
        for bom in ["", "\u{feff}"] {
            for beyond in 0..4 {
                let fill = SAMPLE_BYTES + beyond - bom.len() - line.len() - last.len();
                let text = format!("{bom}{line}{}{last}", " ".repeat(fill));
                let seen = |text: &[u8]| sample("s3://bank/a", text, false).unwrap().members;
                assert_eq!(seen(&text.as_bytes()[..SAMPLE_BYTES]), seen(text.as_bytes()), "{beyond}");
            }
        }
    }

    #[test]
    fn blank_lines_are_all_there_is_only_where_the_object_ends() {
        let check = |lines: usize, ended, expected: Result<usize, ErrorKind>| {
            let found = sample("s3://bank/a", "\n".repeat(lines).as_bytes(), ended);
            let found = found.map(|sample| sample.members.len()).map_err(|problem| problem.code);
            assert_eq!(found, expected, "{lines}, {ended}");
        };
        check(2, true, Err(ErrorKind::EmptyObject));
        check(SAMPLE_BYTES, true, Err(ErrorKind::EmptyObject));
        check(SAMPLE_BYTES, false, Ok(0));
        check(SAMPLE_BYTES + 1, true, Ok(0));
    }

    #[test]
    fn lines_that_are_no_objects_are_placed() {
        let check = |text: &str, ended, expected: &[u64]| {
            assert_eq!(sample("s3://bank/a", text.as_bytes(), ended).unwrap().malformed, expected, "{text}");
        };
        check("{\"a\":1}\n \r\n\n{\"a\":2}", true, &[]);
        check("{\"a\":1}\n{\"a\":01}\n{\"a\":2,}\n", true, &[8, 17]);
        check("\u{feff}[1]\n{\"a\":-}", true, &[3, 7]);
        // Cut off is not malformed.
        check("1\n{\"a\":", false, &[0]);
        check("1\n{\"a\":", true, &[0, 2]);
    }

    #[test]
    fn too_many_members_are_refused_soon() {
        let object = |from: usize, count: usize| {
            let members: Vec<_> = (from..from + count).map(|n| format!("\"k{n}\":1")).collect();
            format!("{{{}}}\n", members.join(","))
        };
        let most = limits::COLUMNS_MAX;
        assert!(told(&object(0, most)).ends_with("Int)]"));
        // Looking at each for each of them would take minutes.
        for text in [object(0, most + 1), object(0, 500_000), object(0, most) + &object(1, most)] {
            assert!(told(&text).contains("at most 10000 columns, found more"), "{}", text.len());
        }
        // Members of members are no columns.
        assert!(
            told(&format!("{{\"a\":{}}}", object(0, 300_000).trim_end())).starts_with("[(\"a\", Object(")
        );
    }
}
