// SPDX-License-Identifier: Apache-2.0
//! Our own among the decoders of JSON, at any depth: of integers, times and bytes, which are
//! strict, as are those of numbers that nobody declared; of objects, which are counted, and whose
//! members may be no columns where they are null; and of values of fixed size, which take room
//! where they are null.
//!
//! arrow-json refuses all members that are no columns, or passes over all. Those
//! that are null lose nothing; [`Roomy`] looks at the tape for any that are
//! not, so that the text is not parsed again for it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{
    array::ArrayRef,
    datatypes::{DataType, FieldRef},
    error::ArrowError,
    json::reader::{ArrayDecoder, DecoderContext, DecoderFactory, Tape, TapeElement},
};

use super::{
    integer,
    strict::{self, Strict},
    wide::{Room, fixed_values},
};

/// In the metadata of a column whose type nobody declared.
pub(super) const TOLD: &str = "told";

/// What becomes of members of objects that are no columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// They are passed over.
    LeftOut,
    /// There must be none.
    Refused,
    /// They must be null.
    Null,
}

/// Makes the decoders that are ours; leaves other types to arrow-json.
#[derive(Debug)]
pub(super) struct Decoders {
    others: Others,
    room: Arc<Room>,
    /// Whether what is being made is within a column whose type nobody declared.
    told: AtomicBool,
}

impl Decoders {
    pub(super) fn new(others: Others, room: Arc<Room>) -> Self {
        Self { others, room, told: AtomicBool::new(false) }
    }

    fn make(
        &self,
        context: &DecoderContext,
        field: &FieldRef,
        is_nullable: bool,
    ) -> Result<Option<Box<dyn ArrayDecoder>>, ArrowError> {
        let builtin = || -> Result<Box<dyn ArrayDecoder>, ArrowError> {
            let inner = context.make_builtin_decoder(field, is_nullable)?;
            Ok(match strict::refuses(field.data_type()) {
                Some(refuses) => Box::new(Strict { refuses, inner }),
                None => inner,
            })
        };
        let (members, names) = match field.data_type() {
            DataType::Struct(fields) => {
                let names = || fields.iter().map(|field| field.name().clone()).collect();
                (fields.len(), (self.others == Others::Null).then(names))
            }
            fixed @ (DataType::FixedSizeList(_, _) | DataType::FixedSizeBinary(_)) => {
                (fixed_values(fixed), None)
            }
            other => {
                let told = strict::refuses_told(other).filter(|_| self.told.load(Ordering::Relaxed));
                let inner = match integer::decoder(other) {
                    Some(integers) => integers,
                    None if told.is_none() && strict::refuses(other).is_none() => return Ok(None),
                    None => builtin()?,
                };
                return Ok(Some(match told {
                    Some(refuses) => Box::new(Strict { refuses, inner }),
                    None => inner,
                }));
            }
        };
        let inner = builtin()?;
        Ok(Some(Box::new(Roomy { room: Arc::clone(&self.room), members, names, inner })))
    }
}

impl DecoderFactory for Decoders {
    fn make_default_decoder(
        &self,
        context: &DecoderContext,
        field: &FieldRef,
        is_nullable: bool,
    ) -> Result<Option<Box<dyn ArrayDecoder>>, ArrowError> {
        if !field.metadata().contains_key(TOLD) {
            return self.make(context, field, is_nullable);
        }
        // One thread makes them, and those within a column before that of the column is there.
        self.told.store(true, Ordering::Relaxed);
        let made = self.make(context, field, is_nullable).and_then(|made| match made {
            Some(decoder) => Ok(decoder),
            None => context.make_builtin_decoder(field, is_nullable),
        });
        self.told.store(false, Ordering::Relaxed);
        made.map(Some)
    }
}

/// Objects, or values of fixed size, for which there is room.
struct Roomy {
    room: Arc<Room>,
    /// Those of each object, but for what is within them, or what a value counts as.
    members: usize,
    /// The fields, where all other members must be null.
    names: Option<HashSet<String>>,
    inner: Box<dyn ArrayDecoder>,
}

impl ArrayDecoder for Roomy {
    fn decode(&mut self, tape: &Tape<'_>, pos: &[u32]) -> Result<ArrayRef, ArrowError> {
        self.room.take(pos.len(), self.members)?;
        if let Some(names) = &self.names {
            pos.iter().try_for_each(|place| check_others(names, tape, *place))?;
        }
        self.inner.decode(tape, pos)
    }
}

/// Refuses members of an object that are not among these and not null.
fn check_others(names: &HashSet<String>, tape: &Tape<'_>, place: u32) -> Result<(), ArrowError> {
    // What is no object is left to the decoder of objects.
    let TapeElement::StartObject(end) = tape.get(place) else { return Ok(()) };
    let mut at = place + 1;
    while at < end {
        let TapeElement::String(name) = tape.get(at) else {
            return Err(tape.error(at, "the name of a member"));
        };
        let (name, value) = (tape.get_string(name), at + 1);
        if tape.get(value) != TapeElement::Null && !names.contains(name) {
            return Err(ArrowError::JsonError(format!("expected no column {name:?} that is not null")));
        }
        at = tape.next(value, "the value of a member")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::{
        datatypes::{Field, Schema},
        json::ReaderBuilder,
    };

    use super::*;

    /// The rows of a text in which objects may have other members that are null.
    fn rows(text: &str) -> Option<usize> {
        let inner = DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into());
        let list = DataType::new_list(inner.clone(), true);
        let schema = Schema::new(vec![Field::new("a", inner, true), Field::new("b", list, true)]);
        let room = Arc::new(Room::of(&schema, 2));
        let mut decoder = ReaderBuilder::new(Arc::new(schema))
            .with_decoder_factory(Arc::new(Decoders::new(Others::Null, room)))
            .build_decoder()
            .unwrap();
        decoder.decode(text.as_bytes()).ok()?;
        decoder.flush().ok()?.map(|batch| batch.num_rows())
    }

    #[test]
    fn members_that_are_no_columns_must_be_null() {
        let check = |text: &str, expected: bool| assert_eq!(rows(text) == Some(1), expected, "{text}");
        check("{\"a\":{\"x\":1},\"b\":[{\"x\":2},null]}", true);
        check("{\"c\":null,\"a\":{\"y\":null,\"x\":1},\"b\":[{\"y\":null}]}", true);
        check("{}", true);
        check("{\"c\":0}", false);
        check("{\"c\":{\"d\":null}}", false);
        check("{\"a\":{\"y\":[]}}", false);
        check("{\"b\":[null,{\"x\":1,\"y\":\"\"}]}", false);
        // Integers are ours at any depth.
        check("{\"b\":[{\"x\":1.5}]}", false);
        check("{\"a\":1}", false);
    }
}
