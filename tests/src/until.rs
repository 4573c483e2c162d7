// SPDX-License-Identifier: Apache-2.0
//! Waiting for what comes by itself, with an end.
//!
//! Tests of all crates share this file, by its path where they cannot depend on this crate. Invariant: nobody waits for
//! ever, and who waited in vain says for what and what there was instead. What has to come within a bound of its own is
//! no matter for this.

use std::{
    fmt::Debug,
    future::Future,
    panic::Location,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

/// Long enough for a busy machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause between two looks, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// Looks again and again until what is found fits, and gives that.
///
/// # Panics
/// When nothing that fits was found in a minute: with `what` was expected, where, and what was found last.
#[track_caller]
pub fn until<S: Debug, F: Future<Output = S>>(
    what: &str,
    mut look: impl FnMut() -> F,
    fits: impl Fn(&S) -> bool,
) -> impl Future<Output = S> {
    let (place, begun) = (Location::caller(), Instant::now());
    async move {
        let (mut last, [mut pause, longest]) = (None, PAUSES);
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match timeout(left, look()).await {
                Ok(found) if fits(&found) => return found,
                Ok(found) => last = Some(found),
                // The last look took too long.
                Err(_) => {}
            }
            assert!(!left.is_zero(), "{place}: expected {what} within {PATIENCE:?}, found {last:?}");
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }
}
