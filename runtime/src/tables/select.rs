// SPDX-License-Identifier: Apache-2.0
//! Which columns are wanted, in which types, and whether what is found fits.
//!
//! The job's `columns` choose and order; what the function declares gives types
//! and says where values may be missing. A column that is not declared keeps the
//! plain form of its stored type and may have missing values. A [`Wanted`] never
//! changes while its table is read.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    compute::{can_cast_types, filter_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use fanfold_protocol::{
    ErrorKind, Problem,
    filter::{Filter, Kind},
    function::Column,
    job::SchemaRule,
    plan::Slice,
    stored::{SAMPLE_BYTES, csv::column_advice},
};

use super::{
    TableSource, check_width, convert::convert, filter::RowFilter, fixed, guard::quote, shape, union,
};

/// Names listed in a message, at most.
const NAMES_SHOWN: usize = 20;

/// A type that the function declares for a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
}

/// The columns that are wanted of every slice.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Those that the caller gets, and behind them those that only the filter reads.
    names: Option<Vec<String>>,
    /// How many of them the caller gets.
    shown: Option<usize>,
    filter: Option<Filter>,
    declared: BTreeMap<String, Declared>,
    schema: SchemaRule,
}

/// What the first object of a table settled for the others, or several together.
#[derive(Debug)]
pub(super) struct First {
    /// The object.
    pub(super) uri: String,
    /// The wanted columns, in plain types.
    pub(super) stored: SchemaRef,
}

impl First {
    /// The type of a column.
    pub(super) fn data_type(&self, name: &str) -> Option<&DataType> {
        self.stored.column_with_name(name).map(|(_, field)| field.data_type())
    }
}

/// Rows as a decoder gave them, and where they came from.
pub(super) struct Decoded {
    /// Columns in the wanted order.
    pub(super) batch: RecordBatch,
    /// The number of the first row, from 1.
    pub(super) first_row: u64,
    /// Where numbers count from, when not from the start of the object.
    pub(super) counted_from: Option<u64>,
}

impl Decoded {
    fn row(&self, index: usize) -> String {
        let row = self.first_row + index as u64;
        match self.counted_from {
            None => format!("row {row}"),
            Some(byte) => format!("row {row} from byte {byte}"),
        }
    }
}

impl Wanted {
    pub(super) fn new(source: &TableSource) -> Result<Self, Problem> {
        let filter = source.filter.as_deref().map(Filter::parse).transpose()?;
        let wanted = Self::of(source.columns.clone(), source.declared.as_deref(), filter)?;
        Ok(Self { schema: source.schema, ..wanted })
    }

    /// What a function declares, and nothing else; all when it declares nothing.
    pub(super) fn declared_by(declared: Option<Vec<Column>>) -> Result<Self, Problem> {
        Self::of(None, declared.as_deref(), None)
    }

    fn of(
        chosen: Option<Vec<String>>,
        by_function: Option<&[Column]>,
        filter: Option<Filter>,
    ) -> Result<Self, Problem> {
        let mut declared = BTreeMap::new();
        for column in by_function.into_iter().flatten() {
            let data_type = DataType::from_str(&column.data_type).map_err(|_| {
                let detail = format!(
                    "the type that the function declares for column {} must be an Arrow type such as Int64, found {}",
                    quote(&column.name),
                    quote(&column.data_type)
                );
                Problem::new(ErrorKind::SchemaMismatch, detail)
            })?;
            check_width(&data_type).map_err(|refusal| {
                let detail =
                    format!("the function must declare for column {} {refusal}", quote(&column.name));
                Problem::new(ErrorKind::SchemaMismatch, detail)
            })?;
            declared.insert(column.name.clone(), Declared { data_type, nullable: column.nullable });
        }
        let of_function = || by_function.map(|d| d.iter().map(|c| c.name.clone()).collect());
        let mut names: Option<Vec<String>> = chosen.or_else(of_function);
        let shown = names.as_ref().map(Vec::len);
        if let Some(names) = &mut names {
            check_names(names, &declared)?;
            let filtered = filter.iter().flat_map(Filter::columns);
            let hidden: Vec<_> =
                filtered.filter(|name| names.iter().all(|n| n != name)).map(str::to_owned).collect();
            names.extend(hidden);
        }
        Ok(Self { names, shown, filter, declared, schema: SchemaRule::Same })
    }

