// SPDX-License-Identifier: Apache-2.0
//! Characters that JSON has as two escapes, one for each half of a pair of UTF-16.
//!
//! So many programs write all that is beyond U+FFFF, rarer Chinese characters and emoji among it.
//! arrow-json makes other characters of half of them: it puts bits together that overlap in planes of an
//! even number, such as that from U+20000 on. It reads right what stands there as itself. Non-goal:
//! halves without the other one, which it refuses.

use std::borrow::Cow;

/// Bytes of an escape, such as `\ud842`.
const ESCAPE_BYTES: usize = 6;

/// The text with the character itself in place of each pair of escapes.
pub fn joined(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    // All before `done` is in `out`, and no escape that begins before `at` is looked at again.
    let (mut done, mut at) = (0, 0);
    while let Some(rest) = text.get(at..) {
        let Some(found) = rest.find('\\') else { break };
        let start = at + found;
        match pair(&text.as_bytes()[start..]) {
            Some(character) => {
                out.push_str(&text[done..start]);
                out.push(character);
                done = start + 2 * ESCAPE_BYTES;
                at = done;
            }
            // A backslash that is escaped begins no escape.
            None => at = start + 2,
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The character of two escapes that the text begins with.
fn pair(text: &[u8]) -> Option<char> {
    let halves = [half(text)?, half(text.get(ESCAPE_BYTES..)?)?];
    let character = char::decode_utf16(halves).next()?.ok()?;
    (character.len_utf16() == 2).then_some(character)
}

/// The escape that the text begins with, where it may be a half: all are from U+D800 on, and most
/// others below, of which nothing more is looked at.
fn half(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..ESCAPE_BYTES - 2)?;
    if !digits.first()?.eq_ignore_ascii_case(&b'd') {
        return None;
    }
    let digits = str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(joined(text), expected, "{text}");
    }

    #[test]
    fn pairs_are_the_characters_that_they_stand_for() {
        check(r"\ud842\udfb7\u91ce\u5bb6", "\u{20bb7}\\u91ce\\u5bb6");
        check(r#"{"a":"x\uD83D\uDE00y","é":"\udbff\udfff"}"#, "{\"a\":\"x\u{1f600}y\",\"é\":\"\u{10ffff}\"}");
        check(r"\ud800\udc00\ud83f\udffe", "\u{10000}\u{1fffe}");
        check(r"\\\ud840\udc00", "\\\\\u{20000}");
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for text in [
            "",
            "plain",
            r"\n\u00e9\\",
            r"\\ud842\\udfb7",
            r"\\ud842\udfb7",
            r"\ud842",
            r"\ud842\ud842",
            r"\udfb7\ud842",
            r"\ud842\udfb",
            r"\ud842 \udfb7",
            r"\ud842\n\udfb7",
            r"\u+842\udfb7",
            r"\é\ud842\udfb7",
            "\\",
        ] {
            assert!(matches!(joined(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
