// SPDX-License-Identifier: Apache-2.0
//! A job's filter over batches of rows.
//!
//! Between decoding and fitting: what does not pass is never seen by a guest,
//! nor complained of where the function wants values that it lacks. What values
//! mean to each other was settled when the filter was bound; here arrow's kernels
//! do it, and our own where SQL differs: NaN, overflow, division by zero.

use std::{cmp::Ordering, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Datum, Decimal128Array, Float64Array, Int64Array, Scalar,
        StringArray,
    },
    compute::{and_kleene, cast, is_null, kernels::cmp, not, or_kleene},
    datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, Schema, TimeUnit, UInt64Type},
    error::ArrowError,
};
use fanfold_protocol::{
    ErrorKind, Problem,
    filter::{Arithmetic, Bound, Calculation, Comparison, Domain, Filter, Kind, Test, Unit, Value},
};

/// A filter over the columns of a table.
#[derive(Debug)]
pub(super) struct RowFilter {
    /// Of which statistics of stored values may be asked.
    bound: Bound,
    /// Its columns.
    kinds: Vec<(String, Kind)>,
    /// Where its columns are in the schema that it was bound to.
    places: Vec<usize>,
}

impl RowFilter {
    /// The filter over columns of this schema. Those that are read as other values than
    /// are stored say so.
    pub(super) fn new(
        filter: &Filter,
        schema: &Schema,
        reads_otherwise: impl Fn(&str) -> bool,
    ) -> Result<Self, Problem> {
        let kinds: Vec<_> =
            schema.fields().iter().map(|f| (f.name().as_str(), kind(f.data_type()))).collect();
        let bound = filter.bind(&kinds)?;
        let place = |(name, _): &(String, Kind)| schema.index_of(name).ok();
        let places = bound.columns.iter().filter_map(place).collect();
        let kinds = bound.columns.clone();
        Ok(Self { bound: bound.distrusting(reads_otherwise), kinds, places })
    }

    /// Where the columns that it reads are in its schema.
    pub(super) fn columns(&self) -> &[usize] {
        &self.places
    }

    /// The filter for statistics of what is stored.
    pub(super) fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Which of these rows pass; without missing values.
    pub(super) fn passing(&self, columns: &[ArrayRef], rows: usize) -> Result<BooleanArray, Problem> {
        let batch = Batch { kinds: &self.kinds, columns, rows };
        let found = batch.test(&self.bound.test).map_err(|e| {
            Problem::new(
                ErrorKind::FilterInvalid,
                format!("filter: expected what can be evaluated, found: {e}"),
            )
        })?;
        Ok(match found.nulls() {
            None => found,
            Some(valid) => BooleanArray::new(found.values() & valid.inner(), None),
        })
    }
}

