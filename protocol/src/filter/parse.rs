// SPDX-License-Identifier: Apache-2.0
//! From text to an [`Expr`].
//!
//! Tokens and precedence are those of the crate `sqlparser`. Only tokens that a
//! filter may hold reach its parser, and words of SQL that mean nothing in a filter
//! are names like others, so that no feature beyond can be written; the number of
//! tokens bounds how deep it goes.

use sqlparser::{
    ast::{self, BinaryOperator, UnaryOperator},
    dialect::Dialect,
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

use super::{
    expr::{Calculation, Comparison, Expr, Node, Position},
    invalid,
    pattern::Pattern,
    quote,
};
use crate::{ErrorKind, Problem, limits};

/// Parentheses, `not`s, signs and operators within each other: for each the parser calls itself.
const NESTING_MAX: usize = 48;
/// What it calls itself besides: for the whole, and for what is innermost, which may be a type.
const NESTING_BESIDES: usize = 2;

/// SQL as filters write it: names of letters, digits and `_`, others in double quotes.
#[derive(Debug)]
struct Words;

impl Dialect for Words {
    fn is_identifier_start(&self, c: char) -> bool {
        c.is_alphabetic() || c == '_'
    }

    fn is_identifier_part(&self, c: char) -> bool {
        c.is_alphanumeric() || c == '_'
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        c == '"'
    }

    /// A `not` whose condition cannot be parsed is no column: what is wrong there is told.
    fn is_reserved_for_identifier(&self, word: Keyword) -> bool {
        word == Keyword::NOT
    }
}

pub(super) fn parse(text: &str) -> Result<Expr, Problem> {
    if text.len() > limits::FILTER_BYTES_MAX {
        let detail = format!(
            "filter: expected at most {} bytes, since every lease carries them, found {}; put what is looked up into \
             the function",
            limits::FILTER_BYTES_MAX,
            text.len()
        );
        return Err(Problem::new(ErrorKind::FilterInvalid, detail));
    }
    let end = end_of(text);
    let mut tokens =
        Tokenizer::new(&Words, text).tokenize_with_location().map_err(|e| failed(&e.to_string(), end))?;
    keep_names(&mut tokens);
    check_tokens(&tokens)?;
    let levels = NESTING_MAX + NESTING_BESIDES;
    let mut parser = Parser::new(&Words).with_recursion_limit(levels).with_tokens_with_locations(tokens);
    let parsed = parser.parse_expr().map_err(|error| match error {
        ParserError::ParserError(said) | ParserError::TokenizerError(said) => failed(&said, end),
        ParserError::RecursionLimitExceeded => {
            let detail = format!(
                "filter: expected at most {NESTING_MAX} parentheses, nots, signs and operators within each other, found \
                 more; write it with fewer"
            );
            Problem::new(ErrorKind::FilterInvalid, detail)
        }
    })?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let at = position(rest.span.start).unwrap_or(end);
        return Err(invalid(at, "an operator or the end", &quote(&rest.token.to_string())));
    }
    lower(&parsed, Position { line: 1, column: 1 }, limits::FILTER_DEPTH_MAX)
}

/// Takes other words than those of filters for names, whatever SQL makes of them.
fn keep_names(tokens: &mut [TokenWithSpan]) {
    use Keyword::{DATE, FALSE, NULL, NoKeyword, TIMESTAMP, TRUE, UNKNOWN};
    for TokenWithSpan { token, .. } in tokens {
        if let Token::Word(word) = token
            && !takes_parentheses(word.keyword)
            && !matches!(word.keyword, DATE | FALSE | NULL | TIMESTAMP | TRUE | UNKNOWN)
        {
            word.keyword = NoKeyword;
        }
    }
}

