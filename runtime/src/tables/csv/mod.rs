// SPDX-License-Identifier: Apache-2.0
//! CSV objects as batches: scanned, typed and parsed as they stream in.
//!
//! The object's head (see [`Guess`]) gives names and types, whichever slice of
//! the object is read; then blocks of whole records are parsed column by column.
//! Every problem names the record, its line and its byte; where a slice begins
//! within the object, records and lines are counted from there.

mod column;
mod infer;

use std::{ops::Range, sync::Arc};

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    job::CsvOptions,
    limits,
    plan::Slice,
    stored::{
        BOM, Compressed, SAMPLE_BYTES, check_header,
        csv::{Fault, Field, Scanner, Step},
        guess::{Guess, Guessed},
    },
};
use fanfold_storage::Store;
use memchr::memchr_iter;

use self::{
    column::{Cells, Column, Nulls, read_type, unescape},
    infer::data_type,
};
use super::{
    BATCH_ROWS_MAX,
    guard::quote,
    select::{Decoded, First, Wanted},
    shape, store_problem,
    text::Text,
};

/// Text that is scanned before it is parsed: it stays in the processor's cache.
const BLOCK_BYTES: usize = 256 << 10;
const BLOCK_RECORDS: usize = 4 << 10;
/// Text after which a batch is finished.
const BATCH_TEXT_BYTES: usize = 2 << 20;

/// A slice of a CSV object being read.
pub(super) struct CsvReader {
    uri: String,
    text: Text,
    scanner: Scanner,
    nulls: Nulls,
    names: Vec<String>,
    columns: Vec<Column>,
    schema: SchemaRef,
    fields: Vec<Field>,
    /// Whole records and lines before the window.
    records: u64,
    lines: u64,
    /// Where numbers count from, when not from the object's start.
    counted_from: Option<u64>,
    /// Columns of whole numbers some of which doubles do not keep, as far as types were guessed.
    long: Vec<String>,
}

/// What the head of an object says.
struct Header {
    names: Vec<String>,
    /// Bytes before the first record of values.
    bytes: usize,
    lines: u64,
    /// The records of values from which types are guessed.
    sample: Range<usize>,
    /// Whether nothing follows them.
    ended: bool,
}

impl CsvReader {
    pub(super) async fn open(
        store: &Store,
        slice: &Slice,
        head: &Bytes,
        options: &CsvOptions,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        let uri = slice.object.uri.to_string();
        let mut text = Text::open(store, slice, head, ErrorKind::CsvMalformed)?;
        let start = text.offset();
        let dialect = Dialect::new(&uri, options)?;
        let (header, head) = if slice.is_whole() {
            (dialect.read_from(&mut text).await?, None)
        } else {
            // A part may end before the sample does: its object is looked at.
            let (header, head) = dialect.read_head(store, slice, head).await?;
            (header, Some(head))
        };
        let names: Vec<&str> = header.names.iter().map(String::as_str).collect();
        let indices = wanted.resolve(&uri, &names, first)?;
        let known = |index: &usize| {
            let name = &header.names[*index];
            let settled = first.and_then(|first| first.data_type(name));
            wanted.declared(name).map(|d| &d.data_type).or(settled)
        };
        // Guessing costs as much as reading what is looked at.
        let guesses = if indices.iter().all(|index| known(index).is_some()) {
            Vec::new()
        } else {
            let head = head.as_deref().unwrap_or_else(|| text.data());
            dialect.guesses(&head[header.sample.clone()], header.names.len(), header.ended)
        };
        if start == 0 {
            text.fill_to(header.bytes).await?;
            text.consume(header.bytes);
        }
        let field = |index: &usize| {
            let name = &header.names[*index];
            let guessed = guesses.get(*index).and_then(|guessed| data_type(*guessed));
            let known = known(index).or(guessed.as_ref());
            let data_type = match known {
                Some(known) => read_type(known),
                // Another object may tell what it is.
                None if wanted.unites() => DataType::Null,
                None => DataType::Utf8,
            };
            ArrowField::new(name, data_type, true)
        };
        let fields: Vec<ArrowField> = indices.iter().map(field).collect();
        let column = |(index, field): (&usize, &ArrowField)| {
            let declared = wanted.declared(field.name()).map(|declared| &declared.data_type);
            Column::new(*index, field.data_type(), declared)
        };
        let columns = indices.iter().zip(&fields).map(column).collect();
        let long = header.names.iter().zip(&guesses).filter(|(_, guessed)| **guessed == Guessed::Long);
        let long = long.map(|(name, _)| name.clone()).collect();
        let schema = Arc::new(Schema::new(fields));
        Ok(Self {
            columns,
            scanner: dialect.scanner,
            nulls: dialect.nulls,
            names: header.names,
            schema,
            fields: Vec::new(),
            records: 0,
            lines: if start == 0 { header.lines } else { 0 },
            counted_from: (start > 0).then_some(start),
            long,
            uri,
            text,
        })
    }

