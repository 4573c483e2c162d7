// SPDX-License-Identifier: Apache-2.0
//! Parquet that is small and claims much, and Parquet of rare types: it is read as
//! what it says, or refused by name.

use fanfold_protocol::ErrorKind;

use crate::support::*;

/// An object that is a footer only: a schema of these elements, and no rows.
fn footer_only(count: u32, elements: &[u8]) -> Vec<u8> {
    let length = [count as u8 | 0x80, (count >> 7) as u8 | 0x80, (count >> 14) as u8];
    let footer = [&[0x15, 2, 0x19, 0xfc][..], &length, elements, &[0x16, 0, 0x19, 0x0c, 0]].concat();
    let trailer = (footer.len() as u32).to_le_bytes();
    [&b"PAR1"[..], &footer, &trailer, b"PAR1"].concat()
}

#[tokio::test]
async fn a_schema_that_is_no_tree_of_bounded_depth_is_refused() {
    // Required groups "g", of one column or of 2^31 - 1, and a column "x" of 64-bit integers.
    let (group, leaf) = ([0x35, 0, 0x18, 1, b'g', 0x15, 2, 0], [0x15, 4, 0x25, 0, 0x18, 1, b'x', 0]);
    let huge = [&group[..6], &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0], &leaf].concat();
    let flat = [group, leaf].concat();
    let deep = [group.repeat(130_000), leaf.to_vec()].concat();
    assert_eq!(read_content("x.parquet", footer_only(2, &flat)).await.unwrap().num_rows(), 0);
    problem("x.parquet", footer_only(130_001, &deep), ErrorKind::DecodeLimit, &["64 groups"]).await;
    problem("x.parquet", footer_only(2, &huge), ErrorKind::ParquetCorrupt, &["more columns"]).await;
}
