// SPDX-License-Identifier: Apache-2.0
//! Which objects settle the types of a job's table.
//!
//! Where the function declares every column that is read, none does. Of a table of
//! equal objects it is the largest one. Where objects may differ, the head of each
//! is looked at, and those are chosen that together have every column in every type
//! that is met: what the readers make of these few is what they would make of all.
//! The choice follows from the pinned objects alone.

use std::{cmp::Reverse, collections::HashSet, pin::pin};

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    filter::Filter,
    function::Column,
    job::{CsvOptions, Format, JobDocument, SchemaRule},
    limits,
    plan::Like,
    stored::{
        self, BOM, Compressed, SAMPLE_BYTES, Stored,
        csv::{Scanner, Step},
        footer,
        guess::Guess,
        jsonl::{self, Shape},
    },
    uri::PinnedObject,
};
use fanfold_storage::Store;
use futures::{StreamExt, TryStreamExt, stream};

use super::footer::of_parquet;
use crate::jobs::error::{Error, Result, about_input};

/// Heads read at once for one job.
const HEADS_AT_ONCE: usize = 16;
/// The end of the message of an Arrow schema is looked for so far.
const MESSAGE_BYTES: usize = 64 << 10;

/// A column, and in which words its object tells its type.
type Seen = (String, String);

/// Whether types are settled by what `held` for an earlier job over the same columns:
/// also where they need no object now, and one was named all the same.
pub fn settled_alike(like: Option<&Like>, held: Option<&Like>) -> bool {
    like.is_none_or(|like| held == Some(like))
}

/// What settles the types of the job's table; nothing where the function declares
/// them all. A job that runs another one again goes on with what `held` for that while
/// it is there.
///
/// # Errors
/// `invalid-job` when too much would have to be looked at; why an object cannot be
/// read.
pub async fn like(
    store: &Store,
    document: &JobDocument,
    reads: Option<&[Column]>,
    objects: &[PinnedObject],
    held: Option<&Like>,
) -> Result<Option<Like>> {
    if document.format == Format::Bytes {
        return Ok(None);
    }
    let asked = Asked::new(document, reads)?;
    if asked.names.as_ref().is_some_and(HashSet::is_empty) {
        return Ok(None);
    }
    let before: Vec<&PinnedObject> = held.into_iter().flat_map(Like::objects).collect();
    let rank = |object: &PinnedObject| {
        let place = before.iter().position(|held| *held == object).unwrap_or(before.len());
        (place, Reverse(object.pin.size))
    };
    let order = |a: &&PinnedObject, b: &&PinnedObject| (rank(a), &a.uri).cmp(&(rank(b), &b.uri));
    let Some(first) = objects.iter().min_by(order) else { return Ok(None) };
    let mut like = Like { object: first.clone(), others: Vec::new() };
    if document.schema == SchemaRule::Same {
        return Ok(Some(like));
    }
    if objects.len() > limits::UNION_OBJECTS_MAX {
        return Err(Error::Refused(too_many("objects", limits::UNION_OBJECTS_MAX, objects.len())));
    }
    let mut ordered = objects.to_vec();
    ordered.sort_by(|a, b| order(&a, &b));
    let look = |object: PinnedObject| async {
        let seen = look(store, document, &object).await?;
        Ok::<_, Error>((object, seen))
    };
    let mut looks = pin!(stream::iter(ordered).map(look).buffered(HEADS_AT_ONCE));
    let mut known = HashSet::new();
    while let Some((object, seen)) = looks.try_next().await? {
        let mut new = false;
        for (name, data_type) in seen.unwrap_or_else(|| vec![(object.uri.to_string(), String::new())]) {
            new |= asked.wants(&name, &data_type) && known.insert((name, data_type));
        }
        if new && object != like.object {
            like.others.push(object);
        }
        if like.others.len() >= limits::UNION_HEADS_MAX {
            let found = like.others.len() + 1;
            return Err(Error::Refused(too_many("different objects", limits::UNION_HEADS_MAX, found)));
        }
    }
    Ok(Some(like))
}

fn too_many(what: &str, most: usize, found: usize) -> Problem {
    let detail = format!(
        "schema = \"union\" must have the heads of at most {most} {what} looked at, found {found}; declare the types of \
         the columns in the function, or split the job by prefix"
    );
    Problem::new(ErrorKind::InvalidJob, detail)
}

/// The columns whose types objects settle.
struct Asked {
    /// `None` for all that are not declared.
    names: Option<HashSet<String>>,
    declared: HashSet<String>,
}

impl Asked {
    fn new(document: &JobDocument, reads: Option<&[Column]>) -> Result<Self, Problem> {
        let declared: HashSet<String> =
            reads.into_iter().flatten().map(|column| column.name.clone()).collect();
        let names = document.columns.clone().or_else(|| reads.map(|_| declared.iter().cloned().collect()));
        let filter = document.filter.as_deref().map(Filter::parse).transpose()?;
        let names = names.map(|names: Vec<String>| {
            let filtered = filter.iter().flat_map(Filter::columns).map(str::to_owned);
            names.into_iter().chain(filtered).filter(|name| !declared.contains(name)).collect()
        });
        Ok(Self { names, declared })
    }

