// SPDX-License-Identifier: Apache-2.0
//! Whether a filter can be true of any row, by what is known of many rows.
//!
//! A condition over many rows has up to three outcomes: true of some, false of
//! some, unknown of some. The outcomes found here are at least those that there
//! are; where `true` is not among them, no row passes (an abstract interpretation
//! over the three values of SQL).

use std::cmp::Ordering;

use super::{
    bind::{Bound, Domain, Test, Value},
    expr::Comparison,
    kind::Kind,
    literal::rescale,
};

/// What is known of a column over some rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Whether values may be missing.
    pub nulls: bool,
    /// Whether values may be there.
    pub values: bool,
    /// Between which all values lie that are there.
    pub bounds: Option<Bounds>,
}

impl Statistics {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { nulls: true, values: true, bounds: None };
}

/// Least and greatest. Of texts they may lie outside what is there, and of
/// numbers NaN is not among them.
#[derive(Clone, Debug, PartialEq)]
pub enum Bounds {
    /// In units of the column's kind.
    Exact(i128, i128),
    /// Neither is NaN.
    Float(f64, f64),
    /// UTF-8, may be cut.
    Text(Vec<u8>, Vec<u8>),
}

impl Bounds {
    /// The same in the unit in which moments are read: not narrower than in that in which they are
    /// stored.
    pub(crate) fn reread(self, stored: &Kind, read: &Kind) -> Self {
        let (&Kind::Instant { scale: stored }, &Kind::Instant { scale: read }, &Self::Exact(low, high)) =
            (stored, read, &self)
        else {
            return self;
        };
        let unit = 10_i128.pow(u32::from(stored.abs_diff(read)));
        match read < stored {
            true => Self::Exact(low.div_euclid(unit), -(-high).div_euclid(unit)),
            // What 64 bits hold has nine digits more at most.
            false => Self::Exact(low * unit, high * unit),
        }
    }
}

/// What a condition may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcomes {
    yes: bool,
    no: bool,
    unknown: bool,
}

const ANY: Outcomes = Outcomes { yes: true, no: true, unknown: true };
const UNKNOWN: Outcomes = Outcomes { yes: false, no: false, unknown: true };

impl Bound {
    /// Whether a row may pass, among rows of whose columns this is known, in the
    /// order of [`Bound::columns`].
    pub fn may_pass(&self, statistics: &[&Statistics]) -> bool {
        let known = Known { kinds: &self.columns, statistics };
        known.outcomes(&self.test).yes
    }
}

struct Known<'a> {
    kinds: &'a [(String, Kind)],
    statistics: &'a [&'a Statistics],
}

