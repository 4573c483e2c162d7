// SPDX-License-Identifier: Apache-2.0
//! Keys that are none, and batches by key.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
}

#[derive(Serialize, Deserialize, Default)]
struct Stats;

#[fanfold::aggregate(keys = "id")]
impl Aggregate for Stats {
    type Row = Customer;
    type Output = Customer;
    fn add(&mut self, row: Customer) {}
    fn merge(&mut self, other: Self) {}
    fn finish(self) -> Customer {
        Customer { id: 0 }
    }
}

#[derive(Serialize, Deserialize, Default)]
struct Batches;

#[fanfold::aggregate(key = ["id"])]
impl Aggregate for Batches {
    type Row = Customer;
    type Output = Customer;
    fn add_batch(&mut self, batch: &RecordBatch) {}
    fn merge(&mut self, other: Self) {}
    fn finish(self) -> Customer {
        Customer { id: 0 }
    }
}

fn main() {}
