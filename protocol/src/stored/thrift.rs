// SPDX-License-Identifier: Apache-2.0
//! Thrift's compact protocol, as far as Parquet's headers and footers go.
//!
//! A reader that passes over what its user does not ask for and never allocates:
//! it answers `None` where bytes are malformed, and takes time by their number.
//!
//! Format: thrift-compact-protocol.md of Apache Thrift.

/// The type of 32-bit integers.
pub const I32: u8 = 5;
/// The type of 64-bit integers.
pub const I64: u8 = 6;
/// The type of lists.
pub const LIST: u8 = 9;
/// The type of structs.
pub const STRUCT: u8 = 12;

/// Nesting of what is passed over.
const DEPTH_MAX: u32 = 16;

/// A place in bytes of Thrift's compact protocol. Every `None` means: malformed.
#[derive(Clone, Debug)]
pub struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    /// The start of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that were read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// A byte.
    pub fn byte(&mut self) -> Option<u8> {
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

    /// A text or other bytes.
    pub fn binary(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let found = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(found)
    }

    /// An integer of any width.
    pub fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The type of a struct's next field, whose number goes to `id`; inside,
    /// `None` at the struct's end.
    pub fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
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

    /// The type of a list's items, and their number.
    pub fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let length = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Some((byte & 0x0f, length))
    }

    /// Passes over a value of this type.
    pub fn skip(&mut self, kind: u8) -> Option<()> {
        self.skip_within(kind, DEPTH_MAX)
    }

    fn skip_within(&mut self, kind: u8, depth: u32) -> Option<()> {
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
                let (kind, length) = self.list()?;
                self.skip_items(length, kind, depth)?;
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
                    self.skip_within(kind, depth)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// In lists a truth value takes a byte; in structs it is part of its type.
    fn skip_items(&mut self, count: u64, kind: u8, depth: u32) -> Option<()> {
        for _ in 0..count {
            if matches!(kind, 1 | 2) { self.advance(1)? } else { self.skip_within(kind, depth)? }
        }
        Some(())
    }

    fn advance(&mut self, count: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }
}
