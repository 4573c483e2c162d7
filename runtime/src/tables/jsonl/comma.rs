// SPDX-License-Identifier: Apache-2.0
//! Lines with a comma that has no item before or behind it, which JSON does not allow
//! and arrow-json passes over.
//!
//! Most lines are not parsed for it: of each comma and each bracket that closes is asked
//! what is before it. Only where that makes a comma too many, which may be text, is the line
//! parsed, once. Where a comma is missing nothing tells it so cheaply.

use memchr::{memchr, memchr3_iter, memrchr};
use serde::de::IgnoredAny;

/// Where the first line begins that looks as if it had such a comma and is not JSON.
pub(super) fn stray_comma(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Behind the lines that are known to be JSON.
    let mut known = 0;
    for at in memchr3_iter(b',', b'}', b']', bytes) {
        let stray = || match last(&bytes[..at]) {
            Some(b',') => true,
            Some(b'{' | b'[') => bytes[at] == b',',
            _ => false,
        };
        if at < known || !stray() {
            continue;
        }
        let start = memrchr(b'\n', &bytes[..at]).map_or(0, |before| before + 1);
        known = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length);
        if serde_json::from_str::<IgnoredAny>(&text[start..known]).is_err() {
            return Some(start);
        }
    }
    None
}

/// The last that is no white space. That is looked at once, as what is asked for is never within.
fn last(before: &[u8]) -> Option<u8> {
    before.iter().rev().find(|b| !matches!(b, b' ' | b'\t' | b'\r')).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_that_are_too_many_are_found() {
        let check = |text: &str, expected: Option<usize>| assert_eq!(stray_comma(text), expected, "{text}");
        check("", None);
        check("{\"a\":1}\n{\"a\":[1,2],\"b\":{}}\n", None);
        check("{\"a\":1,}", Some(0));
        check("{\"a\":1}\n{\"a\":[1, \t]}\n{\"a\":2}\n", Some(8));
        check("{\"a\":1}\n{\"a\":{\"b\":[],\r}}", Some(8));
        // Within a text it is none, but may stand beside one.
        check("{\"a\":\"x,}y,]\"}\n{\"a\":\"\\\",}\"}\n", None);
        check("{\"a\":\",}\"}\n{\"a\":\"é,]\",}\n", Some(11));
        // What is before it ends with its line.
        check("{\"a\":1,\n}", None);
        check("{\"a\":1,\n,\"b\":2}", None);
        // In front, and one behind the other.
        check("{\"a\":1}\n{,\"a\":1}", Some(8));
        check("{\"a\":[ ,1]}", Some(0));
        check("{\"a\":1,\t,\"b\":2}", Some(0));
        check("{\"a\":[1,,2]}", Some(0));
        check("{\"a\":\"1,,2[,{,\"}\n{\"a\":[[],{},\"\"]}\n", None);
    }

    #[test]
    fn many_that_are_none_are_looked_at_once() {
        let line = format!("{{\"a\":\"{}\"}}\n", ",}  ".repeat(1 << 20));
        assert_eq!(stray_comma(&line.repeat(2)), None);
    }
}
