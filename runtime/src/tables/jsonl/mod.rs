// SPDX-License-Identifier: Apache-2.0
//! JSON Lines objects as batches: one JSON object a line, one row an object.
//!
//! Lines are found first (a line feed never stands within a JSON text), so that
//! every problem names its line. Whole lines then go to arrow-json; when it
//! refuses, halves of them are tried for the line that is to blame. It lets
//! some pass that are not JSON; not so where columns are told from them, since
//! these lines told none, nor anywhere such with a comma too many. Where all columns are
//! read, none is left out that the sample did not show, unless it is null.

mod comma;
mod digits;
mod doubled;
mod infer;
mod integer;
mod members;
mod misfit;
mod strict;
mod wide;

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    error::ArrowError,
    json::ReaderBuilder,
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem, limits,
    plan::Slice,
    stored::{
        BOM, Compressed, SAMPLE_BYTES,
        escapes::joined,
        jsonl::{Sample, Shape, is_blank, sample},
    },
};
use fanfold_storage::Store;
use memchr::memchr_iter;
use serde_json::{Map, Value};

use self::{
    comma::stray_comma,
    digits::{has_large, losing},
    doubled::doubled,
    infer::data_type,
    members::{Decoders, Others, TOLD},
    misfit::{has_no_place, refusing, value_mismatch},
    wide::{Room, is_too_wide},
};
use super::{
    BATCH_ROWS_MAX,
    guard::{guard, quote},
    select::{Decoded, First, Wanted},
    store_problem,
    text::Text,
};

/// Text that is decoded at once.
const BLOCK_BYTES: usize = 4 << 20;
/// A line is at most so long.
const LINE_BYTES_MAX: usize = limits::RECORD_BYTES_MAX as usize;

/// A slice of a JSON Lines object being read.
pub(super) struct JsonReader {
    uri: String,
    text: Text,
    schema: SchemaRef,
    /// Lines that are decoded at once.
    lines_max: u64,
    /// Those that are tried next: fewer behind such that held too much.
    lines_next: u64,
    /// Where lines of the sample begin that are no objects.
    malformed: Vec<u64>,
    /// Where the columns are whose types nobody has declared.
    guessed: Vec<usize>,
    /// Columns of whole numbers some of which doubles do not keep, as far as the sample shows.
    long: Vec<String>,
    /// What becomes of members that are no columns.
    others: Others,
    rows: u64,
    lines: u64,
    counted_from: Option<u64>,
}

impl JsonReader {
    pub(super) async fn open(
        store: &Store,
        slice: &Slice,
        head: &Bytes,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        let uri = slice.object.uri.to_string();
        let mut text = Text::open(store, slice, head, ErrorKind::JsonMalformed)?;
        let start = text.offset();
        let told = if slice.is_whole() {
            // One more tells whether the text ends with the sample.
            text.fill_to(SAMPLE_BYTES + 1).await?;
            if !text.data().contains(&b'\n') {
                text.fill_to(limits::RECORD_BYTES_MAX as usize + 1).await?;
            }
            Some(seen(&uri, text.data(), text.ended(), wanted)?)
        } else if wanted.needs_no_sample(slice) {
            None
        } else {
            // A part may end before the sample does: its object is looked at.
            let head = long_head(store, slice, head).await?;
            Some(seen(&uri, &head, head.len() as u64 == slice.object.pin.size, wanted)?)
        };
        if start == 0 {
            text.fill_to(BOM.len()).await?;
            if text.data().starts_with(BOM) {
                text.consume(BOM.len());
            }
        }
        let schema = settle(&uri, told.as_ref().map(|told| &told.members[..]), wanted, first)?;
        let lines_max = wide::lines_max(&schema);
        let fields = schema.fields().iter().enumerate();
        let guessed = fields.filter_map(|(n, f)| wanted.declared(f.name()).is_none().then_some(n)).collect();
        let members = told.iter().flat_map(|told| &told.members);
        let long = members.filter(|(_, shape)| *shape == Shape::Long).map(|(name, _)| name.clone()).collect();
        Ok(Self {
            uri,
            text,
            lines_max,
            lines_next: lines_max,
            schema: Arc::new(schema),
            guessed,
            long,
            malformed: told.map(|told| told.malformed).unwrap_or_default(),
            others: if wanted.names().is_none() { Others::Refused } else { Others::LeftOut },
            rows: 0,
            lines: 0,
            counted_from: (start > 0).then_some(start),
        })
    }

    /// The wanted columns as they are read.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Columns of whole numbers some of which doubles do not keep.
    pub(super) fn long(&self) -> &[String] {
        &self.long
    }

