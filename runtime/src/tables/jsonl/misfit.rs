// SPDX-License-Identifier: Apache-2.0
//! What of a line does not fit the columns.
//!
//! Looked for only where a line is refused, to say why.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use fanfold_protocol::{ErrorKind, Problem};
use serde_json::{Value, value::RawValue};

use super::{super::guard::quote, decode, members::Others, wide::is_too_wide};

/// Whether a member has, at any depth, what none of the fields takes and is not null.
pub(super) fn has_no_place(fields: &Fields, name: &str, value: &Value) -> bool {
    let Some((_, field)) = fields.find(name) else { return !value.is_null() };
    exceeds(value, field.data_type())
}

/// The first of the columns that does not take its value in a line. It is looked for by halves: each try reads the
/// whole line.
pub(super) fn refusing<'a>(fields: &'a [FieldRef], line: &str) -> Option<&'a FieldRef> {
    let refuse = |fields: &[FieldRef]| {
        let schema = Arc::new(Schema::new(fields.to_vec()));
        decode(&schema, line, 2, Others::LeftOut).is_err_and(|error| !is_too_wide(&error))
    };
    if !refuse(fields) {
        return None;
    }
    // Columns before the first take theirs, and one of those up to the last does not.
    let (mut first, mut last) = (0, fields.len());
    while last - first > 1 {
        let middle = usize::midpoint(first, last);
        match refuse(&fields[first..middle]) {
            true => last = middle,
            false => first = middle,
        }
    }
    fields.get(first)
}

/// The problem with a line of which this column does not take its value, for which there may be a reason.
pub(super) fn value_mismatch(field: &Field, line: &str, place: &str, reason: &str) -> Problem {
    let raw: Result<BTreeMap<String, &RawValue>, _> = serde_json::from_str(line);
    let found = raw.ok().and_then(|m| m.get(field.name()).map(|v| v.get().to_owned()));
    let form = match field.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            " in pairs of hexadecimal digits"
        }
        _ => "",
    };
    let detail = format!(
        "column {} of {place} must be {}{form}, found {}{reason}; mend the value, or declare another type in the \
         function",
        quote(field.name()),
        field.data_type(),
        found.map_or("none".to_owned(), |text| quote(&text))
    );
    Problem::new(ErrorKind::ValueMismatch, detail)
}

fn exceeds(value: &Value, data_type: &DataType) -> bool {
    match (value, data_type) {
        (Value::Object(members), DataType::Struct(fields)) => {
            members.iter().any(|(name, value)| has_no_place(fields, name, value))
        }
        (Value::Array(items), DataType::List(item) | DataType::LargeList(item)) => {
            items.iter().any(|value| exceeds(value, item.data_type()))
        }
        _ => false,
    }
}
