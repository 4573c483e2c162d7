// SPDX-License-Identifier: Apache-2.0
//! The footer of a Parquet object, as far as filters need it: what its columns
//! are, and which row groups a filter may pass by their statistics.
//!
//! Planner and reader ask the same here, so that a row group is left out for the
//! same reason wherever that is noticed first. Only `min_value` and `max_value` in
//! the order of their types count: what older writers left in `min` and `max` has
//! no order that can be relied on. Walked like [`super::parquet`]: what a footer
//! claims is not allocated.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, FileMetaData.

use std::ops::Range;

use super::thrift::{I32, I64, LIST, STRUCT, Thrift};
use crate::{
    filter::{Bound, Bounds, Kind, Statistics},
    limits,
};

/// The type of binary values.
const BINARY: u8 = 8;
/// Where Arrow's own types are kept.
const ARROW_SCHEMA: &[u8] = b"ARROW:schema";

/// A column of the table, which may hold others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FooterColumn {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// What it may hold instead, by a type that only Arrow knows.
    pub instead: Option<Kind>,
    /// Its number among the leaves, unless it holds other columns.
    pub leaf: Option<usize>,
    /// What it is read as, where a filter asks for it.
    read: Kind,
    physical: i64,
    unsigned: bool,
    pub(super) required: bool,
    /// Where the footer says all this, and what it holds.
    pub said: Range<usize>,
}

/// The columns of a table; `None` where the footer is malformed.
pub fn columns(footer: &[u8]) -> Option<Vec<FooterColumn>> {
    let (mut thrift, mut id, mut columns, mut arrow) = (Thrift::new(footer), 0, None, false);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (2, LIST) => columns = Some(schema(&mut thrift)?),
            (5, LIST) => arrow = has_arrow_schema(&mut thrift)?,
            _ => thrift.skip(kind)?,
        }
    }
    let mut columns = columns?;
    if !arrow {
        columns.iter_mut().for_each(|column| column.instead = None);
    }
    Some(columns)
}

/// For each row group, whether rows of it may pass; `None` where the footer does
/// not tell.
pub fn may_pass(footer: &[u8], bound: &Bound) -> Option<Vec<bool>> {
    let read = relied_on(footer, bound)?;
    let (mut thrift, mut id, mut passing) = (Thrift::new(footer), 0, Vec::new());
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (4, LIST) {
            thrift.skip(kind)?;
            continue;
        }
        let (STRUCT, count) = thrift.list()? else { return None };
        for _ in 0..count {
            let statistics = row_group(&mut thrift, &read)?;
            passing.push(bound.may_pass(&statistics.iter().collect::<Vec<_>>()));
            if passing.len() > limits::ROW_GROUPS_MAX {
                return None;
            }
        }
    }
    Some(passing)
}

/// The columns of a filter whose statistics can be relied on, in the filter's order;
/// `None` where the footer does not tell.
pub fn relied_on(footer: &[u8], bound: &Bound) -> Option<Vec<Option<FooterColumn>>> {
    let (mut thrift, mut id, mut found, mut ordered) = (Thrift::new(footer), 0, None, None);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (2, LIST) => found = Some(wanted(&schema(&mut thrift)?, bound)),
            (7, LIST) => ordered = Some(orders(&mut thrift)?),
            _ => thrift.skip(kind)?,
        }
    }
    let (mut found, ordered) = found.zip(ordered)?;
    for place in &mut found {
        let order = |column: &FooterColumn| ordered.get(column.leaf?).copied();
        if !place.as_ref().is_some_and(|column| order(column).is_some_and(|order| order.suits(column))) {
            *place = None;
        }
    }
    Some(found)
}

/// The columns of a filter that have statistics to rely on.
fn wanted(columns: &[FooterColumn], bound: &Bound) -> Vec<Option<FooterColumn>> {
    let column = |(name, kind): &(String, Kind)| {
        let found = columns.iter().find(|c| c.name == *name && kind.keeps(&c.kind) && c.leaf.is_some())?;
        Some(FooterColumn { read: kind.clone(), ..found.clone() })
    };
    bound.columns.iter().map(column).collect()
}

