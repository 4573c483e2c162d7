// SPDX-License-Identifier: Apache-2.0
//! Gzip as it is found: members one after another (RFC 1952, section 2.2), and behind
//! the last perhaps zeros, as where a file was filled up to whole blocks.
//!
//! It is fed in small pieces by [`Text`](super::text::Text). Invariant: every member is
//! whole and its checksum right before anything behind it is looked at; anything but
//! members and zeros at the end is damage.

use std::io::{self, Write};

use flate2::write::GzDecoder;

/// A decoder of all members.
pub(super) struct Gzip {
    member: GzDecoder<Vec<u8>>,
    /// All members have ended, and zeros follow.
    padded: bool,
}

impl Gzip {
    pub(super) fn new() -> Self {
        Self { member: GzDecoder::new(Vec::new()), padded: false }
    }

    /// Decompresses all of `bytes`.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(first) = bytes.first() {
            if self.padded {
                let only_zeros = bytes.iter().all(|byte| *byte == 0);
                return only_zeros
                    .then_some(())
                    .ok_or_else(|| io::Error::other("more than zeros at the end"));
            }
            match self.member.write(bytes)? {
                // The member takes nothing more: it has ended.
                0 => self.next(*first == 0)?,
                taken => bytes = &bytes[taken..],
            }
        }
        Ok(())
    }

    /// What is decompressed and was not yet taken.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        self.member.get_mut()
    }

    /// Fails where a member has not ended.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.padded { Ok(()) } else { self.member.try_finish() }
    }

    fn next(&mut self, padded: bool) -> io::Result<()> {
        self.member.try_finish()?;
        let text = std::mem::take(self.text());
        self.member = GzDecoder::new(text);
        self.padded = padded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// What comes out, however the bytes are cut into pieces.
    fn check(stored: &[u8], expected: Option<&str>) {
        for piece_bytes in [1, 2, 7, stored.len()] {
            let mut gzip = Gzip::new();
            let fed = stored.chunks(piece_bytes).try_for_each(|piece| gzip.feed(piece));
            let text = fed.and_then(|()| gzip.end()).ok().map(|()| std::mem::take(gzip.text()));
            let text = text.map(|text| String::from_utf8(text).unwrap());
            assert_eq!(text.as_deref(), expected, "in pieces of {piece_bytes} bytes");
        }
    }

    #[test]
    fn members_and_the_zeros_behind_them_are_read() {
        let (one, two) = (member(b"one"), member(b"two"));
        check(&one, Some("one"));
        check(&[&one[..], &two].concat(), Some("onetwo"));
        check(&[&one[..], &member(b""), &two].concat(), Some("onetwo"));
        check(&[&one[..], &two, &[0]].concat(), Some("onetwo"));
        check(&[&one[..], &[0; 1_000]].concat(), Some("one"));
    }

    #[test]
    fn anything_else_is_damage() {
        let one = member(b"one");
        check(&one[..one.len() - 1], None);
        check(&[&one[..one.len() - 4], &[0; 3]].concat(), None);
        check(&[&one[..], b"x"].concat(), None);
        check(&[&one[..], &one[..5]].concat(), None);
        check(&[&one[..], &[0; 3], &one].concat(), None);
        check(&[&one[..], &[0; 3], b"x"].concat(), None);
        let mut wrong = one.clone();
        let checksum = wrong.len() - 8;
        wrong[checksum] ^= 1;
        check(&wrong, None);
        wrong.push(0);
        check(&wrong, None);
    }
}
