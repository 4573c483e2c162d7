// SPDX-License-Identifier: Apache-2.0
//! Objects that are not read as tables: one row each, with the columns `uri`,
//! `size` and `etag`. The function reads them by itself.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray, UInt64Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use fanfold_protocol::{Problem, plan::Slice};

use super::{
    select::{Decoded, First, Wanted},
    shape,
};

/// The row of one object.
pub(super) struct ObjectRow {
    schema: SchemaRef,
    row: Option<RecordBatch>,
}

impl ObjectRow {
    pub(super) fn open(slice: &Slice, wanted: &Wanted, first: Option<&First>) -> Result<Self, Problem> {
        let object = &slice.object;
        let uri = object.uri.to_string();
        let columns: [(&str, DataType, ArrayRef); 3] = [
            ("uri", DataType::Utf8, Arc::new(StringArray::from(vec![uri.as_str()]))),
            ("size", DataType::UInt64, Arc::new(UInt64Array::from(vec![object.pin.size]))),
            ("etag", DataType::Utf8, Arc::new(StringArray::from(vec![object.pin.etag.as_str()]))),
        ];
        let indices = wanted.resolve(&uri, &columns.each_ref().map(|(name, _, _)| *name), first)?;
        let field = |i: &usize| Field::new(columns[*i].0, columns[*i].1.clone(), true);
        let schema = Arc::new(Schema::new(indices.iter().map(field).collect::<Vec<_>>()));
        let values = indices.iter().map(|i| Arc::clone(&columns[*i].2)).collect();
        let row = shape::assemble(Arc::clone(&schema), values, 1)?;
        Ok(Self { schema, row: Some(row) })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn next(&mut self) -> Option<Decoded> {
        self.row.take().map(|batch| Decoded { batch, first_row: 1, counted_from: None })
    }
}
