// SPDX-License-Identifier: Apache-2.0
//! Aggregates that lack items, or have others.

use fanfold_sdk::prelude::*;

#[derive(Serialize, Deserialize, Default)]
struct Empty;

#[fanfold::aggregate]
impl Aggregate for Empty {}

#[derive(Serialize, Deserialize, Default)]
struct Other;

#[fanfold::aggregate]
impl Aggregate for Other {
    type Output = u64;
    type State = u64;
    const ROWS: u64 = 1;
    fn add(&mut self, row: u64) {}
    fn merge(&mut self, other: Self) {}
    fn finish(self) -> u64 {
        0
    }
    fn helper(&self) {}
}

fn main() {}