/// What a column of this type is to a filter.
fn kind(data_type: &DataType) -> Kind {
    use DataType::{
        Boolean, Date32, Date64, Decimal32, Decimal64, Decimal128, Float16, Float32, Float64, Int8, Int16,
        Int32, Int64, LargeUtf8, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    match data_type {
        Boolean => Kind::Boolean,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => Kind::INTEGER,
        UInt64 => Kind::UNSIGNED,
        Float16 => Kind::Float { bits: 16 },
        Float32 => Kind::Float { bits: 32 },
        Float64 => Kind::FLOAT,
        Utf8 | LargeUtf8 | Utf8View => Kind::Text,
        Date32 => Kind::Date,
        Date64 => Kind::Instant { scale: 3 },
        Timestamp(unit, _) => Kind::Instant { scale: digits(*unit) },
        Decimal32(precision, scale) | Decimal64(precision, scale) | Decimal128(precision, scale) => {
            match u8::try_from(*scale) {
                Ok(scale) if scale <= *precision => Kind::decimal(*precision, scale),
                _ => Kind::Other(data_type.to_string()),
            }
        }
        other => Kind::Other(other.to_string()),
    }
}

/// Digits behind the point of a second.
pub(super) fn digits(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

type Found<T> = Result<T, ArrowError>;

/// Rows that are looked at together.
struct Batch<'a> {
    kinds: &'a [(String, Kind)],
    columns: &'a [ArrayRef],
    rows: usize,
}

/// The values of all rows, or one for all.
struct Operand {
    values: ArrayRef,
    one: bool,
}

impl Operand {
    fn one(values: impl Array + 'static) -> Self {
        Self { values: Arc::new(values), one: true }
    }

    fn all(values: impl Array + 'static) -> Self {
        Self { values: Arc::new(values), one: false }
    }

    fn datum(&self) -> Box<dyn Datum> {
        match self.one {
            true => Box::new(Scalar::new(Arc::clone(&self.values))),
            false => Box::new(Arc::clone(&self.values)),
        }
    }

    /// Where the value of a row is.
    fn at(&self, row: usize) -> Option<usize> {
        let at = if self.one { 0 } else { row };
        self.values.is_valid(at).then_some(at)
    }
}

impl Batch<'_> {
    fn test(&self, test: &Test) -> Found<BooleanArray> {
        match test {
            Test::Truth(value) => {
                let values = self.value(value, Domain::Boolean)?;
                self.spread(values.one, values.values.as_boolean().clone())
            }
            Test::Compare(how, domain, left, right) => {
                self.compare(*how, *domain, &self.value(left, *domain)?, &self.value(right, *domain)?)
            }
            Test::Between(domain, parts) => {
                let [value, low, high] = parts.as_ref();
                let value = self.value(value, *domain)?;
                let least = self.compare(Comparison::Ge, *domain, &value, &self.value(low, *domain)?)?;
                let most = self.compare(Comparison::Le, *domain, &value, &self.value(high, *domain)?)?;
                and_kleene(&least, &most)
            }
            Test::In { domain, value, list, null } => {
                let value = self.value(value, *domain)?;
                let found = |row| {
                    let at = value.at(row)?;
                    let found = list.binary_search_by(|item| order(item, &value.values, at)).is_ok();
                    (found || !null).then_some(found)
                };
                Ok((0..self.rows).map(found).collect())
            }
            Test::Like { value, pattern } => {
                let value = self.value(value, Domain::Text)?;
                let texts = value.values.as_string::<i32>();
                self.spread(value.one, BooleanArray::from_unary(texts, |text| pattern.matches(text)))
            }
            Test::IsNull(value) => {
                let value = self.own(value)?;
                self.spread(value.one, is_null(&value.values)?)
            }
            Test::IsUnknown(inner) => is_null(&self.test(inner)?),
            Test::Is(inner, what) => {
                let found = self.test(inner)?;
                Ok((0..self.rows).map(|row| Some(found.is_valid(row) && found.value(row) == *what)).collect())
            }
            Test::Not(inner) => not(&self.test(inner)?),
            Test::And(terms) => self.fold(terms, true, and_kleene),
            Test::Or(terms) => self.fold(terms, false, or_kleene),
        }
    }

    fn fold(
        &self,
        terms: &[Test],
        start: bool,
        join: fn(&BooleanArray, &BooleanArray) -> Found<BooleanArray>,
    ) -> Found<BooleanArray> {
        let start = BooleanArray::from(vec![start; self.rows]);
        terms.iter().try_fold(start, |so_far, term| join(&so_far, &self.test(term)?))
    }

    /// One truth value for all rows, where it is one.
    fn spread(&self, one: bool, found: BooleanArray) -> Found<BooleanArray> {
        if !one {
            return Ok(found);
        }
        let truth = found.is_valid(0).then(|| found.value(0));
        Ok(std::iter::repeat_n(truth, self.rows).collect())
    }

    fn compare(
        &self,
        how: Comparison,
        domain: Domain,
        left: &Operand,
        right: &Operand,
    ) -> Found<BooleanArray> {
        if domain == Domain::Float {
            let (l, r) =
                (left.values.as_primitive::<Float64Type>(), right.values.as_primitive::<Float64Type>());
            let holds = |a: f64, b: f64| match how {
                Comparison::Eq => a == b,
                Comparison::Ne => a != b,
                Comparison::Lt => a < b,
                Comparison::Le => a <= b,
                Comparison::Gt => a > b,
                Comparison::Ge => a >= b,
            };
            let found = |row| Some(holds(l.value(left.at(row)?), r.value(right.at(row)?)));
            return Ok((0..self.rows).map(found).collect());
        }
        let kernel = match how {
            Comparison::Eq => cmp::eq,
            Comparison::Ne => cmp::neq,
            Comparison::Lt => cmp::lt,
            Comparison::Le => cmp::lt_eq,
            Comparison::Gt => cmp::gt,
            Comparison::Ge => cmp::gt_eq,
        };
        let found = kernel(left.datum().as_ref(), right.datum().as_ref())?;
        self.spread(left.one && right.one, found)
    }

    /// A value in its own type, of which only is asked whether it is there.
    fn own(&self, value: &Value) -> Found<Operand> {
        match value {
            Value::Column(place) => Ok(Operand { values: Arc::clone(self.column(*place)?), one: false }),
            Value::Calculated(what) => self.value(value, what.domain),
            Value::Null => Ok(Operand::one(BooleanArray::new_null(1))),
            _ => Ok(Operand::one(BooleanArray::from(vec![true]))),
        }
    }

    fn column(&self, place: usize) -> Found<&ArrayRef> {
        self.columns.get(place).ok_or_else(|| ArrowError::InvalidArgumentError("a column is not read".into()))
    }

    /// A value in the type of a domain.
    fn value(&self, value: &Value, domain: Domain) -> Found<Operand> {
        match (value, domain) {
            (Value::Column(place), _) => self.cast(*place, domain),
            (Value::Calculated(what), _) => widen(self.calculate(what)?, what.domain, domain),
            (Value::Boolean(truth), _) => Ok(Operand::one(BooleanArray::from(vec![*truth]))),
            (Value::Float(number), _) => Ok(Operand::one(Float64Array::from(vec![*number]))),
            (Value::Text(text), _) => Ok(Operand::one(StringArray::from(vec![text.as_str()]))),
            (Value::Exact(units), Domain::Exact { wide: false, .. }) => {
                let units = i64::try_from(*units).map_err(|e| ArrowError::ComputeError(e.to_string()))?;
                Ok(Operand::one(Int64Array::from(vec![units])))
            }
            (Value::Exact(units), _) => Ok(Operand::one(Decimal128Array::from(vec![*units]))),
            (Value::Null, Domain::Boolean) => Ok(Operand::one(BooleanArray::new_null(1))),
            (Value::Null, Domain::Float) => Ok(Operand::one(Float64Array::new_null(1))),
            (Value::Null, Domain::Text) => Ok(Operand::one(StringArray::new_null(1))),
            (Value::Null, Domain::Exact { wide: false, .. }) => Ok(Operand::one(Int64Array::new_null(1))),
            (Value::Null, Domain::Exact { wide: true, .. }) => Ok(Operand::one(Decimal128Array::new_null(1))),
        }
    }

    /// A column in the type of a domain.
    fn cast(&self, place: usize, domain: Domain) -> Found<Operand> {
        let column = self.column(place)?;
        let kind = self.kinds.get(place).map(|(_, kind)| kind);
        let values = match domain {
            Domain::Boolean => cast(column, &DataType::Boolean)?,
            Domain::Text => cast(column, &DataType::Utf8)?,
            Domain::Float => cast(column, &DataType::Float64)?,
            Domain::Exact { wide: false, .. } => cast(column, &DataType::Int64)?,
            Domain::Exact { unit, scale, wide: true } => {
                let (own, each) = match kind {
                    Some(Kind::Exact { scale, .. } | Kind::Instant { scale }) => (*scale, 1),
                    Some(Kind::Date) if unit == Unit::Second => (0, fanfold_protocol::filter::DAY_SECONDS),
                    _ => (0, 1),
                };
                let factor = 10_i128
                    .checked_pow(u32::from(scale.saturating_sub(own)))
                    .and_then(|f| f.checked_mul(each));
                Arc::new(units(column)?.unary_opt::<_, Decimal128Type>(|units| units.checked_mul(factor?)))
            }
        };
        Ok(Operand { values, one: false })
    }

    fn calculate(&self, Arithmetic { what, domain, left, right }: &Arithmetic) -> Found<Operand> {
        let (left, right) = (self.value(left, *domain)?, self.value(right, *domain)?);
        if *domain == Domain::Float {
            let (l, r) =
                (left.values.as_primitive::<Float64Type>(), right.values.as_primitive::<Float64Type>());
            let value = |row| floats(*what, l.value(left.at(row)?), r.value(right.at(row)?));
            return Ok(Operand::all((0..self.rows).map(value).collect::<Float64Array>()));
        }
        if matches!(domain, Domain::Exact { wide: true, .. }) {
            let (l, r) =
                (left.values.as_primitive::<Decimal128Type>(), right.values.as_primitive::<Decimal128Type>());
            let value = |row| integers(*what, l.value(left.at(row)?), r.value(right.at(row)?));
            return Ok(Operand::all((0..self.rows).map(value).collect::<Decimal128Array>()));
        }
        let (l, r) = (left.values.as_primitive::<Int64Type>(), right.values.as_primitive::<Int64Type>());
        let value = |row| {
            let found = integers(*what, l.value(left.at(row)?).into(), r.value(right.at(row)?).into())?;
            i64::try_from(found).ok()
        };
        Ok(Operand::all((0..self.rows).map(value).collect::<Int64Array>()))
    }
}