    /// Whether it matters that this was seen. What is told of an object as a whole does.
    fn wants(&self, name: &str, data_type: &str) -> bool {
        let named = self.names.as_ref().is_none_or(|names| names.contains(name));
        let whole = name.is_empty() || data_type.is_empty();
        whole || (named && !self.declared.contains(name))
    }
}

/// The columns of an object; `None` where its head does not tell.
async fn look(store: &Store, document: &JobDocument, object: &PinnedObject) -> Result<Option<Vec<Seen>>> {
    let (uri, size) = (&object.uri, object.pin.size);
    let by_name = document.format == Format::Auto && stored::is_parquet_by_name(uri.key());
    if by_name || document.format == Format::Parquet {
        return Ok(of_footer(&of_parquet(store, object).await?));
    }
    let head =
        store.get_range(uri, &object.pin, 0..size.min(SAMPLE_BYTES as u64)).await.map_err(about_input)?;
    if Compressed::of(&head) != Compressed::No {
        return Ok(None);
    }
    let ended = head.len() as u64 == size;
    let stored = stored::tell(uri, document.format, &head, &head, &document.csv)?;
    if stored == Stored::Parquet {
        return Ok(of_footer(&of_parquet(store, object).await?));
    }
    let (uri, csv) = (uri.to_string(), document.csv.clone());
    // A sample keeps a core busy for milliseconds: not a thread of the gateway's own.
    let seen = tokio::task::spawn_blocking(move || of_head(&uri, stored, &head, &csv, ended));
    seen.await.map_err(|e| Error::Refused(crate::problem::internal(e)))
}

fn of_head(uri: &str, stored: Stored, head: &Bytes, csv: &CsvOptions, ended: bool) -> Option<Vec<Seen>> {
    match stored {
        Stored::Csv => of_csv(uri, head, csv, ended),
        Stored::Jsonl => {
            let members = match jsonl::sample(uri, head, ended) {
                Ok(sample) => sample.members,
                // Without a line it has no columns either.
                Err(refusal) if refusal.code == ErrorKind::EmptyObject => Vec::new(),
                // What is wrong with it, its reader tells.
                Err(_) => return None,
            };
            let seen = |(name, shape): (String, Shape)| (name, format!("{shape:?}"));
            Some(members.into_iter().map(seen).collect())
        }
        Stored::ArrowFile | Stored::ArrowStream => of_message(head),
        Stored::Parquet => None,
    }
}

fn of_footer(footer: &[u8]) -> Option<Vec<Seen>> {
    let seen = |column: footer::FooterColumn| {
        let said = Digest::of(footer.get(column.said)?);
        Some((column.name, said.to_string()))
    };
    footer::columns(footer)?.into_iter().map(seen).collect()
}

/// An Arrow schema as a whole: the first message of a stream, which a file begins
/// with as well.
fn of_message(head: &[u8]) -> Option<Vec<Seen>> {
    let message = head.strip_prefix(b"ARROW1\0\0").unwrap_or(head);
    let length = u32::from_le_bytes(message.get(4..8)?.try_into().ok()?);
    let length = usize::try_from(length).ok().filter(|length| *length <= MESSAGE_BYTES)?;
    Some(vec![(String::new(), Digest::of(message.get(8..8 + length)?).to_string())])
}

fn of_csv(uri: &str, head: &[u8], csv: &CsvOptions, ended: bool) -> Option<Vec<Seen>> {
    let (text, scanner) = (head.strip_prefix(BOM).unwrap_or(head), Scanner::new(uri, csv).ok()?);
    let (mut at, mut fields) = (0, Vec::new());
    let next = loop {
        match scanner.record(text, at, ended, limits::COLUMNS_MAX, &mut fields) {
            Ok(Step::Blank { next }) => at = next,
            Ok(Step::Record { next, .. }) => break next,
            Ok(Step::Incomplete) if ended => return Some(Vec::new()),
            Ok(Step::Incomplete) | Err(_) => return None,
        }
    };
    let quote = char::from(scanner.quote);
    let name = |(number, field): (usize, &stored::csv::Field)| {
        if !csv.header {
            return Some(format!("column_{}", number + 1));
        }
        let name = str::from_utf8(&text[field.range()]).ok()?;
        Some(if field.escaped {
            name.replace(&format!("{quote}{quote}"), &quote.to_string())
        } else {
            name.into()
        })
    };
    let names = fields.iter().enumerate().map(name).collect::<Option<Vec<String>>>()?;
    if names.is_empty() {
        return None;
    }
    let (values, mut guesses) =
        (&text[if csv.header { next } else { at }..], vec![Guess::default(); names.len()]);
    let mut cells = Vec::new();
    scanner.block(values, ended, names.len(), (usize::MAX, usize::MAX), &mut cells);
    for record in cells.chunks_exact(names.len()) {
        for (guess, field) in guesses.iter_mut().zip(record) {
            let value = &values[field.range()];
            // In quotes the empty one tells nothing either, as the readers have it.
            let is_null =
                (!field.quoted || value.is_empty()) && csv.nulls.iter().any(|null| null.as_bytes() == value);
            if !is_null {
                guess.see(value);
            }
        }
    }
    let seen = |(name, guess): (String, Guess)| (name, format!("{:?}", guess.found()));
    Some(names.into_iter().zip(guesses).map(seen).collect())
}