/// Refuses what a filter may not hold.
fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    let (mut operators, mut before) = (0, None);
    for TokenWithSpan { token, span } in tokens {
        let at = position(span.start).unwrap_or(Position { line: 1, column: 1 });
        match token {
            Token::Whitespace(_) | Token::EOF => continue,
            Token::Number(_, false) | Token::SingleQuotedString(_) | Token::Comma | Token::RParen => {}
            Token::LParen => {
                if let Some(name) = before {
                    return Err(invalid(at, "an operator", &format!("a call of {}", quote(name))));
                }
            }
            Token::Word(word) if word.quote_style.is_some() => {}
            Token::Word(word) => operators += usize::from(word.keyword != Keyword::NoKeyword),
            Token::Eq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Mod => operators += 1,
            other => return Err(invalid(at, UNDERSTOOD, &quote(&other.to_string()))),
        }
        before = match token {
            Token::Word(word) if word.quote_style.is_some() || !takes_parentheses(word.keyword) => {
                Some(&word.value)
            }
            _ => None,
        };
        if operators > limits::FILTER_OPERATORS_MAX {
            let expected = format!("at most {} operators", limits::FILTER_OPERATORS_MAX);
            return Err(invalid(at, &expected, "one more"));
        }
    }
    Ok(())
}

/// What a filter is made of, for messages.
const UNDERSTOOD: &str =
    "columns, literals, and, or, not, = <> < <= > >=, between, in, like, ilike, is, + - * / %";

/// Words that an opening parenthesis may follow.
fn takes_parentheses(keyword: Keyword) -> bool {
    use Keyword::{AND, BETWEEN, ILIKE, IN, IS, LIKE, NOT, OR};
    matches!(keyword, AND | OR | NOT | IN | BETWEEN | LIKE | ILIKE | IS)
}

fn position(at: Location) -> Option<Position> {
    (at.line > 0).then_some(Position { line: at.line, column: at.column })
}

/// The place behind the last character.
fn end_of(text: &str) -> Position {
    let last = text.rsplit('\n').next().unwrap_or_default();
    let line = text.bytes().filter(|b| *b == b'\n').count() as u64 + 1;
    Position { line, column: last.chars().count() as u64 + 1 }
}

/// The parser's own words, such as `Expected: an expression, found: ) at Line: 1, Column: 7`.
fn failed(said: &str, end: Position) -> Problem {
    let place = said.rsplit_once(" at Line: ").and_then(|(words, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        let at = Location { line: line.parse().ok()?, column: column.parse().ok()? };
        Some((words, position(at)?))
    });
    let (words, at) = place.unwrap_or((said.split(" at Line: ").next().unwrap_or(said), end));
    match words.strip_prefix("Expected: ").and_then(|words| words.rsplit_once(", found: ")) {
        Some((expected, "EOF")) => invalid(end, offered(expected), "the end"),
        Some((expected, found)) => invalid(at, offered(expected), &quote(found)),
        None => invalid(at, "a condition", &quote(words)),
    }
}

/// What the parser expected, without what only it understands.
fn offered(expected: &str) -> &str {
    match expected.ends_with(" after IS") {
        true => "null, true, false or unknown after is",
        false => expected,
    }
}

