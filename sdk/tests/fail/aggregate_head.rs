// SPDX-License-Identifier: Apache-2.0
//! Attributes above an impl that is no aggregate's.

use fanfold_sdk::prelude::*;

struct Stats<T>(T);

#[fanfold::aggregate]
impl<T> Aggregate for Stats<T> {
    type Output = u64;
    fn add_batch(&mut self, batch: RecordBatch) {}
    fn merge(&mut self, other: Self) {}
    fn finish(self) -> u64 {
        0
    }
}

struct Plain;

#[fanfold::aggregate]
impl Plain {}

fn main() {}
