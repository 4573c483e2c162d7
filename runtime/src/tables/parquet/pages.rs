//! What the pages of a column chunk claim, looked at before any is decompressed.
//!
//! The decoder allocates what a page's header declares; so headers are walked
//! first, and a page that is too large, lies outside its chunk, or decompresses
//! beyond the allowed ratio is refused. Only headers are read here, with a
//! reader of Thrift's compact protocol that passes over what it does not know.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, PageHeader; Thrift compact
//! protocol, thrift-compact-protocol.md.

use fanfold_protocol::{ErrorKind, Problem, limits};

/// Values of a column of lists in one row group: its pages may repeat a value
/// without spending bytes on it.
const REPEATED_VALUES_MAX: u64 = 128 << 20;
/// Nesting of unknown parts of a header.
const DEPTH_MAX: u32 = 16;

/// What has been decompressed of an object, and out of what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    stored: u64,
    decoded: u64,
}

/// A column chunk: its place for messages, and its bytes.
pub(super) struct Chunk<'a> {
    pub(super) place: &'a dyn Fn(u64) -> String,
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
    /// Whether the column holds lists.
    pub(super) repeated: bool,
}

impl Budget {
    /// Checks all pages of the chunk and takes them into account.
    pub(super) fn check(&mut self, chunk: &Chunk<'_>) -> Result<(), Problem> {
        let (mut at, mut values) = (0, 0_u64);
        while at < chunk.bytes.len() {
            let place = || (chunk.place)(chunk.offset + at as u64);
            let corrupt = |found: &str| {
                let detail = format!("{} must hold a page, found {found}; the file is damaged", place());
                Problem::new(ErrorKind::ParquetCorrupt, detail)
            };
            let (header, length) =
                PageHeader::read(&chunk.bytes[at..]).ok_or_else(|| corrupt("no valid page header"))?;
            let (Ok(stored), Ok(decoded)) = (usize::try_from(header.stored), u64::try_from(header.decoded))
            else {
                return Err(corrupt("a page of negative size"));
            };
            let rest = chunk.bytes.len() - at - length;
            if stored > rest {
                return Err(corrupt(&format!(
                    "one of {stored} bytes of which only {rest} are in its column chunk"
                )));
            }
            if decoded > limits::PAGE_BYTES_MAX {
                let detail = format!(
                    "{} must hold a page of at most {} bytes, found one of {decoded}; write the table with smaller pages",
                    place(),
                    limits::PAGE_BYTES_MAX
                );
                return Err(Problem::new(ErrorKind::DecodeLimit, detail));
            }
            let count =
                u64::try_from(header.values).map_err(|_| corrupt("a page of a negative number of values"))?;
            if header.dictionary && count > decoded {
                return Err(corrupt(&format!("a dictionary of {count} values in {decoded} bytes")));
            }
            values += count;
            if chunk.repeated && values > REPEATED_VALUES_MAX {
                let detail = format!(
                    "{} must be in a row group of at most {REPEATED_VALUES_MAX} list items a column, found more; write \
                     the table with smaller row groups",
                    place()
                );
                return Err(Problem::new(ErrorKind::DecodeLimit, detail));
            }
            self.spend(stored as u64 + length as u64, decoded, place)?;
            at += length + stored;
        }
        Ok(())
    }

    fn spend(&mut self, stored: u64, decoded: u64, place: impl Fn() -> String) -> Result<(), Problem> {
        self.stored += stored;
        self.decoded += decoded;
        let by_ratio = limits::PAGE_BYTES_MAX.max(self.stored.saturating_mul(limits::DECODED_RATIO_MAX));
        if self.decoded <= by_ratio.min(limits::DECODED_BYTES_MAX) {
            return Ok(());
        }
        let detail = format!(
            "{} must decompress to at most {} bytes for each stored one and {} in all, found {} out of {}",
            place(),
            limits::DECODED_RATIO_MAX,
            limits::DECODED_BYTES_MAX,
            self.decoded,
            self.stored
        );
        Err(Problem::new(ErrorKind::DecodeLimit, detail))
    }
}

/// What matters of a page header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PageHeader {
    decoded: i64,
    stored: i64,
    values: i64,
    dictionary: bool,
}

impl PageHeader {
    /// The header that `bytes` begin with, and its length.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut thrift = Thrift { bytes, at: 0 };
        let (mut header, mut id, mut sizes) = (Self::default(), 0, 0);
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (2, I32) => (header.decoded, sizes) = (thrift.integer()?, sizes + 1),
                (3, I32) => (header.stored, sizes) = (thrift.integer()?, sizes + 1),
                // The headers of data pages (1 and 2) and of dictionary pages.
                (5 | 7 | 8, STRUCT) => {
                    header.dictionary |= id == 7;
                    header.values = thrift.first_integer()?;
                }
                _ => thrift.skip(kind, DEPTH_MAX)?,
            }
        }
        (sizes == 2).then_some((header, thrift.at))
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

    /// The struct's field 1, an integer; passes over the others.
    fn first_integer(&mut self) -> Option<i64> {
        let (mut id, mut found) = (0, None);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (1, I32) => found = Some(self.integer()?),
                _ => self.skip(kind, DEPTH_MAX)?,
            }
        }
        found
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read() {
        // type = 0, sizes 10 and 8, crc, data page header { 3 values, encodings, statistics {} }.
        let bytes = [
            0x15, 0, 0x15, 20, 0x15, 16, 0x15, 2, 0x1c, 0x15, 6, 0x15, 0, 0x15, 0, 0x15, 0, 0x1c, 0, 0, 0, 99,
        ];
        let header = PageHeader { decoded: 10, stored: 8, values: 3, dictionary: false };
        assert_eq!(PageHeader::read(&bytes), Some((header, bytes.len() - 1)));
        assert_eq!(PageHeader::read(&bytes[..10]), None);
        assert_eq!(PageHeader::read(&[0]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let chunk = Chunk { place: &|at| at.to_string(), offset: 0, bytes: &bytes, repeated: true };
            let _ = Budget::default().check(&chunk);
        }
    }
}