/// The tree in our own terms. `room` is how deep it may still become; `near` is
/// where it begins, should it not say.
fn lower(expr: &ast::Expr, near: Position, room: usize) -> Result<Expr, Problem> {
    let at = start(expr).and_then(position).unwrap_or(near);
    let Some(room) = room.checked_sub(1) else {
        let expected =
            format!("at most {} calculations or conditions within each other", limits::FILTER_DEPTH_MAX);
        return Err(invalid(at, &expected, "more"));
    };
    let one = |expr: &ast::Expr| lower(expr, at, room).map(Box::new);
    let negated = |node, negated: bool| match negated {
        true => Node::Not(Box::new(Expr { at, node })),
        false => node,
    };
    let node = match expr {
        ast::Expr::Nested(inner) => return lower(inner, at, room),
        ast::Expr::Identifier(name) => Node::Column(name.value.clone()),
        ast::Expr::Value(literal) => value(&literal.value, at)?,
        ast::Expr::TypedString(typed) => moment(typed, at)?,
        ast::Expr::UnaryOp { op: UnaryOperator::Not, expr } => Node::Not(one(expr)?),
        ast::Expr::UnaryOp { op: UnaryOperator::Plus, expr } => return lower(expr, at, room),
        ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => minus(lower(expr, at, room)?),
        ast::Expr::BinaryOp { op: BinaryOperator::And, .. } => {
            Node::And(chain(expr, &BinaryOperator::And, at, room)?)
        }
        ast::Expr::BinaryOp { op: BinaryOperator::Or, .. } => {
            Node::Or(chain(expr, &BinaryOperator::Or, at, room)?)
        }
        ast::Expr::BinaryOp { left, op, right } => binary(op, at, one(left)?, one(right)?)?,
        ast::Expr::Between { expr, negated: not, low, high } => {
            negated(Node::Between(Box::new([*one(expr)?, *one(low)?, *one(high)?])), *not)
        }
        ast::Expr::InList { expr, list, negated: not } => {
            negated(Node::In(one(expr)?, literals(list, at, room)?), *not)
        }
        ast::Expr::Like { negated: not, any: false, expr, pattern, escape_char: None } => {
            negated(like(one(expr)?, &*one(pattern)?, false)?, *not)
        }
        ast::Expr::ILike { negated: not, any: false, expr, pattern, escape_char: None } => {
            negated(like(one(expr)?, &*one(pattern)?, true)?, *not)
        }
        ast::Expr::IsNull(inner) | ast::Expr::IsUnknown(inner) => Node::IsNull(one(inner)?),
        ast::Expr::IsNotNull(inner) | ast::Expr::IsNotUnknown(inner) => {
            negated(Node::IsNull(one(inner)?), true)
        }
        ast::Expr::IsTrue(inner) => Node::Is(one(inner)?, true),
        ast::Expr::IsNotTrue(inner) => negated(Node::Is(one(inner)?, true), true),
        ast::Expr::IsFalse(inner) => Node::Is(one(inner)?, false),
        ast::Expr::IsNotFalse(inner) => negated(Node::Is(one(inner)?, false), true),
        // To print it would go as deep as it is.
        _ => return Err(invalid(at, UNDERSTOOD, "something else")),
    };
    Ok(Expr { at, node })
}

/// Where an expression begins, parentheses and signs aside. The parser's own way
/// of telling goes as deep as the longest chain of operators.
fn start(mut expr: &ast::Expr) -> Option<Location> {
    loop {
        expr = match expr {
            ast::Expr::Identifier(name) => return Some(name.span.start),
            ast::Expr::Value(literal) => return Some(literal.span.start),
            ast::Expr::TypedString(typed) => return Some(typed.value.span.start),
            ast::Expr::BinaryOp { left, .. } => left,
            ast::Expr::Between { expr, .. }
            | ast::Expr::InList { expr, .. }
            | ast::Expr::Like { expr, .. }
            | ast::Expr::ILike { expr, .. }
            | ast::Expr::UnaryOp { expr, .. }
            | ast::Expr::Nested(expr)
            | ast::Expr::IsNull(expr)
            | ast::Expr::IsNotNull(expr)
            | ast::Expr::IsUnknown(expr)
            | ast::Expr::IsNotUnknown(expr)
            | ast::Expr::IsTrue(expr)
            | ast::Expr::IsNotTrue(expr)
            | ast::Expr::IsFalse(expr)
            | ast::Expr::IsNotFalse(expr) => expr,
            _ => return None,
        }
    }
}

/// The terms of `a and b and c`, which the parser nests to the left.
fn chain(expr: &ast::Expr, of: &BinaryOperator, near: Position, room: usize) -> Result<Vec<Expr>, Problem> {
    let (mut terms, mut rest) = (Vec::new(), expr);
    while let ast::Expr::BinaryOp { left, op, right } = rest
        && op == of
    {
        terms.push(lower(right, near, room)?);
        rest = left;
    }
    terms.push(lower(rest, near, room)?);
    terms.reverse();
    Ok(terms)
}

