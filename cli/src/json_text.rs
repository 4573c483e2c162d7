// SPDX-License-Identifier: Apache-2.0
//! JSON and TOML that people type, checked before anything is sent.
//!
//! A mistake is shown in its line. Pure.

use fanfold_gateway::toml_document::{self, Mistake};
use fanfold_protocol::job::JobDocument;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Excerpt, Result};

/// Reads JSON; `name` is the flag or the file that it came from.
pub fn json(name: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or(&what).to_owned();
        let place = format!("line {}, column {}", error.line(), error.column());
        let offset = offset(text, error.line(), error.column());
        let excerpt = Excerpt { name: name.to_owned(), text: text.to_owned(), offset, label: what.clone() };
        Error::usage(format!("expected JSON in {name}, found at {place}: {what}"))
            .excerpt(excerpt)
            .help(format!("text needs quotes of its own in JSON: {}", example(name)))
    })
}

/// How it is written rightly. Options other than `-d` take objects; a file knows no shell.
fn example(name: &str) -> String {
    match name {
        "-d" => r#"-d '"Ada"', -d '{"name": "Ada"}'"#.to_owned(),
        option if option.starts_with('-') => format!(r#"{option} '{{"name": "Ada"}}'"#),
        _ => r#"{"name": "Ada"}"#.to_owned(),
    }
}

/// Reads a JSON object.
pub fn object(name: &str, text: &str) -> Result<Value> {
    let value = json(name, text)?;
    if value.is_object() {
        return Ok(value);
    }
    Err(Error::usage(format!(
        "expected a JSON object in {name}, such as {{\"threshold\": 0.2}}, found {}",
        kind(&value)
    )))
}

/// Reads TOML into its type.
pub fn toml<T: DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    toml_document::read(text).map_err(|Mistake { what, offset }| {
        let offset = offset.unwrap_or(0);
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let what = JobDocument::for_authors(&what);
        let excerpt =
            Excerpt { name: name.to_owned(), text: without_secrets(text), offset, label: what.clone() };
        Error::usage(format!("{name}:{line}: {what}")).excerpt(excerpt)
    })
}

/// The text with asterisks for what keys say that sound like secrets. These belong into files of their own, and whoever
/// has one here by mistake need not find it in a log too.
fn without_secrets(text: &str) -> String {
    const WORDS: [&str; 4] = ["secret", "password", "token", "access_key"];
    let shown = |line: &str| {
        let lower = line.to_ascii_lowercase();
        let word = WORDS.iter().filter_map(|word| lower.find(word)).min();
        let value = word.and_then(|at| Some(at + lower.get(at..)?.find('=')? + 1));
        let Some((key, value)) = value.and_then(|at| line.split_at_checked(at)) else {
            return line.to_owned();
        };
        let kept = value.trim_end_matches(['\r', '\n']);
        // As many bytes, so that places stay where they are.
        format!("{key}{}{}", "*".repeat(kept.len()), &value[kept.len()..])
    };
    text.split_inclusive('\n').map(shown).collect()
}

/// Byte offset of a line and column, both from 1, as serde_json counts them.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_json_have_a_place() {
        let check = |text: &str, part: &str| {
            let error = json("-d", text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("{\"a\": }", "-d, found at line 1, column 7: expected value");
        check("Ada", "line 1, column 1");
        check("{\n  \"a\" 1\n}", "line 2, column 7");
        check("", "EOF");
        assert_eq!(json("-d", " 1 ").unwrap(), 1);
        assert_eq!(offset("ab\ncd", 2, 2), 4);
        assert_eq!(offset("ab", 9, 9), 2);
        assert!(object("--params", "[1]").unwrap_err().to_string().contains("found a list"));
    }

    #[test]
    fn help_names_what_was_used() {
        let check = |name: &str, example: &str| {
            let advice = object(name, "x=1").unwrap_err().advice();
            assert_eq!(advice, format!("text needs quotes of its own in JSON: {example}"));
        };
        check("-d", r#"-d '"Ada"', -d '{"name": "Ada"}'"#);
        check("--params", r#"--params '{"name": "Ada"}'"#);
        check("params.json", r#"{"name": "Ada"}"#);
    }

    #[test]
    fn secrets_are_not_shown() {
        let check = |text: &str, expected: &str| {
            assert_eq!(without_secrets(text), expected);
            assert_eq!(text.len(), expected.len());
        };
        check("a = 1\nsecret_key = \"s\u{e9}\"\r\nb = 2\n", "a = 1\nsecret_key =******\r\nb = 2\n");
        check("store = { Secret = \"x\", region = \"y\" }", "store = { Secret =********************");
        check("credentials = \"/run/secrets/store\"", "credentials = \"/run/secrets/store\"");
        let error = toml::<JobDocument>("job.toml", "function = \"f\"\ntoken = \"ff_abc\"\n").unwrap_err();
        assert!(!format!("{error:?}").contains("ff_abc"), "{error:?}");
    }

    #[test]
    fn mistakes_in_toml_have_a_line() {
        let error = toml::<JobDocument>("job.toml", "function = \"f\"\noutptu = \"s3://a/\"\n").unwrap_err();
        assert!(
            error.to_string().starts_with("job.toml:2: unknown field `outptu`, expected one of"),
            "{error}"
        );
        assert!(!error.to_string().contains("depth"), "only triggers set it: {error}");
        let unread = "function = \"f\"\ninput = \"s3://a/\"\nparams = { row = nan }\n";
        let error = toml::<JobDocument>("job.toml", unread).unwrap_err().to_string();
        assert_eq!(error, "job.toml:3: params.row must be a finite number, found nan");
        let error = toml::<JobDocument>("job.toml", "function = \n").unwrap_err();
        assert!(error.to_string().starts_with("job.toml:1: "), "{error}");
    }
}