    /// The next rows, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        loop {
            let data = self.text.data();
            let (bytes, lines) = whole_lines(data, self.text.ended(), self.lines_next);
            if bytes > 0 {
                let Some((batch, others)) = self.decode(&data[..bytes])? else {
                    if lines == 1 {
                        return Err(self.too_wide());
                    }
                    // Those behind them are mostly like them: not all are tried again for each.
                    self.lines_next = lines / 2;
                    continue;
                };
                self.lines_next = self.lines_next.saturating_mul(2).min(self.lines_max);
                let first_row = self.rows + 1;
                self.others = others;
                self.rows += batch.num_rows() as u64;
                self.lines += lines;
                self.text.consume(bytes);
                if batch.num_rows() > 0 {
                    return Ok(Some(Decoded { batch, first_row, counted_from: self.counted_from }));
                }
            } else if data.len() > LINE_BYTES_MAX {
                let detail = format!(
                    "{} must be at most {} bytes long, found more; is it one JSON object a line?",
                    self.place(0, 0),
                    limits::RECORD_BYTES_MAX
                );
                return Err(Problem::new(ErrorKind::DecodeLimit, detail));
            } else if self.text.ended() {
                return Ok(None);
            } else {
                self.text.fill().await?;
            }
        }
    }

    /// The rows of a block, and what became of their other members; `None` where they hold too much
    /// to be decoded at once.
    fn decode(&self, block: &[u8]) -> Result<Option<(RecordBatch, Others)>, Problem> {
        let text = str::from_utf8(block).map_err(|e| {
            let at = e.valid_up_to();
            let line = block[..at].iter().filter(|b| **b == b'\n').count() as u64;
            let detail = format!(
                "{} must be UTF-8, found the byte {:02x}; convert the object to UTF-8",
                self.place(line, at),
                block[at]
            );
            Problem::new(ErrorKind::InvalidUtf8, detail)
        })?;
        // arrow-json takes more than JSON, and the columns are not told from such lines.
        let from = self.text.offset();
        let here = from..from + block.len() as u64;
        let known = self.malformed.iter().find(|at| here.contains(*at)).map(|at| (at - from) as usize);
        if let Some(at) = known.or_else(|| stray_comma(text)) {
            return Err(self.blame_malformed(text, at));
        }
        let rows = rows_of(text);
        guard(
            ErrorKind::JsonMalformed,
            || self.place(0, 0),
            || match self.read(text, rows) {
                Ok((batch, others)) if batch.num_rows() == rows => {
                    self.check_digits(text, &batch).map(|()| Some((batch, others)))
                }
                Err(error) if is_too_wide(&error) => Ok(None),
                Ok(_) => Err(self.blame(text, "expected one JSON object a line")),
                Err(error) => Err(self.blame(text, &error.to_string())),
            },
        )
    }

    /// The rows of some lines, and what became of their other members. Where all columns are
    /// read these must be null; looking at that costs time, and few objects have any.
    fn read(&self, text: &str, rows: usize) -> Result<(RecordBatch, Others), ArrowError> {
        let read = |others| decode(&self.schema, text, rows, others).map(|batch| (batch, others));
        match self.others {
            Others::Refused => match read(Others::Refused) {
                Err(error) if !is_too_wide(&error) => read(Others::Null),
                done => done,
            },
            others => read(others),
        }
    }

    /// A member of a line that is not null, or has one that is not, and that no column takes.
    fn lost<'a>(&self, members: &'a Map<String, Value>) -> Option<&'a String> {
        members
            .iter()
            .find(|(name, value)| has_no_place(self.schema.fields(), name, value))
            .map(|(name, _)| name)
    }

    /// The problem with a line that is not one row: the first of them, unless mistakes in some
    /// lines make up for each other. Each half that is tried is half as long as the one before,
    /// so that all are decoded about once more, with one decoder for each half.
    fn blame(&self, block: &str, cause: &str) -> Problem {
        let mut starts = vec![0];
        starts.extend(memchr_iter(b'\n', block.as_bytes()).map(|at| at + 1));
        starts.extend((!block.ends_with('\n')).then_some(block.len()));
        // Lines before the first are good, and one of those up to the last is not.
        let (mut first, mut last) = (0, starts.len() - 1);
        while last - first > 1 {
            let middle = usize::midpoint(first, last);
            match self.are_rows(&block[starts[first]..starts[middle]]) {
                true => first = middle,
                false => last = middle,
            }
        }
        let (at, line) = (starts[first], &block[starts[first]..starts[last]]);
        if self.are_rows(line) {
            return Problem::new(ErrorKind::JsonMalformed, format!("{}: {cause}", self.place(0, 0)));
        }
        self.blame_line(line.trim_end_matches('\n'), &self.place(first as u64, at))
    }

    /// Whether each of these lines is one row, or blank, as far as they can be decoded at once.
    fn are_rows(&self, lines: &str) -> bool {
        let rows = rows_of(lines);
        match self.read(lines, rows) {
            Ok((batch, _)) => batch.num_rows() == rows,
            Err(error) => is_too_wide(&error),
        }
    }

    /// The problem with the line that begins at byte `at` of the block.
    fn blame_malformed(&self, block: &str, at: usize) -> Problem {
        let (before, rest) = block.split_at(at);
        let number = before.split('\n').count() as u64 - 1;
        let line = rest.split('\n').next().unwrap_or_default();
        self.blame_line(line, &self.place(number, at))
    }

    fn blame_line(&self, line: &str, place: &str) -> Problem {
        let members = match object(line, place) {
            Ok(members) => members,
            Err(problem) => return problem,
        };
        if let Some(field) = refusing(self.schema.fields(), line) {
            return value_mismatch(field, line, place, "");
        }
        let unmet = self.unmet(&members, place);
        unmet.or_else(|| twice(line, place)).unwrap_or_else(|| no_object(place, &quote(line.trim())))
    }

    /// Refuses whole numbers that lost digits in columns that were told to be of doubles: had they
    /// been in the sample, these would be texts. Few tables have any that large.
    fn check_digits(&self, block: &str, batch: &RecordBatch) -> Result<(), Problem> {
        let large = self.guessed.iter().filter(|at| has_large(batch.column(**at)));
        let large: Vec<&FieldRef> = large.map(|at| &self.schema.fields()[*at]).collect();
        if large.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        for (number, line) in block.split_inclusive('\n').enumerate() {
            if let Some(field) = losing(&large, line) {
                let place = self.place(number as u64, at);
                return Err(value_mismatch(field, line, &place, ", of which digits would be lost"));
            }
            at += line.len();
        }
        Ok(())
    }

    /// The problem with a line whose arrays hold too many objects for the members that these may have.
    fn too_wide(&self) -> Problem {
        let detail = format!(
            "what is in the arrays of {} must be at most {} values together, those that objects leave out and values \
             of fixed size that are null included, found more; write one object a line, or read other columns",
            self.place(0, 0),
            wide::VALUES_MAX
        );
        Problem::new(ErrorKind::DecodeLimit, detail)
    }

    /// What a line has that the sample did not show, where everything is to be read.
    fn unmet(&self, members: &Map<String, Value>, place: &str) -> Option<Problem> {
        let name = self.lost(members).filter(|_| self.others != Others::LeftOut)?;
        let what = match self.schema.column_with_name(name) {
            Some(_) => format!("every member of column {}", quote(name)),
            None => format!("column {}", quote(name)),
        };
        let detail = format!(
            "{what} of {place} must be met in the first {SAMPLE_BYTES} bytes of an object from which columns are told, \
             found it in none; name the columns to read in the job, or declare them in the function"
        );
        Some(Problem::new(ErrorKind::SchemaMismatch, detail))
    }

    /// Words for the line `line` further on, at byte `at` of the window.
    fn place(&self, line: u64, at: usize) -> String {
        let from = self.counted_from.map_or(String::new(), |byte| format!(" from byte {byte}"));
        format!(
            "{}, line {}{from} (byte {})",
            self.uri,
            self.lines + line + 1,
            self.text.offset() + at as u64
        )
    }
}