fn binary(op: &BinaryOperator, at: Position, left: Box<Expr>, right: Box<Expr>) -> Result<Node, Problem> {
    let compared = match op {
        BinaryOperator::Eq => Some(Comparison::Eq),
        BinaryOperator::NotEq => Some(Comparison::Ne),
        BinaryOperator::Lt => Some(Comparison::Lt),
        BinaryOperator::LtEq => Some(Comparison::Le),
        BinaryOperator::Gt => Some(Comparison::Gt),
        BinaryOperator::GtEq => Some(Comparison::Ge),
        _ => None,
    };
    let calculated = match op {
        BinaryOperator::Plus => Some(Calculation::Add),
        BinaryOperator::Minus => Some(Calculation::Subtract),
        BinaryOperator::Multiply => Some(Calculation::Multiply),
        BinaryOperator::Divide => Some(Calculation::Divide),
        BinaryOperator::Modulo => Some(Calculation::Remainder),
        _ => None,
    };
    match (compared, calculated) {
        (Some(how), _) => Ok(Node::Compare(how, left, right)),
        (None, Some(what)) => Ok(Node::Calculate(what, left, right)),
        (None, None) => Err(invalid(at, UNDERSTOOD, &quote(&op.to_string()))),
    }
}

fn like(value: Box<Expr>, pattern: &Expr, any_case: bool) -> Result<Node, Problem> {
    let Node::Text(text) = &pattern.node else {
        return Err(invalid(pattern.at, "a text in quotes after like", "something else"));
    };
    let pattern = Pattern::new(text, any_case).map_err(|found| {
        let most = limits::FILTER_PATTERN_CHARS_MAX;
        let expected = format!("at most {most} characters between two % of a pattern that has a _ there");
        invalid(pattern.at, &expected, &found.to_string())
    })?;
    Ok(Node::Like { value, pattern })
}

fn minus(inner: Expr) -> Node {
    match inner.node {
        Node::Number(digits) => match digits.strip_prefix('-') {
            Some(positive) => Node::Number(positive.to_owned()),
            None => Node::Number(format!("-{digits}")),
        },
        _ => {
            let zero = Expr { at: inner.at, node: Node::Number("0".to_owned()) };
            Node::Calculate(Calculation::Subtract, Box::new(zero), Box::new(inner))
        }
    }
}

fn value(value: &ast::Value, at: Position) -> Result<Node, Problem> {
    Ok(match value {
        ast::Value::Number(digits, _) => Node::Number(digits.clone()),
        ast::Value::SingleQuotedString(text) => Node::Text(text.clone()),
        ast::Value::Boolean(truth) => Node::Boolean(*truth),
        ast::Value::Null => Node::Null,
        other => return Err(invalid(at, UNDERSTOOD, &quote(&other.to_string()))),
    })
}

fn moment(typed: &ast::TypedString, at: Position) -> Result<Node, Problem> {
    let known = matches!(
        typed.data_type,
        ast::DataType::Date | ast::DataType::Timestamp(None, ast::TimezoneInfo::None)
    );
    match &typed.value.value {
        ast::Value::SingleQuotedString(text) if known => Ok(Node::Moment(text.clone())),
        _ => Err(invalid(at, "date '…' or timestamp '…'", &quote(&typed.to_string()))),
    }
}

fn literals(list: &[ast::Expr], near: Position, room: usize) -> Result<Vec<Expr>, Problem> {
    let literal = |expr: &ast::Expr| {
        let item = lower(expr, near, room)?;
        match item.node {
            Node::Null | Node::Boolean(_) | Node::Number(_) | Node::Text(_) | Node::Moment(_) => Ok(item),
            _ => Err(invalid(item.at, "literals between the parentheses of in", &quote(&expr.to_string()))),
        }
    };
    list.iter().map(literal).collect()
}
