// SPDX-License-Identifier: Apache-2.0
//! Documents that list a job's input: what `manifest://` names.
//!
//! The manifest of another job; a list of objects as JSON or CSV; or an
//! inventory of S3. Pure functions over bytes that [`super::pipe`] brings: a list may be
//! longer than memory is to hold, so what is kept of it is its objects.
//! What a document says of an object's state pins it; an object of which it says
//! too little is asked for by whoever uses the list.
//!
//! Formats: Amazon S3 User Guide, "Amazon S3 Inventory list" and its manifest;
//! a CSV without names of columns is S3's form of bucket and key.

mod json;

use std::{
    borrow::Cow,
    io::{self, Cursor, Read},
};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::Manifest,
    job::CsvOptions,
    limits,
    stored::{
        BOM, Compressed,
        csv::{Field, Scanner, Step},
    },
    uri::{ObjectUri, Pin},
};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::pattern::is_shown;
use crate::problem::excerpt;

/// Read of a list at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Read to tell what a document is.
const HEAD_BYTES: u64 = 4 << 10;
/// The largest manifest: what many objects need lies in files beside it.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Columns of a list: an inventory has about twenty.
const COLUMNS_MAX: usize = 64;

/// What a document is.
#[derive(Debug)]
pub enum Document {
    /// What a job has written.
    Job(Manifest),
    /// Objects.
    List(Vec<Listed>),
    /// Lists of objects, in files of their own.
    Inventory(Inventory),
}

/// An object in a list, and its state if the list says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it lies.
    pub uri: ObjectUri,
    /// Which state of it is meant; that of now when absent.
    pub pin: Option<Pin>,
}

/// The manifest of an inventory of S3.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    destination_bucket: String,
    file_format: String,
    file_schema: String,
    files: Vec<InventoryFile>,
}

#[derive(Debug, Deserialize)]
struct InventoryFile {
    key: String,
}

/// What a list may say of an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    uri: Option<String>,
    bucket: Option<String>,
    key: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
    version_id: Option<String>,
}

/// Reads the document at `uri`, gzip or not, by its content: `{` begins a manifest, `[` a
/// list as JSON, anything else is CSV.
///
/// # Errors
/// `invalid-job` with the place; `partition-limit` for too many objects; `decode-limit` for what
/// grows too much.
pub fn read(uri: &ObjectUri, text: impl Read) -> Result<Document, Problem> {
    let (head, rest) = opened(uri, text)?;
    let plain = head.strip_prefix(BOM).unwrap_or(&head);
    match plain.trim_ascii_start().first() {
        Some(b'{') => manifest(uri, plain.chain(rest)),
        Some(b'[') => json::read(uri, plain.chain(rest)).map(Document::List),
        _ => table(uri, head.as_slice().chain(rest), None).map(Document::List),
    }
}

/// What the text of a document begins with and how it goes on, decompressed.
fn opened<'a>(uri: &ObjectUri, mut stored: impl Read + 'a) -> Result<(Vec<u8>, Box<dyn Read + 'a>), Problem> {
    let head = beginning(uri, &mut stored)?;
    if Compressed::of(&head) != Compressed::Gzip {
        return Ok((head, Box::new(stored)));
    }
    let stored = Stored { text: Cursor::new(head).chain(stored), bytes: 0 };
    let mut text = Unpacked { uri: uri.clone(), text: MultiGzDecoder::new(stored), bytes: 0 };
    Ok((beginning(uri, &mut text)?, Box::new(text)))
}

/// A document as it is stored, and how much of it was read.
struct Stored<R> {
    text: R,
    bytes: u64,
}

impl<R: Read> Read for Stored<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(into)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// What is packed in it, no more than a task may decompress: few bytes in a store may be days of
/// work here.
struct Unpacked<R> {
    uri: ObjectUri,
    text: MultiGzDecoder<Stored<R>>,
    bytes: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(into)?;
        self.bytes += read as u64;
        let by_ratio = self.text.get_ref().bytes.saturating_mul(limits::DECODED_RATIO_MAX);
        if self.bytes <= limits::PAGE_BYTES_MAX.max(by_ratio).min(limits::DECODED_BYTES_MAX) {
            return Ok(read);
        }
        let detail = format!(
            "{} must decompress to at most {} bytes for each stored one and {} in all, found {}; store it with less \
             compression or in parts",
            self.uri,
            limits::DECODED_RATIO_MAX,
            limits::DECODED_BYTES_MAX,
            self.bytes
        );
        Err(io::Error::other(Problem::new(ErrorKind::DecodeLimit, detail)))
    }
}

fn beginning(uri: &ObjectUri, text: &mut impl Read) -> Result<Vec<u8>, Problem> {
    let mut head = Vec::new();
    text.take(HEAD_BYTES).read_to_end(&mut head).map_err(|error| unreadable(uri, &error))?;
    Ok(head)
}

