// SPDX-License-Identifier: Apache-2.0
//! The columns of a table that a function writes: those of its first batch.

use std::{fmt::Display, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
};
use fanfold_protocol::{ErrorKind, Problem, limits};

use super::{guard::quote, shape};

/// What all batches of a table must look like.
pub(super) struct Layout {
    pub(super) schema: SchemaRef,
}

impl Layout {
    /// The layout of a table that begins with a batch of this schema.
    pub(super) fn new(place: &impl Display, schema: &Schema) -> Result<Self, Problem> {
        check_columns(place, schema)?;
        let bare = |f: &Arc<Field>| Field::new(f.name(), f.data_type().clone(), f.is_nullable());
        let mut names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let detail = format!("{place} must name each column once, found {} twice", quote(pair[0]));
            return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
        }
        Ok(Self { schema: Arc::new(Schema::new(schema.fields().iter().map(bare).collect::<Vec<_>>())) })
    }

    /// The batch in the table's schema.
    pub(super) fn conform(&self, place: &impl Display, batch: &RecordBatch) -> Result<RecordBatch, Problem> {
        let found = batch.schema();
        let same =
            |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
        let differs = found.fields().len() != self.schema.fields().len();
        let column = found.fields().iter().zip(self.schema.fields()).position(|pair| !same(pair));
        if differs || column.is_some() {
            let column = column.unwrap_or(found.fields().len().min(self.schema.fields().len()));
            let words = |schema: &Schema| {
                schema
                    .fields()
                    .get(column)
                    .map_or("none".to_owned(), |f| format!("{} {}", quote(f.name()), f.data_type()))
            };
            let detail = format!(
                "all batches of {place} must have the columns of the first one, found column {} {} where {} was",
                column + 1,
                words(&found),
                words(&self.schema)
            );
            return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
        }
        shape::assemble(Arc::clone(&self.schema), batch.columns().to_vec(), batch.num_rows())
            .map_err(|p| p.within(place))
    }
}

/// Bounds the columns, those within others included, and their names: a writer holds
/// something for each, and formats repeat them.
fn check_columns(place: &impl Display, schema: &Schema) -> Result<(), Problem> {
    let refused = |detail: String| Problem::new(ErrorKind::SchemaMismatch, detail).within(place);
    let mut open: Vec<&FieldRef> = schema.fields().iter().collect();
    let mut columns = 0;
    while let Some(field) = open.pop() {
        if field.name().len() > limits::COLUMN_NAME_BYTES_MAX {
            return Err(refused(format!(
                "a column's name must be at most {} bytes, found {} bytes: {}; shorten it",
                limits::COLUMN_NAME_BYTES_MAX,
                field.name().len(),
                quote(field.name())
            )));
        }
        match field.data_type() {
            DataType::List(item) | DataType::FixedSizeList(item, _) | DataType::Map(item, _) => {
                open.push(item)
            }
            DataType::Struct(members) => {
                columns += 1;
                open.extend(members.iter());
            }
            _ => columns += 1,
        }
    }
    if columns <= limits::COLUMNS_MAX {
        return Ok(());
    }
    Err(refused(format!(
        "a table must have at most {} columns, found {columns} with those within structs; write several tables",
        limits::COLUMNS_MAX
    )))
}
