// SPDX-License-Identifier: Apache-2.0
//! One column of CSV on its way into an Arrow array.
//!
//! A [`Column`] takes the fields of its column, a block of records at a time,
//! and parses them in one loop. It never sees another column. Where its type was
//! guessed, a value of which something would be lost is none of it: in the sample
//! it would have made a text of the column.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, ArrowPrimitiveType, BooleanBuilder, PrimitiveBuilder, StringBuilder},
    datatypes::{
        DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};

use fanfold_protocol::stored::{
    csv::Field,
    guess::{has_leading_zero, is_kept_by_double},
    value,
};

use super::super::shape::plain_type;

/// Unquoted texts that mean a missing value.
#[derive(Clone, Debug)]
pub(super) struct Nulls {
    texts: Vec<Vec<u8>>,
    empty: bool,
    longest: usize,
    /// Whether one of them is also a value, as `0` or `1900-01-01` may be; NaN aside.
    ambiguous: bool,
    /// Which bytes the texts begin with: most fields are told apart by that.
    first: [bool; 256],
}

impl Nulls {
    pub(super) fn new(texts: &[String]) -> Self {
        let texts: Vec<Vec<u8>> = texts.iter().map(|t| t.clone().into_bytes()).collect();
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let mut first = [false; 256];
        texts.iter().filter_map(|t| t.first()).for_each(|b| first[usize::from(*b)] = true);
        let ambiguous =
            texts.iter().any(|t| value::float(t).is_some_and(|v| !v.is_nan()) || value::moment(t).is_some());
        Self { empty: texts.iter().any(Vec::is_empty), ambiguous, texts, longest, first }
    }

    /// Whether this field is a missing value.
    pub(super) fn means(&self, field: Field, text: &[u8]) -> bool {
        if field.quoted || text.len() > self.longest {
            return false;
        }
        match text.first() {
            None => self.empty,
            Some(b) => self.first[usize::from(*b)] && self.texts.iter().any(|t| t == text),
        }
    }

    /// The same in a column that is not of texts. In quotes the empty one is no value there
    /// either: so it stands where a writer quotes every field.
    pub(super) fn means_no_text(&self, field: Field, text: &[u8]) -> bool {
        self.means(field, text) || (self.empty && text.is_empty())
    }
}

/// A block of records: their text, and the fields of all columns.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) text: &'a str,
    pub(super) fields: &'a [Field],
    pub(super) width: usize,
    pub(super) nulls: &'a Nulls,
    pub(super) quote: u8,
}

impl<'a> Cells<'a> {
    fn fields(self, index: usize) -> impl Iterator<Item = Field> {
        self.fields.iter().skip(index).step_by(self.width).copied()
    }

    fn text_of(self, field: Field) -> &'a str {
        self.text.get(field.range()).unwrap_or_default()
    }

    fn is_null(self, field: Field) -> bool {
        self.nulls.means(field, &self.text.as_bytes()[field.range()])
    }

    fn is_no_text(self, field: Field) -> bool {
        self.nulls.means_no_text(field, &self.text.as_bytes()[field.range()])
    }
}

/// The field's text with doubled quotes made single.
pub(super) fn unescape(text: &str, quote: u8) -> String {
    let quote = char::from(quote);
    text.replace(&format!("{quote}{quote}"), &quote.to_string())
}

/// The values of a column so far.
pub(super) struct Column {
    index: usize,
    values: Values,
    /// Whether nobody has declared its type.
    guessed: bool,
    /// Whether its moments have a zone.
    zoned: bool,
    /// Whether an empty text in quotes is a value of it.
    keeps_empty: bool,
}

macro_rules! values {
    ($($variant:ident($builder:ty),)*) => {
        enum Values { $($variant($builder),)* }

        impl Values {
            fn finish(&mut self) -> ArrayRef {
                match self { $(Self::$variant(b) => Arc::new(b.finish()),)* }
            }
        }
    };
}

values! {
    Bool(BooleanBuilder),
    I8(PrimitiveBuilder<Int8Type>),
    I16(PrimitiveBuilder<Int16Type>),
    I32(PrimitiveBuilder<Int32Type>),
    I64(PrimitiveBuilder<Int64Type>),
    U8(PrimitiveBuilder<UInt8Type>),
    U16(PrimitiveBuilder<UInt16Type>),
    U32(PrimitiveBuilder<UInt32Type>),
    U64(PrimitiveBuilder<UInt64Type>),
    F32(PrimitiveBuilder<Float32Type>),
    F64(PrimitiveBuilder<Float64Type>),
    Date(PrimitiveBuilder<Date32Type>),
    Seconds(PrimitiveBuilder<TimestampSecondType>),
    Millis(PrimitiveBuilder<TimestampMillisecondType>),
    Micros(PrimitiveBuilder<TimestampMicrosecondType>),
    Nanos(PrimitiveBuilder<TimestampNanosecondType>),
    Text(StringBuilder),
}

