// SPDX-License-Identifier: Apache-2.0
//! An aggregate whose `finish` returns another type than it says.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
}

#[derive(Serialize, Deserialize, Default)]
struct Stats(u64);

#[fanfold::aggregate]
impl Aggregate for Stats {
    type Row = Customer;
    type Output = u64;

    fn add(&mut self, row: Customer) {
        self.0 += row.id;
    }

    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }

    fn finish(self) -> Result<i32> {
        Ok(1)
    }
}

fn main() {}
