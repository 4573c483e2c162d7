// SPDX-License-Identifier: Apache-2.0
//! Integers of JSON, strictly.
//!
//! arrow-json drops the fraction of a number that is wanted as an integer; the
//! decoders made here refuse it. They serve integers at any depth.

use std::{fmt::Debug, sync::Arc};

use arrow::{
    array::{ArrayRef, ArrowPrimitiveType, PrimitiveBuilder},
    datatypes::{
        DataType, FieldRef, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
        UInt64Type,
    },
    error::ArrowError,
    json::reader::{ArrayDecoder, DecoderContext, DecoderFactory, Tape, TapeElement},
};

use fanfold_protocol::stored::value;

/// Makes decoders of integers; leaves other types to arrow-json.
#[derive(Debug)]
pub(super) struct StrictIntegers;

impl DecoderFactory for StrictIntegers {
    fn make_default_decoder(
        &self,
        _: &DecoderContext,
        field: &FieldRef,
        _: bool,
    ) -> Result<Option<Box<dyn ArrayDecoder>>, ArrowError> {
        Ok(Some(match field.data_type() {
            DataType::Int8 => signed::<Int8Type>(),
            DataType::Int16 => signed::<Int16Type>(),
            DataType::Int32 => signed::<Int32Type>(),
            DataType::Int64 => signed::<Int64Type>(),
            DataType::UInt8 => signed::<UInt8Type>(),
            DataType::UInt16 => signed::<UInt16Type>(),
            DataType::UInt32 => signed::<UInt32Type>(),
            DataType::UInt64 => Box::new(Integers::<UInt64Type> { parse: value::unsigned }),
            _ => return Ok(None),
        }))
    }
}

fn signed<T: ArrowPrimitiveType>() -> Box<dyn ArrayDecoder>
where
    T::Native: TryFrom<i64>,
{
    Box::new(Integers::<T> { parse: |text| T::Native::try_from(value::integer(text)?).ok() })
}

struct Integers<T: ArrowPrimitiveType> {
    parse: fn(&[u8]) -> Option<T::Native>,
}

impl<T: ArrowPrimitiveType> ArrayDecoder for Integers<T> {
    fn decode(&mut self, tape: &Tape<'_>, pos: &[u32]) -> Result<ArrayRef, ArrowError> {
        let mut builder = PrimitiveBuilder::<T>::with_capacity(pos.len());
        for place in pos {
            match tape.get(*place) {
                TapeElement::Null => builder.append_null(),
                TapeElement::Number(text) | TapeElement::String(text) => {
                    let text = tape.get_string(text);
                    let value = (self.parse)(text.as_bytes()).ok_or_else(|| {
                        ArrowError::JsonError(format!("expected {}, found {text}", T::DATA_TYPE))
                    })?;
                    builder.append_value(value);
                }
                _ => return Err(tape.error(*place, "integer")),
            }
        }
        Ok(Arc::new(builder.finish()))
    }
}
