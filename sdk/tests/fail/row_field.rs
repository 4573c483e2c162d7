// SPDX-License-Identifier: Apache-2.0
//! A field of a type that no column has.

use std::collections::BTreeMap;

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
    tags: BTreeMap<String, String>,
}

fn main() {}
