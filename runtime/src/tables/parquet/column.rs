// SPDX-License-Identifier: Apache-2.0
//! The pages of one column chunk of which pieces are held, checked one by one.
//!
//! [`Chunk`] gives the decoder the bytes of the page that it has come to, and of the dictionary, which may be
//! asked for later on. It goes from page to page by its own reading of their headers: a decoder that
//! makes other sizes of them finds no bytes. Before that, nothing of a page is fetched for it or made
//! room for beyond what its header may claim; behind it, [`Pages`] looks at what was decompressed before
//! the decoder does.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf, Bytes, buf};
use fanfold_protocol::{ErrorKind, Problem, limits, stored::parquet::corrupt};
use parquet::{
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::ColumnChunkMetaData,
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};

use super::{
    delta,
    fit::check_decimals,
    header::PageHeader,
    pages::{Walk, no_header},
    rows::Weighed,
    stream::{Shared, Stop, Takes, locked},
    weight::Leaf,
};
use crate::tables::pieces::{Pieces, Source};

/// How much of a page is looked at for its header, whose statistics may hold long values.
const HEADER_BYTES: [u64; 3] = [4 << 10, 256 << 10, 16 << 20];
/// A page as stored. What does not compress is a little longer than it was.
const STORED_BYTES_MAX: u64 = 2 * limits::PAGE_BYTES_MAX;

/// The bytes of a column chunk, from page to page.
pub(super) struct Chunk {
    size: u64,
    at: Mutex<At>,
}

/// Where the decoder is.
struct At {
    place: String,
    pieces: Pieces,
    /// Where the page after this one begins, and where the last one ends.
    next: u64,
    end: u64,
    page: Span,
    dictionary: Span,
    walk: Walk,
    /// The longest text that was measured.
    longest: u64,
    row_bytes_max: u64,
    takes: Takes,
    ledger: Shared,
}

/// Bytes, and where they begin.
#[derive(Default)]
struct Span(u64, Bytes);

impl Span {
    /// Those from some place on, which is within them.
    fn tail(&self, start: u64) -> Option<Bytes> {
        let skip = usize::try_from(start.checked_sub(self.0)?).ok()?;
        (skip < self.1.len()).then(|| self.1.slice(skip..))
    }
}