/// The list of SchemaElement: a tree, flattened in depth-first order, of which
/// the children of the root are the columns.
fn schema(thrift: &mut Thrift<'_>) -> Option<Vec<FooterColumn>> {
    let (STRUCT, count) = thrift.list()? else { return None };
    let (mut columns, mut leaves, mut within) = (Vec::new(), 0, 0_u64);
    for number in 0..count {
        let start = thrift.at();
        let element = element(thrift)?;
        if number == 0 {
            continue;
        }
        let top = within == 0;
        within = within.saturating_sub(1).checked_add(element.children)?;
        let leaf = (element.children == 0).then_some(leaves);
        leaves += usize::from(leaf.is_some());
        if top {
            if columns.len() == limits::COLUMNS_MAX {
                return None;
            }
            columns.push(element.column(leaf, start)?);
        }
        columns.last_mut()?.said.end = thrift.at();
    }
    Some(columns)
}

/// SchemaElement.
#[derive(Default)]
struct Element<'a> {
    name: &'a [u8],
    physical: Option<i64>,
    repetition: i64,
    children: u64,
    converted: Option<i64>,
    scale: i64,
    precision: i64,
    logical: Option<Logical>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Logical {
    Text,
    Decimal,
    Date,
    Instant(u8),
    Integer { width: u8, unsigned: bool },
    Half,
    Other,
}

fn element<'a>(thrift: &mut Thrift<'a>) -> Option<Element<'a>> {
    let (mut id, mut element) = (0, Element::default());
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, I32) => element.physical = Some(thrift.integer()?),
            (3, I32) => element.repetition = thrift.integer()?,
            (4, BINARY) => element.name = thrift.binary()?,
            (5, I32) => element.children = u64::try_from(thrift.integer()?).ok()?,
            (6, I32) => element.converted = Some(thrift.integer()?),
            (7, I32) => element.scale = thrift.integer()?,
            (8, I32) => element.precision = thrift.integer()?,
            (10, STRUCT) => element.logical = Some(logical(thrift)?),
            _ => thrift.skip(kind)?,
        }
    }
    Some(element)
}

/// LogicalType, a union.
fn logical(thrift: &mut Thrift<'_>) -> Option<Logical> {
    let (mut id, mut found) = (0, Logical::Other);
    while let Some(kind) = thrift.field(&mut id)? {
        found = match (id, kind) {
            (8, STRUCT) => timestamp(thrift)?,
            (10, STRUCT) => integer(thrift)?,
            _ => {
                thrift.skip(kind)?;
                match id {
                    // Texts, names of an enumeration, and JSON.
                    1 | 4 | 12 => Logical::Text,
                    5 => Logical::Decimal,
                    6 => Logical::Date,
                    15 => Logical::Half,
                    _ => Logical::Other,
                }
            }
        };
    }
    Some(found)
}

/// TimestampType: its unit is a union of milli-, micro- and nanoseconds.
fn timestamp(thrift: &mut Thrift<'_>) -> Option<Logical> {
    let (mut id, mut found) = (0, Logical::Other);
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (2, STRUCT) {
            thrift.skip(kind)?;
            continue;
        }
        let mut unit = 0;
        while let Some(kind) = thrift.field(&mut unit)? {
            thrift.skip(kind)?;
            if let digits @ 1..=3 = unit {
                found = Logical::Instant(3 * digits as u8);
            }
        }
    }
    Some(found)
}

/// IntType. A truth value's type is the value.
fn integer(thrift: &mut Thrift<'_>) -> Option<Logical> {
    let (mut id, mut width, mut unsigned) = (0, 0, false);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, 3) => width = thrift.byte()?,
            (2, 1 | 2) => unsigned = kind == 2,
            _ => thrift.skip(kind)?,
        }
    }
    Some(Logical::Integer { width, unsigned })
}

