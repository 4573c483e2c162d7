// SPDX-License-Identifier: Apache-2.0
//! A handler that borrows its body.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn hello(name: &str, request: &mut Request) -> String {
    name.to_owned()
}

fn main() {}
