// SPDX-License-Identifier: Apache-2.0
//! Texts as `application/x-www-form-urlencoded` has them: values of queries, and keys of
//! objects in notifications.
//!
//! Pure. What is no escape stays as it was written, as browsers read it (WHATWG, URL, 5.1).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The text that was written so: `+` is a space, `%2B` a plus. None when it is not UTF-8.
pub(crate) fn decode(written: &str) -> Option<String> {
    let spaced = written.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_all_else_stays() {
        let check = |written: &str, expected: &str| assert_eq!(decode(written).as_deref(), Some(expected));
        check("a+b", "a b");
        check("a%2Bb%20c", "a+b c");
        check("in%2Fx%25.csv", "in/x%.csv");
        check("%E2%82%AC", "€");
        check("%4A%4a", "JJ");
        check("100%", "100%");
        check("a&b=c", "a&b=c");
        check("%zz%4", "%zz%4");
        check("%+f", "% f");
        check("%-1%é%", "%-1%é%");
        assert_eq!(decode("%FF"), None);
    }
}
