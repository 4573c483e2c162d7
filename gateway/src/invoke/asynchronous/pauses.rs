// SPDX-License-Identifier: Apache-2.0
//! How long an asynchronous call waits before it is delivered again.
//!
//! Beside the [`runner`](super::runner), which gives calls back. Pure: what spreads those that failed together
//! follows from their ids.

use std::time::Duration;

use fanfold_protocol::digest::Digest;

/// The longest wait before another delivery; of few that found no place, which may be free soon; and how
/// often in a second those together may look for one.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);
const PLACE_PAUSE_MAX: Duration = Duration::from_secs(2);
const LOOKS_PER_SECOND: u64 = 200;

/// How long to wait after so many times: doubled each time, up to a bound, less
/// up to half. The spreading follows from the id, so that what failed together
/// does not come back together.
pub(super) fn pause(first: Duration, id: &str, times: u32, most: Duration) -> Duration {
    let full = first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most);
    let share = u32::from(Digest::of(format!("{id}/{times}").as_bytes()).as_bytes()[0]);
    full - full * share / (2 * 256)
}

/// The longest wait for a place while so many wait: few look again soon, so that none stays free beside
/// them, and many not so often that they do nothing else.
pub(super) fn place_pause_max(waiting: u64) -> Duration {
    Duration::from_millis(waiting.saturating_mul(1_000) / LOOKS_PER_SECOND).clamp(PLACE_PAUSE_MAX, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_spread() {
        let second = Duration::from_secs(1);
        for times in 1..40 {
            let full = second.saturating_mul(1 << (times - 1).min(16)).min(PAUSE_MAX);
            let found = pause(second, "a", times, PAUSE_MAX);
            assert!(found > full / 2 - Duration::from_millis(1) && found <= full, "{times} {found:?}");
        }
        assert_ne!(pause(second, "a", 1, PAUSE_MAX), pause(second, "b", 1, PAUSE_MAX));
    }

    #[test]
    fn few_look_for_a_place_soon_and_many_not_too_often() {
        for (waiting, seconds) in [(0, 2), (400, 2), (1_000, 5), (10_000, 50), (u64::MAX, 60)] {
            assert_eq!(place_pause_max(waiting), Duration::from_secs(seconds), "{waiting}");
        }
    }
}
