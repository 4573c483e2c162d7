// SPDX-License-Identifier: Apache-2.0
//! From what a filter says to what is compared with what.
//!
//! Here it is decided, once for evaluation and for statistics, in which domain
//! two values meet, and literals are brought into it. Numbers without a fraction
//! of unknown length meet exactly; as soon as one is floating point, all are; only
//! the literals of a list and the bounds of `between` meet the value each by itself.

use super::{
    Filter,
    expr::{Calculation, Comparison, Expr, Node, Position},
    invalid,
    kind::Kind,
    literal::{DIGITS_MAX, as_float, moment, number, rescale},
    missing,
    pattern::Pattern,
    quote,
};
use crate::Problem;

/// A filter over columns of known kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The columns that it reads.
    pub columns: Vec<(String, Kind)>,
    /// What must be true of a row.
    pub test: Test,
}

/// What the numbers of a domain count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Themselves.
    One,
    /// Days since 1970-01-01.
    Day,
    /// Seconds since 1970-01-01T00:00:00Z.
    Second,
}

/// In what values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Truth values.
    Boolean,
    /// 64-bit floating point by IEEE 754: nothing but `<>` is true of NaN, and
    /// -0 equals 0.
    Float,
    /// UTF-8, by its bytes.
    Text,
    /// Whole multiples of 10^-`scale` units.
    Exact {
        /// What is counted.
        unit: Unit,
        /// Digits behind the point.
        scale: u8,
        /// Whether values may need more than 64 bits, or other units than the
        /// columns have.
        wide: bool,
    },
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// A truth value by itself.
    Truth(Value),
    /// Two values.
    Compare(Comparison, Domain, Value, Value),
    /// The first at least the second and at most the third.
    Between(Domain, Box<[Value; 3]>),
    /// One of some literals; `null` when one of these is.
    In {
        /// In what they are compared.
        domain: Domain,
        /// The value.
        value: Value,
        /// The literals in ascending order.
        list: Vec<Value>,
        /// Whether a value that is not found may be the missing one.
        null: bool,
    },
    /// A text with `%` and `_`, of which `\` takes their meaning.
    Like {
        /// The text.
        value: Value,
        /// The pattern.
        pattern: Pattern,
    },
    /// A value that is missing.
    IsNull(Value),
    /// A condition that is unknown.
    IsUnknown(Box<Test>),
    /// A condition that is this and not unknown.
    Is(Box<Test>, bool),
    /// The opposite.
    Not(Box<Test>),
    /// All.
    And(Vec<Test>),
    /// Any.
    Or(Vec<Test>),
}

/// What is compared. Literals are in the domain of their comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One of [`Bound::columns`].
    Column(usize),
    /// Missing.
    Null,
    /// A truth value.
    Boolean(bool),
    /// In units of the domain.
    Exact(i128),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
    /// Of two numbers.
    Calculated(Box<Arithmetic>),
}

/// A calculation. Of whole numbers, what needs more bits than its domain has is
/// missing; so is, of all, what is divided by zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Arithmetic {
    /// What.
    pub what: Calculation,
    /// Whole numbers or [`Domain::Float`]; also of what it gives.
    pub domain: Domain,
    /// Of this.
    pub left: Value,
    /// And this.
    pub right: Value,
}

impl Filter {
    /// The filter over columns of these kinds.
    ///
    /// # Errors
    /// `column-not-found` and `filter-invalid`, with the place.
    pub fn bind(&self, kinds: &[(&str, Kind)]) -> Result<Bound, Problem> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (name, at) in &self.columns {
            let Some((_, kind)) = kinds.iter().find(|(known, _)| known == name) else {
                let available: Vec<&str> = kinds.iter().map(|(known, _)| *known).collect();
                return Err(missing(name, *at, &available));
            };
            columns.push((name.clone(), kind.clone()));
        }
        let test = test(&self.root, &columns)?;
        Ok(Bound { columns, test })
    }
}

impl Bound {
    /// The same for statistics of stored values: nothing follows from those of columns
    /// that are read as other values.
    #[must_use]
    pub fn distrusting(mut self, reads_otherwise: impl Fn(&str) -> bool) -> Self {
        for (name, kind) in &mut self.columns {
            if reads_otherwise(name) {
                *kind = Kind::Other("read as other values than are stored".to_owned());
            }
        }
        self
    }
}

type Columns = [(String, Kind)];

/// A value before its domain is known.
#[derive(Clone)]
struct Operand {
    at: Position,
    /// `None` of null.
    kind: Option<Kind>,
    raw: Raw,
}

#[derive(Clone)]
pub(super) enum Raw {
    Column(usize),
    Null,
    Boolean(bool),
    /// So many units of the kind's scale.
    Exact(i128),
    Float(f64),
    Text(String),
    Calculated(Box<Arithmetic>),
}

