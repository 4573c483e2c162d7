// SPDX-License-Identifier: Apache-2.0
//! What a filter says, before it is known what its columns are.
//!
//! Plain data between parsing and binding. It is at most
//! [`crate::limits::FILTER_DEPTH_MAX`] deep.

use std::fmt;

use super::pattern::Pattern;
use crate::Problem;

/// A place in a filter, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Character of the line.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            1 => write!(f, "column {}", self.column),
            line => write!(f, "line {line}, column {}", self.column),
        }
    }
}

impl Position {
    /// The place that a problem of a filter names.
    pub fn named_by(problem: &Problem) -> Option<Self> {
        let (_, place) = problem.detail.rsplit_once(" at ")?;
        let (line, column) = match place.strip_prefix("line ") {
            Some(place) => place.split_once(", column ")?,
            None => ("1", place.strip_prefix("column ")?),
        };
        // Behind it there may be advice.
        let column = column.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self { line: line.parse().ok()?, column: column.parse().ok()? })
    }

    /// The byte of the text that is at this place.
    pub fn offset(self, text: &str) -> usize {
        let (mut line, mut column) = (1, 1);
        for (offset, c) in text.char_indices() {
            if (line, column) == (self.line, self.column) {
                return offset;
            }
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        text.len()
    }
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Eq,
    /// `<>` or `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl Comparison {
    /// The same with the sides exchanged.
    #[must_use]
    pub fn flipped(self) -> Self {
        match self {
            Self::Eq | Self::Ne => self,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
        }
    }
}

/// What is calculated of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calculation {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// An expression and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expr {
    pub(super) at: Position,
    pub(super) node: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Column(String),
    Null,
    Boolean(bool),
    /// Digits with or without a fraction or an exponent, and their sign.
    Number(String),
    Text(String),
    /// `date '…'` and `timestamp '…'`
    Moment(String),
    Calculate(Calculation, Box<Expr>, Box<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    Between(Box<[Expr; 3]>),
    In(Box<Expr>, Vec<Expr>),
    Like {
        value: Box<Expr>,
        pattern: Pattern,
    },
    IsNull(Box<Expr>),
    Is(Box<Expr>, bool),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

impl Expr {
    /// Adds the columns that are not there yet.
    pub(super) fn columns(&self, names: &mut Vec<(String, Position)>) {
        match &self.node {
            Node::Column(name) => {
                if names.iter().all(|(known, _)| known != name) {
                    names.push((name.clone(), self.at));
                }
            }
            Node::Null | Node::Boolean(_) | Node::Number(_) | Node::Text(_) | Node::Moment(_) => {}
            Node::Calculate(_, left, right) | Node::Compare(_, left, right) => {
                left.columns(names);
                right.columns(names);
            }
            Node::Between(parts) => parts.iter().for_each(|part| part.columns(names)),
            Node::In(value, _) | Node::Like { value, .. } => value.columns(names),
            Node::IsNull(inner) | Node::Is(inner, _) | Node::Not(inner) => inner.columns(names),
            Node::And(terms) | Node::Or(terms) => terms.iter().for_each(|term| term.columns(names)),
        }
    }
}
