// SPDX-License-Identifier: Apache-2.0
//! Jobs while the store misbehaves and the service is killed: see
//! [`fanfold_tests::chaos`]. `cargo xtask chaos` does the same for as long as one likes.

use fanfold_tests::{
    chaos::{self, Chaos},
    proxy::Troubles,
};

/// The seed, which a variable sets so that a failure can be had again.
fn seed() -> u64 {
    let seed = match std::env::var("FANFOLD_CHAOS_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => rand::random_range(0..u64::from(u32::MAX)),
    };
    eprintln!("FANFOLD_CHAOS_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_a_store_that_misbehaves() {
    let troubles = Troubles { busy: 15, slow: 5, cut: 3, stalled: 0, lost: 5 };
    let report = chaos::run(Chaos { seed: seed(), jobs: 6, kills: 0, troubles }).await.unwrap();
    assert!(report.jobs == 6 && report.requests.1 > 20, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_kills() {
    let troubles = Troubles { lost: 2, ..Troubles::default() };
    let report = chaos::run(Chaos { seed: seed(), jobs: 9, kills: 4, troubles }).await.unwrap();
    assert_eq!(report.jobs, 9, "{report:?}");
}