impl Chunk {
    /// The bytes in this range, which begins to be fetched.
    pub(super) fn new(source: &Arc<Source>, range: Range<u64>, place: String, ledger: &Shared) -> Self {
        let at = At {
            place,
            pieces: Pieces::new(source, range.clone()),
            next: range.start,
            end: range.end,
            page: Span::default(),
            dictionary: Span::default(),
            walk: Walk::default(),
            longest: 0,
            row_bytes_max: 0,
            takes: Takes::default(),
            ledger: Arc::clone(ledger),
        };
        Self { size: source.size(), at: Mutex::new(at) }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl At {
    /// The bytes from `start` on, up to where their page ends.
    fn bytes(&mut self, start: u64) -> Result<Bytes> {
        if let Some(bytes) = self.page.tail(start).or_else(|| self.dictionary.tail(start)) {
            return Ok(bytes);
        }
        if start == self.end {
            return Ok(Bytes::new());
        }
        if start == self.next {
            self.turn().map_err(|stop| locked(&self.ledger).stop(stop))?;
            return Ok(self.page.1.clone());
        }
        Err(ParquetError::General(format!("byte {start} is not in the page that was come to")))
    }

    /// Goes on to the next page.
    fn turn(&mut self) -> Result<(), Stop> {
        let start = self.next;
        let (header, length) = self.header(start)?;
        let place = || format!("{}, byte {start}", self.place);
        // The header lies within the chunk.
        let rest = self.end - start - length;
        let stored = {
            let mut ledger = locked(&self.ledger);
            ledger.budget.check_page(place, header, length, rest, &mut self.walk)?
        };
        if stored > STORED_BYTES_MAX {
            let detail = format!(
                "{} must hold a page of at most {STORED_BYTES_MAX} bytes, found {stored}; write smaller pages",
                place()
            );
            return Err(Problem::new(ErrorKind::DecodeLimit, detail).into());
        }
        self.settle()?;
        self.next = start + length + stored;
        self.page = Span(start, self.pieces.get(start..self.next)?);
        if header.dictionary {
            // By itself, for the piece that it lies in is not to stay.
            self.dictionary = Span(start, Bytes::copy_from_slice(&self.page.1));
        }
        Ok(())
    }

    /// The header of the page that begins there, and its length.
    fn header(&mut self, start: u64) -> Result<(PageHeader, u64), Problem> {
        for length in HEADER_BYTES {
            let end = self.end.min(start + length);
            let bytes = self.pieces.get(start..end)?;
            if let Some((header, length)) = PageHeader::read(&bytes) {
                return Ok((header, length as u64));
            }
            if end == self.end {
                break;
            }
        }
        Err(no_header(&format!("{}, byte {start}", self.place)))
    }

    /// Takes into account what has been seen.
    fn settle(&mut self) -> Result<(), Stop> {
        let need = self.walk.need();
        let now = Takes {
            open_bytes: need.open_bytes,
            value_bytes_max: need.value_bytes_max.max(self.longest),
            row_bytes_max: self.row_bytes_max,
        };
        locked(&self.ledger).take(&mut self.takes, now)
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Chunk {
    type T = buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<buf::Reader<Bytes>> {
        Ok(self.at().bytes(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let bytes = self.at().bytes(start)?;
        if length > bytes.len() {
            let found = format!("{length} bytes at {start} are not in the page that was come to");
            return Err(ParquetError::General(found));
        }
        Ok(bytes.slice(..length))
    }
}

/// The decompressed pages of a column chunk.
pub(super) struct Pages {
    inner: SerializedPageReader<Chunk>,
    chunk: Arc<Chunk>,
    metadata: ColumnChunkMetaData,
    leaf: Leaf,
    item_bytes: Vec<u64>,
    weighed: Weighed,
}

impl Pages {
    /// Those of a column chunk that has so many rows.
    pub(super) fn new(chunk: Chunk, metadata: ColumnChunkMetaData, leaf: &Leaf, rows: usize) -> Result<Self> {
        let chunk = Arc::new(chunk);
        let inner = SerializedPageReader::new(Arc::clone(&chunk), &metadata, rows, None)?;
        let (leaf, item_bytes) = (leaf.clone(), leaf.item_bytes());
        Ok(Self { inner, chunk, metadata, leaf, item_bytes, weighed: Weighed::default() })
    }

    /// Looks at a page before it is decoded.
    fn look(&mut self, page: Option<Page>) -> Result<Option<Page>> {
        if let Some(page) = &page {
            let seen = self.see(page);
            seen.map_err(|stop| locked(&self.chunk.at().ledger).stop(stop))?;
        }
        Ok(page)
    }

    fn see(&mut self, page: &Page) -> Result<(), Stop> {
        let mut at = self.chunk.at();
        let place = format!("{}, byte {}", at.place, at.page.0);
        let failed = |error: ParquetError| corrupt(&place, &error.to_string());
        let also_plain = self.leaf.decimal_bytes_max.is_some();
        let measured = delta::measure_page(page, &self.metadata, also_plain).map_err(failed)?;
        check_decimals(self.leaf.decimal_bytes_max, measured, || place.clone())?;
        at.longest = at.longest.max(measured.longest);
        if self.leaf.is_listed() {
            let views = self.leaf.views;
            self.weighed.add_page(page, &self.metadata, &self.item_bytes, views).map_err(failed)?;
            at.row_bytes_max = self.weighed.lists().row_bytes_max;
        }
        at.settle()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        self.look(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.inner.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.inner.take_deferred_dictionary()?;
        self.look(page)
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}
