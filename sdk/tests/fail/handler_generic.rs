// SPDX-License-Identifier: Apache-2.0
//! A handler with a type parameter, and one that is no free function.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn hello<T>(name: Json<T>) -> String {
    String::new()
}

#[fanfold::handler]
fn method(&self) -> impl IntoResponse {
    ""
}

fn main() {}
