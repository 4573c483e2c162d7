// SPDX-License-Identifier: Apache-2.0
//! Lines that end an object or an array in a comma, which JSON does not allow
//! and arrow-json passes over.
//!
//! Most lines are not parsed for it: of each bracket that closes is asked what is
//! before it. Only where that is a comma, which may be text, is the line parsed, once.

use memchr::{memchr, memchr2_iter, memrchr};
use serde::de::IgnoredAny;

/// Where the first line begins that looks as if it had such a comma and is not JSON.
pub(super) fn trailing_comma(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Behind the lines that are known to be JSON.
    let mut known = 0;
    for at in memchr2_iter(b'}', b']', bytes) {
        if at < known || !follows_comma(&bytes[..at]) {
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

/// Whether the last that is no white space is a comma. White space is looked at once, as it
/// never has a bracket within.
fn follows_comma(before: &[u8]) -> bool {
    before.iter().rev().find(|b| !matches!(b, b' ' | b'\t' | b'\r')) == Some(&b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_behind_the_last_item_are_found() {
        let check =
            |text: &str, expected: Option<usize>| assert_eq!(trailing_comma(text), expected, "{text}");
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
    }

    #[test]
    fn many_that_are_none_are_looked_at_once() {
        let line = format!("{{\"a\":\"{}\"}}\n", ",}  ".repeat(1 << 20));
        assert_eq!(trailing_comma(&line.repeat(2)), None);
    }
}
