// SPDX-License-Identifier: Apache-2.0
//! Lists of objects as JSON, an entry at a time.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufReader, Read},
};

use fanfold_protocol::{Problem, limits, uri::ObjectUri};
use serde::{
    Deserialize, Deserializer as _,
    de::{Error as _, SeqAccess, Visitor},
};

use super::{Listed, Row, bounded, unreadable, wrong};

/// An object as JSON names it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Uri(String),
    Object(Row),
}

/// Reads a list as JSON, an entry at a time.
pub(super) fn read(uri: &ObjectUri, text: impl Read) -> Result<Vec<Listed>, Problem> {
    let length = Cell::new(0);
    let mut entries = Entries { uri, length: &length, listed: Vec::new(), problem: None };
    let text = BufReader::new(Measured { uri, text, length: &length });
    let mut text = serde_json::Deserializer::from_reader(text);
    let read = text.deserialize_seq(&mut entries).and_then(|()| text.end());
    match (read, entries.problem) {
        (_, Some(problem)) => Err(problem),
        (Ok(()), None) => Ok(entries.listed),
        (Err(error), None) if error.is_io() => Err(unreadable(uri, &error.into())),
        (Err(error), None) => Err(wrong(
            uri,
            &format!(
                "{error}; each entry is a URI or has uri, or bucket and key, and may have size, etag and version_id"
            ),
        )),
    }
}

/// A text of which no entry may be too long: few bytes in a store may be many here.
struct Measured<'a, R> {
    uri: &'a ObjectUri,
    text: R,
    /// Bytes since the last entry.
    length: &'a Cell<u64>,
}

impl<R: Read> Read for Measured<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.length.get() > limits::RECORD_BYTES_MAX {
            let found = format!("an entry of more than {} bytes", limits::RECORD_BYTES_MAX);
            return Err(io::Error::other(wrong(self.uri, &found)));
        }
        let read = self.text.read(buffer)?;
        self.length.set(self.length.get() + read as u64);
        Ok(read)
    }
}

/// The entries of a list as they are read.
struct Entries<'a> {
    uri: &'a ObjectUri,
    length: &'a Cell<u64>,
    listed: Vec<Listed>,
    /// What is wrong with the last one.
    problem: Option<Problem>,
}

impl Entries<'_> {
    fn take(&mut self, entry: Entry) -> Result<(), Problem> {
        self.length.set(0);
        let row = match entry {
            Entry::Uri(uri) => Row { uri: Some(uri), ..Row::default() },
            Entry::Object(row) => row,
        };
        let number = self.listed.len() + 1;
        bounded(number)?;
        self.listed.push(row.listed().map_err(|p| p.within(format!("entry {number} of {}", self.uri)))?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element()? {
            self.take(entry).map_err(|problem| {
                let error = A::Error::custom(&problem);
                self.problem = Some(problem);
                error
            })?;
        }
        Ok(())
    }
}
