// SPDX-License-Identifier: Apache-2.0
//! A handler that takes the body twice, and attributes with arguments.

use fanfold_sdk::prelude::*;

#[fanfold::handler(path = "/")]
fn hello(name: Json<String>, rest: String) -> String {
    name.0 + &rest
}

#[fanfold::handler]
fn again(first: &Request, rest: String) -> String {
    first.query.clone() + &rest
}

fn main() {}
