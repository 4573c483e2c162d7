// SPDX-License-Identifier: Apache-2.0
//! What an invocation costs by itself. The figures that count are those of
//! `cargo xtask bench`; this keeps the order of magnitude.

use std::time::{Duration, Instant};

use fanfold_protocol::function::Settings;

use crate::support::{Platform, echo, invocation};

const CALLS: u32 = 100;
const ROUNDS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invocation_takes_well_under_a_millisecond() {
    let platform = Platform::start().await;
    // Another component, built with the SDK, may be measured the same way.
    let component =
        std::env::var_os("FANFOLD_MEASURE").map_or_else(echo, |path| std::fs::read(path).unwrap());
    let version = platform.deploy(component, Settings::default()).await.unwrap();
    let body = b"\"Ada\"";
    for _ in 0..200 {
        let outcome =
            platform.runtime.invoke_inline(invocation(&version, body, Duration::from_secs(5))).await;
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
    }
    let mut inline = Vec::new();
    let mut spawned = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            platform.runtime.invoke_inline(invocation(&version, body, Duration::from_secs(5))).await;
        }
        inline.push(began.elapsed() / CALLS);
        let began = Instant::now();
        for _ in 0..CALLS {
            platform.invoke(&version, body, Duration::from_secs(5)).await;
        }
        spawned.push(began.elapsed() / CALLS);
    }
    // The best round: what it costs when nobody else wants the processor.
    let (each, through) = (inline.iter().min().unwrap(), spawned.iter().min().unwrap());
    println!("inline {each:?}, through the guest threads {through:?}");
    assert!(*each < Duration::from_millis(1), "{inline:?}");
}