    /// Columns of whole numbers some of which doubles do not keep.
    pub(super) fn long(&self) -> &[String] {
        &self.long
    }

    /// The wanted columns as they are read.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        let first_row = self.records + 1;
        let (mut rows, mut bytes) = (0, 0);
        while rows < BATCH_ROWS_MAX && bytes < BATCH_TEXT_BYTES {
            let (block_rows, block_bytes) = self.block(BATCH_ROWS_MAX - rows)?;
            rows += block_rows;
            bytes += block_bytes;
            if block_bytes == 0 {
                if self.text.ended() {
                    self.check_end()?;
                    break;
                }
                self.text.fill().await?;
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        let batch = shape::assemble(Arc::clone(&self.schema), columns, rows)?;
        Ok(Some(Decoded { batch, first_row, counted_from: self.counted_from }))
    }

    /// Takes whole records from the window: how many, and their bytes.
    fn block(&mut self, rows_max: usize) -> Result<(usize, usize), Problem> {
        self.fields.clear();
        let width = self.names.len();
        let limits = (BLOCK_BYTES, BLOCK_RECORDS.min(rows_max));
        let data = self.text.data();
        let block = self.scanner.block(data, self.text.ended(), width, limits, &mut self.fields);
        if let Some(fault) = block.fault {
            return Err(self.fault(fault, block.records));
        }
        if block.bytes == 0 && data.len() as u64 > limits::RECORD_BYTES_MAX {
            return Err(self.too_large(0, 0));
        }
        // One that is too large ends its block, where its end was fetched with its beginning.
        let record = self.fields.len().saturating_sub(width);
        if let (Some(first), Some(last)) = (self.fields.get(record), self.fields.last())
            && u64::from(last.end - first.start) > limits::RECORD_BYTES_MAX
        {
            return Err(self.too_large(first.start as usize, block.records.saturating_sub(1)));
        }
        let whole = &data[..block.bytes];
        let text = str::from_utf8(whole).map_err(|e| self.invalid_utf8(e.valid_up_to()))?;
        let cells =
            Cells { text, fields: &self.fields, width, nulls: &self.nulls, quote: self.scanner.quote };
        for place in 0..self.columns.len() {
            if let Err(record) = self.columns[place].append(cells) {
                return Err(self.value_mismatch(place, record));
            }
        }
        self.lines += count_lines(whole);
        self.records += block.records as u64;
        self.text.consume(block.bytes);
        Ok((block.records, block.bytes))
    }

    fn check_end(&self) -> Result<(), Problem> {
        if self.text.data().is_empty() { Ok(()) } else { Err(self.fault(Fault::Unclosed { at: 0 }, 0)) }
    }

    /// Words for the record after `records` of the window, at byte `at` of it.
    fn place(&self, at: usize, records: usize) -> String {
        let line = self.lines + count_lines(&self.text.data()[..at]) + 1;
        let record = self.records + records as u64 + 1;
        let from = self.counted_from.map_or(String::new(), |byte| format!(" from byte {byte}"));
        format!("{}, row {record} (line {line}{from}, byte {})", self.uri, self.text.offset() + at as u64)
    }

    fn fault(&self, fault: Fault, records: usize) -> Problem {
        match fault {
            Fault::FieldCount { at, found } => Problem::new(
                ErrorKind::CsvFieldCount,
                format!(
                    "{} must have {} fields, found {found}; check its delimiters and quotes",
                    self.place(at, records),
                    self.names.len()
                ),
            ),
            Fault::AfterQuote { at } => Problem::new(
                ErrorKind::CsvMalformed,
                format!(
                    "{}: a closing quote must be followed by a delimiter or the end of the line, found {}; double \
                     quotes that are text",
                    self.place(at, records),
                    quote(&String::from_utf8_lossy(
                        &self.text.data()[at..self.text.data().len().min(at + 20)]
                    ))
                ),
            ),
            Fault::Unclosed { at } => Problem::new(
                ErrorKind::CsvMalformed,
                format!(
                    "{}: a quote must be closed, found the end of the text; close it, or double it if it is text",
                    self.place(at, records)
                ),
            ),
        }
    }

    fn too_large(&self, at: usize, records: usize) -> Problem {
        let detail = format!(
            "{} must be at most {} bytes long, found more; look for a quote that is not closed",
            self.place(at, records),
            limits::RECORD_BYTES_MAX
        );
        Problem::new(ErrorKind::DecodeLimit, detail)
    }

    fn invalid_utf8(&self, at: usize) -> Problem {
        let records = self.fields.iter().step_by(self.names.len()).filter(|f| f.start as usize <= at).count();
        let detail = format!(
            "{} must be UTF-8, found the byte {:02x}; convert the object to UTF-8",
            self.place(at, records.saturating_sub(1)),
            self.text.data()[at]
        );
        Problem::new(ErrorKind::InvalidUtf8, detail)
    }

    fn value_mismatch(&self, place: usize, record: usize) -> Problem {
        let index = self.columns[place].index();
        let field = self.fields[record * self.names.len() + index];
        let text = String::from_utf8_lossy(&self.text.data()[field.range()]).into_owned();
        let detail = format!(
            "column {} of {} must be {}, found {}{}; mend the value, or declare another type in the function",
            quote(&self.names[index]),
            self.place(field.start as usize, record),
            self.schema.field(place).data_type(),
            quote(&text),
            self.columns[place].lost(text.as_bytes())
        );
        Problem::new(ErrorKind::ValueMismatch, detail)
    }
}

fn count_lines(text: &[u8]) -> u64 {
    memchr_iter(b'\n', text).count() as u64
}

/// How an object writes CSV, and its name for messages.
struct Dialect<'a> {
    uri: &'a str,
    scanner: Scanner,
    nulls: Nulls,
    header: bool,
}

