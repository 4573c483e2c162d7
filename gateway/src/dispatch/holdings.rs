// SPDX-License-Identifier: Apache-2.0
//! The components that a worker has compiled, as far as a gateway knows.
//!
//! From the worker's record, which names those it compiled last, and from what it was asked.
//! Pure, with time handed in, so that the simulation runs it as well. A hint: calls
//! go to whoever lacks the component too, which compiles it then.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use fanfold_protocol::digest::Digest;

/// A worker that was asked to compile a component is not asked again within this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Components that are remembered of what a worker was asked; then all are forgotten.
const ASKED_MAX: usize = 4_096;

/// What one worker has compiled.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// What its record says, in order.
    said: Vec<u64>,
    asked: HashMap<u64, Asked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To compile it, then.
    At(Instant),
    /// It answered, so it has it.
    Answered,
}

impl Holdings {
    /// Takes over what its record says.
    pub fn hear(&mut self, said: &[u64]) {
        self.said.clear();
        self.said.extend_from_slice(said);
    }

    /// Whether it has compiled a component.
    pub fn holds(&self, digest: Digest) -> bool {
        let prefix = digest.prefix();
        self.said.binary_search(&prefix).is_ok() || self.asked.get(&prefix) == Some(&Asked::Answered)
    }

    /// Whether it is to be asked to compile a component, which is noted.
    pub fn ask(&mut self, digest: Digest, now: Instant) -> bool {
        let lately = |at: &Instant| now.saturating_duration_since(*at) < ASK_AGAIN;
        let is_asked = matches!(self.asked.get(&digest.prefix()), Some(Asked::At(at)) if lately(at));
        let is_to_be_asked = !is_asked && !self.holds(digest);
        if is_to_be_asked {
            self.note(digest, Asked::At(now));
        }
        is_to_be_asked
    }

    /// Notes that it gave what only who has compiled a component can give.
    pub fn answered(&mut self, digest: Digest) {
        self.note(digest, Asked::Answered);
    }

    fn note(&mut self, digest: Digest, asked: Asked) {
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        self.asked.insert(digest.prefix(), asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_and_what_it_answered_it_holds() {
        let [said, answered, neither] = [b"1", b"2", b"3"].map(|bytes| Digest::of(bytes));
        let mut holdings = Holdings::default();
        holdings.hear(&[said.prefix()]);
        holdings.answered(answered);
        assert!(holdings.holds(said) && holdings.holds(answered) && !holdings.holds(neither));
        // A record names what was compiled last, and not everything.
        holdings.hear(&[]);
        assert!(!holdings.holds(said) && holdings.holds(answered));
    }

    #[test]
    fn it_is_asked_once_in_a_while_until_it_holds_it() {
        let (begun, digest) = (Instant::now(), Digest::of(b"x"));
        let mut holdings = Holdings::default();
        assert!(holdings.ask(digest, begun));
        assert!(!holdings.ask(digest, begun + ASK_AGAIN / 2));
        assert!(holdings.ask(Digest::of(b"another"), begun));
        assert!(holdings.ask(digest, begun + ASK_AGAIN));
        holdings.answered(digest);
        assert!(!holdings.ask(digest, begun + 3 * ASK_AGAIN));
        let mut told = Holdings::default();
        told.hear(&[digest.prefix()]);
        assert!(!told.ask(digest, begun));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (begun, mut holdings) = (Instant::now(), Holdings::default());
        for n in 0..=ASKED_MAX {
            assert!(holdings.ask(Digest::of(&n.to_be_bytes()), begun));
        }
        assert_eq!(holdings.asked.len(), 1);
    }
}
