// SPDX-License-Identifier: Apache-2.0
//! Maps and aggregates, run natively over rows or a local file.
//!
//! It owns the table that stands for a job's input or output, and the folding
//! of an aggregate over partitions in the way a job does it. Invariant: what
//! the function declares to read is what it gets: columns are chosen and cast
//! as the platform does.

use std::path::Path;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use serde::Serialize;
use serde_json::Value;

use super::files::{Stored, Text};
use super::fit::{fit_column, misfit};
use super::{Env, files, jsonl, text};
use crate::aggregate::{self, Aggregate};
use crate::group::{self, Grouped};
use crate::host::Reader;
use crate::map::Mapper;
use crate::row::{Column, OwnedRow, Row};
use crate::table::{BatchSink, CsvOptions, Format, ReadOptions};
use crate::{Error, Result};

/// States merged at a time, as a job's plan does it: `FOLD_WIDTH` of `fanfold_protocol::plan`.
const FOLD_WIDTH: usize = 16;

/// Runs a map on a table: rows, batches, or what [`Table::read`] read.
///
/// # Errors
///
/// Those of the map.
pub fn map<M: Mapper>(input: impl IntoTable, params: impl Serialize) -> Result<Table> {
    Env::new().params(params).map::<M>(input)
}

/// Runs an aggregate on a table as a job would that split it into `partitions`
/// parts: each is folded, the states are merged up a tree, the last one is
/// finished. The answer is JSON.
///
/// # Errors
///
/// Those of the aggregate.
pub fn aggregate<A: Aggregate>(
    input: impl IntoTable,
    params: impl Serialize,
    partitions: usize,
) -> Result<Value> {
    Env::new().params(params).aggregate::<A>(input, partitions)
}

/// Runs a keyed aggregate on a table as a job would that split it into
/// `partitions` parts: each is folded by key, the states are sorted and merged. What
/// comes out is one table, sorted by key.
///
/// # Errors
///
/// Those of the aggregate; a key that is no column of its rows or a floating-point number, and a
/// column of the result that has the name of another: the platform refuses these when the function is deployed.
pub fn group<G: Grouped>(input: impl IntoTable, params: impl Serialize, partitions: usize) -> Result<Table> {
    Env::new().params(params).group::<G>(input, partitions)
}

impl Env {
    /// Runs a map; see [`map`].
    ///
    /// # Errors
    ///
    /// Those of the map.
    pub fn map<M: Mapper>(&mut self, input: impl IntoTable) -> Result<Table> {
        let input = input.into_table()?.fit(M::describe().reads)?;
        let mut output = Table::empty();
        self.run(|| M::map(&mut Reader::new(input.schema, input.batches), &mut output))?;
        Ok(output)
    }

    /// Runs a keyed aggregate; see [`group()`].
    ///
    /// # Errors
    ///
    /// Those of the aggregate; columns that the platform refuses when the function is deployed.
    pub fn group<G: Grouped>(&mut self, input: impl IntoTable, partitions: usize) -> Result<Table> {
        let keys = group::keys::<G>();
        check_result(&keys, G::Output::columns())?;
        let input = input.into_table()?.fit(Some(G::reads()))?;
        let parts = input.split(partitions)?;
        let (mut states, mut output) = (Table::empty(), Table::empty());
        self.run(|| {
            for part in parts {
                group::accumulate::<G>(&mut Reader::new(part.schema, part.batches), &mut states)?;
            }
            let states = sorted(&states, &keys)?;
            group::merge::<G>(&mut Reader::new(states.schema, states.batches), &mut output)
        })?;
        Ok(output)
    }

    /// Runs an aggregate; see [`aggregate()`].
    ///
    /// # Errors
    ///
    /// Those of the aggregate.
    pub fn aggregate<A: Aggregate>(&mut self, input: impl IntoTable, partitions: usize) -> Result<Value> {
        let input = input.into_table()?.fit(A::describe().reads)?;
        let parts = input.split(partitions)?;
        self.run(|| {
            let mut states = Vec::with_capacity(parts.len());
            for part in parts {
                states.push(aggregate::accumulate::<A>(&mut Reader::new(part.schema, part.batches))?);
            }
            while states.len() != 1 {
                let groups = if states.is_empty() { vec![Vec::new()] } else { grouped(states) };
                states = groups.iter().map(|group| aggregate::merge::<A>(group)).collect::<Result<_>>()?;
            }
            let last = states.pop().unwrap_or_default();
            Ok(serde_json::from_str(&aggregate::finish::<A>(&last)?)?)
        })
    }
}

