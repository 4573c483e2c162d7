// SPDX-License-Identifier: Apache-2.0
//! Percent-encoding as S3 uses it: in `x-amz-copy-source` and in listings with
//! `encoding-type=url`.
//!
//! Encoding leaves only RFC 3986's unreserved characters and `/` as they are,
//! so that `+` and `%` survive every decoder.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What is written as `%XX`, and all that is not ASCII.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// `text` with all bytes but letters, digits, `-._~` and `/` as `%XX`.
pub(crate) fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// The text that a store encoded: `%XX` is a byte, `+` is a space (S3 writes
/// spaces that way). None when the result is not UTF-8 or an escape is broken, which
/// the crate would leave as it is: names and signatures are not guessed at.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awkward_keys_survive_the_round_trip() {
        for key in ["", "a b", "a+b", "100%", "%2F", "ü/ä", "\u{1}\n", "../..//x/", "日本"] {
            assert_eq!(percent_decode(&percent_encode(key)).as_deref(), Some(key));
        }
        assert_eq!(percent_encode("a b+c/ü"), "a%20b%2Bc/%C3%BC");
        assert_eq!(percent_decode("a+b").as_deref(), Some("a b"));
        assert_eq!(percent_decode("%f"), None);
        assert_eq!(percent_decode("%ff"), None);
    }
}