fn test(expr: &Expr, columns: &Columns) -> Result<Test, Problem> {
    let all = |terms: &[Expr]| terms.iter().map(|term| test(term, columns)).collect::<Result<Vec<_>, _>>();
    let boxed = |expr: &Expr| test(expr, columns).map(Box::new);
    Ok(match &expr.node {
        Node::And(terms) => Test::And(all(terms)?),
        Node::Or(terms) => Test::Or(all(terms)?),
        Node::Not(inner) => Test::Not(boxed(inner)?),
        Node::Is(inner, what) => Test::Is(boxed(inner)?, *what),
        Node::IsNull(inner) if is_test(inner) => Test::IsUnknown(boxed(inner)?),
        Node::IsNull(inner) => Test::IsNull(operand(inner, columns)?.whole()),
        Node::Compare(how, left, right) => {
            let operands = [operand(left, columns)?, operand(right, columns)?];
            let domain = meet(&operands, !matches!(how, Comparison::Eq | Comparison::Ne))?;
            let [left, right] = operands;
            Test::Compare(*how, domain, left.within(domain)?, right.within(domain)?)
        }
        Node::Between(parts) => {
            let [value, low, high] = parts.as_ref();
            let operands = [operand(value, columns)?, operand(low, columns)?, operand(high, columns)?];
            let domain = meet(&operands, true)?;
            between(operands, domain)?
        }
        Node::In(value, list) => one_of(operand(value, columns)?, list, columns)?,
        Node::Like { value, pattern } => like(value, pattern, columns)?,
        Node::Column(_) | Node::Boolean(_) | Node::Null => truth(operand(expr, columns)?)?,
        Node::Number(_) | Node::Text(_) | Node::Moment(_) | Node::Calculate(..) => {
            let found = operand(expr, columns)?.words();
            return Err(invalid(expr.at, "a condition", &found));
        }
    })
}

fn is_test(expr: &Expr) -> bool {
    !matches!(
        expr.node,
        Node::Column(_)
            | Node::Boolean(_)
            | Node::Null
            | Node::Number(_)
            | Node::Text(_)
            | Node::Moment(_)
            | Node::Calculate(..)
    )
}

fn truth(operand: Operand) -> Result<Test, Problem> {
    match operand.kind {
        None | Some(Kind::Boolean) => Ok(Test::Truth(operand.whole())),
        Some(_) => Err(invalid(operand.at, "a condition", &operand.words())),
    }
}

/// Whether a value lies between two others that it meets in this domain.
fn between([value, low, high]: [Operand; 3], domain: Domain) -> Result<Test, Problem> {
    let exact = domain == Domain::Float && matches!(value.kind, Some(Kind::Exact { .. }));
    let own = |bound: &Operand| if exact { numbers([&value, bound].into_iter()) } else { domain };
    let (least, most) = (own(&low), own(&high));
    if least == most {
        let parts = [value.within(least)?, low.within(least)?, high.within(least)?];
        return Ok(Test::Between(least, Box::new(parts)));
    }
    // A bound in floating point rounds neither the value for the other bound nor that bound.
    let compare = |how, domain, bound: Operand| -> Result<Test, Problem> {
        Ok(Test::Compare(how, domain, value.clone().within(domain)?, bound.within(domain)?))
    };
    Ok(Test::And(vec![compare(Comparison::Ge, least, low)?, compare(Comparison::Le, most, high)?]))
}

