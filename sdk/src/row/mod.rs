// SPDX-License-Identifier: Apache-2.0
//! Rows: structs that stand for the columns of a table.
//!
//! It owns the two ways between a batch of columns and an author's struct, for
//! `#[derive(Row)]`. A batch is bound once: each column is found by name and
//! downcast to its typed array; after that reading a row is plain indexing,
//! without dynamic dispatch. Invariant: a missing value never reaches a field
//! that is not an `Option`.

mod builder;
mod field;
mod time;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};

pub(crate) use builder::{BATCH_BYTES, BATCH_ROWS, RowBuffer};
pub use field::{Field, Scalar};
pub use time::{Date, Timestamp};

use crate::{Error, Result};

/// One column of a row type.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The column's name, matched exactly.
    pub name: &'static str,
    /// Its Arrow type, as the contract writes it: `Int64`, `Utf8`.
    pub data_type: &'static str,
    /// Whether missing values are accepted.
    pub nullable: bool,
    arrow_type: fn() -> DataType,
}

impl Column {
    /// The column that a field of type `F` stands for.
    pub const fn of<F: Field>(name: &'static str) -> Self {
        Self { name, data_type: F::DATA_TYPE, nullable: F::NULLABLE, arrow_type: F::arrow_type }
    }

    /// The column's type as Arrow's own value.
    pub fn arrow_type(&self) -> DataType {
        (self.arrow_type)()
    }
}

/// A struct that stands for the columns of a table; made by `#[derive(Row)]`.
///
/// Fields are `bool`, `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, `String`,
/// `Vec<u8>`, [`Date`], [`Timestamp`], or an `Option` of one of them. A struct
/// that is only read may borrow from the batch instead of copying:
/// `struct Customer<'a> { name: &'a str }`.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[derive(Row)]
/// struct Customer { id: u64, #[row(rename = "income EUR")] income: Option<f64> }
///
/// let columns = Customer::columns();
/// assert_eq!((columns[0].name, columns[0].data_type, columns[0].nullable), ("id", "UInt64", false));
/// assert_eq!((columns[1].name, columns[1].data_type, columns[1].nullable), ("income EUR", "Float64", true));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no row",
    label = "not a row",
    note = "write `#[derive(Row)]` above `struct {Self}`"
)]
pub trait Row: Sized {
    /// The row as it is read: the struct itself, with its lifetime, if it has
    /// one, that of the batch.
    type View<'batch>;
    /// A batch's columns, found and downcast.
    type Columns<'batch>;
    /// A growing column for each field.
    type Builders;

    /// The columns, in the order of the fields.
    fn columns() -> &'static [Column];

    /// Finds and downcasts the columns of a batch whose first row is row
    /// `first_row` of the table.
    ///
    /// # Errors
    ///
    /// `column-not-found`, `column-type` and `null-value`.
    fn bind(batch: &RecordBatch, first_row: u64) -> Result<Self::Columns<'_>>;

    /// One row of a bound batch; panics beyond its end.
    fn view<'batch>(columns: &Self::Columns<'batch>, row: usize) -> Self::View<'batch>;

    /// Empty columns with room for `rows` rows.
    fn builders(rows: usize) -> Self::Builders;

    /// Appends a row to the columns.
    fn append(builders: &mut Self::Builders, row: Self::View<'_>);

    /// Bytes of the values so far, offsets and marks of missing ones not counted.
    fn bytes(builders: &Self::Builders) -> usize;

    /// The columns' arrays, in the order of the fields.
    fn finish(builders: Self::Builders) -> Vec<ArrayRef>;

    /// The rows of a batch, one after the other.
    ///
    /// # Errors
    ///
    /// As [`Row::bind`].
    fn rows(batch: &RecordBatch) -> Result<impl Iterator<Item = Self::View<'_>>> {
        let columns = Self::bind(batch, 0)?;
        Ok((0..batch.num_rows()).map(move |row| Self::view(&columns, row)))
    }

    /// A batch made of rows.
    ///
    /// # Errors
    ///
    /// None for a derived row.
    fn batch<'rows>(rows: impl IntoIterator<Item = Self::View<'rows>>) -> Result<RecordBatch> {
        let rows = rows.into_iter();
        let mut builders = Self::builders(rows.size_hint().0);
        rows.for_each(|row| Self::append(&mut builders, row));
        finish_columns::<Self>(builders)
    }

    /// The Arrow schema of the columns.
    fn schema() -> SchemaRef {
        let field = |c: &Column| ArrowField::new(c.name, c.arrow_type(), c.nullable);
        Schema::new(Self::columns().iter().map(field).collect::<Vec<_>>()).into()
    }
}

/// A row that borrows nothing from its batch.
pub trait OwnedRow: for<'batch> Row<View<'batch> = Self> + 'static {}

impl<R> OwnedRow for R where R: for<'batch> Row<View<'batch> = R> + 'static {}

/// Ends the columns and joins them into a batch.
#[doc(hidden)]
pub fn finish_columns<R: Row>(builders: R::Builders) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(R::schema(), R::finish(builders))?)
}

/// Finds a column by name, and refuses nulls where none may be.
#[doc(hidden)]
pub fn locate<'batch>(
    batch: &'batch RecordBatch,
    column: &Column,
    first_row: u64,
) -> Result<&'batch dyn Array> {
    let Some(array) = batch.column_by_name(column.name) else {
        return Err(missing(batch, column));
    };
    if column.nullable || array.null_count() == 0 {
        return Ok(array.as_ref());
    }
    let row = (0..array.len()).find(|&row| array.is_null(row)).unwrap_or_default();
    Err(Error::new(
        "null-value",
        format!(
            "column `{}` must have a value in every row, found none in row {}; \
             make the field an Option, or filter such rows out",
            column.name,
            first_row + row as u64,
        ),
    ))
}

fn missing(batch: &RecordBatch, column: &Column) -> Error {
    let schema = batch.schema();
    let found: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    Error::new(
        "column-not-found",
        format!(
            "expected a column `{}`, found {}; name the field as the column, or use #[row(rename = \"…\")]",
            column.name,
            if found.is_empty() { "no columns".to_owned() } else { found.join(", ") },
        ),
    )
}

/// What a column of another type than its field's is told.
pub(crate) fn unfit(column: &Column, found: &DataType) -> Error {
    Error::new(
        "column-type",
        format!(
            "column `{}` must be {}, found {found}; change the field's type, or convert the column",
            column.name, column.data_type,
        ),
    )
}