/// The type in which fields are read that are wanted as `wanted`; other types
/// are read as text and cast afterwards.
pub(super) fn read_type(wanted: &DataType) -> DataType {
    use DataType::{
        Boolean, Date32, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32,
        UInt64,
    };
    match wanted {
        Boolean
        | Int8
        | Int16
        | Int32
        | Int64
        | UInt8
        | UInt16
        | UInt32
        | UInt64
        | Float32
        | Float64
        | Date32
        | Timestamp(_, _) => wanted.clone(),
        _ => DataType::Utf8,
    }
}

impl Column {
    /// The column at this place among all, read in a type from [`read_type`], and what somebody
    /// declares it to be.
    pub(super) fn new(index: usize, data_type: &DataType, declared: Option<&DataType>) -> Self {
        use DataType as T;
        let values = match data_type {
            T::Boolean => Values::Bool(BooleanBuilder::new()),
            T::Int8 => Values::I8(PrimitiveBuilder::new()),
            T::Int16 => Values::I16(PrimitiveBuilder::new()),
            T::Int32 => Values::I32(PrimitiveBuilder::new()),
            T::Int64 => Values::I64(PrimitiveBuilder::new()),
            T::UInt8 => Values::U8(PrimitiveBuilder::new()),
            T::UInt16 => Values::U16(PrimitiveBuilder::new()),
            T::UInt32 => Values::U32(PrimitiveBuilder::new()),
            T::UInt64 => Values::U64(PrimitiveBuilder::new()),
            T::Float32 => Values::F32(PrimitiveBuilder::new()),
            T::Float64 => Values::F64(PrimitiveBuilder::new()),
            T::Date32 => Values::Date(PrimitiveBuilder::new()),
            T::Timestamp(unit, _) => {
                let typed = data_type.clone();
                match unit {
                    TimeUnit::Second => Values::Seconds(PrimitiveBuilder::new().with_data_type(typed)),
                    TimeUnit::Millisecond => Values::Millis(PrimitiveBuilder::new().with_data_type(typed)),
                    TimeUnit::Microsecond => Values::Micros(PrimitiveBuilder::new().with_data_type(typed)),
                    TimeUnit::Nanosecond => Values::Nanos(PrimitiveBuilder::new().with_data_type(typed)),
                }
            }
            _ => Values::Text(StringBuilder::new()),
        };
        let zoned = matches!(data_type, T::Timestamp(_, Some(_)));
        let keeps_empty = declared.is_none_or(|declared| matches!(plain_type(declared), T::Utf8 | T::Binary));
        Self { index, values, guessed: declared.is_none(), zoned, keeps_empty }
    }

    /// Its place among all columns.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Takes the column's fields of a block. The record of the first field that
    /// is no such value is the error.
    pub(super) fn append(&mut self, cells: Cells<'_>) -> Result<(), usize> {
        let (at, guessed) = (self.index, self.guessed);
        let zone = guessed.then_some(self.zoned);
        match &mut self.values {
            Values::Bool(b) => truths(b, cells, at),
            Values::I8(b) => small(b, cells, at, guessed),
            Values::I16(b) => small(b, cells, at, guessed),
            Values::I32(b) => small(b, cells, at, guessed),
            Values::I64(b) => parsed(b, cells, at, |t, at| {
                value::integer_in(t, at.clone()).filter(|_| !guessed || !has_leading_zero(&t[at]))
            }),
            Values::U8(b) => small(b, cells, at, guessed),
            Values::U16(b) => small(b, cells, at, guessed),
            Values::U32(b) => small(b, cells, at, guessed),
            Values::U64(b) => parsed(b, cells, at, |t, at| {
                value::unsigned(&t[at.clone()]).filter(|_| !guessed || !has_leading_zero(&t[at]))
            }),
            Values::F32(b) => parsed(b, cells, at, |t, at| {
                single(&t[at.clone()]).filter(|_| !guessed || is_kept_by_double(&t[at]))
            }),
            Values::F64(b) => parsed(b, cells, at, |t, at| {
                value::float_in(t, at.clone()).filter(|_| !guessed || is_kept_by_double(&t[at]))
            }),
            Values::Date(b) => parsed(b, cells, at, |t, at| value::date(&t[at])),
            Values::Seconds(b) => parsed(b, cells, at, |t, at| ticks(&t[at], 1, zone)),
            Values::Millis(b) => parsed(b, cells, at, |t, at| ticks(&t[at], 1_000, zone)),
            Values::Micros(b) => parsed(b, cells, at, |t, at| ticks(&t[at], 1_000_000, zone)),
            Values::Nanos(b) => parsed(b, cells, at, |t, at| ticks(&t[at], 1_000_000_000, zone)),
            Values::Text(b) => {
                texts(b, cells, at, self.keeps_empty);
                Ok(())
            }
        }
    }

