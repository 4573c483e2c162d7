// SPDX-License-Identifier: Apache-2.0
//! Page headers, read without the decoder that believes them.
//!
//! Passes over what it does not know and never allocates: it ends in `None` where
//! bytes are malformed. So it does where the decoder would make something else of them,
//! which tells fields by their numbers whatever their types, takes the last of those
//! that are there twice, cuts numbers to their width, and looks for pages within
//! those of an index, which nobody writes.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, PageHeader; Thrift compact
//! protocol, thrift-compact-protocol.md.

use fanfold_protocol::stored::thrift::{I32, STRUCT, Thrift};

/// What matters of a page header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// Bytes when decompressed, and as stored.
    pub(super) decoded: i64,
    pub(super) stored: i64,
    /// Values, missing ones included; of lists, items.
    pub(super) values: i64,
    pub(super) dictionary: bool,
    /// Whether its values are texts in a delta encoding.
    pub(super) delta: bool,
}

/// The fields that each page has: its kind and both sizes.
const SIZED: u16 = 0b1110;
/// The headers within the header, of which there is one: of a data page, a dictionary, a data page of version 2.
const KINDS: u16 = (1 << 5) | (1 << 7) | (1 << 8);

impl PageHeader {
    /// The header that `bytes` begin with, and its length.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut thrift = Thrift::new(bytes);
        let (mut header, mut fields, mut kind) = (Self::default(), Fields::default(), 0);
        while let Some(field) = fields.next(&mut thrift)? {
            match field {
                (1, I32) => kind = number(&mut thrift)?,
                (2, I32) => header.decoded = number(&mut thrift)?,
                (3, I32) => header.stored = number(&mut thrift)?,
                (4, I32) => thrift.skip(I32)?,
                (5, STRUCT) => header.read_page(&mut thrift, 4, 2)?,
                (7, STRUCT) => header.read_page(&mut thrift, 2, 2)?,
                (8, STRUCT) => header.read_page(&mut thrift, 6, 4)?,
                (1..=8, _) => return None,
                (_, other) => thrift.skip(other)?,
            }
        }
        header.dictionary = kind == 2;
        let within = match kind {
            0 => 1 << 5,
            2 => 1 << 7,
            3 => 1 << 8,
            _ => return None,
        };
        ((fields.seen & (SIZED | KINDS)) == (SIZED | within)).then_some((header, thrift.at()))
    }

    /// The inner header of a page, which begins with so many numbers: field 1 counts the values, another one is
    /// their encoding.
    fn read_page(&mut self, thrift: &mut Thrift<'_>, numbers: i64, encoding: i64) -> Option<()> {
        let mut fields = Fields::default();
        while let Some((id, kind)) = fields.next(thrift)? {
            if !(1..=numbers).contains(&id) {
                thrift.skip(kind)?;
                continue;
            }
            let number = (kind == I32).then(|| number(thrift))??;
            match id {
                1 => self.values = number,
                _ if id == encoding => self.delta = matches!(number, 6 | 7),
                _ => {}
            }
        }
        (fields.seen & (1 << 1) != 0).then_some(())
    }
}

/// The fields of a struct that were come to, those of low numbers once each.
#[derive(Default)]
struct Fields {
    id: i64,
    seen: u16,
}

impl Fields {
    /// The number and the type of the next field; inside, `None` behind the last one.
    fn next(&mut self, thrift: &mut Thrift<'_>) -> Option<Option<(i64, u8)>> {
        let Some(kind) = thrift.field(&mut self.id)? else { return Some(None) };
        let id = i16::try_from(self.id).ok()?;
        let bit = if (0..16).contains(&id) { 1_u16 << id } else { 0 };
        if self.seen & bit != 0 {
            return None;
        }
        self.seen |= bit;
        Some(Some((self.id, kind)))
    }
}

/// A number of 32 bits.
fn number(thrift: &mut Thrift<'_>) -> Option<i64> {
    thrift.integer().filter(|number| i32::try_from(*number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read() {
        // type = 0, sizes 10 and 8, crc, data page header { 3 values, encodings, statistics {} }.
        let mut bytes = [
            0x15, 0, 0x15, 20, 0x15, 16, 0x15, 2, 0x1c, 0x15, 6, 0x15, 0, 0x15, 0, 0x15, 0, 0x1c, 0, 0, 0, 99,
        ];
        let header = PageHeader { decoded: 10, stored: 8, values: 3, dictionary: false, delta: false };
        assert_eq!(PageHeader::read(&bytes), Some((header, bytes.len() - 1)));
        assert_eq!(PageHeader::read(&bytes[..10]), None);
        assert_eq!(PageHeader::read(&[0]), None);
        bytes[12] = 14;
        assert!(PageHeader::read(&bytes).unwrap().0.delta);
    }

    #[test]
    fn what_the_decoder_takes_for_another_page_is_none() {
        // A data page of 3 values that takes 10 bytes, and 8 as stored.
        let sizes = [0x15_u8, 20, 0x15, 16];
        let page = [0x15_u8, 6, 0x15, 0, 0x15, 0, 0x15, 0, 0];
        let check = |parts: &[&[u8]], expected: Option<i64>| {
            let read = PageHeader::read(&parts.concat()).map(|(header, _)| header.values);
            assert_eq!(read, expected, "{parts:?}");
        };
        check(&[&[0x15, 0], &sizes, &[0x2c], &page, &[0]], Some(3));
        // Of version 2: its numbers, a truth value, and what is not known.
        let second = [0x15_u8, 6, 0x15, 0, 0x15, 6, 0x15, 0, 0x15, 0, 0x15, 0, 0x11, 0x95, 0, 0];
        check(&[&[0x15, 6], &sizes, &[0x5c], &second, &[0x88, 1, 9, 0]], Some(3));
        let dictionary = [0x15_u8, 6, 0x15, 0, 0];
        check(&[&[0x15, 4], &sizes, &[0x4c], &dictionary, &[0]], Some(3));
        // Another kind than its header is of, two headers, and a page of an index.
        check(&[&[0x15, 4], &sizes, &[0x2c], &page, &[0]], None);
        check(&[&[0x15, 0], &sizes, &[0x2c], &page, &[0x2c], &dictionary, &[0]], None);
        check(&[&[0x15, 2], &sizes, &[0x3c, 0, 0]], None);
        check(&[&[0x15, 2], &sizes, &[0]], None);
        // A size that is there again, by its number, and by one that is cut to it: 65,538.
        check(&[&[0x15, 0], &sizes, &[0x2c], &page, &[0x05, 4, 40, 0]], None);
        check(&[&[0x15, 0], &sizes, &[0x2c], &page, &[0x05, 0x84, 0x80, 0x08, 40, 0]], None);
        // A number of another type, and one that is cut: 2^32 + 3 values.
        check(&[&[0x16, 0], &sizes, &[0x2c], &page, &[0]], None);
        let many = [0x15_u8, 0x86, 0x80, 0x80, 0x80, 0x20, 0x15, 0, 0x15, 0, 0x15, 0, 0];
        check(&[&[0x15, 0], &sizes, &[0x2c], &many, &[0]], None);
    }
}
