// SPDX-License-Identifier: Apache-2.0
//! An attribute above what is no function.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
struct Hello;

#[fanfold::map]
struct Score;

#[fanfold::aggregate]
struct Stats;

fn main() {}