impl Element<'_> {
    fn column(&self, leaf: Option<usize>, start: usize) -> Option<FooterColumn> {
        let annotation = self.logical.or_else(|| self.converted.map(converted));
        let unsigned = matches!(annotation, Some(Logical::Integer { unsigned: true, .. }));
        let kind = match (leaf, self.repetition) {
            (Some(_), 0 | 1) => self.kind(annotation),
            _ => Kind::Other("list or struct".to_owned()),
        };
        let instead = match (self.physical, annotation) {
            (Some(INT64), None) => Some(Kind::Instant { scale: 0 }),
            (Some(BYTES), None) => Some(Kind::Text),
            _ => None,
        };
        Some(FooterColumn {
            name: str::from_utf8(self.name).ok()?.to_owned(),
            read: kind.clone(),
            kind,
            instead,
            leaf,
            physical: self.physical.unwrap_or(-1),
            unsigned,
            required: self.repetition == 0,
            said: start..start,
        })
    }

    fn kind(&self, annotation: Option<Logical>) -> Kind {
        let other = || Kind::Other("bytes, time or the like".to_owned());
        match (self.physical, annotation) {
            (Some(BOOLEAN), None) => Kind::Boolean,
            (Some(INT64), Some(Logical::Integer { width: 64, unsigned: true })) => Kind::UNSIGNED,
            (Some(INT32 | INT64), None | Some(Logical::Integer { .. })) => Kind::INTEGER,
            (Some(FIXED), Some(Logical::Half)) => Kind::Float { bits: 16 },
            (Some(FLOAT), None) => Kind::Float { bits: 32 },
            (Some(DOUBLE), None) => Kind::FLOAT,
            (Some(BYTES), Some(Logical::Text)) => Kind::Text,
            (Some(INT32), Some(Logical::Date)) => Kind::Date,
            (Some(INT64), Some(Logical::Instant(scale))) => Kind::Instant { scale },
            // Read as microseconds, which hold more years than nanoseconds do.
            (Some(INT96), None) => Kind::Instant { scale: 6 },
            (Some(INT32 | INT64 | FIXED | BYTES), Some(Logical::Decimal)) => {
                match (u8::try_from(self.precision), u8::try_from(self.scale)) {
                    (Ok(precision), Ok(scale)) if scale <= precision && precision <= 38 => {
                        Kind::decimal(precision, scale)
                    }
                    _ => other(),
                }
            }
            _ => other(),
        }
    }
}

const BOOLEAN: i64 = 0;
const INT32: i64 = 1;
const INT64: i64 = 2;
const INT96: i64 = 3;
const FLOAT: i64 = 4;
const DOUBLE: i64 = 5;
const BYTES: i64 = 6;
const FIXED: i64 = 7;

/// ConvertedType, which came before LogicalType.
fn converted(value: i64) -> Logical {
    match value {
        0 | 4 | 19 => Logical::Text,
        5 => Logical::Decimal,
        6 => Logical::Date,
        9 => Logical::Instant(3),
        10 => Logical::Instant(6),
        11..=14 => Logical::Integer { width: 8 << (value - 11), unsigned: true },
        15..=18 => Logical::Integer { width: 8 << (value - 15), unsigned: false },
        _ => Logical::Other,
    }
}

/// The list of KeyValue.
fn has_arrow_schema(thrift: &mut Thrift<'_>) -> Option<bool> {
    let (STRUCT, count) = thrift.list()? else { return None };
    let mut found = false;
    for _ in 0..count {
        let mut id = 0;
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (1, BINARY) => found |= thrift.binary()? == ARROW_SCHEMA,
                _ => thrift.skip(kind)?,
            }
        }
    }
    Some(found)
}

/// ColumnOrder: how the least and the greatest value of a column were found.
#[derive(Clone, Copy)]
enum Order {
    /// By what is usual for the column's type.
    Type,
    /// Floating point by the total order of IEEE 754, but for NaN, which counts only
    /// where there is nothing else.
    Total,
    /// By a rule that is not known here.
    Other,
}

impl Order {
    fn suits(self, column: &FooterColumn) -> bool {
        match self {
            Self::Type => true,
            Self::Total => matches!(column.kind, Kind::Float { .. }),
            Self::Other => false,
        }
    }
}

/// The list of ColumnOrder, one for each leaf.
fn orders(thrift: &mut Thrift<'_>) -> Option<Vec<Order>> {
    let (STRUCT, count) = thrift.list()? else { return None };
    let mut orders = Vec::new();
    for _ in 0..count {
        let (mut id, mut order) = (0, Order::Other);
        while let Some(kind) = thrift.field(&mut id)? {
            order = match id {
                1 => Order::Type,
                2 => Order::Total,
                _ => Order::Other,
            };
            thrift.skip(kind)?;
        }
        orders.push(order);
    }
    Some(orders)
}