impl<'a> Dialect<'a> {
    fn new(uri: &'a str, options: &CsvOptions) -> Result<Self, Problem> {
        let scanner = Scanner::new(uri, options)?;
        Ok(Self { uri, scanner, nulls: Nulls::new(&options.nulls), header: options.header })
    }

    /// Reads the header from the text's own start.
    async fn read_from(&self, text: &mut Text) -> Result<Header, Problem> {
        // One more tells whether the text ends with the sample.
        text.fill_to(SAMPLE_BYTES + 1).await?;
        if let Some(header) = self.read(text.data(), text.ended())? {
            return Ok(header);
        }
        // The first record is longer than the sample.
        text.fill_to(limits::RECORD_BYTES_MAX as usize + 1).await?;
        self.read(text.data(), text.ended())?.ok_or_else(|| self.first_too_large())
    }

    /// Reads the header from the start of the slice's object, and gives that start.
    async fn read_head(
        &self,
        store: &Store,
        slice: &Slice,
        head: &Bytes,
    ) -> Result<(Header, Bytes), Problem> {
        let size = slice.object.pin.size;
        if Compressed::of(head) == Compressed::No
            && let Some(header) = self.read(head, head.len() as u64 == size)?
        {
            return Ok((header, head.clone()));
        }
        let end = size.min(limits::RECORD_BYTES_MAX + 1);
        let head =
            store.get_range(&slice.object.uri, &slice.object.pin, 0..end).await.map_err(store_problem)?;
        let header = self.read(&head, end == size)?.ok_or_else(|| self.first_too_large())?;
        Ok((header, head))
    }

    fn first_too_large(&self) -> Problem {
        let detail = format!(
            "the first record of {} must be at most {} bytes long, found more; is it CSV, in lines that \
             end in LF or CRLF?",
            self.uri,
            limits::RECORD_BYTES_MAX
        );
        Problem::new(ErrorKind::DecodeLimit, detail)
    }

