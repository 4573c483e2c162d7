//! Page headers, read without the decoder that believes them.
//!
//! A reader of Thrift's compact protocol that passes over what it does not know
//! and never allocates: it ends in `None` where bytes are malformed.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, PageHeader; Thrift compact
//! protocol, thrift-compact-protocol.md.

/// Nesting of unknown parts of a header.
const DEPTH_MAX: u32 = 16;

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
        let mut thrift = Thrift { bytes, at: 0 };
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
                _ => thrift.skip(kind, DEPTH_MAX)?,
            }
        }
        (sizes == 2).then_some((header, thrift.at))
    }

    /// The inner header of a page: field 1 counts the values, another one is
    /// their encoding.
    fn read_page(&mut self, thrift: &mut Thrift<'_>, encoding: i64) -> Option<()> {
        let (mut id, mut counted) = (0, false);
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (1, I32) => (self.values, counted) = (thrift.integer()?, true),
                (_, I32) if id == encoding => self.delta = matches!(thrift.integer()?, 6 | 7),
                _ => thrift.skip(kind, DEPTH_MAX)?,
            }
        }
        counted.then_some(())
    }
}

const I32: u8 = 5;
const STRUCT: u8 = 12;

/// Thrift's compact protocol, as far as page headers go. `None`: malformed.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The type of a struct's next field, whose number goes to `id`; inside,
    /// `None` at the struct's end.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *id = match byte >> 4 {
            0 => self.integer()?,
            delta => id.checked_add(i64::from(delta))?,
        };
        Some(Some(byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => {}
            3 => self.advance(1)?,
            4..=6 => _ = self.varint()?,
            7 => self.advance(8)?,
            8 => {
                let length = self.varint()?;
                self.advance(length)?;
            }
            9 | 10 => {
                let byte = self.byte()?;
                let length = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                self.skip_items(length, byte & 0x0f, depth)?;
            }
            11 => {
                let length = self.varint()?;
                let kinds = if length == 0 { 0 } else { self.byte()? };
                for _ in 0..length {
                    self.skip_items(1, kinds >> 4, depth)?;
                    self.skip_items(1, kinds & 0x0f, depth)?;
                }
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// In lists a truth value takes a byte; in structs it is part of its type.
    fn skip_items(&mut self, count: u64, kind: u8, depth: u32) -> Option<()> {
        for _ in 0..count {
            if matches!(kind, 1 | 2) { self.advance(1)? } else { self.skip(kind, depth)? }
        }
        Some(())
    }

    fn advance(&mut self, count: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        (end <= self.bytes.len()).then(|| self.at = end)
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
