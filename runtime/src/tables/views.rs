// SPDX-License-Identifier: Apache-2.0
//! Texts and bytes behind views, strung together.
//!
//! It owns the cast that columns of text in Parquet take on their way to a guest. Arrow's own appends value by value; most texts of tables are short enough to be in their views, and these are written here as one register, with
//! what follows a text in it written over by the next. Invariant: what comes of it is what arrow's cast makes of it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, ByteView, GenericByteArray, GenericByteViewArray},
    buffer::{Buffer, OffsetBuffer},
    datatypes::{ByteArrayType, ByteViewType},
    error::ArrowError,
};

/// Bytes of a view behind its length: the whole of a value that is no longer.
const INLINE_BYTES: usize = 12;
/// Bytes of what is written at once for it.
const REGISTER_BYTES: usize = size_of::<u128>();

/// The array with its values in a row.
pub(super) fn strung<V: ByteViewType, B: ByteArrayType<Offset = i32>>(
    array: &GenericByteViewArray<V>,
) -> Result<ArrayRef, ArrowError> {
    let views = array.views();
    let mut end = 0;
    let mut reach = |length: u64| {
        end += length;
        end as i32
    };
    let mut offsets = Vec::with_capacity(views.len() + 1);
    offsets.push(0);
    match array.nulls() {
        None => offsets.extend(views.iter().map(|view| reach(length(*view)))),
        // What is in the view of a missing value may be anything.
        Some(nulls) => {
            let lengths = views.iter().zip(nulls).map(|(view, valid)| if valid { length(*view) } else { 0 });
            offsets.extend(lengths.map(reach));
        }
    }
    // They only grow: where the last fits, all do.
    let end = i32::try_from(end).map_err(|_| ArrowError::OffsetOverflowError(end as usize))? as usize;
    let mut values = vec![0; end + REGISTER_BYTES];
    for (view, reach) in views.iter().zip(offsets.windows(2)) {
        let (start, end) = (reach[0] as usize, reach[1] as usize);
        if end - start <= INLINE_BYTES {
            values[start..start + REGISTER_BYTES].copy_from_slice(&(view >> u32::BITS).to_le_bytes());
        } else {
            let view = ByteView::from(*view);
            let buffer = &array.data_buffers()[view.buffer_index as usize];
            values[start..end].copy_from_slice(&buffer[view.offset as usize..][..end - start]);
        }
    }
    values.truncate(end);
    let offsets = OffsetBuffer::new(offsets.into());
    Ok(Arc::new(GenericByteArray::<B>::try_new(offsets, Buffer::from_vec(values), array.nulls().cloned())?))
}

/// Bytes of a value.
fn length(view: u128) -> u64 {
    u64::from(view as u32)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, StringViewArray},
        compute::cast,
        datatypes::{BinaryType, BinaryViewType, DataType, StringViewType, Utf8Type},
    };
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_arrow_makes_of_it(
            texts in prop::collection::vec(prop::option::of("[aé]{0,20}"), 0..40),
            cut in 0..40usize,
        ) {
            let views = StringViewArray::from_iter(texts);
            let cut = cut.min(views.len());
            for views in [views.slice(0, cut), views.slice(cut, views.len() - cut)] {
                let texts = strung::<StringViewType, Utf8Type>(&views).unwrap();
                prop_assert_eq!(&texts, &cast(&views, &DataType::Utf8).unwrap());
                let views = cast(&views, &DataType::BinaryView).unwrap();
                let bytes = strung::<BinaryViewType, BinaryType>(views.as_binary_view()).unwrap();
                prop_assert_eq!(&bytes, &cast(&views, &DataType::Binary).unwrap());
            }
        }
    }

    #[test]
    fn what_is_in_the_view_of_a_missing_value_is_nothing() {
        let views = StringViewArray::from(vec!["short", "longer than a view has room for", "kept"]);
        let missing = vec![false, false, true].into();
        let (views, buffers, _) = views.into_parts();
        let views = StringViewArray::new(views, buffers, Some(missing));
        let texts = strung::<StringViewType, Utf8Type>(&views).unwrap();
        assert_eq!(texts.as_string::<i32>().value_data(), b"kept");
        assert_eq!(&texts, &cast(&views, &DataType::Utf8).unwrap());
    }
}
