// SPDX-License-Identifier: Apache-2.0
//! A map of a struct that is no row.

use fanfold_sdk::prelude::*;

struct Customer {
    id: u64,
}

#[derive(Row)]
struct Score {
    id: u64,
}

#[fanfold::map]
fn score(c: Customer) -> Score {
    Score { id: c.id }
}

fn main() {}