    /// The filter over columns that are stored like this.
    pub(super) fn filter(&self, schema: &Schema) -> Result<Option<RowFilter>, Problem> {
        let shifts = |name: &str| {
            self.declared.get(name).is_some_and(|declared| Kind::shifts(&declared.data_type.to_string()))
        };
        self.filter.as_ref().map(|filter| RowFilter::new(filter, schema, shifts)).transpose()
    }

    /// The columns of a schema that the caller gets.
    pub(super) fn shown(&self, schema: &SchemaRef) -> SchemaRef {
        match self.shown {
            Some(shown) if shown < schema.fields().len() => {
                Arc::new(Schema::new(schema.fields().iter().take(shown).cloned().collect::<Vec<_>>()))
            }
            _ => Arc::clone(schema),
        }
    }

    /// Whether objects may lack columns of the table.
    pub(super) fn unites(&self) -> bool {
        self.schema == SchemaRule::Union
    }

    /// The declared type of a column.
    pub(super) fn declared(&self, name: &str) -> Option<&Declared> {
        self.declared.get(name)
    }

    /// The wanted columns as the function declares them, where it does.
    pub(super) fn declared_schema(&self) -> Schema {
        let field = |name: &String| {
            let declared = self.declared.get(name)?;
            Some(Field::new(name, declared.data_type.clone(), declared.nullable))
        };
        Schema::new(self.names.iter().flatten().filter_map(field).collect::<Vec<_>>())
    }

    /// The wanted columns of an object that says nothing of them, where it need not: another one has settled them, or
    /// the function declares them all.
    pub(super) fn of_nothing(&self, first: Option<&First>) -> Option<SchemaRef> {
        if let Some(first) = first {
            return Some(Arc::clone(&first.stored));
        }
        let names = self.names.as_ref().filter(|_| self.is_declared())?;
        let field = |name: &String| {
            let declared = self.declared.get(name)?;
            Some(Field::new(name, shape::plain_type(&declared.data_type), true))
        };
        Some(Arc::new(Schema::new(names.iter().filter_map(field).collect::<Vec<_>>())))
    }

