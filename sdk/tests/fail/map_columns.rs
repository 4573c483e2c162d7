// SPDX-License-Identifier: Apache-2.0
//! Wrong arguments of the attribute of a map.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
}

#[fanfold::map(columns = Customer)]
fn unknown(batch: RecordBatch) -> RecordBatch {
    batch
}

#[fanfold::map(reads = Customer, reads = Customer)]
fn twice(batch: RecordBatch) -> RecordBatch {
    batch
}

#[fanfold::map(reads = Customer)]
fn of_rows(c: Customer) -> Customer {
    c
}

fn main() {}
