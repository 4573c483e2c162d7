// SPDX-License-Identifier: Apache-2.0
//! How long a job will take yet, and how sure that is.
//!
//! What the tasks that are done took tells of those that are left: their number
//! over the time gives the expectation, and the spread of their wall times the
//! range. Only shown; nothing is decided by it.

use std::time::Duration;

/// Standard errors on either side of the expectation: about 95 % of cases.
const WIDTH: f64 = 2.0;

/// The time that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eta {
    /// As expected.
    pub expected: Duration,
    /// Between these, mostly; none before two tasks are done.
    pub range: Option<(Duration, Duration)>,
}

/// Mean and spread of wall times, kept as they come (Welford, Technometrics
/// 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Pace {
    /// Takes in the wall time of a task that is done.
    pub fn note(&mut self, wall_us: u64) {
        self.count += 1;
        let delta = wall_us as f64 - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (wall_us as f64 - self.mean);
    }

    /// What is left, when these tasks were done in `running` and `left` are not.
    pub fn eta(&self, running: Duration, left: u64) -> Option<Eta> {
        if self.count == 0 || left == 0 {
            return None;
        }
        let (done, left) = (self.count as f64, left as f64);
        let expected = running.as_secs_f64() * left / done;
        // The sum of what is left, told from the mean of what is done: both vary.
        let range = (self.count > 1 && self.mean > 0.0).then(|| {
            let spread = (self.squares / (done - 1.0)).sqrt() / self.mean;
            let error = expected * WIDTH * spread * (1.0 / done + 1.0 / left).sqrt();
            (span((expected - error).max(0.0)), span(expected + error))
        });
        Some(Eta { expected: span(expected), range })
    }
}

/// Seconds as a span; what is longer than can be said is as long as can be said.
fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eta(walls: &[u64], running: u64, left: u64) -> Option<Eta> {
        let mut pace = Pace::default();
        walls.iter().for_each(|wall| pace.note(*wall));
        pace.eta(Duration::from_secs(running), left)
    }

    #[test]
    fn what_is_left_takes_as_long_as_what_is_done() {
        let seconds = Duration::from_secs;
        assert_eq!(eta(&[], 5, 5), None);
        assert_eq!(eta(&[7, 7], 5, 0), None);
        assert_eq!(eta(&[7], 5, 3), Some(Eta { expected: seconds(15), range: None }));
        let even = eta(&[7; 4], 8, 2).unwrap();
        assert_eq!((even.expected, even.range), (seconds(4), Some((seconds(4), seconds(4)))));
    }

    #[test]
    fn uneven_tasks_make_a_wide_range() {
        // Mean 2, standard deviation 1: twice 0.5 × √(1/3 + 1/3) of 30 s.
        let uneven = eta(&[1, 2, 3], 30, 3).unwrap();
        let (low, high) = uneven.range.unwrap();
        let error = 30.0 * (2.0_f64 / 3.0).sqrt();
        assert!((low.as_secs_f64() - (30.0 - error)).abs() < 1e-6, "{low:?}");
        assert!((high.as_secs_f64() - (30.0 + error)).abs() < 1e-6, "{high:?}");
        // More of them are surer.
        let many = eta(&[1, 2, 3].repeat(100), 30, 300).unwrap().range.unwrap();
        assert!(many.0 > low && many.1 < high, "{many:?}");
        assert_eq!(eta(&[1, 1_000_000], 1, 1).unwrap().range.unwrap().0, Duration::ZERO);
    }
}
