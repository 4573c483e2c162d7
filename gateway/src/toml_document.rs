// SPDX-License-Identifier: Apache-2.0
//! Documents in TOML, read by way of the values of JSON.
//!
//! Their free parts, such as `params`, are kept and shown as JSON. What TOML has and
//! JSON has not would become something else there unseen: a date becomes its text
//! here, and a number that is none a mistake with its place. Pure; the command line
//! reads its files by this as well.

use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use toml::{
    Spanned,
    de::{DeFloat, DeInteger, DeTable, DeValue},
};

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What was expected and found.
    pub what: String,
    /// The byte at which it stands, where that is known.
    pub offset: Option<usize>,
}

impl From<toml::de::Error> for Mistake {
    fn from(error: toml::de::Error) -> Self {
        Self { what: error.message().to_owned(), offset: error.span().map(|span| span.start) }
    }
}

/// Reads a document.
///
/// # Errors
/// The first mistake: of syntax, in a value that JSON has no form for, or of what `T` is.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    let table = DeTable::parse(text)?;
    let document = object(table.get_ref(), "")?;
    serde_json::from_value(document).map_err(|error| match toml::from_str::<T>(text) {
        // The same mistake, told by the reader that knows its place.
        Err(placed) => placed.into(),
        Ok(_) => Mistake { what: error.to_string(), offset: None },
    })
}

fn object(table: &DeTable<'_>, place: &str) -> Result<Value, Mistake> {
    let mut members = Map::new();
    for (key, value) in table {
        let key: &str = key.get_ref();
        let place = if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
        members.insert(key.to_owned(), json(value, &place)?);
    }
    Ok(Value::Object(members))
}

fn json(value: &Spanned<DeValue<'_>>, place: &str) -> Result<Value, Mistake> {
    let mistake = |expected: &str, found: &str| Mistake {
        what: format!("{place} must be {expected}, found {found}"),
        offset: Some(value.span().start),
    };
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::String(text.to_string())),
        DeValue::Boolean(flag) => Ok(Value::Bool(*flag)),
        DeValue::Datetime(moment) => Ok(Value::String(moment.to_string())),
        DeValue::Integer(digits) => whole(digits)
            .ok_or_else(|| mistake("a whole number of at most 64 bits", &digits.to_string()))
            .map(Value::Number),
        DeValue::Float(digits) => {
            finite(digits).ok_or_else(|| mistake("a finite number", digits.as_str())).map(Value::Number)
        }
        DeValue::Array(items) => {
            let item = |(at, item)| json(item, &format!("{place}[{at}]"));
            items.iter().enumerate().map(item).collect::<Result<_, _>>().map(Value::Array)
        }
        DeValue::Table(table) => object(table, place),
    }
}

fn whole(digits: &DeInteger<'_>) -> Option<Number> {
    let (text, radix) = (digits.as_str(), digits.radix());
    let signed = i64::from_str_radix(text, radix).map(Number::from);
    signed.or_else(|_| u64::from_str_radix(text, radix).map(Number::from)).ok()
}

fn finite(digits: &DeFloat<'_>) -> Option<Number> {
    Number::from_f64(digits.as_str().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Since {
        since: String,
    }

    #[derive(Debug, Deserialize)]
    struct One {
        #[allow(dead_code, reason = "it is read to be refused")]
        a: u32,
    }

    #[test]
    fn values_become_those_of_json() {
        let text = "a = 1\nb = 0xff\nc = -1.5e3\nd = true\ne = \"x\\n\"\nf = [1, \"2\"]\ng.h = { i = 2 }\n\
                    [[j]]\nk = 18446744073709551615\n";
        let expected = json!({
            "a": 1, "b": 255, "c": -1500.0, "d": true, "e": "x\n", "f": [1, "2"], "g": {"h": {"i": 2}},
            "j": [{"k": u64::MAX}]
        });
        assert_eq!(read::<Value>(text), Ok(expected));
    }

    #[test]
    fn dates_become_their_text() {
        let check = |date: &str| {
            assert_eq!(read::<Value>(&format!("d = {date}")).unwrap(), json!({"d": date}));
        };
        for date in ["2026-01-01", "07:32:00", "1979-05-27T07:32:00", "1979-05-27T07:32:00.5-07:00"] {
            check(date);
        }
        assert_eq!(read::<Since>("since = 2026-01-01").unwrap().since, "2026-01-01");
    }

    #[test]
    fn numbers_that_json_has_not_are_refused_with_their_place() {
        let check = |text: &str, what: &str| {
            let mistake = read::<Value>(text).unwrap_err();
            assert_eq!(mistake.what, what);
            assert_eq!(mistake.offset, text.find(text.rsplit(' ').next().unwrap()));
        };
        check("params.row = nan", "params.row must be a finite number, found nan");
        check("[params]\nz = -inf", "params.z must be a finite number, found -inf");
        check("a = 1e999", "a must be a finite number, found 1e999");
        let text = "p = [1.0, inf]";
        assert_eq!(read::<Value>(text).unwrap_err().what, "p[1] must be a finite number, found inf");
        let long = "n = 18446744073709551616";
        check(long, "n must be a whole number of at most 64 bits, found 18446744073709551616");
    }

    #[test]
    fn mistakes_have_their_place() {
        let mistake = read::<One>("# One\na = \"b\"").unwrap_err();
        assert!(mistake.what.starts_with("invalid type: string \"b\", expected u32"), "{mistake:?}");
        assert_eq!(mistake.offset, Some(10));
        let mistake = read::<One>("a = 1\na = 2").unwrap_err();
        assert_eq!(mistake.offset, Some(6));
    }
}