    /// The header of a text that begins like this; `None` when its end is not
    /// here.
    fn read(&self, data: &[u8], ended: bool) -> Result<Option<Header>, Problem> {
        let mut at = if data.starts_with(BOM) { BOM.len() } else { 0 };
        let mut fields = Vec::new();
        let next = loop {
            match self.scanner.record(data, at, ended, limits::COLUMNS_MAX, &mut fields) {
                Ok(Step::Blank { next }) => at = next,
                Ok(Step::Record { next, fields }) => {
                    self.check_width(fields)?;
                    break next;
                }
                Ok(Step::Incomplete) if ended => return Err(self.empty()),
                Ok(Step::Incomplete) => return Ok(None),
                Err(fault) => return Err(self.malformed(fault)),
            }
        };
        let names: Vec<String> = if self.header {
            check_header(self.uri, data)?;
            fields.iter().map(|f| self.name(data, *f)).collect::<Result<_, _>>()?
        } else {
            (1..=fields.len()).map(|n| format!("column_{n}")).collect()
        };
        fields.iter().try_for_each(|field| self.check_return(data, *field))?;
        self.check_names(&names)?;
        let values = if self.header { next } else { at };
        let end = data.len().min(SAMPLE_BYTES.max(next));
        Ok(Some(Header {
            names,
            bytes: values,
            lines: count_lines(&data[..values]),
            sample: values..end,
            ended: ended && end == data.len(),
        }))
    }

    fn guesses(&self, sample: &[u8], width: usize, ended: bool) -> Vec<Guessed> {
        let mut guesses = vec![Guess::default(); width];
        let mut fields = Vec::new();
        // Faults are met again, and told, when the records are read.
        self.scanner.block(sample, ended, width, (usize::MAX, usize::MAX), &mut fields);
        for record in fields.chunks_exact(width) {
            for (guess, field) in guesses.iter_mut().zip(record) {
                let text = &sample[field.range()];
                if !self.nulls.means_no_text(*field, text) {
                    guess.see(text);
                }
            }
        }
        guesses.into_iter().map(Guess::found).collect()
    }

    fn name(&self, data: &[u8], field: Field) -> Result<String, Problem> {
        let text = str::from_utf8(&data[field.range()]).map_err(|e| {
            let at = field.start as usize + e.valid_up_to();
            let detail = format!(
                "the header of {} must be UTF-8, found the byte {:02x} at byte {at}; convert the object to UTF-8",
                self.uri, data[at]
            );
            Problem::new(ErrorKind::InvalidUtf8, detail)
        })?;
        if let Some(at) = text.find('\0') {
            let detail = format!(
                "the header of {} must be UTF-8, found a zero as in UTF-16 at byte {}; convert the object to UTF-8",
                self.uri,
                field.start as usize + at
            );
            return Err(Problem::new(ErrorKind::InvalidUtf8, detail));
        }
        Ok(if field.escaped { unescape(text, self.scanner.quote) } else { text.to_owned() })
    }

    /// Refuses lines that end in CR alone, which would all be the first record.
    fn check_return(&self, data: &[u8], field: Field) -> Result<(), Problem> {
        let text = &data[field.range()];
        let end = text.iter().rposition(|b| *b != b'\r').unwrap_or(0);
        match text[..end].iter().position(|b| *b == b'\r') {
            Some(at) if !field.quoted => {
                let detail = format!(
                    "the lines of {} must end in LF or CRLF, found a CR alone in the first record at byte {}; convert the \
                     ends of lines",
                    self.uri,
                    field.start as usize + at
                );
                Err(Problem::new(ErrorKind::CsvMalformed, detail))
            }
            _ => Ok(()),
        }
    }

    fn check_names(&self, names: &[String]) -> Result<(), Problem> {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Problem::new(
                ErrorKind::CsvMalformed,
                format!(
                    "the header of {} must name each column once, found {} twice",
                    self.uri,
                    quote(pair[0])
                ),
            )),
            None => Ok(()),
        }
    }

    fn check_width(&self, found: usize) -> Result<(), Problem> {
        if found <= limits::COLUMNS_MAX {
            return Ok(());
        }
        let detail = format!(
            "the first record of {} must have at most {} fields, found {found}; check its delimiters",
            self.uri,
            limits::COLUMNS_MAX
        );
        Err(Problem::new(ErrorKind::DecodeLimit, detail))
    }

    fn empty(&self) -> Problem {
        let detail = format!("{} must hold a table, found no record; leave it out of the input", self.uri);
        Problem::new(ErrorKind::EmptyObject, detail)
    }

    fn malformed(&self, fault: Fault) -> Problem {
        let (at, found) = match fault {
            Fault::AfterQuote { at } => (at, "text after a closing quote"),
            Fault::Unclosed { at } | Fault::FieldCount { at, .. } => (at, "a quote that is not closed"),
        };
        let detail = format!("the first record of {} must be CSV, found {found} at byte {at}", self.uri);
        Problem::new(ErrorKind::CsvMalformed, detail)
    }
}
