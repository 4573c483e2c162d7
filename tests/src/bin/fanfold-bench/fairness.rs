// SPDX-License-Identifier: Apache-2.0
//! How a thousand workers share between two tenants, in virtual time: the one part
//! that measures no process, and always gives the same.

use std::time::Duration;

use anyhow::Result;
use fanfold_tests::fairness::{Load, share_error, shares};

use crate::{Goal, Measurement};

/// Seeds, of which the median counts.
const SEEDS: [u64; 3] = [1, 2, 3];

/// The errors of shares at equal weight and at two to one.
pub fn measure() -> Result<Vec<Measurement>> {
    let error = |name: &str, weights: [u32; 2]| {
        let loads = weights.map(|weight| Load { weight, asks: None });
        let errors = SEEDS.map(|seed| share_error(&shares(seed, loads, Duration::from_secs(60)), loads));
        Measurement::of(name, "ratio", errors.to_vec()).goal(Goal::AtMost(0.05))
    };
    Ok(vec![error("tenants_share_error_1_1", [1, 1]), error("tenants_share_error_2_1", [2, 1])])
}