    /// What of a text that was not taken would have been lost, in words that go behind it;
    /// nothing where it is no such value at all.
    pub(super) fn lost(&self, text: &[u8]) -> &'static str {
        let zoned = || value::moment(text).map(|moment| moment.zoned);
        match &self.values {
            _ if !self.guessed => "",
            Values::Seconds(_) | Values::Millis(_) | Values::Micros(_) | Values::Nanos(_) => {
                match (zoned(), self.zoned) {
                    (Some(true), false) => ", whose zone would be lost",
                    (Some(false), true) => ", which has no zone as the others have",
                    _ => "",
                }
            }
            Values::Bool(_) | Values::Date(_) | Values::Text(_) => "",
            _ if value::float(text).is_none() => "",
            _ if has_leading_zero(text) => ", whose zeros in front would be lost",
            Values::F32(_) | Values::F64(_) if !is_kept_by_double(text) => {
                ", whose last digits would be lost"
            }
            _ => "",
        }
    }

    /// The array of what was taken since the last one.
    pub(super) fn finish(&mut self) -> ArrayRef {
        self.values.finish()
    }
}

/// A floating-point number of 32 bits: one of 64 would be rounded twice.
fn single(text: &[u8]) -> Option<f32> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// A moment in ticks of which there are `rate` in a second; none of a finer one, nor of one
/// that has a zone where all of its column have none, or the other way.
fn ticks(text: &[u8], rate: i64, zone: Option<bool>) -> Option<i64> {
    let moment = value::moment(text).filter(|moment| zone.is_none_or(|zoned| zoned == moment.zoned))?;
    let (nanos, each) = (i64::from(moment.nanos), 1_000_000_000 / rate);
    let fraction = (nanos % each == 0).then_some(nanos / each)?;
    moment.seconds.checked_mul(rate)?.checked_add(fraction)
}

fn parsed<T: ArrowPrimitiveType>(
    builder: &mut PrimitiveBuilder<T>,
    cells: Cells<'_>,
    index: usize,
    parse: impl Fn(&[u8], Range<usize>) -> Option<T::Native>,
) -> Result<(), usize> {
    let text = cells.text.as_bytes();
    // Equal to nothing, not even to itself, is NaN.
    let is_plain = |value: &T::Native| !cells.nulls.ambiguous && value.partial_cmp(value).is_some();
    for (record, field) in cells.fields(index).enumerate() {
        match parse(text, field.range()) {
            Some(value) if is_plain(&value) || !cells.is_null(field) => builder.append_value(value),
            _ if cells.is_no_text(field) => builder.append_null(),
            _ => return Err(record),
        }
    }
    Ok(())
}

fn small<T: ArrowPrimitiveType>(
    builder: &mut PrimitiveBuilder<T>,
    cells: Cells<'_>,
    index: usize,
    guessed: bool,
) -> Result<(), usize>
where
    T::Native: TryFrom<i64>,
{
    parsed(builder, cells, index, |text, range| {
        let value = T::Native::try_from(value::integer_in(text, range.clone())?).ok();
        value.filter(|_| !guessed || !has_leading_zero(&text[range]))
    })
}

fn truths(builder: &mut BooleanBuilder, cells: Cells<'_>, index: usize) -> Result<(), usize> {
    for (record, field) in cells.fields(index).enumerate() {
        if cells.is_no_text(field) {
            builder.append_null();
        } else {
            builder.append_value(value::truth(cells.text_of(field).as_bytes()).ok_or(record)?);
        }
    }
    Ok(())
}

fn texts(builder: &mut StringBuilder, cells: Cells<'_>, index: usize, keeps_empty: bool) {
    for field in cells.fields(index) {
        let is_missing = if keeps_empty { cells.is_null(field) } else { cells.is_no_text(field) };
        if is_missing {
            builder.append_null();
        } else if field.escaped {
            builder.append_value(unescape(cells.text_of(field), cells.quote));
        } else {
            builder.append_value(cells.text_of(field));
        }
    }
}
