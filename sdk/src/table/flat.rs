// SPDX-License-Identifier: Apache-2.0
//! Batches of flat columns: numbers, truth values, texts and bytes.
//!
//! It owns the shortest way from a record batch message to arrays, behind
//! [`super::ipc`], which frames messages and leaves nested columns to arrow-ipc. That
//! one walks all offsets of a column of texts with several branches for each; here
//! arrays are made from their parts, whose constructors check the same in two plain
//! loops. Invariant: nothing is copied, and no array is made of a buffer that is
//! shorter than it must be.

use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, StringArray, make_array,
    new_empty_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc;

/// The batch whose buffers lie in `body`; `None` when it is not for this module: a
/// column is nested, compressed or not aligned, or a buffer is not where it should be.
pub(super) fn batch(
    message: ipc::RecordBatch<'_>,
    body: &Buffer,
    schema: &SchemaRef,
) -> Option<Result<RecordBatch, ArrowError>> {
    let (mut nodes, mut buffers) = (message.nodes()?.iter(), message.buffers()?.iter());
    let mut buffer = || {
        let buffer = buffers.next()?;
        let (start, length) =
            (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
        (start.checked_add(length)? <= body.len()).then(|| body.slice_with_length(start, length))
    };
    if message.compression().is_some() {
        return None;
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let (node, validity) = (nodes.next()?, buffer()?);
        let rows = usize::try_from(node.length()).ok()?;
        let nulls = if node.null_count() == 0 {
            None
        } else if validity.len() >= rows.div_ceil(8) {
            Some(NullBuffer::new(BooleanBuffer::new(validity, 0, rows)))
        } else {
            return None;
        };
        columns.push(match column(field.data_type(), rows, nulls, &mut buffer)? {
            Ok(column) => column,
            Err(error) => return Some(Err(error)),
        });
    }
    let options = RecordBatchOptions::new().with_row_count(usize::try_from(message.length()).ok());
    Some(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options))
}

/// A column of so many rows whose buffers are the next ones.
fn column(
    data_type: &DataType,
    rows: usize,
    nulls: Option<NullBuffer>,
    buffer: &mut impl FnMut() -> Option<Buffer>,
) -> Option<Result<ArrayRef, ArrowError>> {
    match data_type {
        DataType::Utf8 | DataType::Binary => {
            let (starts, values) = (buffer()?, buffer()?);
            if rows == 0 {
                return Some(Ok(new_empty_array(data_type)));
            }
            let starts = offsets(starts, rows)?;
            Some(if *data_type == DataType::Utf8 {
                StringArray::try_new(starts, values, nulls).map(|array| Arc::new(array) as ArrayRef)
            } else {
                BinaryArray::try_new(starts, values, nulls).map(|array| Arc::new(array) as ArrayRef)
            })
        }
        flat if flat.is_primitive() || *flat == DataType::Boolean => {
            let data = ArrayData::builder(flat.clone()).len(rows).add_buffer(buffer()?).nulls(nulls);
            Some(data.align_buffers(true).build().map(make_array))
        }
        _ => None,
    }
}

fn offsets(buffer: Buffer, rows: usize) -> Option<OffsetBuffer<i32>> {
    let bytes = rows.checked_add(1)?.checked_mul(size_of::<i32>())?;
    if buffer.len() < bytes || buffer.as_ptr().align_offset(align_of::<i32>()) != 0 {
        return None;
    }
    // Panics where they do not ascend: the host is at fault, and nothing can be done.
    Some(OffsetBuffer::new(ScalarBuffer::new(buffer, 0, rows + 1)))
}
