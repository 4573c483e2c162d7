// SPDX-License-Identifier: Apache-2.0
//! An aggregate whose `merge` borrows the other state.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
}

#[derive(Serialize, Deserialize, Default)]
struct Stats;

#[fanfold::aggregate]
impl Aggregate for Stats {
    type Row = Customer;
    type Output = u64;
    fn add(&mut self, row: Customer) {}
    fn merge(&mut self, other: &Self) {}
    fn finish(self) -> u64 {
        0
    }
}

fn main() {}
