// SPDX-License-Identifier: Apache-2.0
//! JSON laid out for people, token by token.
//!
//! Stands before the terminal. Invariant: only the white space between tokens is another
//! than before. Numbers keep their digits and members their order, since nothing is read
//! into values, which have room for neither.

use std::{iter::Peekable, str::Chars};

/// The same JSON with each member and item in a line of its own, as `serde_json` lays values out.
/// What is no JSON comes out as something, with all that it holds but white space.
pub fn indented(json: &str) -> String {
    let mut out = String::with_capacity(2 * json.len());
    let (mut letters, mut depth) = (json.chars().peekable(), 0_usize);
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => text(&mut letters, &mut out),
            '{' | '[' => {
                out.push(letter);
                while letters.next_if(char::is_ascii_whitespace).is_some() {}
                match letters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(letter);
            }
            ',' => {
                out.push(letter);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => out.push(other),
        }
    }
    out
}

/// A text as it stands, up to its closing quote.
fn text(letters: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('"');
    while let Some(letter) = letters.next() {
        out.push(letter);
        match letter {
            '"' => return,
            '\\' => out.extend(letters.next()),
            _ => {}
        }
    }
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_is_laid_out_as_values_are() {
        let check = |value: Value| {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(indented(&value.to_string()), pretty);
            assert_eq!(indented(&pretty), pretty);
        };
        check(json!({"a": [1, {"b": []}, {}, [[2.5]]], "c": {"d": null, "e": "x: {,} \"]\\"}, "f": true}));
        check(json!([]));
        check(json!("[1,2]\\"));
        check(json!(-1.5e300));
    }

    #[test]
    fn every_token_stays_as_it_was_written() {
        let written = r#"{"b":1.10, "a":[ 340282366920938463463374607431768211455 , "\u00e4\/" ] ,"b":{ }}"#;
        let shown = "{\n  \"b\": 1.10,\n  \"a\": [\n    340282366920938463463374607431768211455,\n    \
                     \"\\u00e4\\/\"\n  ],\n  \"b\": {}\n}";
        assert_eq!(indented(written), shown);
    }

    #[test]
    fn what_is_broken_off_is_shown_too() {
        for (broken, shown) in [("{\"a", "{\n  \"a"), ("\"\\", "\"\\"), ("]", "\n]"), ("", "")] {
            assert_eq!(indented(broken), shown);
        }
    }
}
