// SPDX-License-Identifier: Apache-2.0
//! Integers of JSON, strictly.
//!
//! arrow-json drops the fraction of a number that is wanted as an integer, and takes
//! `01`, which is no number of JSON; the decoders made here refuse both.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ArrowPrimitiveType, PrimitiveBuilder},
    datatypes::{
        DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
    error::ArrowError,
    json::reader::{ArrayDecoder, Tape, TapeElement},
};

use fanfold_protocol::stored::value;

/// The decoder of a type of integers; `None` of other types.
pub(super) fn decoder(data_type: &DataType) -> Option<Box<dyn ArrayDecoder>> {
    Some(match data_type {
        DataType::Int8 => signed::<Int8Type>(),
        DataType::Int16 => signed::<Int16Type>(),
        DataType::Int32 => signed::<Int32Type>(),
        DataType::Int64 => signed::<Int64Type>(),
        DataType::UInt8 => signed::<UInt8Type>(),
        DataType::UInt16 => signed::<UInt16Type>(),
        DataType::UInt32 => signed::<UInt32Type>(),
        DataType::UInt64 => Box::new(Integers::<UInt64Type> { parse: value::unsigned }),
        _ => return None,
    })
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
                found @ (TapeElement::Number(text) | TapeElement::String(text)) => {
                    let text = tape.get_string(text);
                    let padded = matches!(found, TapeElement::Number(_)) && is_padded(text.as_bytes());
                    let value = (self.parse)(text.as_bytes()).filter(|_| !padded).ok_or_else(|| {
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

/// Whether digits follow a zero in front.
pub(super) fn is_padded(number: &[u8]) -> bool {
    matches!(number.strip_prefix(b"-").unwrap_or(number), [b'0', b'0'..=b'9', ..])
}
