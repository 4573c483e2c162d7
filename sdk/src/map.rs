// SPDX-License-Identifier: Apache-2.0
//! The map kind of function: rows in, rows out.
//!
//! It owns the loop between a table being read and one being written, around
//! the author's function. `#[fanfold::map]` implements [`Mapper`] on a type of
//! the function's own name, in terms of [`map_rows`] or [`map_batches`].
//! Invariant: output follows the order of the input, and holds at least one
//! batch, so that a table without rows still has columns. What columns a map of
//! batches makes only it knows, so that it is called with a batch without rows where
//! there is no other.

use arrow::array::RecordBatch;

use crate::row::{OwnedRow, Row, RowBuffer};
use crate::table::{BatchSink, BatchSource, Description};
use crate::{Error, Result};

/// A function that maps tables; made by `#[fanfold::map]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no map",
    note = "write `#[fanfold::map]` above `fn {Self}`"
)]
pub trait Mapper {
    /// What it reads and writes.
    fn describe() -> Description;

    /// Reads all of `input` and writes what comes of it to `output`.
    ///
    /// # Errors
    ///
    /// Those of the input, of the output, and the function's own.
    fn map(input: &mut dyn BatchSource, output: &mut dyn BatchSink) -> Result<()>;
}

/// What a map may return for a row: a row, an `Option` or a `Vec` of rows, or a
/// `Result` of one of them; a map of batches returns a batch, or a `Result` of
/// one.
#[diagnostic::on_unimplemented(
    message = "a map cannot return `{Self}`",
    label = "not the output of a map",
    note = "return a row (a struct with `#[derive(Row)]`), an `Option` or a `Vec` of rows, or a `RecordBatch`, each with or without `Result`",
    note = "the error of a `Result` must become an `Error` by `?`; make one of any other by `.map_err(|error| Error::msg(error.to_string()))`"
)]
pub trait MapOutput {
    /// Where it is gathered.
    #[doc(hidden)]
    type Gathered: Gathered;

    /// The columns it has, if they are known.
    #[doc(hidden)]
    fn writes() -> Option<&'static [crate::row::Column]>;

    /// Adds it to what was gathered, and writes what should not wait.
    #[doc(hidden)]
    fn gather(self, gathered: &mut Self::Gathered, output: &mut dyn BatchSink) -> Result<()>;
}

/// Output on its way into a table.
#[doc(hidden)]
pub trait Gathered: Default {
    /// Writes all that is left.
    fn finish(&mut self, output: &mut dyn BatchSink) -> Result<()>;
}

/// Rows, gathered into batches.
#[doc(hidden)]
pub struct GatheredRows<R: Row>(RowBuffer<R>);

/// Batches, each of which is written at once.
#[doc(hidden)]
#[derive(Default)]
pub struct GatheredBatch;

impl<R: Row> Default for GatheredRows<R> {
    fn default() -> Self {
        Self(RowBuffer::default())
    }
}

impl<R: Row> Gathered for GatheredRows<R> {
    fn finish(&mut self, output: &mut dyn BatchSink) -> Result<()> {
        self.0.finish(output)
    }
}

impl Gathered for GatheredBatch {
    fn finish(&mut self, _output: &mut dyn BatchSink) -> Result<()> {
        Ok(())
    }
}

impl<R: OwnedRow> MapOutput for R {
    type Gathered = GatheredRows<R>;

    fn writes() -> Option<&'static [crate::row::Column]> {
        Some(R::columns())
    }

    #[inline]
    fn gather(self, gathered: &mut Self::Gathered, output: &mut dyn BatchSink) -> Result<()> {
        gathered.0.push(self);
        gathered.0.flush_full(output)
    }
}

impl<R: OwnedRow> MapOutput for Option<R> {
    type Gathered = GatheredRows<R>;

    fn writes() -> Option<&'static [crate::row::Column]> {
        Some(R::columns())
    }

    #[inline]
    fn gather(self, gathered: &mut Self::Gathered, output: &mut dyn BatchSink) -> Result<()> {
        self.into_iter().try_for_each(|row| row.gather(gathered, output))
    }
}

