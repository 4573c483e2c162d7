// SPDX-License-Identifier: Apache-2.0
//! Fields of rows: which Rust types stand for which Arrow types.
//!
//! It owns the typed reading and writing of one column. [`Scalar`] is one value;
//! [`Field`] adds `Option` on top of it. `#[derive(Row)]` calls these with
//! everything known at compile time. Invariant: `bind` does all checks of a
//! column, so that `value` is an index and nothing else.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, BooleanBuilder, PrimitiveArray,
    PrimitiveBuilder, StringArray, StringBuilder,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::{Column, Date, Timestamp, unfit};
use crate::Result;

/// A value that a column can hold, never missing.
#[diagnostic::on_unimplemented(
    message = "a field of a row cannot be `{Self}`",
    label = "no column can hold this",
    note = "use bool, u8 to u64, i8 to i64, f32, f64, String, Vec<u8>, Date, Timestamp, or an Option of one of them",
    note = "of such a field make a type of your own in the function; for lists, structs and decimals take a `RecordBatch`"
)]
pub trait Scalar: Sized {
    /// The Arrow type as the contract writes it.
    const DATA_TYPE: &'static str;
    /// The column downcast.
    type Column<'batch>: Copy;
    /// The value as it is read.
    type Value<'batch>;
    /// A growing column.
    type Builder;

    /// The Arrow type.
    fn arrow_type() -> DataType;
    /// Downcasts an array; `None` when it is of another type.
    fn downcast(array: &dyn Array) -> Option<Self::Column<'_>>;
    /// The value of a row; of no meaning where the row is null.
    fn get<'batch>(column: &Self::Column<'batch>, row: usize) -> Self::Value<'batch>;
    /// An empty column with room for `rows` values.
    fn builder(rows: usize) -> Self::Builder;
    /// Appends a value.
    fn push(builder: &mut Self::Builder, value: Self::Value<'_>);
    /// Appends a missing value.
    fn push_null(builder: &mut Self::Builder);
    /// Bytes of the values so far, offsets and marks of missing ones not counted.
    fn bytes(builder: &Self::Builder) -> usize;
    /// Ends the column.
    fn finish(builder: Self::Builder) -> ArrayRef;
}

/// A type that a field of a row may have.
#[diagnostic::on_unimplemented(
    message = "a field of a row cannot be `{Self}`",
    label = "no column can hold this",
    note = "use bool, u8 to u64, i8 to i64, f32, f64, String, Vec<u8>, Date, Timestamp, or an Option of one of them",
    note = "of such a field make a type of your own in the function; for lists, structs and decimals take a `RecordBatch`"
)]
pub trait Field: Sized {
    /// The Arrow type as the contract writes it.
    const DATA_TYPE: &'static str;
    /// Whether missing values are accepted.
    const NULLABLE: bool;
    /// The column, checked and downcast.
    type Column<'batch>: Copy;
    /// The value as it is read.
    type Value<'batch>;
    /// A growing column.
    type Builder;

    /// The Arrow type.
    fn arrow_type() -> DataType;

    /// Downcasts the array of a column, which [`super::locate`] found.
    ///
    /// # Errors
    ///
    /// `column-type` when the array is of another type.
    fn bind<'batch>(array: &'batch dyn Array, column: &Column) -> Result<Self::Column<'batch>>;

    /// The value of a row; panics beyond the column's end.
    fn value<'batch>(column: &Self::Column<'batch>, row: usize) -> Self::Value<'batch>;

    /// An empty column with room for `rows` values.
    fn builder(rows: usize) -> Self::Builder;

    /// Appends a value.
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>);

    /// Bytes of the values so far, offsets and marks of missing ones not counted.
    fn bytes(builder: &Self::Builder) -> usize;

    /// Ends the column.
    fn finish(builder: Self::Builder) -> ArrayRef;
}

impl<S: Scalar> Field for S {
    const DATA_TYPE: &'static str = S::DATA_TYPE;
    const NULLABLE: bool = false;
    type Column<'batch> = S::Column<'batch>;
    type Value<'batch> = S::Value<'batch>;
    type Builder = S::Builder;

    fn arrow_type() -> DataType {
        S::arrow_type()
    }

    fn bind<'batch>(array: &'batch dyn Array, column: &Column) -> Result<Self::Column<'batch>> {
        S::downcast(array).ok_or_else(|| unfit(column, array.data_type()))
    }

    #[inline]
    fn value<'batch>(column: &Self::Column<'batch>, row: usize) -> Self::Value<'batch> {
        S::get(column, row)
    }

    fn builder(rows: usize) -> Self::Builder {
        S::builder(rows)
    }

    #[inline]
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
        S::push(builder, value);
    }

    fn bytes(builder: &Self::Builder) -> usize {
        S::bytes(builder)
    }

    fn finish(builder: Self::Builder) -> ArrayRef {
        S::finish(builder)
    }
}

impl<S: Scalar> Field for Option<S> {
    const DATA_TYPE: &'static str = S::DATA_TYPE;
    const NULLABLE: bool = true;
    type Column<'batch> = (S::Column<'batch>, Option<&'batch NullBuffer>);
    type Value<'batch> = Option<S::Value<'batch>>;
    type Builder = S::Builder;

    fn arrow_type() -> DataType {
        S::arrow_type()
    }

