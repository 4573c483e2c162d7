// SPDX-License-Identifier: Apache-2.0
//! A job's filter and its selection of columns, looked at before the job is accepted.
//!
//! The columns and their types are those that the function declares, or else those
//! of the object that settles types, as far as they can be told without decoding
//! it: the names of CSV and JSON Lines, names and types of Parquet. What cannot be
//! told here is told by the first task, in the same words.

use fanfold_protocol::{
    ErrorKind, Problem,
    filter::{Filter, Kind},
    function::{Column, Version},
    job::{CsvOptions, Format, JobDocument},
    plan::{Like, Shape},
    stored::{
        self, BOM, Compressed, SAMPLE_BYTES, Stored,
        csv::{Scanner, Step, column_advice},
        footer::{self, FooterColumn},
    },
    uri::PinnedObject,
};
use fanfold_storage::Store;
use serde::de::IgnoredAny;

use super::footer::of_parquet;
use crate::jobs::error::{Result, about_input};

/// Names listed in a message, at most.
const NAMES_SHOWN: usize = 20;
/// Columns of which two kinds are tried.
const DOUBTFUL_MAX: usize = 6;

/// A column as far as it is known.
struct Known {
    name: String,
    /// What it holds.
    kind: Option<Kind>,
    /// What it may hold instead.
    instead: Option<Kind>,
}

impl Known {
    fn name(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: None, instead: None }
    }
}

/// What decides which row groups may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruning {
    filter: Filter,
    reads: Option<Vec<Column>>,
    /// Columns of which nothing follows.
    doubted: Vec<String>,
}

impl Pruning {
    /// That of a job, of whose columns [`check_columns`] doubts these; none without a filter.
    ///
    /// # Errors
    /// `filter-invalid`.
    pub fn new(
        document: &JobDocument,
        reads: Option<&[Column]>,
        doubted: Vec<String>,
    ) -> Result<Option<Self>, Problem> {
        let reads = reads.map(<[Column]>::to_vec);
        let filter = document.filter.as_deref().map(Filter::parse).transpose()?;
        Ok(filter.map(|filter| Self { filter, reads, doubted }))
    }

    /// For each row group, whether rows of it may pass; `None` where that is not
    /// told. Nothing is concluded from a column that the function reads as another
    /// kind than it is stored as, nor as the time of a zone, nor from one that is doubted.
    pub fn may_pass(&self, footer: &[u8]) -> Option<Vec<bool>> {
        let columns = footer::columns(footer)?;
        let kind = |column: &FooterColumn| {
            let declared = self.reads.iter().flatten().find(|declared| declared.name == column.name);
            let kind = match declared {
                Some(declared) => Kind::of_arrow(&declared.data_type)?,
                None => column.kind.clone(),
            };
            Some((column.name.clone(), kind))
        };
        let kinds: Vec<(String, Kind)> = columns.iter().filter_map(kind).collect();
        let kinds: Vec<(&str, Kind)> =
            kinds.iter().map(|(name, kind)| (name.as_str(), kind.clone())).collect();
        // What does not fit is for the reader to complain of.
        let bound = self.filter.bind(&kinds).ok()?;
        let shifts = |name: &str| {
            let mut reads = self.reads.iter().flatten();
            reads.any(|declared| declared.name == name && Kind::shifts(&declared.data_type))
        };
        let doubted = |name: &str| self.doubted.iter().any(|doubted| doubted == name);
        footer::may_pass(footer, &bound.distrusting(|name| doubted(name) || shifts(name)))
    }
}

/// What the part of a function that a job runs declares to read.
pub fn reads(version: &Version, shape: Shape) -> Option<Vec<Column>> {
    let describes = &version.describes;
    match shape {
        Shape::Map | Shape::MapAggregate | Shape::MapGroup => describes.mapper.as_ref()?.reads.clone(),
        Shape::Aggregate => describes.aggregator.as_ref()?.reads.clone(),
        Shape::Group => describes.grouper.as_ref()?.reads.clone(),
    }
}

/// Checks what can be checked of the filter by itself.
///
/// # Errors
/// `filter-invalid`, with the place.
pub fn check(document: &JobDocument) -> Result<(), Problem> {
    document.filter.as_deref().map_or(Ok(()), |text| Filter::parse(text).map(|_| ()))
}

/// Checks that the columns which a job chooses are some, and all that its function declares.
///
/// # Errors
/// `column-not-found`.
pub fn check_chosen(document: &JobDocument, reads: Option<&[Column]>) -> Result<(), Problem> {
    let Some(chosen) = &document.columns else { return Ok(()) };
    let detail = match reads.into_iter().flatten().find(|declared| !chosen.contains(&declared.name)) {
        Some(Column { name, .. }) => format!(
            "columns must hold all that the function reads, found no {name:?}; add it to the job's columns, or leave \
             them out"
        ),
        None if chosen.is_empty() => {
            "columns must name one column at least, found none; leave it out for all columns".to_owned()
        }
        None => return Ok(()),
    };
    Err(Problem::new(ErrorKind::ColumnNotFound, detail))
}