/// RowGroup: what it says of the columns of a filter.
fn row_group(thrift: &mut Thrift<'_>, read: &[Option<FooterColumn>]) -> Option<Vec<Statistics>> {
    let (mut id, mut found) = (0, vec![Statistics::UNKNOWN; read.len()]);
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (1, LIST) {
            thrift.skip(kind)?;
            continue;
        }
        let (STRUCT, count) = thrift.list()? else { return None };
        for leaf in 0..usize::try_from(count).ok()? {
            let place = read.iter().position(|c| c.as_ref().is_some_and(|c| c.leaf == Some(leaf)));
            match place.and_then(|place| Some((place, read[place].as_ref()?))) {
                Some((place, column)) => found[place] = column_chunk(thrift, column)?,
                None => thrift.skip(STRUCT)?,
            }
        }
    }
    Some(found)
}

/// ColumnChunk, within it ColumnMetaData, within it Statistics.
fn column_chunk(thrift: &mut Thrift<'_>, column: &FooterColumn) -> Option<Statistics> {
    let (mut id, mut found) = (0, Statistics::UNKNOWN);
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (3, STRUCT) {
            thrift.skip(kind)?;
            continue;
        }
        let (mut id, mut values, mut told) = (0, None, None);
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (5, I64) => values = Some(thrift.integer()?),
                (12, STRUCT) => told = Some(statistics(thrift)?),
                _ => thrift.skip(kind)?,
            }
        }
        if let Some(told) = told {
            found = told.of(column, values);
        }
    }
    Some(found)
}

#[derive(Default)]
struct Told<'a> {
    nulls: Option<i64>,
    least: Option<&'a [u8]>,
    greatest: Option<&'a [u8]>,
}

fn statistics<'a>(thrift: &mut Thrift<'a>) -> Option<Told<'a>> {
    let (mut id, mut told) = (0, Told::default());
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (3, I64) => told.nulls = Some(thrift.integer()?),
            (5, BINARY) => told.greatest = Some(thrift.binary()?),
            (6, BINARY) => told.least = Some(thrift.binary()?),
            _ => thrift.skip(kind)?,
        }
    }
    Some(told)
}

impl Told<'_> {
    fn of(&self, column: &FooterColumn, values: Option<i64>) -> Statistics {
        Statistics {
            nulls: !column.required && self.nulls != Some(0),
            values: self.nulls.is_none() || self.nulls != values,
            bounds: self
                .least
                .zip(self.greatest)
                .and_then(|(least, greatest)| bounds(column, least, greatest)),
        }
    }
}

pub(super) fn bounds(column: &FooterColumn, least: &[u8], greatest: &[u8]) -> Option<Bounds> {
    let found = match column.kind {
        Kind::Text => Bounds::Text(least.to_vec(), greatest.to_vec()),
        Kind::Float { .. } => Bounds::Float(float(column, least)?, float(column, greatest)?),
        Kind::Exact { .. } | Kind::Date | Kind::Instant { .. } => {
            Bounds::Exact(exact(column, least)?, exact(column, greatest)?)
        }
        Kind::Boolean | Kind::Other(_) => return None,
    };
    let ordered = match &found {
        Bounds::Text(least, greatest) => least <= greatest,
        // Not so where one is NaN.
        Bounds::Float(least, greatest) => least <= greatest,
        Bounds::Exact(least, greatest) => least <= greatest,
    };
    ordered.then(|| found.reread(&column.kind, &column.read))
}