    fn bind<'batch>(array: &'batch dyn Array, column: &Column) -> Result<Self::Column<'batch>> {
        Ok((<S as Field>::bind(array, column)?, array.nulls()))
    }

    #[inline]
    fn value<'batch>((column, nulls): &Self::Column<'batch>, row: usize) -> Self::Value<'batch> {
        match nulls {
            Some(nulls) if nulls.is_null(row) => None,
            _ => Some(S::get(column, row)),
        }
    }

    fn builder(rows: usize) -> Self::Builder {
        S::builder(rows)
    }

    #[inline]
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
        match value {
            Some(value) => S::push(builder, value),
            None => S::push_null(builder),
        }
    }

    fn bytes(builder: &Self::Builder) -> usize {
        S::bytes(builder)
    }

    fn finish(builder: Self::Builder) -> ArrayRef {
        S::finish(builder)
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<&[T::Native]> {
    array.as_any().downcast_ref::<PrimitiveArray<T>>().map(|array| array.values().as_ref())
}

/// `bool`, text and bytes differ from numbers in how their arrays are built;
/// numbers differ from each other only in names. The arms say how a native
/// value becomes the field's and back.
macro_rules! primitive_scalar {
    ($($rust:ty, $arrow:ty, $name:literal, $wrap:expr, $unwrap:expr;)*) => {$(
        impl Scalar for $rust {
            const DATA_TYPE: &'static str = $name;
            type Column<'batch> = &'batch [<$arrow as ArrowPrimitiveType>::Native];
            type Value<'batch> = Self;
            type Builder = PrimitiveBuilder<$arrow>;

            fn arrow_type() -> DataType {
                <$arrow as ArrowPrimitiveType>::DATA_TYPE
            }

            fn downcast(array: &dyn Array) -> Option<Self::Column<'_>> {
                primitive::<$arrow>(array)
            }

            #[inline]
            fn get<'batch>(column: &Self::Column<'batch>, row: usize) -> Self::Value<'batch> {
                $wrap(column[row])
            }

            fn builder(rows: usize) -> Self::Builder {
                PrimitiveBuilder::with_capacity(rows)
            }

            #[inline]
            fn push(builder: &mut Self::Builder, value: Self) {
                builder.append_value($unwrap(value));
            }

            fn push_null(builder: &mut Self::Builder) {
                builder.append_null();
            }

            fn bytes(builder: &Self::Builder) -> usize {
                size_of_val(builder.values_slice())
            }

            fn finish(mut builder: Self::Builder) -> ArrayRef {
                Arc::new(builder.finish())
            }
        }
    )*};
}

use std::convert::identity as same;

primitive_scalar! {
    u8, UInt8Type, "UInt8", same, same;
    u16, UInt16Type, "UInt16", same, same;
    u32, UInt32Type, "UInt32", same, same;
    u64, UInt64Type, "UInt64", same, same;
    i8, Int8Type, "Int8", same, same;
    i16, Int16Type, "Int16", same, same;
    i32, Int32Type, "Int32", same, same;
    i64, Int64Type, "Int64", same, same;
    f32, Float32Type, "Float32", same, same;
    f64, Float64Type, "Float64", same, same;
    Date, Date32Type, "Date32", Date, |date: Date| date.0;
    Timestamp, TimestampMicrosecondType, "Timestamp(Microsecond, None)", Timestamp, |moment: Timestamp| moment.0;
}

/// `bool` and what varies in length: the array itself is the column.
macro_rules! array_scalar {
    ($batch:lifetime: $($rust:ty, $value:ty, $array:ty, $builder:ty, $type:ident, $new:expr, $get:expr;)*) => {$(
        impl Scalar for $rust {
            const DATA_TYPE: &'static str = stringify!($type);
            type Column<$batch> = &$batch $array;
            type Value<$batch> = $value;
            type Builder = $builder;

            fn arrow_type() -> DataType {
                DataType::$type
            }

            fn downcast(array: &dyn Array) -> Option<Self::Column<'_>> {
                array.as_any().downcast_ref()
            }

            #[inline]
            fn get<$batch>(column: &Self::Column<$batch>, row: usize) -> Self::Value<$batch> {
                #[allow(clippy::redundant_closure_call)]
                $get(column.value(row))
            }

            fn builder(rows: usize) -> Self::Builder {
                #[allow(clippy::redundant_closure_call)]
                $new(rows)
            }

            #[inline]
            fn push(builder: &mut Self::Builder, value: Self::Value<'_>) {
                builder.append_value(value);
            }

            fn push_null(builder: &mut Self::Builder) {
                builder.append_null();
            }

            fn bytes(builder: &Self::Builder) -> usize {
                size_of_val(builder.values_slice())
            }

            fn finish(mut builder: Self::Builder) -> ArrayRef {
                Arc::new(builder.finish())
            }
        }
    )*};
}

/// Room for text and bytes, by a guess of 16 bytes a value.
const VALUE_BYTES_GUESS: usize = 16;

fn text(rows: usize) -> StringBuilder {
    StringBuilder::with_capacity(rows, rows * VALUE_BYTES_GUESS)
}

fn bytes(rows: usize) -> BinaryBuilder {
    BinaryBuilder::with_capacity(rows, rows * VALUE_BYTES_GUESS)
}

array_scalar! {
    'batch:
    bool, bool, BooleanArray, BooleanBuilder, Boolean, BooleanBuilder::with_capacity, same;
    String, String, StringArray, StringBuilder, Utf8, text, str::to_owned;
    &'static str, &'batch str, StringArray, StringBuilder, Utf8, text, same;
    Vec<u8>, Vec<u8>, BinaryArray, BinaryBuilder, Binary, bytes, <[u8]>::to_vec;
    &'static [u8], &'batch [u8], BinaryArray, BinaryBuilder, Binary, bytes, same;
}