/// Missing where it overflows and where it is divided by zero.
fn integers(what: Calculation, left: i128, right: i128) -> Option<i128> {
    match what {
        Calculation::Add => left.checked_add(right),
        Calculation::Subtract => left.checked_sub(right),
        Calculation::Multiply => left.checked_mul(right),
        Calculation::Divide => left.checked_div(right),
        Calculation::Remainder => left.checked_rem(right),
    }
}

/// Missing where it is divided by zero.
fn floats(what: Calculation, left: f64, right: f64) -> Option<f64> {
    match what {
        Calculation::Add => Some(left + right),
        Calculation::Subtract => Some(left - right),
        Calculation::Multiply => Some(left * right),
        Calculation::Divide => (right != 0.0).then_some(left / right),
        Calculation::Remainder => (right != 0.0).then_some(left % right),
    }
}

/// What was calculated in one domain, in another one of numbers.
fn widen(values: Operand, from: Domain, to: Domain) -> Found<Operand> {
    let Operand { values, one } = values;
    let values: ArrayRef = match (from, to) {
        // Arrow would take the whole numbers for ones with a fraction.
        (Domain::Exact { wide: true, .. }, Domain::Float) => {
            Arc::new(values.as_primitive::<Decimal128Type>().unary::<_, Float64Type>(|units| units as f64))
        }
        (_, Domain::Float) => cast(&values, &DataType::Float64)?,
        (Domain::Exact { .. }, Domain::Exact { scale, wide: true, .. }) => {
            let factor = 10_i128.checked_pow(u32::from(scale));
            Arc::new(units(&values)?.unary_opt::<_, Decimal128Type>(|units| units.checked_mul(factor?)))
        }
        _ => values,
    };
    Ok(Operand { values, one })
}

