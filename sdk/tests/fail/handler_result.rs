// SPDX-License-Identifier: Apache-2.0
//! A handler that returns what is no answer.

use fanfold_sdk::prelude::*;

struct Order;

#[fanfold::handler]
fn order() -> Order {
    Order
}

fn main() {}