fn manifest(uri: &ObjectUri, text: impl Read) -> Result<Document, Problem> {
    let mut all = Vec::new();
    text.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut all).map_err(|error| unreadable(uri, &error))?;
    if all.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(wrong(uri, &format!("a manifest of more than {MANIFEST_BYTES_MAX} bytes")));
    }
    match serde_json::from_slice(&all) {
        Ok(inventory) => Ok(Document::Inventory(inventory)),
        Err(_) => serde_json::from_slice(&all).map(Document::Job).map_err(|error| {
            wrong(uri, &format!("neither the manifest of a job nor one of an inventory ({error})"))
        }),
    }
}

impl Inventory {
    /// Its files, as lists of objects in CSV.
    ///
    /// # Errors
    /// `not-supported` for files in another format.
    pub fn files(&self) -> Result<Vec<ObjectUri>, Problem> {
        if !self.file_format.eq_ignore_ascii_case("csv") {
            return Err(Problem::new(
                ErrorKind::NotSupported,
                format!(
                    "an inventory must be written as CSV, found {:?}; configure its output format",
                    self.file_format
                ),
            ));
        }
        let bucket = self.destination_bucket.rsplit(':').next().unwrap_or_default();
        self.files.iter().map(|file| ObjectUri::new(bucket, file.key.clone())).collect()
    }

    /// The objects that one of its files lists and a listing of the bucket would show: the
    /// latest versions, without marks of folders and hidden names.
    ///
    /// # Errors
    /// As [`read`].
    pub fn objects(&self, uri: &ObjectUri, text: impl Read) -> Result<Vec<Listed>, Problem> {
        let (head, rest) = opened(uri, text)?;
        table(uri, head.as_slice().chain(rest), Some(&self.file_schema))
    }
}

impl Row {
    fn listed(self) -> Result<Listed, Problem> {
        let uri: ObjectUri = match (self.uri, self.bucket, self.key) {
            (Some(uri), None, None) => uri.parse(),
            (None, Some(bucket), Some(key)) => ObjectUri::new(bucket, key),
            _ => Err(invalid("an object must be named by uri, or by bucket and key")),
        }
        .map_err(|problem: Problem| invalid(&problem.detail))?;
        if uri.key().is_empty() || uri.key().ends_with('/') {
            return Err(invalid(&format!("a list must name objects, found {uri}")));
        }
        let version_id = self.version_id.filter(|id| !id.is_empty() && id != "null");
        let etag = self.etag.map(|etag| etag.trim_matches('"').to_owned()).filter(|etag| !etag.is_empty());
        let pin = match (etag, self.size) {
            (Some(etag), Some(size)) => Some(Pin { etag, size, version_id }),
            _ if version_id.is_some() => {
                return Err(invalid("an object that is named with a version needs its size and etag too"));
            }
            _ => None,
        };
        Ok(Listed { uri, pin })
    }
}

/// A column of a CSV list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Uri,
    Bucket,
    Key,
    Size,
    Etag,
    VersionId,
    IsLatest,
    IsDeleteMarker,
    /// Of no interest here.
    Other,
}

impl Column {
    fn named(name: &str) -> Self {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        match plain.to_ascii_lowercase().as_str() {
            "uri" | "url" => Self::Uri,
            "bucket" => Self::Bucket,
            "key" => Self::Key,
            "size" => Self::Size,
            "etag" => Self::Etag,
            "versionid" => Self::VersionId,
            "islatest" => Self::IsLatest,
            "isdeletemarker" => Self::IsDeleteMarker,
            _ => Self::Other,
        }
    }
}

/// How the rows of a CSV list are to be understood.
struct Shape {
    columns: Vec<Column>,
    /// Whether keys are percent-encoded, as S3 writes them.
    encoded: bool,
    /// Whether it lists whatever is there, rather than what someone chose.
    inventory: bool,
}

impl Shape {
    fn chosen(columns: Vec<Column>, encoded: bool) -> Self {
        Self { columns, encoded, inventory: false }
    }

