// SPDX-License-Identifier: Apache-2.0
//! A map that returns what is no row.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
}

struct Score {
    id: u64,
}

#[fanfold::map]
fn score(c: Customer) -> Result<Score> {
    Ok(Score { id: c.id })
}

fn main() {}
