// SPDX-License-Identifier: Apache-2.0
//! What JSON Lines hold, told from the first lines of their object.
//!
//! Looked at are the whole lines within the first 1 MiB of the (decompressed)
//! object, wherever in it a slice lies. Columns come in the order in which they
//! are first met. Numbers are `Int64` when all are whole and fit, else `Float64`;
//! texts are `Utf8`, dates too; plain values of several kinds are `Utf8`, and so
//! are columns without values; arrays are lists, objects are structs.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

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
    /// Numbers.
    Float,
    /// Texts, and plain values of several kinds.
    Text,
    /// Arrays.
    List(Box<Shape>),
    /// Objects, with their members in the order in which they are first met.
    Object(Vec<(String, Shape)>),
    /// Arrays or objects in one place and something else in another.
    Mixed,
}

impl Shape {
    /// The form that both have.
    pub fn join(self, other: Self) -> Self {
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
}

/// The members of the objects in the sample's lines. Lines that are malformed
/// are met again, and told, when they are read.
pub fn members(uri: &str, data: &[u8], ended: bool) -> Result<Vec<(String, Shape)>, Problem> {
    let data = data.strip_prefix(BOM).unwrap_or(data);
    let cut = data.len().min(SAMPLE_BYTES);
    // A first line that is longer than the sample is looked at all the same.
    let first_end = data.iter().position(|b| *b == b'\n').map_or(data.len(), |at| at + 1);
    let end = cut.max(first_end);
    let mut joined = Shape::Object(Vec::new());
    let mut any = false;
    for line in data[..end].split_inclusive(|b| *b == b'\n') {
        let whole = line.ends_with(b"\n") || (ended && end == data.len());
        any |= !line.trim_ascii().is_empty();
        if let Some(shape) = whole.then(|| serde_json::from_slice::<Shape>(line).ok()).flatten()
            && matches!(shape, Shape::Object(_))
        {
            joined = joined.join(shape);
        }
    }
    if !any {
        let detail = format!("{uri} must hold a table, found no line; leave it out of the input");
        return Err(Problem::new(ErrorKind::EmptyObject, detail));
    }
    let Shape::Object(members) = joined else { return Ok(Vec::new()) };
    if members.len() <= limits::COLUMNS_MAX {
        return Ok(members);
    }
    let detail = format!("{uri} must have at most {} columns, found {}", limits::COLUMNS_MAX, members.len());
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
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