/// Checks the filter against the columns of the job's table. Answers those of its columns of which
/// nothing follows from what an object stores: objects that a union reads as one kind may store others.
///
/// # Errors
/// `column-not-found` and `filter-invalid`, with the place; what is wrong with the
/// object's footer, or why it cannot be read.
pub async fn check_columns(
    store: &Store,
    document: &JobDocument,
    reads: Option<&[Column]>,
    like: Option<&Like>,
) -> Result<Vec<String>> {
    let Some(text) = &document.filter else { return Ok(Vec::new()) };
    let filter = Filter::parse(text)?;
    let mut known: Vec<Known> = Vec::new();
    for column in reads.into_iter().flatten() {
        let kind = Kind::of_arrow(&column.data_type);
        known.push(Known { name: column.name.clone(), kind, instead: None });
    }
    let is_known = |known: &[Known], name: &str| known.iter().any(|column| column.name == name);
    let mut doubted: Vec<String> =
        filter.columns().filter(|name| !is_known(&known, name)).map(str::to_owned).collect();
    let united = !document.schema.is_same();
    if !doubted.is_empty() {
        let Some(stored) = of_tables(store, document, like).await? else {
            doubted.retain(|_| united);
            return Ok(doubted);
        };
        let others: Vec<_> = stored.into_iter().filter(|c| !is_known(&known, &c.name)).collect();
        known.extend(others);
    }
    bind(&filter, &known)?;
    // What settles the table has each column in every type that it is stored in.
    let agreed = |name: &String| known.iter().any(|column| column.name == *name && column.kind.is_some());
    doubted.retain(|name| united && !agreed(name));
    Ok(doubted)
}

/// Checks the columns that a job selects and its function does not declare against those of its table. What objects
/// have together where they need not have the same is for the reader to say.
///
/// # Errors
/// `column-not-found`; as of [`check_columns`].
pub async fn check_selection(
    store: &Store,
    document: &JobDocument,
    reads: Option<&[Column]>,
    like: Option<&Like>,
) -> Result<()> {
    let is_declared = |name: &str| reads.into_iter().flatten().any(|column| column.name == name);
    let mut selected: Vec<&str> = document.columns.iter().flatten().map(String::as_str).collect();
    selected.retain(|name| !is_declared(name));
    if selected.is_empty() || !document.schema.is_same() || document.format == Format::Bytes {
        return Ok(());
    }
    let Some(like) = like else { return Ok(()) };
    let Some(stored) = of_tables(store, document, Some(like)).await? else { return Ok(()) };
    let names: Vec<&str> = stored.iter().map(|column| column.name.as_str()).collect();
    let Some(absent) = selected.into_iter().find(|name| !names.contains(name)) else { return Ok(()) };
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| format!("{name:?}")).collect();
    let rest = names.len().saturating_sub(NAMES_SHOWN);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let detail = format!(
        "{} must have a column {absent:?}, found these: {}{rest}{}",
        like.object.uri,
        shown.join(", "),
        column_advice(&names)
    );
    Err(Problem::new(ErrorKind::ColumnNotFound, detail).into())
}

/// Binds the filter to what is known; where a column may be of two kinds, any
/// choice will do.
fn bind(filter: &Filter, known: &[Known]) -> Result<(), Problem> {
    let names: Vec<&str> = known.iter().map(|column| column.name.as_str()).collect();
    filter.check_columns(&names)?;
    let read = filter.columns().filter_map(|name| known.iter().find(|column| column.name == name));
    let kind = |column: &Known| Some((column.name.clone(), column.kind.clone()?, column.instead.clone()));
    let Some(read) = read.map(kind).collect::<Option<Vec<_>>>() else { return Ok(()) };
    let doubtful = read.iter().filter(|(_, _, instead)| instead.is_some()).count();
    if doubtful > DOUBTFUL_MAX {
        return Ok(());
    }
    let bound = |choice: u32| {
        let mut doubt = 0;
        let mut choose = |kind: &Kind, instead: &Option<Kind>| match instead {
            None => kind.clone(),
            Some(instead) => {
                doubt += 1;
                if choice & 1 << (doubt - 1) == 0 { kind.clone() } else { instead.clone() }
            }
        };
        let kinds: Vec<_> =
            read.iter().map(|(name, kind, instead)| (name.as_str(), choose(kind, instead))).collect();
        filter.bind(&kinds).map(|_| ())
    };
    match bound(0) {
        Err(problem) if (1..1 << doubtful).all(|choice| bound(choice).is_err()) => Err(problem),
        _ => Ok(()),
    }
}

/// The columns of the job's table; `None` where they are not told without decoding.
async fn of_tables(store: &Store, document: &JobDocument, like: Option<&Like>) -> Result<Option<Vec<Known>>> {
    let mut all: Vec<Known> = Vec::new();
    let Some(like) = like else { return of_table(store, document, None).await };
    for object in like.objects() {
        let Some(columns) = of_table(store, document, Some(object)).await? else { return Ok(None) };
        for column in columns {
            match all.iter_mut().find(|known| known.name == column.name) {
                // What unites them is for the reader to say.
                Some(known) if (&known.kind, &known.instead) != (&column.kind, &column.instead) => {
                    known.kind = None;
                }
                Some(_) => {}
                None => all.push(column),
            }
        }
    }
    Ok(Some(all))
}