impl Known<'_> {
    fn outcomes(&self, test: &Test) -> Outcomes {
        match test {
            Test::Truth(Value::Boolean(truth)) => Outcomes { yes: *truth, no: !truth, unknown: false },
            Test::Truth(Value::Null) => UNKNOWN,
            Test::Truth(value) => self.with_nulls(value, Outcomes { unknown: false, ..ANY }),
            Test::Compare(how, domain, left, right) => match (left, right) {
                (Value::Column(_), literal) => self.compare(*how, *domain, left, literal),
                (literal, Value::Column(_)) => self.compare(how.flipped(), *domain, right, literal),
                _ => ANY,
            },
            Test::Between(domain, parts) => {
                let [value, low, high] = parts.as_ref();
                let least = self.compare(Comparison::Ge, *domain, value, low);
                all([least, self.compare(Comparison::Le, *domain, value, high)].into_iter())
            }
            Test::In { domain, value, list, null } => {
                let nearest = self.nearest(*domain, value, list);
                let found = nearest.map(|item| self.compare(Comparison::Eq, *domain, value, item));
                any(found.into_iter().chain(null.then_some(UNKNOWN)))
            }
            Test::Like { value, pattern } => self.like(value, pattern.beginning().as_bytes()),
            Test::IsNull(Value::Column(place)) => {
                let known = self.known(*place);
                Outcomes { yes: known.nulls, no: known.values, unknown: false }
            }
            Test::IsNull(_) => Outcomes { unknown: false, ..ANY },
            Test::IsUnknown(inner) => {
                let inner = self.outcomes(inner);
                Outcomes { yes: inner.unknown, no: inner.yes || inner.no, unknown: false }
            }
            Test::Is(inner, what) => {
                let inner = self.outcomes(inner);
                let (is, is_not) = if *what { (inner.yes, inner.no) } else { (inner.no, inner.yes) };
                Outcomes { yes: is, no: is_not || inner.unknown, unknown: false }
            }
            Test::Not(inner) => {
                let inner = self.outcomes(inner);
                Outcomes { yes: inner.no, no: inner.yes, unknown: inner.unknown }
            }
            Test::And(terms) => all(terms.iter().map(|term| self.outcomes(term))),
            Test::Or(terms) => any(terms.iter().map(|term| self.outcomes(term))),
        }
    }

    /// A column against a literal; anything else may be of any outcome.
    fn compare(&self, how: Comparison, domain: Domain, column: &Value, literal: &Value) -> Outcomes {
        match literal {
            Value::Null => return UNKNOWN,
            Value::Column(_) | Value::Calculated(_) => return ANY,
            _ => {}
        }
        let Some((low, high)) = self.bounded(column, domain, literal) else {
            return self.with_nulls(column, Outcomes { unknown: false, ..ANY });
        };
        // Texts may be cut, and NaN is not told: then that all are equal is not known.
        let same =
            matches!(domain, Domain::Exact { .. }) && low == Ordering::Equal && high == Ordering::Equal;
        let nan = domain == Domain::Float;
        let within = low != Ordering::Greater && high != Ordering::Less;
        let below = low == Ordering::Less;
        let above = high == Ordering::Greater;
        let (yes, no) = match how {
            Comparison::Eq => (within, !same),
            Comparison::Ne => (!same, within),
            Comparison::Lt => (below, nan || high != Ordering::Less),
            Comparison::Le => (low != Ordering::Greater, nan || above),
            Comparison::Gt => (above, nan || low != Ordering::Greater),
            Comparison::Ge => (high != Ordering::Less, nan || below),
        };
        self.with_nulls(column, Outcomes { yes, no, unknown: false })
    }

    /// The literal of an ascending list that says of a column what all of them do: the first that is
    /// no less than its least value. One that lies between the bounds is it or behind it, and one that
    /// all values equal is it. So that long lists cost little for each of very many pages.
    fn nearest<'l>(&self, domain: Domain, column: &Value, list: &'l [Value]) -> Option<&'l Value> {
        let least = |item: &Value| self.bounded(column, domain, item).map(|(low, _)| low);
        let at = list.partition_point(|item| least(item) == Some(Ordering::Greater));
        list.get(at).or_else(|| list.last())
    }

    /// How the least and the greatest value of a column stand to a literal.
    fn bounded(&self, column: &Value, domain: Domain, literal: &Value) -> Option<(Ordering, Ordering)> {
        let Value::Column(place) = column else { return None };
        let (_, kind) = self.kinds.get(*place)?;
        against(self.known(*place).bounds.as_ref()?, kind, domain, literal)
    }

    fn known(&self, place: usize) -> &Statistics {
        self.statistics.get(place).copied().unwrap_or(&Statistics::UNKNOWN)
    }

    /// A text that begins like the pattern lies between that beginning and what
    /// comes after all that begin so.
    fn like(&self, value: &Value, beginning: &[u8]) -> Outcomes {
        let bounds = match value {
            Value::Column(place) => self.known(*place).bounds.as_ref(),
            _ => None,
        };
        let yes = match bounds {
            Some(Bounds::Text(low, high)) => {
                let low = &low[..low.len().min(beginning.len())];
                low <= beginning && high.as_slice() >= beginning
            }
            _ => true,
        };
        self.with_nulls(value, Outcomes { yes, no: true, unknown: false })
    }

    fn with_nulls(&self, value: &Value, outcomes: Outcomes) -> Outcomes {
        let Value::Column(place) = value else { return ANY };
        let known = self.known(*place);
        Outcomes {
            yes: outcomes.yes && known.values,
            no: outcomes.no && known.values,
            unknown: outcomes.unknown || known.nulls,
        }
    }
}

/// How the least and the greatest value stand to a literal of the domain;
/// `None` where that cannot be told.
fn against(bounds: &Bounds, kind: &Kind, domain: Domain, literal: &Value) -> Option<(Ordering, Ordering)> {
    match (bounds, domain, literal) {
        (Bounds::Exact(low, high), Domain::Exact { unit, scale, .. }, Value::Exact(literal)) => {
            let (low, high) =
                (rescale(*low, Some(kind), unit, scale)?, rescale(*high, Some(kind), unit, scale)?);
            Some((low.cmp(literal), high.cmp(literal)))
        }
        (Bounds::Exact(low, high), Domain::Float, Value::Float(literal))
            if matches!(kind, Kind::Exact { scale: 0, .. }) =>
        {
            let float = |units: i128| (units as f64).partial_cmp(literal);
            Some((float(*low)?, float(*high)?))
        }
        (Bounds::Float(low, high), Domain::Float, Value::Float(literal)) => {
            Some((low.partial_cmp(literal)?, high.partial_cmp(literal)?))
        }
        (Bounds::Text(low, high), Domain::Text, Value::Text(literal)) => {
            Some((low.as_slice().cmp(literal.as_bytes()), high.as_slice().cmp(literal.as_bytes())))
        }
        _ => None,
    }
}

fn all(terms: impl Iterator<Item = Outcomes>) -> Outcomes {
    let mut so_far = Outcomes { yes: true, no: false, unknown: false };
    for term in terms {
        so_far = Outcomes {
            yes: so_far.yes && term.yes,
            no: so_far.no || term.no,
            unknown: (so_far.unknown && (term.yes || term.unknown)) || (so_far.yes && term.unknown),
        };
    }
    so_far
}

fn any(terms: impl Iterator<Item = Outcomes>) -> Outcomes {
    let not = |o: Outcomes| Outcomes { yes: o.no, no: o.yes, unknown: o.unknown };
    not(all(terms.map(not)))
}