impl<R: OwnedRow> MapOutput for Vec<R> {
    type Gathered = GatheredRows<R>;

    fn writes() -> Option<&'static [crate::row::Column]> {
        Some(R::columns())
    }

    #[inline]
    fn gather(self, gathered: &mut Self::Gathered, output: &mut dyn BatchSink) -> Result<()> {
        self.into_iter().try_for_each(|row| row.gather(gathered, output))
    }
}

impl MapOutput for RecordBatch {
    type Gathered = GatheredBatch;

    fn writes() -> Option<&'static [crate::row::Column]> {
        None
    }

    fn gather(self, _gathered: &mut Self::Gathered, output: &mut dyn BatchSink) -> Result<()> {
        output.write(&self)
    }
}

impl<T: MapOutput, E: Into<Error>> MapOutput for std::result::Result<T, E> {
    type Gathered = T::Gathered;

    fn writes() -> Option<&'static [crate::row::Column]> {
        T::writes()
    }

    #[inline]
    fn gather(self, gathered: &mut Self::Gathered, output: &mut dyn BatchSink) -> Result<()> {
        self.map_err(Into::into)?.gather(gathered, output)
    }
}

/// The description of a map of rows `R` that returns `O`.
#[doc(hidden)]
pub fn describe_rows<R: Row, O: MapOutput>() -> Description {
    Description { reads: Some(R::columns()), writes: O::writes() }
}

/// Runs `function` on each row.
#[doc(hidden)]
pub fn map_rows<R: Row, O: MapOutput>(
    input: &mut dyn BatchSource,
    output: &mut dyn BatchSink,
    mut function: impl for<'batch> FnMut(R::View<'batch>) -> O,
) -> Result<()> {
    let mut gathered = O::Gathered::default();
    let mut read = 0;
    while let Some(batch) = input.next()? {
        let columns = R::bind(&batch, read)?;
        for row in 0..batch.num_rows() {
            function(R::view(&columns, row)).gather(&mut gathered, output)?;
        }
        read += batch.num_rows() as u64;
    }
    gathered.finish(output)
}

/// Runs `function` on each batch, or on one without rows.
#[doc(hidden)]
pub fn map_batches<O: MapOutput>(
    input: &mut dyn BatchSource,
    output: &mut dyn BatchSink,
    mut function: impl FnMut(RecordBatch) -> O,
) -> Result<()> {
    let mut gathered = O::Gathered::default();
    let mut called = false;
    while let Some(batch) = input.next()? {
        function(batch).gather(&mut gathered, output)?;
        called = true;
    }
    if !called {
        function(RecordBatch::new_empty(input.schema()?)).gather(&mut gathered, output)?;
    }
    gathered.finish(output)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

    use super::*;

    struct Input(SchemaRef, std::vec::IntoIter<RecordBatch>);

    impl BatchSource for Input {
        fn schema(&mut self) -> Result<SchemaRef> {
            Ok(Arc::clone(&self.0))
        }

        fn next(&mut self) -> Result<Option<RecordBatch>> {
            Ok(self.1.next())
        }
    }

    struct Output(Vec<RecordBatch>);

    impl BatchSink for Output {
        fn write(&mut self, batch: &RecordBatch) -> Result<()> {
            self.0.push(batch.clone());
            Ok(())
        }
    }

    #[test]
    fn a_map_of_batches_shows_its_columns_without_rows() {
        let schema = |name: &str| Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, true)]));
        let batch = |rows: Vec<i64>| {
            RecordBatch::try_new(schema("read"), vec![Arc::new(Int64Array::from(rows))]).unwrap()
        };
        for (batches, rows) in [(vec![], vec![0]), (vec![batch(vec![1, 2]), batch(vec![3])], vec![2, 1])] {
            let (mut input, mut output) = (Input(schema("read"), batches.into_iter()), Output(Vec::new()));
            map_batches(&mut input, &mut output, |batch: RecordBatch| -> Result<RecordBatch> {
                Ok(RecordBatch::try_new(schema("written"), batch.columns().to_vec())?)
            })
            .unwrap();
            assert_eq!(output.0.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), rows);
            assert!(output.0.iter().all(|batch| batch.schema() == schema("written")));
        }
    }
}