/// Refuses columns of a result that the platform refuses when the function is deployed.
fn check_result(keys: &[Column], rest: &[Column]) -> Result<()> {
    if let Some(key) = keys.iter().find(|key| key.arrow_type().is_floating()) {
        return Err(Error::new(
            "response-invalid",
            format!(
                "a column of a key must be a boolean, an integer, Utf8, Binary, a date or a timestamp, found `{}` of {}; \
                 round a number, or make it a text",
                key.name, key.data_type
            ),
        ));
    }
    let mut names: Vec<_> = keys.iter().chain(rest).map(|column| column.name).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
        return Err(Error::new(
            "response-invalid",
            format!(
                "expected a name of its own for each column of the result, those of the key first, found `{name}` twice; \
                 name a field of the answer otherwise"
            ),
        ));
    }
    Ok(())
}

/// Keys and states in the order of the keys, those of one key as they were.
fn sorted(states: &Table, keys: &[Column]) -> Result<Table> {
    if states.is_empty() {
        return Ok(states.clone());
    }
    let whole = concat_batches(&states.schema, &states.batches)?;
    let fields = keys.iter().map(|key| SortField::new(key.arrow_type())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(&whole.columns()[..keys.len()])?;
    let mut order: Vec<u32> = (0..whole.num_rows() as u32).collect();
    order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    let batch = take_record_batch(&whole, &UInt32Array::from(order))?;
    Ok(Table::of(states.schema.clone(), vec![batch]))
}

fn grouped(states: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    states.chunks(FOLD_WIDTH).map(<[_]>::to_vec).collect()
}

/// A table in memory: what a map or an aggregate is given, or what a map wrote.
#[derive(Debug, Clone)]
pub struct Table {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    text: Option<Text>,
}

impl Table {
    fn of(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches, text: None }
    }

    fn empty() -> Self {
        Self::of(Schema::empty().into(), Vec::new())
    }

    /// Reads a local file: CSV (`.csv`; with tabs `.tsv`, `.tab`), JSON Lines (`.jsonl`, `.ndjson`), Arrow
    /// (`.arrow`, `.feather`, `.ipc`), and with the feature `parquet` also
    /// Parquet (`.parquet`).
    ///
    /// As on the platform, what a function declares to read is read from the text of CSV and JSON Lines
    /// in the declared types; without a declaration columns of CSV have the first type that fits them.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is no such table.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_with(path, &ReadOptions::default())
    }

    /// Reads a local file of CSV as told.
    ///
    /// # Errors
    ///
    /// As [`Table::read`].
    pub fn read_csv(path: impl AsRef<Path>, csv: CsvOptions) -> Result<Self> {
        Self::read_with(path, &ReadOptions { format: Format::Csv, columns: None, csv: Some(csv) })
    }

    fn read_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let content = std::fs::read(path).map_err(|error| Error::from(error).context(&name))?;
        let Stored { schema, batches, text } =
            files::stored(content, &name, options).map_err(|error| error.context(&name))?;
        Ok(Self { schema, batches, text })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns' names and types.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batches as they were read or written.
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// The rows, cast to the fields' types.
    ///
    /// # Errors
    ///
    /// When a column is missing, holds what does not fit its field, or a null where
    /// none may be.
    pub fn rows<R: OwnedRow>(&self) -> Result<Vec<R>> {
        let fitted = self.clone().fit(Some(R::columns()))?;
        let mut rows = Vec::with_capacity(self.len());
        for batch in &fitted.batches {
            let columns = R::bind(batch, rows.len() as u64)?;
            rows.extend((0..batch.num_rows()).map(|row| R::view(&columns, row)));
        }
        Ok(rows)
    }

    /// Chooses and casts columns as the platform does before a function runs.
    fn fit(self, reads: Option<&[Column]>) -> Result<Self> {
        let Some(reads) = reads else { return Ok(self) };
        let fields: Vec<_> = reads.iter().map(|c| ArrowField::new(c.name, c.arrow_type(), true)).collect();
        let schema: SchemaRef = Schema::new(fields).into();
        if let Some(text) = &self.text {
            let arrays = reads.iter().map(|column| self.fit_text(text, column)).collect::<Result<_>>()?;
            return Ok(Self::of(schema.clone(), vec![assemble(schema, arrays, self.len())?]));
        }
        let mut first_row = 0;
        let mut batches = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            batches.push(fit_batch(batch, reads, &schema, first_row)?);
            first_row += batch.num_rows() as u64;
        }
        Ok(Self::of(schema, batches))
    }

    /// The column in its declared type, read from the text.
    fn fit_text(&self, text: &Text, column: &Column) -> Result<ArrayRef> {
        // Objects of JSON leave out what they lack.
        let is_absent = self.schema.column_with_name(column.name).is_none();
        if !(matches!(text, Text::Jsonl(_)) && is_absent && column.nullable) {
            let mut first_row = 0;
            for batch in &self.batches {
                crate::row::locate(batch, column, first_row)?;
                first_row += batch.num_rows() as u64;
            }
        }
        match text {
            Text::Jsonl(lines) => jsonl::read(lines, self.len(), column),
            Text::Csv(texts) => {
                let texts = texts.column(texts.schema_ref().index_of(column.name)?).as_string::<i32>();
                text::parse(texts, &column.arrow_type())
                    .map_err(|row| misfit(column, texts.value(row), row as u64))
            }
        }
    }

    /// Cuts the table into parts of as equal a number of rows as can be.
    fn split(&self, parts: usize) -> Result<Vec<Self>> {
        if self.batches.is_empty() {
            return Ok(Vec::new());
        }
        let whole = concat_batches(&self.schema, &self.batches)?;
        let parts = parts.max(1);
        let bound = |part: usize| whole.num_rows() * part / parts;
        let part = |index| {
            let (start, end) = (bound(index), bound(index + 1));
            Self::of(self.schema.clone(), vec![whole.slice(start, end - start)])
        };
        Ok((0..parts).map(part).collect())
    }
}

