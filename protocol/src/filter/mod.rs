// SPDX-License-Identifier: Apache-2.0
//! The filter of a job: which rows of its input its function gets.
//!
//! `filter` is a condition in SQL's words: it is parsed (`parse`), bound to the
//! kinds of the columns that it names (`bind`), and then either evaluated over
//! batches, by the runtime, or over the statistics of row groups (`prune`).
//! Pure functions over a text that someone else wrote: it ends in a [`Problem`]
//! that names a place in it, and its size bounds time, memory and stack.
//!
//! Conditions are true, false or unknown, as in SQL (ISO/IEC 9075-2, 8.1); a row
//! passes when the filter is true of it.

mod bind;
mod expr;
mod kind;
mod literal;
mod parse;
mod pattern;
mod prune;

use crate::{ErrorKind, Problem, stored::csv};

use self::expr::Expr;
pub use self::{
    bind::{Arithmetic, Bound, Domain, Test, Unit, Value},
    expr::{Calculation, Comparison, Position},
    kind::Kind,
    literal::DAY_SECONDS,
    pattern::Pattern,
    prune::{Bounds, Statistics},
};

/// A filter that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    root: Expr,
    /// The columns that it names, each once, in the order in which it does.
    columns: Vec<(String, Position)>,
}

impl Filter {
    /// The filter that a text holds.
    ///
    /// # Errors
    /// `filter-invalid`, with the place.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let root = parse::parse(text)?;
        let mut columns = Vec::new();
        root.columns(&mut columns);
        Ok(Self { root, columns })
    }

    /// The names of its columns, each once.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Refuses a column that is not among these.
    ///
    /// # Errors
    /// `column-not-found`, with the place.
    pub fn check_columns(&self, available: &[&str]) -> Result<(), Problem> {
        match self.columns.iter().find(|(name, _)| !available.contains(&name.as_str())) {
            Some((name, at)) => Err(missing(name, *at, available)),
            None => Ok(()),
        }
    }
}

/// The problem of a place in a filter.
fn invalid(at: Position, expected: &str, found: &str) -> Problem {
    Problem::new(ErrorKind::FilterInvalid, format!("filter: expected {expected}, found {found} at {at}"))
}

/// Names listed in a message, at most.
const NAMES_SHOWN: usize = 20;

