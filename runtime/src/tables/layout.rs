// SPDX-License-Identifier: Apache-2.0
//! The columns of a table that a function writes: those of its first batch.

use std::{fmt::Display, str::FromStr as _, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef},
};
use fanfold_protocol::{ErrorKind, Problem, function::Column, limits};

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

/// Fails when a function writes other columns than it declares: other names or types, or another order.
/// What may be missing within lists and structs is not looked at, nor are the names that writers give to the items
/// of lists and to the halves of maps.
pub(crate) fn check_declared(declared: &[Column], written: &Schema) -> Result<(), Problem> {
    let same = |(column, field): (&Column, &FieldRef)| {
        column.name == *field.name()
            && DataType::from_str(&column.data_type).is_ok_and(|declared| alike(&declared, field.data_type()))
    };
    let fields = written.fields();
    let differing = declared.iter().zip(fields).position(|pair| !same(pair));
    let shorter = (declared.len() != fields.len()).then_some(declared.len().min(fields.len()));
    let Some(at) = differing.or(shorter) else { return Ok(()) };
    let words = |column: Option<(&str, String)>| {
        column.map_or("none".to_owned(), |(name, data_type)| format!("{} {}", quote(name), quote(&data_type)))
    };
    Err(Problem::new(
        ErrorKind::SchemaMismatch,
        format!(
            "the function must write the columns that it declares, found column {} {} where {} is declared; declare \
             what it writes, or nothing where that depends on the input",
            at + 1,
            words(fields.get(at).map(|field| (field.name().as_str(), field.data_type().to_string()))),
            words(declared.get(at).map(|column| (column.name.as_str(), column.data_type.clone()))),
        ),
    ))
}

fn alike(declared: &DataType, written: &DataType) -> bool {
    use DataType::{FixedSizeList, List, Map, Struct};
    let members = |a: &Fields, b: &Fields| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a.data_type(), b.data_type()))
    };
    match (&shape::plain_type(declared), written) {
        (List(a), List(b)) => alike(a.data_type(), b.data_type()),
        (FixedSizeList(a, n), FixedSizeList(b, m)) => n == m && alike(a.data_type(), b.data_type()),
        (Map(a, _), Map(b, _)) => match (a.data_type(), b.data_type()) {
            (Struct(a), Struct(b)) => members(a, b),
            _ => false,
        },
        (Struct(a), Struct(b)) => members(a, b) && a.iter().zip(b).all(|(a, b)| a.name() == b.name()),
        (declared, written) => declared == written,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_declared() {
        let check = |declared: &[(&str, &str)], written: &[(&str, DataType)], found: Option<&str>| {
            let column = |(name, data_type): &(&str, &str)| Column {
                name: (*name).to_owned(),
                data_type: (*data_type).to_owned(),
                nullable: false,
            };
            let declared: Vec<_> = declared.iter().map(column).collect();
            let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
            let written = Schema::new(written.iter().map(field).collect::<Vec<_>>());
            match (check_declared(&declared, &written), found) {
                (Ok(()), None) => {}
                (Err(problem), Some(found)) => {
                    assert_eq!(problem.code, ErrorKind::SchemaMismatch);
                    assert!(problem.detail.contains(found), "{problem}");
                }
                (checked, found) => panic!("{checked:?}, expected {found:?}"),
            }
        };
        let (id, pd) = (("id", DataType::Int64), ("pd", DataType::Float64));
        let both = [("id", "Int64"), ("pd", "Float64")];
        check(&both, &[id.clone(), pd.clone()], None);
        check(&both, &[pd.clone(), id.clone()], Some("column 1 \"pd\" \"Float64\" where \"id\" \"Int64\""));
        check(&both, std::slice::from_ref(&id), Some("column 2 none where \"pd\""));
        check(&both[..1], &[id.clone(), pd.clone()], Some("column 2 \"pd\" \"Float64\" where none"));
        check(&both[..1], &[("id", DataType::Int32)], Some("\"Int32\" where \"id\" \"Int64\""));
        check(&[], &[], None);
        // What guests write comes in plain types.
        check(&[("id", "LargeUtf8")], &[("id", DataType::Utf8)], None);
        let item = |name: &str, nullable| Arc::new(Field::new(name, DataType::Int64, nullable));
        for item in [item("item", true), item("element", false)] {
            check(&[("id", "List(Int64)")], &[("id", DataType::List(item))], None);
        }
        let text = DataType::new_list(DataType::Utf8, true);
        check(&[("id", "List(Int64)")], &[("id", text)], Some("where \"id\" \"List(Int64)\""));
        let member = |name: &str, data_type| Field::new(name, data_type, false);
        let pair = |key: &str, value: &str, of: DataType| {
            DataType::Struct(vec![member(key, DataType::Utf8), member(value, of)].into())
        };
        let map = |key: &str, value: &str, of: DataType| {
            DataType::Map(Arc::new(member("entries", pair(key, value, of))), false)
        };
        let declared = map("key", "value", DataType::Int64).to_string();
        let declared = [("id", declared.as_str())];
        check(&declared, &[("id", map("keys", "values", DataType::Int64))], None);
        check(&declared, &[("id", map("key", "value", DataType::Int32))], Some("column 1 \"id\""));
        let declared = pair("a", "b", DataType::Int64).to_string();
        let declared = [("id", declared.as_str())];
        check(&declared, &[("id", pair("a", "b", DataType::Int64))], None);
        check(&declared, &[("id", pair("a", "c", DataType::Int64))], Some("column 1 \"id\""));
    }
}
