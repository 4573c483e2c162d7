// SPDX-License-Identifier: Apache-2.0
//! One table of objects that differ.
//!
//! A column of the table is in the narrowest type that holds, without loss, the
//! values of all objects that have it; where there is none, the table is refused.
//! Columns of CSV and JSON Lines are guessed from their text, and so the table's
//! are what would be guessed from all of it. What an object lacks is missing.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, new_null_array},
    datatypes::{DataType, Field, Fields, Schema},
};
use fanfold_protocol::{ErrorKind, Problem};

use super::{guard::quote, shape};

/// The columns of some objects together, in the order in which they are met.
#[derive(Debug, Default)]
pub(super) struct Union {
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    data_type: DataType,
    /// Whether it was guessed from text wherever it was met.
    text: bool,
    /// Whether it holds whole numbers some of which doubles do not keep.
    long: bool,
    /// The object that it was first met in.
    uri: String,
}

impl Union {
    /// Adds the columns of an object; where they were guessed from text, `guessed` has those of
    /// whole numbers some of which doubles do not keep.
    ///
    /// # Errors
    /// `schema-mismatch` when no type holds the values of a column without loss.
    pub(super) fn add<'a>(
        &mut self,
        uri: &str,
        stored: impl Iterator<Item = &'a Arc<Field>>,
        guessed: Option<&[String]>,
    ) -> Result<(), Problem> {
        for field in stored {
            let mut data_type = shape::plain_type(field.data_type());
            let (text, long) = (guessed.is_some(), guessed.is_some_and(|long| long.contains(field.name())));
            let Some(column) = self.columns.iter_mut().find(|column| column.name == *field.name()) else {
                let (name, uri) = (field.name().clone(), uri.to_owned());
                self.columns.push(Column { name, data_type, text, long, uri });
                continue;
            };
            if column.text != text {
                // Beside types that are stored nothing is guessed anew.
                let guessed = if text { &mut data_type } else { &mut column.data_type };
                *guessed = seen(guessed);
            }
            column.text &= text;
            column.long |= long;
            let Some(common) = column.common(&data_type) else {
                let detail = format!(
                    "column {} of {uri} must be of a type that widens to that in {}, {}, or the other way, found \
                     {data_type}; declare the column's type in the function or read the objects separately",
                    quote(field.name()),
                    column.uri,
                    column.data_type
                );
                return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
            };
            column.data_type = common;
        }
        Ok(())
    }

    /// The columns. Those that nowhere had a value are texts, and so is what within guessed ones had none.
    pub(super) fn fields(self) -> Vec<Field> {
        let field = |Column { name, data_type, text, .. }| match data_type {
            DataType::Null => Field::new(name, DataType::Utf8, true),
            known if text => Field::new(name, seen(&known), true),
            known => Field::new(name, known, true),
        };
        self.columns.into_iter().map(field).collect()
    }
}

impl Column {
    /// The type that holds its values and those of another object.
    fn common(&self, other: &DataType) -> Option<DataType> {
        match common(&self.data_type, other, self.text) {
            Some(DataType::Float64) if self.text && self.long => Some(DataType::Utf8),
            common => common,
        }
    }
}

/// What was guessed, with texts where within lists and objects no value was seen.
fn seen(guessed: &DataType) -> DataType {
    match guessed {
        DataType::Null => DataType::Null,
        known => shape::mapped(known, |within| (*within == DataType::Null).then_some(DataType::Utf8)),
    }
}