/// The members that a sample shows. One that shows none settles nothing for other objects
/// but where these may have columns that it lacks.
fn seen(uri: &str, head: &[u8], ended: bool, wanted: &Wanted) -> Result<Sample, Problem> {
    let sample = sample(uri, head, ended)?;
    if sample.members.is_empty() && !wanted.unites() {
        check_first(uri, head, ended)?;
    }
    Ok(sample)
}

/// Why a sample shows no columns, if its first line is no object.
fn check_first(uri: &str, head: &[u8], ended: bool) -> Result<(), Problem> {
    let mut at = if head.starts_with(BOM) { BOM.len() } else { 0 };
    for (number, line) in head[at..].split(|b| *b == b'\n').enumerate() {
        let whole = ended || at + line.len() < head.len();
        // What is no UTF-8 is told when it is decoded.
        let Some(text) = str::from_utf8(line).ok().filter(|_| whole) else { return Ok(()) };
        if !is_blank(line) {
            return object(text, &format!("{uri}, line {} (byte {at})", number + 1)).map(drop);
        }
        at += line.len() + 1;
    }
    Ok(())
}

/// The members of a line, which must be one object.
fn object(line: &str, place: &str) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(no_object(place, &quote(line.trim()))),
        Err(error) => Err(no_object(place, &format!("{}: {error}", quote(line.trim())))),
    }
}

fn no_object(place: &str, found: &str) -> Problem {
    let detail = format!("{place} must be one JSON object, found {found}; write one object a line");
    Problem::new(ErrorKind::JsonMalformed, detail)
}

