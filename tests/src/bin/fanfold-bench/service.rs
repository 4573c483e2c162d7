// SPDX-License-Identifier: Apache-2.0
//! `fanfold dev` itself: how soon it is ready, what it holds when idle, and how
//! long the crates took to compile.

use std::time::Duration;

use anyhow::Result;
use fanfold_tests::service::Service;

use crate::{Goal, Measurement};

const ROUNDS: usize = 5;

/// Starts it a few times, each with a folder of its own.
pub fn measure() -> Result<Vec<Measurement>> {
    let (mut ready, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let service = Service::fresh()?;
        ready.push(service.started_in.as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(500));
        resident.push((service.resident_bytes()? >> 20) as f64);
    }
    let mut all = vec![
        Measurement::of("dev_ready", "ms", ready).goal(Goal::AtMost(1_000.0)),
        Measurement::of("dev_resident_idle", "MiB", resident).goal(Goal::AtMost(150.0)),
    ];
    // Written by the set-up when it compiled into an empty target folder.
    let mark = std::env::current_exe()?.with_file_name("clean-build-seconds");
    if let Some(seconds) = std::fs::read_to_string(mark).ok().and_then(|text| text.trim().parse().ok()) {
        all.push(Measurement::of("clean_build", "s", vec![seconds]));
    }
    Ok(all)
}