/// The narrowest type that holds all values of both without loss; of columns
/// that were guessed from `text`, what would be guessed from both.
pub(super) fn common(a: &DataType, b: &DataType, text: bool) -> Option<DataType> {
    use DataType::{Date32, Decimal128, Float32, Float64, Int64, List, Null, Struct, Timestamp, Utf8};
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (Null, other) | (other, Null) => Some(other.clone()),
        (List(a), List(b)) if text => {
            Some(DataType::new_list(common(a.data_type(), b.data_type(), true)?, true))
        }
        (Struct(a), Struct(b)) if text => Some(Struct(members(a, b)?)),
        (Int64, Float64) | (Float64, Int64) if text => Some(Float64),
        (Date32, moment @ Timestamp(_, None)) | (moment @ Timestamp(_, None), Date32) if text => {
            Some(moment.clone())
        }
        _ if text => (!a.is_nested() && !b.is_nested()).then_some(Utf8),
        (Decimal128(p, s), Decimal128(q, t)) => {
            let (whole, scale) = ((*p as i8 - s).max(*q as i8 - t), *s.max(t));
            let precision = u8::try_from(whole.checked_add(scale)?).ok()?;
            (precision <= 38).then_some(Decimal128(precision, scale))
        }
        // Of moments that the finer unit does not reach a value-mismatch is told when they are read.
        (Timestamp(a, zone), Timestamp(b, other)) if zone == other => {
            Some(Timestamp(*a.max(b), zone.clone()))
        }
        _ => match (bits(a)?, bits(b)?) {
            (Bits::Float(a), Bits::Float(b)) => Some(if a.max(b) > 32 { Float64 } else { Float32 }),
            // So many bits of a whole number are in the fraction of a float.
            (Bits::Float(float), whole) | (whole, Bits::Float(float)) => match whole.whole() {
                ..=24 if float <= 32 => Some(Float32),
                ..=53 => Some(Float64),
                _ => None,
            },
            (Bits::Signed(a), Bits::Signed(b)) => signed(a.max(b)),
            (Bits::Unsigned(a), Bits::Unsigned(b)) => unsigned(a.max(b)),
            (Bits::Signed(signs), Bits::Unsigned(none)) | (Bits::Unsigned(none), Bits::Signed(signs)) => {
                signed(signs.max(none.saturating_mul(2)))
            }
        },
    }
}

/// The members of objects of text of either kind, in the order in which they are met.
fn members(a: &Fields, b: &Fields) -> Option<Fields> {
    let mut members = a.to_vec();
    for field in b {
        match a.find(field.name()) {
            Some((place, known)) => {
                let common = common(known.data_type(), field.data_type(), true)?;
                members[place] = Arc::new(Field::new(field.name(), common, true));
            }
            None => members.push(Arc::clone(field)),
        }
    }
    Some(members.into())
}

/// How wide numbers are.
#[derive(Clone, Copy)]
enum Bits {
    Signed(u8),
    Unsigned(u8),
    Float(u8),
}

impl Bits {
    fn whole(self) -> u8 {
        match self {
            Self::Signed(bits) | Self::Unsigned(bits) | Self::Float(bits) => bits,
        }
    }
}

fn bits(data_type: &DataType) -> Option<Bits> {
    Some(match data_type {
        DataType::Int8 => Bits::Signed(8),
        DataType::Int16 => Bits::Signed(16),
        DataType::Int32 => Bits::Signed(32),
        DataType::Int64 => Bits::Signed(64),
        DataType::UInt8 => Bits::Unsigned(8),
        DataType::UInt16 => Bits::Unsigned(16),
        DataType::UInt32 => Bits::Unsigned(32),
        DataType::UInt64 => Bits::Unsigned(64),
        DataType::Float16 => Bits::Float(16),
        DataType::Float32 => Bits::Float(32),
        DataType::Float64 => Bits::Float(64),
        _ => return None,
    })
}

fn signed(bits: u8) -> Option<DataType> {
    match bits {
        8 => Some(DataType::Int8),
        16 => Some(DataType::Int16),
        32 => Some(DataType::Int32),
        64 => Some(DataType::Int64),
        _ => None,
    }
}

fn unsigned(bits: u8) -> Option<DataType> {
    match bits {
        8 => Some(DataType::UInt8),
        16 => Some(DataType::UInt16),
        32 => Some(DataType::UInt32),
        64 => Some(DataType::UInt64),
        _ => None,
    }
}