fn one_of(value: Operand, list: &[Expr], columns: &Columns) -> Result<Test, Problem> {
    let mut operands = vec![value];
    for item in list {
        operands.push(operand(item, columns)?);
    }
    let domain = meet(&operands, false)?;
    let value = operands.remove(0);
    if domain != Domain::Float || !matches!(value.kind, Some(Kind::Exact { .. })) {
        return one_of_domain(value, operands, domain);
    }
    // A literal with an exponent, or one of very many digits, rounds no other.
    let mut groups: Vec<(Domain, Vec<Operand>)> = Vec::new();
    for item in operands {
        let domain = numbers([&value, &item].into_iter());
        match groups.iter_mut().find(|(known, _)| *known == domain) {
            Some((_, items)) => items.push(item),
            None => groups.push((domain, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(domain, items)| one_of_domain(value.clone(), items, domain));
    Ok(Test::Or(groups.collect::<Result<_, _>>()?))
}

fn one_of_domain(value: Operand, list: Vec<Operand>, domain: Domain) -> Result<Test, Problem> {
    let value = value.within(domain)?;
    let all = list.len();
    let list = list.into_iter().map(|item| item.within(domain));
    let mut list = list.collect::<Result<Vec<_>, _>>()?;
    list.retain(|item| *item != Value::Null);
    let null = list.len() < all;
    list.sort_by(Value::order);
    Ok(Test::In { domain, value, list, null })
}

fn like(value: &Expr, pattern: &Pattern, columns: &Columns) -> Result<Test, Problem> {
    let value = operand(value, columns)?;
    if value.kind.as_ref().is_some_and(|kind| *kind != Kind::Text) {
        return Err(invalid(value.at, "a text before like", &value.words()));
    }
    Ok(Test::Like { value: value.whole(), pattern: pattern.clone() })
}

fn operand(expr: &Expr, columns: &Columns) -> Result<Operand, Problem> {
    let at = expr.at;
    let (kind, raw) = match &expr.node {
        Node::Column(name) => {
            let place = columns.iter().position(|(known, _)| known == name);
            let place = place.ok_or_else(|| missing(name, at, &[]))?;
            (Some(columns[place].1.clone()), Raw::Column(place))
        }
        Node::Null => (None, Raw::Null),
        Node::Boolean(truth) => (Some(Kind::Boolean), Raw::Boolean(*truth)),
        Node::Number(digits) => number(digits, at)?,
        Node::Text(text) => (Some(Kind::Text), Raw::Text(text.clone())),
        Node::Moment(text) => moment(text, at)?,
        Node::Calculate(what, left, right) => {
            let operands = [operand(left, columns)?, operand(right, columns)?];
            if let Some(other) = operands.iter().find(|o| o.kind.as_ref().is_some_and(|k| !k.is_number())) {
                return Err(invalid(other.at, "a number to calculate with", &other.words()));
            }
            let (domain, kind) = calculated(*what, &operands);
            let [left, right] = operands;
            let (left, right) = (left.within(domain)?, right.within(domain)?);
            (Some(kind), Raw::Calculated(Box::new(Arithmetic { what: *what, domain, left, right })))
        }
        _ => return Err(invalid(at, "a value", "a condition")),
    };
    Ok(Operand { at, kind, raw })
}

/// In what two numbers are calculated with, and what that gives. Unsigned and longer ones are
/// not rounded either: of the digits of an identifier the last ones are asked for.
fn calculated(what: Calculation, operands: &[Operand; 2]) -> (Domain, Kind) {
    let digits = |operand: &Operand| match operand.kind {
        Some(Kind::Exact { precision, scale: 0 }) => Some(precision),
        None => Some(1),
        _ => None,
    };
    let precision = match (what, digits(&operands[0]), digits(&operands[1])) {
        (Calculation::Multiply, Some(left), Some(right)) => left.saturating_add(right),
        (Calculation::Add | Calculation::Subtract, Some(left), Some(right)) => left.max(right) + 1,
        (Calculation::Remainder, Some(left), Some(right)) => left.max(right),
        _ => return (Domain::Float, Kind::FLOAT),
    };
    let wide = !operands.iter().all(Operand::is_narrow);
    // What is wide has more digits than 64 bits do, lest it be taken for narrow.
    let precision = if wide { precision.clamp(20, DIGITS_MAX) } else { 19 };
    (Domain::Exact { unit: Unit::One, scale: 0, wide }, Kind::Exact { precision, scale: 0 })
}

/// The domain in which these meet. Texts that are written beside dates and
/// timestamps are read as such.
fn meet(operands: &[Operand], ordered: bool) -> Result<Domain, Problem> {
    if let Some(other) = operands.iter().find(|o| matches!(o.kind, Some(Kind::Other(_)))) {
        return Err(invalid(other.at, "what can be compared, or is null", &other.words()));
    }
    let known = || operands.iter().filter_map(|operand| Some((operand, operand.kind.as_ref()?)));
    let timed = known().any(|(_, kind)| kind.is_time());
    let Some((first, kind)) = known().find(|(operand, kind)| !timed || !operand.is_text(kind)) else {
        return Ok(Domain::Boolean);
    };
    let fits = |operand: &Operand, other: &Kind| match kind {
        Kind::Boolean | Kind::Text => kind == other,
        Kind::Exact { .. } | Kind::Float { .. } => other.is_number(),
        _ => other.is_time() || operand.is_text(other),
    };
    if let Some((other, _)) = known().find(|(operand, other)| !fits(operand, other)) {
        let expected = format!("{kind} to compare with {}", first.words());
        return Err(invalid(other.at, &expected, &other.words()));
    }
    match kind {
        Kind::Boolean if ordered => Err(invalid(first.at, "what has an order, or = and <>", &first.words())),
        Kind::Boolean => Ok(Domain::Boolean),
        Kind::Text => Ok(Domain::Text),
        Kind::Exact { .. } | Kind::Float { .. } => Ok(numbers(operands.iter())),
        _ => times(operands),
    }
}

fn numbers<'a>(mut operands: impl Iterator<Item = &'a Operand> + Clone) -> Domain {
    let (mut whole, mut scale) = (0, 0);
    for kind in operands.clone().filter_map(|operand| operand.kind.as_ref()) {
        let Kind::Exact { precision, scale: own } = kind else { return Domain::Float };
        whole = whole.max(precision.saturating_sub(*own));
        scale = scale.max(*own);
    }
    if whole + scale > DIGITS_MAX {
        return Domain::Float;
    }
    Domain::Exact { unit: Unit::One, scale, wide: !operands.all(Operand::is_narrow) }
}

/// Literals are brought into the unit of the columns where that holds them.
fn times(operands: &[Operand]) -> Result<Domain, Problem> {
    let mut parts = Vec::with_capacity(operands.len());
    for operand in operands {
        let (kind, units) = match &operand.raw {
            Raw::Text(text) => match moment(text, operand.at)? {
                (kind, Raw::Exact(units)) => (kind, Some(units)),
                (kind, _) => (kind, None),
            },
            Raw::Exact(units) => (operand.kind.clone(), Some(*units)),
            _ => (operand.kind.clone(), None),
        };
        parts.extend(kind.map(|kind| (kind, units)));
    }
    let scale = parts.iter().filter_map(|(kind, _)| match kind {
        Kind::Instant { scale } => Some(*scale),
        _ => None,
    });
    let Some(scale) = scale.max() else {
        return Ok(Domain::Exact { unit: Unit::Day, scale: 0, wide: false });
    };
    let narrow = |(kind, units): &(Kind, Option<i128>)| match units {
        Some(units) => {
            rescale(*units, Some(kind), Unit::Second, scale).is_some_and(|u| i64::try_from(u).is_ok())
        }
        None => *kind == Kind::Instant { scale },
    };
    Ok(Domain::Exact { unit: Unit::Second, scale, wide: !parts.iter().all(narrow) })
}

impl Operand {
    fn is_text(&self, kind: &Kind) -> bool {
        *kind == Kind::Text && matches!(self.raw, Raw::Text(_))
    }

    /// Whether it is a whole number within 64 bits, or null.
    fn is_narrow(&self) -> bool {
        match (&self.kind, &self.raw) {
            (Some(Kind::Exact { scale: 0, .. }), Raw::Exact(units)) => i64::try_from(*units).is_ok(),
            (Some(Kind::Exact { precision, scale: 0 }), _) => *precision <= 19,
            (kind, _) => kind.is_none(),
        }
    }

    /// For messages.
    fn words(&self) -> String {
        let what = match &self.raw {
            Raw::Column(_) => "a column that is ",
            Raw::Calculated(_) => "what is ",
            _ => "",
        };
        match (&self.raw, &self.kind) {
            (Raw::Text(text), _) => format!("the text {}", quote(text)),
            (_, Some(kind)) => format!("{what}{kind}"),
            (_, None) => "null".to_owned(),
        }
    }

    /// The value in its own kind.
    fn whole(self) -> Value {
        match self.raw {
            Raw::Column(place) => Value::Column(place),
            Raw::Null => Value::Null,
            Raw::Boolean(truth) => Value::Boolean(truth),
            Raw::Exact(units) => Value::Exact(units),
            Raw::Float(number) => Value::Float(number),
            Raw::Text(text) => Value::Text(text),
            Raw::Calculated(what) => Value::Calculated(what),
        }
    }

    /// The value in a domain that [`meet`] has found for it.
    fn within(self, domain: Domain) -> Result<Value, Problem> {
        let (at, words) = (self.at, self.words());
        let time = matches!(domain, Domain::Exact { unit: Unit::Day | Unit::Second, .. });
        let (kind, raw) = match self.raw {
            Raw::Text(text) if time => moment(&text, at)?,
            raw => (self.kind, raw),
        };
        let too_large = || invalid(at, "a number of fewer digits", &words);
        let value = match (raw, domain) {
            (Raw::Exact(units), Domain::Exact { unit, scale, .. }) => {
                Value::Exact(rescale(units, kind.as_ref(), unit, scale).ok_or_else(too_large)?)
            }
            (Raw::Exact(units), Domain::Float) => Value::Float(as_float(units, kind.as_ref())),
            (raw, _) => Self { at, kind, raw }.whole(),
        };
        Ok(value)
    }
}

impl Value {
    /// The order of literals of one domain.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::Exact(a), Self::Exact(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal),
            (Self::Text(a), Self::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => std::cmp::Ordering::Equal,
        }
    }
}
