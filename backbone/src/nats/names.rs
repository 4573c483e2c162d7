// SPDX-License-Identifier: Apache-2.0
//! Names inside NATS: streams, subjects, consumers and message ids, as pure functions.
//!
//! Keys and queue names become subjects by letting `/` and `.` change places, which loses nothing. What NATS bounds
//! to a file's name or keeps in memory (consumers, message ids) is a digest.

use sha2::{Digest, Sha256};

use crate::name::Scope;

/// The names of one deployment.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
    shards: usize,
}

impl Names {
    pub(super) fn new(prefix: &str, shards: usize) -> Self {
        Names { prefix: prefix.to_owned(), shards }
    }

    pub(super) fn keys_stream(&self) -> String {
        format!("{}-keys", self.prefix)
    }

    pub(super) fn dead_stream(&self) -> String {
        format!("{}-dead", self.prefix)
    }

    pub(super) fn work_stream(&self, shard: usize) -> String {
        format!("{}-work-{shard}", self.prefix)
    }

    /// All of them.
    pub(super) fn streams(&self) -> Vec<String> {
        let work = (0..self.shards).map(|shard| self.work_stream(shard));
        [self.keys_stream(), self.dead_stream()].into_iter().chain(work).collect()
    }

    /// What a worker asks JetStream under, which its own account does not have.
    pub(super) fn worker_api(&self) -> String {
        format!("{}.api", self.prefix)
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.keys.{}", self.prefix, swapped(key))
    }

    pub(super) fn keys_all(&self) -> String {
        format!("{}.keys.>", self.prefix)
    }

    /// What a scope covers, as a subject with or without wildcard.
    pub(super) fn scope(&self, scope: &Scope) -> String {
        match scope.as_str() {
            "" => self.keys_all(),
            text if scope.is_prefix() => format!("{}.keys.{}>", self.prefix, swapped(text)),
            key => self.key(key),
        }
    }

    /// The key behind a subject that [`Names::key`] made.
    pub(super) fn key_of(&self, subject: &str) -> Option<String> {
        subject.strip_prefix(&self.prefix)?.strip_prefix(".keys.").map(swapped)
    }

    pub(super) fn dead(&self, queue: &str) -> String {
        format!("{}.dead.{}", self.prefix, swapped(queue))
    }

    pub(super) fn dead_all(&self) -> String {
        format!("{}.dead.>", self.prefix)
    }

    /// Messages to be delivered.
    pub(super) fn ready(&self, queue: &str) -> String {
        format!("{}.work.{}.ready.{}", self.prefix, self.shard(queue), swapped(queue))
    }

    /// Messages that wait for their time.
    pub(super) fn delayed(&self, queue: &str) -> String {
        format!("{}.work.{}.delayed.{}", self.prefix, self.shard(queue), swapped(queue))
    }

    pub(super) fn delayed_all(&self, shard: usize) -> String {
        format!("{}.work.{shard}.delayed.>", self.prefix)
    }

    pub(super) fn work_all(&self, shard: usize) -> String {
        format!("{}.work.{shard}.>", self.prefix)
    }

    /// Where a delayed message goes once its time has come.
    pub(super) fn ready_from_delayed(&self, shard: usize, subject: &str) -> Option<String> {
        let queue = subject.strip_prefix(&format!("{}.work.{shard}.delayed.", self.prefix))?;
        Some(format!("{}.work.{shard}.ready.{queue}", self.prefix))
    }

    pub(super) fn event(&self, subject: &str) -> String {
        format!("{}.events.{subject}", self.prefix)
    }

    pub(super) fn event_of<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.prefix)?.strip_prefix(".events.")
    }

    /// The stream that a queue lives in.
    pub(super) fn shard(&self, queue: &str) -> usize {
        let digest = Sha256::digest(queue);
        let word = digest.iter().take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        usize::try_from(word % self.shards as u64).unwrap_or_default()
    }

    pub(super) fn shards(&self) -> usize {
        self.shards
    }
}

/// The durable consumer of a queue.
pub(super) fn consumer(queue: &str) -> String {
    digest(&[queue])
}

/// By what the server recognises a second copy of a message.
pub(super) fn message_id(queue: &str, id: &str) -> String {
    digest(&[queue, id])
}

/// By what the server recognises a second write that follows the same revision of a key.
pub(super) fn successor_id(key: &str, revision: u64) -> String {
    digest(&[key, &revision.to_string()])
}

fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
        // No name or id of ours can be told from another by where its parts end.
        hasher.update([0xff]);
    }
    hex::encode(&hasher.finalize()[..16])
}

fn swapped(name: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    name.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_subjects_are_one_to_one() {
        let names = Names::new("p", 4);
        for key in ["a", "a/b.c/d", "..", ".a./b", "jobs/018f.json"] {
            crate::name::check_key(key).unwrap();
            let subject = names.key(key);
            assert!(subject.split('.').all(|token| !token.is_empty()), "{subject}");
            assert_eq!(names.key_of(&subject).as_deref(), Some(key));
        }
        let check = |scope, expected| assert_eq!(names.scope(&Scope::parse(scope).unwrap()), expected);
        check("", "p.keys.>");
        check("a/b/", "p.keys.a.b.>");
        check("a.b", "p.keys.a/b");
        let queue = names.shard("q/1");
        let delayed = names.delayed("q/1");
        assert_eq!(names.ready_from_delayed(queue, &delayed), Some(names.ready("q/1")));
        assert_ne!(message_id("a", "bc"), message_id("ab", "c"));
    }
}
