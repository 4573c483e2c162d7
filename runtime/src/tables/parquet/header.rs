// SPDX-License-Identifier: Apache-2.0
//! Page headers, read without the decoder that believes them.
//!
//! Passes over what it does not know and never allocates: it ends in `None` where
//! bytes are malformed.
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

impl PageHeader {
    /// The header that `bytes` begin with, and its length.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut thrift = Thrift::new(bytes);
        let (mut header, mut id, mut sizes) = (Self::default(), 0, 0);
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (2, I32) => (header.decoded, sizes) = (thrift.integer()?, sizes + 1),
                (3, I32) => (header.stored, sizes) = (thrift.integer()?, sizes + 1),
                // The headers of data pages (1 and 2) and of dictionary pages.
                (5, STRUCT) => header.read_page(&mut thrift, 2)?,
                (8, STRUCT) => header.read_page(&mut thrift, 4)?,
                (7, STRUCT) => {
                    header.dictionary = true;
                    header.read_page(&mut thrift, 2)?;
                }
                _ => thrift.skip(kind)?,
            }
        }
        (sizes == 2).then_some((header, thrift.at()))
    }

    /// The inner header of a page: field 1 counts the values, another one is
    /// their encoding.
    fn read_page(&mut self, thrift: &mut Thrift<'_>, encoding: i64) -> Option<()> {
        let (mut id, mut counted) = (0, false);
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (1, I32) => (self.values, counted) = (thrift.integer()?, true),
                (_, I32) if id == encoding => self.delta = matches!(thrift.integer()?, 6 | 7),
                _ => thrift.skip(kind)?,
            }
        }
        counted.then_some(())
    }
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
}
