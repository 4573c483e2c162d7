// SPDX-License-Identifier: Apache-2.0
//! What cannot be a row.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Tuple(u64);

#[derive(Row)]
struct Empty {}

#[derive(Row)]
enum Either {
    This,
}

#[derive(Row)]
struct Generic<T> {
    id: T,
}

#[derive(Row)]
struct TwoLives<'a, 'b> {
    a: &'a str,
    b: &'b str,
}

#[derive(Row)]
struct Names {
    id: u64,
    #[row(rename = "id")]
    other: u64,
    #[row(name = "x")]
    third: u64,
    #[row(rename = "")]
    fourth: u64,
}

#[derive(Row)]
#[row(rename_all = "camelCase")]
struct Renamed {
    id: u64,
}

fn main() {}
