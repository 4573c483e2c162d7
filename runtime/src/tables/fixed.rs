// SPDX-License-Identifier: Apache-2.0
//! Types whose values take the same room each, also where they are missing.
//!
//! Who declares a type chooses how many bytes a value without any text takes; what is
//! allocated for it is therefore bounded here, before a decoder does it.

use arrow::{
    array::{ArrayRef, new_null_array},
    datatypes::DataType,
};

/// Bytes of a value of a declared type.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of such a value in a list, of which little text may have very many.
const ITEM_BYTES_MAX: usize = 1 << 10;
/// Bytes of missing values that are made at once.
const NULLS_BYTES_MAX: usize = 1 << 30;

/// Refuses a type that somebody declares where a missing value of it takes too much.
pub(crate) fn check(data_type: &DataType) -> Result<(), String> {
    let (bytes, in_list) = (bytes(data_type), largest_item(data_type));
    if bytes <= VALUE_BYTES_MAX && in_list <= ITEM_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "a type whose values take at most {VALUE_BYTES_MAX} bytes when they are missing, and in lists \
         {ITEM_BYTES_MAX}, found {} bytes of {data_type}; declare Binary or List instead",
        bytes.max(in_list)
    ))
}

/// Bytes of a value by which its type is longer than others, given or not.
pub(super) fn bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(bytes) => length(*bytes),
        DataType::FixedSizeList(item, items) => {
            let own = item.data_type().primitive_width().unwrap_or(1);
            length(*items).saturating_mul(bytes(item.data_type()).max(own))
        }
        DataType::Struct(fields) => {
            fields.iter().fold(0, |sum, field| bytes(field.data_type()).saturating_add(sum))
        }
        _ => 0,
    }
}

/// [`bytes`] of the largest item of a list at any depth.
fn largest_item(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => bytes(item.data_type()).max(largest_item(item.data_type())),
        DataType::FixedSizeList(item, _) => largest_item(item.data_type()),
        DataType::Struct(fields) => fields.iter().map(|f| largest_item(f.data_type())).max().unwrap_or(0),
        _ => 0,
    }
}

/// A column that is missing in so many rows, where there is room for that.
pub(super) fn nulls(data_type: &DataType, rows: usize) -> Result<ArrayRef, String> {
    let total = bytes(data_type).saturating_mul(rows);
    if total <= NULLS_BYTES_MAX {
        return Ok(new_null_array(data_type, rows));
    }
    Err(format!(
        "{rows} missing values must take at most {NULLS_BYTES_MAX} bytes, found {total} of {data_type}; declare a \
         type of variable length"
    ))
}

fn length(declared: i32) -> usize {
    usize::try_from(declared).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn of(text: &str) -> DataType {
        DataType::from_str(text).unwrap()
    }

    #[test]
    fn what_is_missing_takes_what_its_type_says() {
        let check = |text: &str, expected: usize| assert_eq!(bytes(&of(text)), expected, "{text}");
        check("Int64", 0);
        check("FixedSizeBinary(16)", 16);
        check("FixedSizeList(768 x Float32)", 3_072);
        check("FixedSizeList(1000 x FixedSizeList(1000 x Float64))", 8_000_000);
        check("List(FixedSizeBinary(16))", 0);
    }

    #[test]
    fn types_that_take_too_much_are_refused() {
        for text in ["FixedSizeBinary(16)", "FixedSizeList(4096 x Float32)", "List(FixedSizeBinary(1024))"] {
            assert_eq!(check(&of(text)), Ok(()), "{text}");
        }
        for text in [
            "FixedSizeBinary(2147483647)",
            "FixedSizeList(2147483647 x Int64)",
            "FixedSizeList(2147483647 x FixedSizeList(2147483647 x Int64))",
            "List(FixedSizeBinary(1025))",
            "FixedSizeList(2 x List(FixedSizeBinary(1025)))",
        ] {
            let refusal = check(&of(text)).unwrap_err();
            assert!(refusal.contains(" found ") && refusal.ends_with("declare Binary or List instead"));
        }
        assert_eq!(nulls(&of("FixedSizeBinary(16)"), 3).unwrap().len(), 3);
        assert!(nulls(&of("FixedSizeBinary(65536)"), 131_072).unwrap_err().contains("variable length"));
    }
}