/// The problem with a line of which an object has a member twice.
fn twice(line: &str, place: &str) -> Option<Problem> {
    let name = quote(&doubled(line)?);
    let detail =
        format!("an object of {place} must have each member once, found {name} twice; leave one out");
    Some(Problem::new(ErrorKind::JsonMalformed, detail))
}

/// The rows of some lines.
fn decode(schema: &SchemaRef, block: &str, rows: usize, others: Others) -> Result<RecordBatch, ArrowError> {
    let room = Arc::new(Room::of(schema, rows + 1));
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows + 1)
        .with_strict_mode(others == Others::Refused)
        .with_coerce_primitive(true)
        .with_decoder_factory(Arc::new(Decoders::new(others, room)))
        .build_decoder()?;
    decoder.decode(joined(block).as_bytes())?;
    let batch = decoder.flush()?;
    Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))
}

/// How many rows these lines are, if each is one that is not blank.
fn rows_of(lines: &str) -> usize {
    lines.split('\n').filter(|line| !is_blank(line.as_bytes())).count()
}

/// Bytes of the whole lines that are decoded next, and their number: none from one that is too long on,
/// wherever its end may be in what was fetched.
fn whole_lines(data: &[u8], ended: bool, lines_max: u64) -> (usize, u64) {
    let (mut bytes, mut lines) = (0, 0);
    let last = data.len().checked_sub(1).filter(|last| ended && data[*last] != b'\n');
    for end in memchr_iter(b'\n', data).chain(last) {
        if bytes >= BLOCK_BYTES || lines >= lines_max || end - bytes > LINE_BYTES_MAX {
            break;
        }
        bytes = end + 1;
        lines += 1;
    }
    (bytes, lines)
}

/// The start of the slice's object, with one whole line if there is one.
async fn long_head(store: &Store, slice: &Slice, head: &Bytes) -> Result<Bytes, Problem> {
    if Compressed::of(head) != Compressed::No || head.contains(&b'\n') {
        return Ok(head.clone());
    }
    let end = slice.object.pin.size.min(limits::RECORD_BYTES_MAX + 1);
    store.get_range(&slice.object.uri, &slice.object.pin, 0..end).await.map_err(store_problem)
}

/// The schema in which the wanted columns are read. A declared column that may
/// be missing need not be in the sample: objects leave out what they lack. Where there
/// is no sample all are declared.
fn settle(
    uri: &str,
    sample: Option<&[(String, Shape)]>,
    wanted: &Wanted,
    first: Option<&First>,
) -> Result<Schema, Problem> {
    let members = sample.unwrap_or_default();
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    for name in wanted.names().into_iter().flatten() {
        let optional = wanted.declared(name).is_some_and(|d| d.nullable);
        let known = first.is_some_and(|f| f.stored.column_with_name(name).is_some());
        if (sample.is_none() || optional || known) && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    // Without a choice of columns, the first object's are read of all.
    if let (None, Some(first)) = (wanted.names(), first) {
        let absent = first.stored.fields().iter().map(|f| f.name().as_str()).filter(|n| !names.contains(n));
        let absent: Vec<&str> = absent.collect();
        names.extend(absent);
    }
    let indices = wanted.resolve(uri, &names, first)?;
    // Another object may tell what it is.
    let unseen = if wanted.unites() { DataType::Null } else { DataType::Utf8 };
    let field = |index: &usize| {
        let name = names[*index];
        let settled = first.and_then(|first| first.data_type(name)).cloned();
        let declared = wanted.declared(name).map(|d| readable(&d.data_type));
        let data_type = match declared.or(settled) {
            Some(data_type) => Some(data_type),
            None => members.get(*index).and_then(|(_, shape)| data_type(shape, &unseen)),
        };
        let data_type = data_type.ok_or_else(|| {
            let detail = format!(
                "column {} of {uri} must hold values of one form, found arrays or objects beside others; declare \
                 its type in the function",
                quote(name)
            );
            Problem::new(ErrorKind::SchemaMismatch, detail)
        })?;
        let field = Field::new(name, data_type, true);
        Ok(if wanted.declared(name).is_some() { field } else { field.with_metadata([(TOLD, "")]) })
    };
    let fields = indices.iter().map(field).collect::<Result<Vec<_>, Problem>>()?;
    Ok(Schema::new(fields))
}

/// The type in which a value declared as `declared` is read: itself where
/// arrow-json knows it, text that is cast afterwards where it does not.
fn readable(declared: &DataType) -> DataType {
    match super::shape::plain_type(declared) {
        DataType::Interval(_) | DataType::Union(_, _) => DataType::Utf8,
        plain => plain,
    }
}
