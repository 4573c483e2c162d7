// SPDX-License-Identifier: Apache-2.0
//! Control characters in XML, which keys may have.
//!
//! A carriage return that stands in a text is read as a line feed (XML 1.0, section 2.11), so
//! that the key comes back as another one; most of the others XML 1.0 does not have at all
//! (section 2.2). S3 writes references for both, and refuses bodies that it could not have
//! written. s3s writes them as they are.

/// Answers with references in the place of what would not be read as it is; none where
/// there is nothing to replace.
pub(super) fn escaped(xml: &[u8]) -> Option<Vec<u8>> {
    let is_read_otherwise = |byte: u8| byte == b'\r' || is_no_text(byte);
    if !xml.iter().copied().any(is_read_otherwise) {
        return None;
    }
    let mut written = Vec::with_capacity(xml.len() + 64);
    for &byte in xml {
        match byte {
            b'\r' => written.extend_from_slice(b"&#13;"),
            byte if is_no_text(byte) => written.extend_from_slice(format!("&#x{byte:x};").as_bytes()),
            byte => written.push(byte),
        }
    }
    Some(written)
}

/// Whether a body has no character that XML 1.0 does not have.
pub(super) fn is_well_formed(xml: &[u8]) -> bool {
    // U+FFFE and U+FFFF.
    let is_no_character = |bytes: &[u8]| matches!(bytes, [0xef, 0xbf, 0xbe | 0xbf]);
    !xml.iter().copied().any(is_no_text) && !xml.windows(3).any(is_no_character)
}

fn is_no_text(byte: u8) -> bool {
    byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_read_otherwise_is_a_reference() {
        let check = |xml: &str, expected: Option<&str>| {
            let found = escaped(xml.as_bytes()).map(|found| String::from_utf8(found).unwrap());
            assert_eq!(found.as_deref(), expected, "{xml:?}");
        };
        check("<Key>in\r.csv</Key>", Some("<Key>in&#13;.csv</Key>"));
        check("<Key>a\r\nb\u{1}\u{1f}</Key>", Some("<Key>a&#13;\nb&#x1;&#x1f;</Key>"));
        check("<Key>a\tb\nc é日\u{7f}</Key>", None);
        check("", None);
    }

    #[test]
    fn bodies_have_the_characters_of_xml() {
        let check = |xml: &str, expected| assert_eq!(is_well_formed(xml.as_bytes()), expected, "{xml:?}");
        check("<Key>a\r\n\tb é日 \u{fffd}\u{10ffff} &#13;</Key>", true);
        check("", true);
        for odd in ["\0", "\u{1}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
            check(&format!("<Key>a{odd}</Key>"), false);
        }
    }
}