    /// Whether the function declares the type of every wanted column.
    pub(super) fn is_declared(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.iter().all(|name| self.declared.contains_key(name)))
    }

    /// Whether the sample of the slice's object has nothing to say: its records are not in the slice,
    /// of which it would tell those that are malformed, and types are declared.
    pub(super) fn needs_no_sample(&self, slice: &Slice) -> bool {
        slice.bytes.is_some_and(|bytes| bytes.start >= SAMPLE_BYTES as u64) && self.is_declared()
    }

    /// The wanted columns by name; `None` for all.
    pub(super) fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// Where the wanted columns are among those that an object has, in the
    /// wanted order.
    pub(super) fn resolve(
        &self,
        uri: &str,
        available: &[&str],
        first: Option<&First>,
    ) -> Result<Vec<usize>, Problem> {
        self.check_once(uri, available)?;
        if self.unites() {
            return self.resolve_some(uri, available, first);
        }
        if let Some(filter) = &self.filter {
            filter.check_columns(available).map_err(|problem| problem.within(uri))?;
        }
        let position = |name: &str| available.iter().position(|a| *a == name);
        match (&self.names, first) {
            (Some(names), _) => names
                .iter()
                .map(|name| position(name).ok_or_else(|| not_found(uri, name, available)))
                .collect(),
            (None, None) => Ok((0..available.len()).collect()),
            (None, Some(first)) => {
                let expected = first.stored.fields();
                if let Some(extra) =
                    available.iter().find(|name| first.stored.column_with_name(name).is_none())
                {
                    return Err(mismatch(uri, extra, &first.uri, "which has no such column"));
                }
                let place = |f: &Arc<Field>| {
                    position(f.name())
                        .ok_or_else(|| mismatch(uri, f.name(), &first.uri, "which has this column"))
                };
                expected.iter().map(place).collect()
            }
        }
    }

    /// Refuses an object of which a wanted name means two columns: one of them would be
    /// taken for both.
    fn check_once(&self, uri: &str, available: &[&str]) -> Result<(), Problem> {
        let mut sorted = available.to_vec();
        sorted.sort_unstable();
        let is_wanted = |name: &str| self.names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        match sorted.windows(2).find(|pair| pair[0] == pair[1] && is_wanted(pair[0])) {
            Some(pair) => Err(Problem::new(
                ErrorKind::SchemaMismatch,
                format!("{uri} must name each column once, found column {} twice", quote(pair[0])),
            )),
            None => Ok(()),
        }
    }

    /// The same where objects may lack columns that need no value.
    fn resolve_some(
        &self,
        uri: &str,
        available: &[&str],
        first: Option<&First>,
    ) -> Result<Vec<usize>, Problem> {
        let names: Vec<&str> = match (&self.names, first) {
            (Some(names), _) => names.iter().map(String::as_str).collect(),
            (None, Some(first)) => {
                if let Some(extra) = available.iter().find(|name| first.data_type(name).is_none()) {
                    let detail = format!(
                        "column {} of {uri} must be met in the beginning of an object, found it in none; name the \
                         columns to read",
                        quote(extra)
                    );
                    return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
                }
                first.stored.fields().iter().map(|f| f.name().as_str()).collect()
            }
            (None, None) => available.to_vec(),
        };
        let needed = |name: &&&str| self.declared.get(**name).is_some_and(|declared| !declared.nullable);
        match names.iter().filter(needed).find(|name| !available.contains(name)) {
            Some(name) => Err(not_found(uri, name, available)),
            None => Ok(names.iter().filter_map(|name| available.iter().position(|a| a == name)).collect()),
        }
    }

    /// The columns of a table of objects that may lack some, from those that were
    /// found together.
    pub(super) fn complete(&self, found: Vec<Field>) -> Result<SchemaRef, Problem> {
        let Some(names) = &self.names else { return Ok(Arc::new(Schema::new(found))) };
        let field = |name: &String| match found.iter().find(|field| field.name() == name) {
            Some(field) => Ok(field.clone()),
            None => match self.declared.get(name) {
                Some(declared) => Ok(Field::new(name, shape::plain_type(&declared.data_type), true)),
                None => {
                    let detail = format!(
                        "one object at least must have a column {}, found it in none; choose among the columns that \
                         objects have",
                        quote(name)
                    );
                    Err(Problem::new(ErrorKind::ColumnNotFound, detail))
                }
            },
        };
        let fields = names.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The schema of the table as far as one of its objects tells: all of it,
    /// unless objects may lack columns.
    pub(super) fn table(
        &self,
        uri: &str,
        stored: &Schema,
        first: Option<&First>,
    ) -> Result<SchemaRef, Problem> {
        match first {
            Some(first) if self.unites() => self.schema(&first.uri, &first.stored),
            _ => self.schema(uri, stored),
        }
    }

    /// The schema in which guests get columns that are stored like this.
    pub(super) fn schema(&self, uri: &str, stored: &Schema) -> Result<SchemaRef, Problem> {
        let field = |field: &Arc<Field>| {
            let plain = shape::plain_type(field.data_type());
            let Some(declared) = self.declared.get(field.name()) else {
                return Ok(Field::new(field.name(), plain, true));
            };
            // Arrow would make lists of plain values.
            let nests = declared.data_type.is_nested() && !plain.is_nested();
            if nests || !can_cast_types(&plain, &declared.data_type) {
                let detail = format!(
                    "column {} of {uri} must be readable as {} as the function declares, found {plain}; convert the \
                     table or change the function",
                    quote(field.name()),
                    declared.data_type
                );
                return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
            }
            Ok(Field::new(field.name(), declared.data_type.clone(), declared.nullable))
        };
        let fields = stored.fields().iter().map(field).collect::<Result<Vec<_>, _>>()?;
        let schema = Schema::new(fields);
        fixed::check_rows(&schema)
            .map_err(|refusal| Problem::new(ErrorKind::DecodeLimit, format!("{uri}: {refusal}")))?;
        Ok(Arc::new(schema))
    }

    /// Checks that another object's columns have the types of the first one's,
    /// where the function does not say what they are to be.
    pub(super) fn check_same(&self, uri: &str, stored: &Schema, first: &First) -> Result<(), Problem> {
        for found in stored.fields() {
            let Some(expected) = first.data_type(found.name()) else { continue };
            let plain = shape::plain_type(found.data_type());
            let fits = match self.schema {
                SchemaRule::Same => plain == *expected,
                SchemaRule::Union => union::common(&plain, expected, false).as_ref() == Some(expected),
            };
            if !fits && !self.declared.contains_key(found.name()) {
                let detail = format!(
                    "column {} of {uri} must be {expected} as in {}, found {plain}; read the objects separately or \
                     declare the column's type in the function",
                    quote(found.name()),
                    first.uri
                );
                return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
            }
        }
        Ok(())
    }

    /// The rows of one piece of a decoded batch that pass the filter, as the caller
    /// gets them. `schema` has all wanted columns; `index` is the place of the
    /// piece's first row in the batch.
    pub(super) fn fit(
        &self,
        uri: &str,
        schema: &SchemaRef,
        filter: Option<&RowFilter>,
        decoded: &Decoded,
        index: usize,
        piece: &RecordBatch,
    ) -> Result<RecordBatch, Problem> {
        let mut piece = shape::plain(piece).map_err(|p| p.within(uri))?;
        if self.unites() {
            piece = union::fill(&piece, schema).map_err(|p| p.within(uri))?;
        }
        // Where the rows that are left stood in the piece; `None` while all are there.
        let mut kept: Option<Vec<usize>> = None;
        let place = |kept: &Option<Vec<usize>>, column: &str, row: usize| {
            let row = kept.as_ref().and_then(|kept| kept.get(row)).copied().unwrap_or(row);
            format!("column {} of {uri}, {}", quote(column), decoded.row(index + row))
        };
        let fit = |column: &ArrayRef, field: &Field, kept: &Option<Vec<usize>>| {
            convert(column, field.data_type())
                .map_err(|miss| miss.problem(field.data_type(), |row| place(kept, field.name(), row)))
        };
        if let Some(filter) = filter {
            let read = |at: &usize| fit(piece.column(*at), schema.field(*at), &kept);
            let columns = filter.columns().iter().map(read).collect::<Result<Vec<_>, _>>()?;
            let passing = filter.passing(&columns, piece.num_rows())?;
            if passing.true_count() < piece.num_rows() {
                piece = filter_record_batch(&piece, &passing).map_err(|e| {
                    Problem::new(ErrorKind::Internal, format!("rows could not be selected: {e}"))
                })?;
                kept = Some(passing.values().set_indices().collect());
            }
        }
        let shown = self.shown(schema);
        let mut columns = Vec::with_capacity(shown.fields().len());
        for (column, field) in piece.columns().iter().zip(shown.fields()) {
            let fitted = fit(column, field, &kept)?;
            if !field.is_nullable()
                && fitted.null_count() > 0
                && let Some(row) = (0..fitted.len()).find(|row| fitted.is_null(*row))
            {
                let detail = format!(
                    "{} must have a value, as the function declares the column without missing values, found none or, \
                     in CSV, a text of `csv.nulls`; mend the row, set those texts, or accept missing values",
                    place(&kept, field.name(), row)
                );
                return Err(Problem::new(ErrorKind::NullValue, detail));
            }
            columns.push(fitted);
        }
        shape::assemble(shown, columns, piece.num_rows()).map_err(|p| p.within(uri))
    }
}

fn check_names(names: &[String], declared: &BTreeMap<String, Declared>) -> Result<(), Problem> {
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let detail = format!("columns must name each column once, found {} twice", quote(pair[0]));
        return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
    }
    match declared.keys().find(|name| sorted.binary_search(&name.as_str()).is_err()) {
        Some(name) => Err(Problem::new(
            ErrorKind::ColumnNotFound,
            format!(
                "columns must hold all that the function reads, found no {}; add it to the job's columns: {}",
                quote(name),
                listed(&sorted)
            ),
        )),
        None => Ok(()),
    }
}

fn not_found(uri: &str, name: &str, available: &[&str]) -> Problem {
    let advice = column_advice(available);
    let (name, found) = (quote(name), listed(available));
    let detail = format!("{uri} must have a column {name}, found these: {found}{advice}");
    Problem::new(ErrorKind::ColumnNotFound, detail)
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|n| quote(n)).collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

fn mismatch(uri: &str, column: &str, first: &str, how: &str) -> Problem {
    let detail = format!(
        "all objects of a table must have the same columns, found column {} in only one of {uri} and {first}, {how}; \
         select the columns that both have, or set schema to union",
        quote(column)
    );
    Problem::new(ErrorKind::SchemaMismatch, detail)
}