/// The columns of one object.
async fn of_table(
    store: &Store,
    document: &JobDocument,
    like: Option<&PinnedObject>,
) -> Result<Option<Vec<Known>>> {
    if document.format == Format::Bytes {
        let text = |name: &str| Known { name: name.into(), kind: Some(Kind::Text), instead: None };
        let size = Known { name: "size".into(), kind: Some(Kind::UNSIGNED), instead: None };
        return Ok(Some(vec![text("uri"), size, text("etag")]));
    }
    let Some(object) = like.filter(|object| object.pin.size > 0) else { return Ok(None) };
    let (uri, size) = (&object.uri, object.pin.size);
    let by_name = document.format == Format::Auto && stored::is_parquet_by_name(uri.key());
    if by_name || document.format == Format::Parquet {
        return of_footer(store, object).await;
    }
    let range = 0..size.min(SAMPLE_BYTES as u64);
    let head = store.get_range(uri, &object.pin, range).await.map_err(about_input)?;
    if Compressed::of(&head) != Compressed::No {
        return Ok(None);
    }
    let ended = head.len() as u64 == size;
    Ok(match stored::tell(uri, document.format, &head, &head, &document.csv)? {
        Stored::Parquet => of_footer(store, object).await?,
        Stored::Csv => of_header(uri.key(), &head, &document.csv, ended)?,
        Stored::Jsonl => of_lines(&head, ended),
        Stored::ArrowFile | Stored::ArrowStream => None,
    })
}

async fn of_footer(store: &Store, object: &PinnedObject) -> Result<Option<Vec<Known>>> {
    let footer = of_parquet(store, object).await?;
    let known = |FooterColumn { name, kind, instead, .. }| Known { name, kind: Some(kind), instead };
    Ok(footer::columns(&footer).map(|columns| columns.into_iter().map(known).collect()))
}

/// The names in the header of CSV.
fn of_header(key: &str, head: &[u8], csv: &CsvOptions, ended: bool) -> Result<Option<Vec<Known>>, Problem> {
    if !csv.header {
        return Ok(None);
    }
    let (text, scanner) = (head.strip_prefix(BOM).unwrap_or(head), Scanner::new(key, csv)?);
    let (mut at, mut fields) = (0, Vec::new());
    loop {
        match scanner.record(text, at, ended, usize::MAX, &mut fields) {
            Ok(Step::Blank { next }) => at = next,
            Ok(Step::Record { .. }) => break,
            Ok(Step::Incomplete) | Err(_) => return Ok(None),
        }
    }
    // A quote within a name is for the reader to take apart.
    if fields.iter().any(|field| field.escaped) {
        return Ok(None);
    }
    let name = |field: &stored::csv::Field| Some(Known::name(str::from_utf8(&text[field.range()]).ok()?));
    Ok(fields.iter().map(name).collect())
}

/// The names in the first lines of JSON.
fn of_lines(head: &[u8], ended: bool) -> Option<Vec<Known>> {
    let text = head.strip_prefix(BOM).unwrap_or(head);
    let whole = if ended { text.len() } else { text.iter().rposition(|b| *b == b'\n')? };
    let mut names = std::collections::BTreeSet::new();
    for line in text[..whole].split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let members: std::collections::BTreeMap<String, IgnoredAny> = serde_json::from_slice(line).ok()?;
        names.extend(members.into_keys());
    }
    Some(names.into_iter().map(Known::name).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chosen_columns_are_all_that_are_declared() {
        let column =
            |name: &str| Column { name: name.to_owned(), data_type: "Int64".to_owned(), nullable: true };
        let check = |chosen: Option<&[&str]>, declared: Option<&[&str]>, absent: Option<&str>| {
            let document = json!({"function": "f", "input": "s3://bank/x", "columns": chosen});
            let document: JobDocument = serde_json::from_value(document).unwrap();
            let reads: Option<Vec<_>> = declared.map(|names| names.iter().copied().map(column).collect());
            let found = check_chosen(&document, reads.as_deref()).err().map(|problem| {
                assert_eq!(problem.code, ErrorKind::ColumnNotFound);
                problem.detail
            });
            match (found, absent) {
                (Some(found), Some(absent)) => assert!(found.contains(absent), "{found}"),
                (found, absent) => assert_eq!(found.as_deref(), absent, "{chosen:?} of {declared:?}"),
            }
        };
        check(None, Some(&["a"]), None);
        check(Some(&["b", "a"]), Some(&["a"]), None);
        check(Some(&["a"]), None, None);
        check(Some(&["b"]), Some(&["a"]), Some("found no \"a\""));
        check(Some(&[]), Some(&["a"]), Some("found no \"a\""));
        check(Some(&[]), None, Some("one column at least, found none"));
    }
}
