// SPDX-License-Identifier: Apache-2.0
//! A handler that is async.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
async fn hello(name: Json<String>) -> String {
    name.0
}

fn main() {}