/// The numbers that a column of an exact kind is stored as.
fn units(column: &ArrayRef) -> Found<Decimal128Array> {
    Ok(match column.data_type() {
        DataType::UInt64 => column.as_primitive::<UInt64Type>().unary(i128::from),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().clone(),
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) => {
            cast(column, &DataType::Decimal128(38, *scale))?.as_primitive::<Decimal128Type>().clone()
        }
        _ => cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().unary(i128::from),
    })
}

/// How a literal stands to one value. It equals no NaN.
fn order(item: &Value, values: &ArrayRef, at: usize) -> Ordering {
    match item {
        Value::Boolean(truth) => truth.cmp(&values.as_boolean().value(at)),
        Value::Text(text) => text.as_bytes().cmp(values.as_string::<i32>().value(at).as_bytes()),
        Value::Float(number) => {
            number.partial_cmp(&values.as_primitive::<Float64Type>().value(at)).unwrap_or(Ordering::Less)
        }
        Value::Exact(units) if *values.data_type() == DataType::Int64 => {
            units.cmp(&values.as_primitive::<Int64Type>().value(at).into())
        }
        Value::Exact(units) => units.cmp(&values.as_primitive::<Decimal128Type>().value(at)),
        Value::Column(_) | Value::Null | Value::Calculated(_) => Ordering::Less,
    }
}
