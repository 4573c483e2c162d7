// SPDX-License-Identifier: Apache-2.0
//! Maps of the wrong shape.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Customer {
    id: u64,
}

#[fanfold::map]
fn nothing() -> Customer {
    Customer { id: 0 }
}

#[fanfold::map]
fn silent(c: Customer) {}

#[fanfold::map]
fn by_reference(c: &Customer, p: Params<u64>, more: u64, untyped: &Params) -> Customer {
    Customer { id: c.id }
}

#[fanfold::map]
fn turned(p: &Params<u64>, c: Customer) -> Customer {
    c
}

fn main() {}
