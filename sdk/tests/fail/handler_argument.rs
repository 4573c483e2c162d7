// SPDX-License-Identifier: Apache-2.0
//! A handler with arguments that cannot be made of a request.

use fanfold_sdk::prelude::*;

struct Order;

#[fanfold::handler]
fn order(order: Order) -> String {
    String::new()
}

fn main() {}