fn missing(wanted: &str, at: Position, available: &[&str]) -> Problem {
    let shown: Vec<String> = available.iter().take(NAMES_SHOWN).map(|name| quote(name)).collect();
    let more = available.len().saturating_sub(NAMES_SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (shown, name) = (shown.join(", "), quote(wanted));
    let advice = csv::column_advice(available);
    let detail = format!("filter: expected one of the columns {shown}{rest}, found {name} at {at}{advice}");
    Problem::new(ErrorKind::ColumnNotFound, detail)
}

/// Text from outside, made fit for one line of a message.
fn quote(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits;

    fn kinds() -> Vec<(&'static str, Kind)> {
        vec![
            ("region", Kind::Text),
            ("income", Kind::FLOAT),
            ("age", Kind::INTEGER),
            ("balance", Kind::Exact { precision: 12, scale: 2 }),
            ("born", Kind::Date),
            ("seen", Kind::Instant { scale: 6 }),
            ("active", Kind::Boolean),
            ("tags", Kind::Other("List(Utf8)".into())),
            ("odd name", Kind::Text),
            ("date", Kind::Date),
            ("interval", Kind::INTEGER),
            ("case", Kind::Text),
        ]
    }

    fn bound(text: &str) -> Result<Bound, Problem> {
        Filter::parse(text)?.bind(&kinds())
    }

    #[test]
    fn filters_of_the_contract_are_understood() {
        for text in [
            "region = 'north' and income > 0",
            "\"odd name\" like 'a\\%%' or not region ilike '%X_'",
            "age between 18 and 65 and age not between 30 and 40",
            "age in (1, 2, null, -3) or region not in ('a')",
            "active and active is not false and (age > 1) is unknown and (age > 2) is not true",
            "born >= date '2024-02-29' and seen < timestamp '2024-02-29 10:00:00.5+01:00'",
            "date = '2024-01-01' or seen > '2024-01-01T00:00Z' or born = seen",
            "balance * 2 / 3 - 1 % 5 > +0.5e3 and -age < 1",
            "tags is not null and null is null and income is null",
            "age <> 2.5 and 5 != age and income = 1",
            "interval - 5 > 1 and interval in (7, 8) and case = 'x' or not case like 'y%'",
            "true",
            "age\n= 1",
        ] {
            bound(text).unwrap_or_else(|problem| panic!("{text}: {}", problem.detail));
        }
        let filter = Filter::parse("b = 1 and \"A\" > b or a is null").unwrap();
        assert_eq!(filter.columns().collect::<Vec<_>>(), ["b", "A", "a"]);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let check = |text: &str, code: ErrorKind, words: &[&str]| {
            let problem = bound(text).expect_err(text);
            assert_eq!(problem.code, code, "{text}: {}", problem.detail);
            assert!(problem.detail.starts_with("filter: expected "), "{}", problem.detail);
            for word in words {
                assert!(problem.detail.contains(word), "{word}: {}", problem.detail);
            }
        };
        let invalid = |text: &str, words: &[&str]| check(text, ErrorKind::FilterInvalid, words);
        invalid("", &["the end at column 1"]);
        invalid("age >", &["an expression, found the end at column 6"]);
        invalid("age = 1 region", &["an operator or the end", "\"region\" at column 9"]);
        invalid("age = 1 and )", &["an expression", "\")\" at column 13"]);
        invalid("(age = 1", &["the end at column 9"]);
        invalid("not", &["an expression, found the end at column 4"]);
        invalid("active and not )", &["an expression", "\")\" at column 16"]);
        invalid("region = 'north", &["column 10"]);
        invalid("age =\n  upper(region)", &["a call of \"upper\" at line 2, column 8"]);
        invalid("age in (select 1)", &["found \"1\" at column 16"]);
        invalid("cast(age as int) = 1", &["a call of \"cast\" at column 5"]);
        invalid("age::int = 1", &["\"::\" at column 4"]);
        invalid("age = 1; drop", &["\";\" at column 8"]);
        invalid("case when true then 1 end = 1", &["an operator or the end", "\"when\" at column 6"]);
        invalid("region like 'a' escape '!'", &["an operator or the end", "\"escape\" at column 17"]);
        invalid(
            "age is not distinct from 5",
            &["null, true, false or unknown after is", "\"distinct\" at column 12"],
        );
        invalid("(age, income) = 1", &["columns, literals", "column 1"]);
        invalid("age in (age)", &["literals", "column 9"]);
        invalid("age + 1", &["a condition", "at column 1"]);
        invalid("region", &["a condition", "a text", "column 1"]);
        invalid("age = 'old'", &["a number to compare with", "\"old\" at column 7"]);
        invalid("region > 5", &["a text to compare with", "a number at column 10"]);
        invalid("born = 'soon'", &["a date YYYY-MM-DD", "\"soon\" at column 8"]);
        invalid("born = 5", &["a date to compare with", "column 8"]);
        invalid("date '2024-02-30' = born", &["2024-02-30", "column 6"]);
        invalid("region + 1 = 2", &["a number to calculate with", "column 1"]);
        invalid("active > true", &["order", "column 1"]);
        invalid("tags = 'a'", &["List(Utf8) at column 1"]);
        invalid("age like 'a'", &["a text before like", "column 1"]);
        invalid("region like region", &["in quotes after like", "column 13"]);
        let holes = "_".repeat(65);
        let pattern = format!("age = 1 or region not ilike '%{holes}%'");
        invalid(&pattern, &["at most 64 characters between two %", "found 65 at column 29"]);
        invalid("(age > 1) = true", &["a value, found a condition"]);
        check(
            "age = 1 and regoin = 'x'",
            ErrorKind::ColumnNotFound,
            &["\"regoin\" at column 13", "\"region\""],
        );
        check("Age = 1", ErrorKind::ColumnNotFound, &["\"Age\" at column 1"]);
    }

    #[test]
    fn nesting_has_one_limit() {
        let nested = |open: &str, count: usize, inner: &str, close: &str| {
            bound(&format!("{}{inner}{}", open.repeat(count), close.repeat(count)))
        };
        for (open, inner, close) in
            [("(", "true", ")"), ("(", "active", ")"), ("not ", "true", ""), ("not ", "active", "")]
        {
            nested(open, 48, inner, close).unwrap_or_else(|problem| panic!("{open}: {}", problem.detail));
            for count in [49, 50, 51, 100] {
                let problem = nested(open, count, inner, close).unwrap_err();
                let expected = "expected at most 48 parentheses, nots, signs and operators within each other";
                assert!(problem.detail.contains(expected), "{open}: {}", problem.detail);
            }
        }
        // All of them count alike.
        assert!(nested("(", 47, "age = 1", ")").is_ok() && nested("(", 48, "age = 1", ")").is_err());
        assert!(nested("not (", 24, "true", ")").is_ok() && nested("not (", 25, "true", ")").is_err());
    }

    #[test]
    fn places_are_found_again() {
        let check = |text: &str, expected: &str| {
            let at = Position::named_by(&bound(text).unwrap_err()).unwrap();
            assert_eq!(&text[at.offset(text)..], expected, "{text}");
        };
        check("region = 'süd' and regoin = 'x'", "regoin = 'x'");
        check("age = 1\n  or upper(region)", "(region)");
        check("age =", "");
    }

    #[test]
    fn size_is_bounded() {
        // Less stack than any thread that meets filters has.
        let small = std::thread::Builder::new().stack_size(1 << 20);
        let within = small.spawn(|| {
            let refused = |text: String| assert_eq!(bound(&text).unwrap_err().code, ErrorKind::FilterInvalid);
            refused(format!("age = {}1{}", "(".repeat(60), ")".repeat(60)));
            refused(format!("{}true", "not ".repeat(900)));
            refused(format!("age = 1{}", " + 1".repeat(900)));
            refused(format!("age = 1{}", " and age = 1".repeat(limits::FILTER_OPERATORS_MAX)));
            refused(format!("region = '{}'", "x".repeat(limits::FILTER_BYTES_MAX)));
            refused(format!("{}age = 1", "- ".repeat(900)));
            // What is not understood is not printed either.
            refused(format!("(age{}, 2) = 1", " + 1".repeat(1_000)));
            refused(format!("age{} is distinct from 2", " + 1".repeat(1_000)));
            refused(format!("{}1", "case case when 1 then ".repeat(40)));
            let items: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
            bound(&format!("age in ({})", items.join(","))).unwrap();
            bound(&format!("age = 1{}", " or age = 1".repeat(500))).unwrap();
            bound(&format!("{}age = 1{}", "(".repeat(40), ")".repeat(40))).unwrap();
        });
        within.unwrap().join().unwrap();
    }

    proptest! {
        #[test]
        fn any_text_is_survived(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "age", "region", "(", ")", "and", "or", "not", "in", "between", "like", "is", "null", "=", "<",
                    "-", "1", "1e999", "'x'", "date", "timestamp", "interval", "case", "when", "true", ",", "%", "\"",
                    "exists", "any", "array", "escape", "'", "--", "/*", "position", "struct", "distinct", "from",
                ]),
                0..60,
            )
        ) {
            let _ = bound(&words.join(" "));
        }
    }
}
