// SPDX-License-Identifier: Apache-2.0
//! Two handlers in one component.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn first() {}

#[fanfold::handler]
fn second() {}

fn main() {}
