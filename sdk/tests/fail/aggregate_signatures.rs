// SPDX-License-Identifier: Apache-2.0
//! Methods of an aggregate of the wrong shape.

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
    fn new(self) -> Self {
        Self
    }
    fn add(&self, row: &Customer, p: Params<u64>) {}
    fn merge(self, other: Self, p: &Params<u64>) {}
    fn finish(&mut self, extra: u64) -> u64 {
        0
    }
}

fn main() {}