fn float(column: &FooterColumn, bytes: &[u8]) -> Option<f64> {
    match column.physical {
        FLOAT => Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        DOUBLE => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

fn exact(column: &FooterColumn, bytes: &[u8]) -> Option<i128> {
    match (column.physical, column.unsigned) {
        (INT32, false) => Some(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        (INT32, true) => Some(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        (INT64, false) => Some(i64::from_le_bytes(bytes.try_into().ok()?).into()),
        (INT64, true) => Some(u64::from_le_bytes(bytes.try_into().ok()?).into()),
        // Two's complement, the highest byte first.
        (FIXED, _) if (1..=16).contains(&bytes.len()) => {
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
            Some(bytes.iter().fold(sign, |value, byte| value << 8 | i128::from(*byte)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::Filter;

    /// A footer of one column `a` of 64-bit integers and of one row group, in which it
    /// has ten values from `least` to `greatest`, five of them missing.
    fn footer(least: i64, greatest: i64, ordered: bool) -> Vec<u8> {
        let order: &[u8] = if ordered { &[0x1c] } else { &[] };
        footer_ordered(least, greatest, order)
    }

    /// The same with this order of its column, by its number in the union.
    fn footer_ordered(least: i64, greatest: i64, order: &[u8]) -> Vec<u8> {
        let mut footer = vec![0x15, 2];
        // Schema: a root with one child, then the column, optional.
        footer.extend([0x19, 0x2c, 0x48, 1, b'r', 0x15, 2, 0]);
        footer.extend([0x15, 4, 0x25, 2, 0x18, 1, b'a', 0]);
        footer.extend([0x16, 20]);
        // Row groups: columns: meta data: number of values, statistics.
        footer.extend([0x19, 0x1c, 0x19, 0x1c, 0x3c, 0x56, 20, 0x7c, 0x36, 10]);
        footer.extend([&[0x28, 8][..], &greatest.to_le_bytes(), &[0x18, 8], &least.to_le_bytes()].concat());
        footer.extend([0, 0, 0, 0]);
        if !order.is_empty() {
            footer.extend([&[0x39, 0x1c], order, &[0, 0]].concat());
        }
        footer.push(0);
        footer
    }

    fn bound(filter: &str) -> Bound {
        Filter::parse(filter).unwrap().bind(&[("a", Kind::INTEGER)]).unwrap()
    }

    #[test]
    fn columns_are_told() {
        let columns = columns(&footer(1, 2, true)).unwrap();
        assert_eq!(
            columns.iter().map(|c| (c.name.as_str(), &c.kind)).collect::<Vec<_>>(),
            [("a", &Kind::INTEGER)]
        );
    }

    /// The one column of a footer whose schema has this element.
    fn column(element: &[u8], more: &[u8]) -> FooterColumn {
        let schema = [0x15, 2, 0x19, 0x2c, 0x48, 1, b'r', 0x15, 2, 0];
        let mut columns = columns(&[&schema, element, more, &[0]].concat()).unwrap();
        assert_eq!(columns.len(), 1);
        columns.remove(0)
    }

    #[test]
    fn texts_are_told_from_bytes() {
        // Binary, optional, `a`; then what it is annotated with.
        let check = |annotation: &[u8], text: bool| {
            let element = [&[0x15, 12, 0x25, 2, 0x18, 1, b'a'], annotation, &[0]].concat();
            let found = column(&element, &[]);
            assert_eq!((found.kind == Kind::Text, found.instead), (text, None), "{annotation:?}");
        };
        // ConvertedType: UTF8, JSON, ENUM, BSON. LogicalType: STRING, JSON, ENUM, BSON.
        check(&[0x25, 0], true);
        check(&[0x25, 38], true);
        check(&[0x25, 8], true);
        check(&[0x25, 40], false);
        check(&[0x6c, 0x1c, 0, 0], true);
        check(&[0x6c, 0xcc, 0, 0], true);
        check(&[0x6c, 0x4c, 0, 0], true);
        check(&[0x6c, 0xdc, 0, 0], false);
        check(&[], false);
        // Arrow's own schema may say that bytes are text.
        let arrow = [&[0x39, 0x1c, 0x18, 12], ARROW_SCHEMA, &[0]].concat();
        let found = column(&[0x15, 12, 0x25, 2, 0x18, 1, b'a', 0], &arrow);
        assert_eq!((found.kind == Kind::Text, found.instead), (false, Some(Kind::Text)));
    }

    #[test]
    fn decimals_that_need_more_than_64_bits_are_no_integers() {
        // Of fixed length, optional, `a`; DECIMAL, its scale and its precision.
        let check = |scale: u8, precision: u8, expected: Kind| {
            let element =
                [0x15, 14, 0x25, 2, 0x18, 1, b'a', 0x25, 10, 0x15, 2 * scale, 0x15, 2 * precision, 0];
            assert_eq!(column(&element, &[]).kind, expected, "{precision} {scale}");
        };
        check(0, 18, Kind::Exact { precision: 18, scale: 0 });
        check(0, 19, Kind::UNSIGNED);
        check(2, 19, Kind::Exact { precision: 19, scale: 2 });
    }

    /// As the reader has it, which reads them so.
    #[test]
    fn timestamps_of_old_writers_are_microseconds() {
        let found = column(&[0x15, 6, 0x25, 2, 0x18, 1, b'a', 0], &[]);
        assert_eq!((found.kind, found.instead), (Kind::Instant { scale: 6 }, None));
    }

    #[test]
    fn bounds_of_moments_are_rounded_outwards() {
        let check = |read: u8, (least, greatest): (i64, i64), expected: Option<(i128, i128)>| {
            // 64 bits, optional, `a`; TIMESTAMP_MICROS.
            let stored = column(&[0x15, 4, 0x25, 2, 0x18, 1, b'a', 0x25, 20, 0], &[]);
            assert_eq!(stored.kind, Kind::Instant { scale: 6 });
            let column = FooterColumn { read: Kind::Instant { scale: read }, ..stored };
            let found = bounds(&column, &least.to_le_bytes(), &greatest.to_le_bytes());
            assert_eq!(found, expected.map(|(least, greatest)| Bounds::Exact(least, greatest)), "{read}");
        };
        check(6, (-1, 1), Some((-1, 1)));
        check(9, (-1, i64::MAX), Some((-1_000, i128::from(i64::MAX) * 1_000)));
        check(3, (-2_000, 3_000), Some((-2, 3)));
        check(3, (-1_500, 1_500), Some((-2, 2)));
        check(3, (1_500, 1_500), Some((1, 2)));
        check(0, (-1_999_999, -1), Some((-2, 0)));
        check(3, (1_500, 1_200), None);
    }

    #[test]
    fn statistics_decide() {
        let check = |filter: &str, expected: bool| {
            assert_eq!(may_pass(&footer(-3, 7, true), &bound(filter)), Some(vec![expected]), "{filter}");
        };
        for filter in
            ["a = 7", "a > 6", "a >= 7", "a < -2", "a <> 0", "a is null", "not a > 6", "a between 7 and 9"]
        {
            check(filter, true);
        }
        for filter in
            ["a = 8", "a > 7", "a < -3", "not a <= 7", "a in (8, null)", "a between 8 and 9", "a = null"]
        {
            check(filter, false);
        }
        // Of lists the literals beside the bounds, and those between them.
        for (list, passes) in [
            ("-9, -4", false),
            ("8", false),
            ("-9, 8, 99", false),
            ("-9, -3", true),
            ("9, 0, -9", true),
            ("7, 9e0", true),
            ("8, 9e0", false),
        ] {
            check(&format!("a in ({list})"), passes);
            check(&format!("a not in ({list})"), true);
        }
        let equal = |filter: &str| may_pass(&footer(5, 5, true), &bound(filter)).unwrap()[0];
        assert!(!equal("a not in (1, 5, 9)") && !equal("a not in (1, null)") && equal("a not in (1, 9)"));
        check("a = 8 or a + 1 = 9", true);
        check("(a > 7) is not true", true);
        check("(a > 7) is unknown", true);
        check("7.5 < a", false);
        assert_eq!(may_pass(&footer(5, 5, true), &bound("a <> 5")), Some(vec![false]));
    }

    #[test]
    fn nothing_follows_from_what_cannot_be_relied_on() {
        // Without an order; with bounds the wrong way round.
        assert_eq!(may_pass(&footer(-3, 7, false), &bound("a = 8")), None);
        assert_eq!(may_pass(&footer(7, -3, true), &bound("a = 8")), Some(vec![true]));
        // By an order that is not that of whole numbers, or not known.
        for order in [0x2c, 0x3c, 0x4c] {
            let footer = footer_ordered(-3, 7, &[order]);
            assert_eq!(may_pass(&footer, &bound("a = 8")), Some(vec![true]), "{order:#x}");
        }
        // Of another kind than the filter was bound to.
        let texts = Filter::parse("a = '8'").unwrap().bind(&[("a", Kind::Text)]).unwrap();
        assert_eq!(may_pass(&footer(-3, 7, true), &texts), Some(vec![true]));
        // Read as other values than are stored.
        for (filter, name, passes) in [("a = 8", "a", true), ("a = 8", "b", false), ("a is null", "a", true)]
        {
            let bound = bound(filter).distrusting(|column| column == name);
            assert_eq!(may_pass(&footer(-3, 7, true), &bound), Some(vec![passes]), "{filter} {name}");
        }
        let whole = footer(-3, 7, true);
        for length in 0..whole.len() {
            assert_eq!(may_pass(&whole[..length], &bound("a = 8")), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            places in proptest::collection::vec((0_usize..90, any::<u8>()), 0..4),
        ) {
            let mut damaged = footer(-3, 7, true);
            let length = damaged.len();
            places.iter().for_each(|(place, byte)| damaged[place % length] = *byte);
            for footer in [bytes, damaged] {
                let _ = (columns(&footer), may_pass(&footer, &bound("a = 8")));
            }
        }
    }
}