    /// Told by the first row, which may name the columns: true then.
    fn told(uri: &ObjectUri, first: &[Cow<'_, str>]) -> Result<(Self, bool), Problem> {
        let columns: Vec<Column> = first.iter().map(|name| Column::named(name)).collect();
        let has = |column| columns.contains(&column);
        if has(Column::Uri) || (has(Column::Bucket) && has(Column::Key)) {
            return Ok((Self::chosen(columns, false), true));
        }
        match first {
            [only] if only.starts_with("s3://") => Ok((Self::chosen(vec![Column::Uri], false), false)),
            [bucket, _] if !bucket.starts_with("s3://") => {
                Ok((Self::chosen(vec![Column::Bucket, Column::Key], true), false))
            }
            _ => Err(wrong(
                uri,
                &format!(
                    "{} columns without names; begin it with a line that names them (uri, or bucket and key, and size, etag, \
                     version_id), or name the manifest.json of an inventory",
                    first.len()
                ),
            )),
        }
    }

    /// The row's object; none when it is not the latest version, or one that no listing shows.
    fn listed(&self, row: &[Cow<'_, str>]) -> Result<Option<Listed>, Problem> {
        if row.len() != self.columns.len() {
            let (expected, found) = (self.columns.len(), row.len());
            return Err(invalid(&format!("a row must have {expected} fields, found {found}")));
        }
        let mut said = Row::default();
        for (column, text) in self.columns.iter().zip(row).filter(|(_, text)| !text.is_empty()) {
            match column {
                Column::Uri => said.uri = Some(text.to_string()),
                Column::Bucket => said.bucket = Some(text.to_string()),
                Column::Key if self.encoded => said.key = Some(decoded(text)?),
                Column::Key => said.key = Some(text.to_string()),
                Column::Size => {
                    let size = text.parse().map_err(|_| {
                        invalid(&format!("a size must be a number of bytes, found {:?}", excerpt(text)))
                    })?;
                    said.size = Some(size);
                }
                Column::Etag => said.etag = Some(text.to_string()),
                Column::VersionId => said.version_id = Some(text.to_string()),
                Column::IsLatest if text.eq_ignore_ascii_case("false") => return Ok(None),
                Column::IsDeleteMarker if text.eq_ignore_ascii_case("true") => return Ok(None),
                Column::IsLatest | Column::IsDeleteMarker | Column::Other => {}
            }
        }
        if self.inventory && said.key.as_deref().is_some_and(|key| !is_shown(key)) {
            return Ok(None);
        }
        said.listed().map(Some)
    }
}

/// Reads a CSV list a chunk at a time. An inventory's `schema` says what the columns
/// are; else the first row does.
fn table(uri: &ObjectUri, text: impl Read, schema: Option<&str>) -> Result<Vec<Listed>, Problem> {
    let mut shape = schema.map(|schema| Shape {
        columns: schema.split(',').map(|name| Column::named(name.trim())).collect(),
        encoded: true,
        inventory: true,
    });
    let (mut listed, mut number) = (Vec::new(), 0_u64);
    let take = |row: &[Cow<'_, str>]| {
        number += 1;
        let mut names = false;
        let shape = match &mut shape {
            Some(shape) => shape,
            None => {
                let told = Shape::told(uri, row)?;
                names = told.1;
                shape.insert(told.0)
            }
        };
        if !names {
            let object = shape.listed(row).map_err(|p| p.within(format!("row {number} of {uri}")))?;
            listed.extend(object);
        }
        bounded(listed.len())
    };
    rows(uri, text, take)?;
    Ok(listed)
}

/// Gives every record of a CSV to `take`.
fn rows(
    uri: &ObjectUri,
    mut text: impl Read,
    mut take: impl FnMut(&[Cow<'_, str>]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    // A list is CSV with commas, however it is named.
    let scanner = Scanner::new("", &CsvOptions::default())?;
    let (mut window, mut fields, mut begun, mut ended) = (Vec::new(), Vec::new(), false, false);
    while !ended {
        let before = window.len();
        let read = text.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut window);
        read.map_err(|error| unreadable(uri, &error))?;
        ended = window.len() == before;
        let mut at = if !begun && window.starts_with(BOM) { BOM.len() } else { 0 };
        begun = true;
        loop {
            fields.clear();
            match scanner.record(&window, at, ended, COLUMNS_MAX, &mut fields) {
                Ok(Step::Record { next, .. }) => {
                    take(&texts(uri, &window, &fields)?)?;
                    at = next;
                }
                Ok(Step::Blank { next }) => at = next,
                Ok(Step::Incomplete) => break,
                Err(_) => return Err(wrong(uri, "a quote that is not closed, or text after one")),
            }
        }
        window.drain(..at);
        if window.len() as u64 > limits::RECORD_BYTES_MAX {
            return Err(wrong(uri, &format!("a row of more than {} bytes", limits::RECORD_BYTES_MAX)));
        }
    }
    Ok(())
}

fn texts<'a>(uri: &ObjectUri, window: &'a [u8], fields: &[Field]) -> Result<Vec<Cow<'a, str>>, Problem> {
    let text = |field: &Field| {
        let text =
            str::from_utf8(&window[field.range()]).map_err(|_| wrong(uri, "text that is not UTF-8"))?;
        Ok(if field.escaped { text.replace("\"\"", "\"").into() } else { text.into() })
    };
    fields.iter().map(text).collect()
}

/// A key as S3 writes it into CSV: percent-encoded, a space as `+`.
fn decoded(text: &str) -> Result<String, Problem> {
    let bad = || invalid(&format!("a key must be percent-encoded UTF-8, found {:?}", excerpt(text)));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(bad)?;
                bytes.extend(hex::decode(digits).map_err(|_| bad())?);
                rest = after;
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn bounded(objects: usize) -> Result<(), Problem> {
    if objects <= limits::PARTITIONS_MAX {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::PartitionLimit,
        format!(
            "a list must name at most {} objects, found more; split it into several jobs",
            limits::PARTITIONS_MAX
        ),
    ))
}

fn invalid(detail: &str) -> Problem {
    Problem::new(ErrorKind::InvalidJob, detail)
}

fn unreadable(uri: &ObjectUri, error: &io::Error) -> Problem {
    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<Problem>());
    told.cloned().unwrap_or_else(|| wrong(uri, &format!("damaged gzip data ({error})")))
}

fn wrong(uri: &ObjectUri, found: &str) -> Problem {
    invalid(&format!("expected {uri} to list objects as JSON or CSV, found {found}"))
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