fn fit_batch(
    batch: &RecordBatch,
    reads: &[Column],
    schema: &SchemaRef,
    first_row: u64,
) -> Result<RecordBatch> {
    let mut arrays = Vec::with_capacity(reads.len());
    for column in reads {
        crate::row::locate(batch, column, first_row)?;
        // `locate` found it by the same name.
        let array = batch.column_by_name(column.name).unwrap_or_else(|| batch.column(0));
        arrays.push(fit_column(array, column, first_row)?);
    }
    assemble(schema.clone(), arrays, batch.num_rows())
}

/// A batch of these columns, which may be none.
fn assemble(schema: SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}

impl BatchSink for Table {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.batches.is_empty() {
            self.schema = batch.schema();
        }
        if batch.schema() != self.schema {
            return Err(Error::new(
                "schema-changed",
                format!(
                    "all batches of a table must have the schema {}, found {}",
                    self.schema,
                    batch.schema()
                ),
            ));
        }
        self.batches.push(batch.clone());
        // It is no longer all there is.
        self.text = None;
        Ok(())
    }
}

/// What a map or an aggregate may be given.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no table",
    note = "give a `Vec` of rows, a `RecordBatch`, a `Vec<RecordBatch>` or a `testing::Table`"
)]
pub trait IntoTable {
    /// Makes the table.
    ///
    /// # Errors
    ///
    /// When the batches differ in their schemas.
    fn into_table(self) -> Result<Table>;
}

impl IntoTable for Table {
    fn into_table(self) -> Result<Table> {
        Ok(self)
    }
}

impl IntoTable for &Table {
    fn into_table(self) -> Result<Table> {
        Ok(self.clone())
    }
}

impl<R: OwnedRow> IntoTable for Vec<R> {
    fn into_table(self) -> Result<Table> {
        R::batch(self)?.into_table()
    }
}

impl IntoTable for RecordBatch {
    fn into_table(self) -> Result<Table> {
        vec![self].into_table()
    }
}

impl IntoTable for Vec<RecordBatch> {
    fn into_table(self) -> Result<Table> {
        let mut table = Table::empty();
        self.iter().try_for_each(|batch| table.write(batch))?;
        Ok(table)
    }
}