/// The piece with all columns of the table: those that it lacks are missing.
pub(super) fn fill(piece: &RecordBatch, table: &Schema) -> Result<RecordBatch, Problem> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for field in table.fields() {
        let column = match piece.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), piece.num_rows()),
        };
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    shape::assemble(Arc::new(Schema::new(fields)), columns, piece.num_rows())
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn check(a: &str, b: &str, text: bool, expected: &str) {
        let [a, b] = [a, b].map(|name| DataType::from_str(name).unwrap());
        for (a, b) in [(&a, &b), (&b, &a)] {
            let found = common(a, b, text).map_or("none".to_owned(), |t| t.to_string());
            assert_eq!(found, expected, "{a} {b}");
        }
    }

    #[test]
    fn types_widen_without_loss() {
        let check = |a, b, expected| check(a, b, false, expected);
        check("Int8", "Int32", "Int32");
        check("UInt8", "UInt64", "UInt64");
        check("UInt32", "Int8", "Int64");
        check("UInt64", "Int64", "none");
        check("Float16", "Float32", "Float32");
        check("Float32", "Float64", "Float64");
        check("Int16", "Float32", "Float32");
        check("Int32", "Float32", "Float64");
        check("Int64", "Float64", "none");
        check("Null", "Boolean", "Boolean");
        check("Utf8", "Int32", "none");
        check("Date32", "Timestamp(µs)", "none");
        check("Timestamp(ms)", "Timestamp(µs)", "Timestamp(µs)");
        check("Timestamp(s, \"UTC\")", "Timestamp(ns, \"UTC\")", "Timestamp(ns, \"UTC\")");
        check("Timestamp(ms)", "Timestamp(µs, \"UTC\")", "none");
        check("Decimal128(10, 2)", "Decimal128(8, 4)", "Decimal128(12, 4)");
        check("Decimal128(38, 0)", "Decimal128(38, 2)", "none");
    }

    #[test]
    fn what_was_guessed_is_guessed_anew() {
        let check = |a, b, expected| check(a, b, true, expected);
        check("Int64", "Float64", "Float64");
        check("Int64", "Utf8", "Utf8");
        check("Boolean", "Date32", "Utf8");
        check("Date32", "Timestamp(µs)", "Timestamp(µs)");
        check("Null", "Int64", "Int64");
        check("List(Int64)", "Int64", "none");
        check("List(Int64)", "List(Float64)", "List(Float64)");
        check("List(List(Null))", "List(List(Int64))", "List(List(Int64))");
        check("List(Int64)", "List(List(Int64))", "none");
    }

    #[test]
    fn objects_have_the_members_of_both() {
        let object = |members: &[(&str, DataType)]| {
            let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
            DataType::Struct(members.iter().map(field).collect())
        };
        let (whole, float) = (DataType::Int64, DataType::Float64);
        let a = object(&[("x", whole), ("y", DataType::Null)]);
        let b = object(&[("z", DataType::Null), ("y", DataType::Boolean), ("x", float.clone())]);
        let both = [("x", float), ("y", DataType::Boolean), ("z", DataType::Null)];
        assert_eq!(common(&a, &b, true), Some(object(&both)));
        assert_eq!(common(&a, &b, false), None);
        assert_eq!(common(&a, &object(&[("x", object(&[]))]), true), None);
        // What nowhere had a value is text, at any depth.
        let mut union = Union::default();
        for data_type in [a, b] {
            let field = Arc::new(Field::new("o", data_type, true));
            union.add("x", [field].iter(), Some(&[])).unwrap();
        }
        // Beside such that are stored it is at once.
        let lists = |item| [Arc::new(Field::new("l", DataType::new_list(item, true), true))];
        let mut beside = Union::default();
        beside.add("x", lists(DataType::Null).iter(), Some(&[])).unwrap();
        beside.add("y", lists(DataType::Utf8).iter(), None).unwrap();
        assert_eq!(beside.fields(), lists(DataType::Utf8).map(Arc::unwrap_or_clone));
        let texts = object(&[("x", DataType::Float64), ("y", DataType::Boolean), ("z", DataType::Utf8)]);
        assert_eq!(union.fields(), [Field::new("o", texts, true)]);
    }
}
