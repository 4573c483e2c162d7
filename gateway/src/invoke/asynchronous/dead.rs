// SPDX-License-Identifier: Apache-2.0
//! Dead letters: asynchronous calls that were given up, with all that is needed
//! to try them once more.
//!
//! A replay is a new invocation, since the old one has its end. Its id follows
//! from the letter, so that a replay that is repeated after a crash accepts
//! nothing twice.

use std::collections::HashSet;

use fanfold_backbone::DeadLetter;
use fanfold_protocol::{ErrorKind, Problem, digest::Digest, keys, time};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Inner, Invocations, InvocationsConfig,
    live::Live,
    message::{Message, Origin},
};
use crate::problem::of_backbone;

/// Letters read at once.
const PAGE: usize = 100;

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letters {
    /// All there are.
    All,
    /// Those of these invocations.
    Of(Vec<Uuid>),
}

/// A dead letter that was replayed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// The invocation that was given up.
    #[schema(value_type = String)]
    pub of: Uuid,
    /// The one that it has become.
    #[schema(value_type = String)]
    pub id: Uuid,
}

/// A dead letter, as far as it can be read.
pub(super) struct Letter {
    pub(super) letter: DeadLetter,
    pub(super) message: Option<Message>,
}

impl Letter {
    fn read(letter: DeadLetter) -> Self {
        let message = Message::decode(&letter.payload).ok();
        Self { letter, message }
    }

    /// The id of its replay. Letters of one invocation have one replay.
    fn replay_id(&self) -> Uuid {
        let digest = Digest::of(format!("replay {}", self.letter.id).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

impl Invocations {
    /// A page of dead letters, oldest first, from behind a sequence.
    pub(super) async fn dead_letters(&self, after: u64, limit: usize) -> Result<Vec<Letter>, Problem> {
        self.inner.letters(after, limit).await
    }

    /// Accepts dead letters once more, with attempts counted anew, and removes
    /// them. Of all of them, those that cannot be read stay.
    ///
    /// # Errors
    /// `invocation-not-found` when one of the ids has no dead letter, before
    /// anything is done; `queue-full`, `internal` for a letter that cannot be
    /// read; or the backbone does not answer. What was replayed before stays so.
    pub async fn replay(&self, which: &Letters) -> Result<Vec<Replayed>, Problem> {
        let mut replayed = Vec::new();
        for sequence in self.inner.choose(which).await? {
            let Some(letter) = self.inner.letter(sequence).await? else { continue };
            let Some(message) = &letter.message else {
                if *which == Letters::All {
                    continue;
                }
                return Err(unreadable(&letter.letter.id));
            };
            let (of, id) = (message.head.id, letter.replay_id());
            self.inner.accept_again(id, message).await?;
            self.inner.remove(vec![sequence]).await?;
            replayed.push(Replayed { of, id });
        }
        Ok(replayed)
    }

    /// Removes dead letters for good; their number.
    ///
    /// # Errors
    /// `invocation-not-found` as for a replay; or the backbone does not answer.
    pub async fn discard(&self, which: &Letters) -> Result<usize, Problem> {
        let chosen = self.inner.choose(which).await?;
        self.inner.remove(chosen).await
    }
}

impl Inner {
    async fn letters(&self, after: u64, limit: usize) -> Result<Vec<Letter>, Problem> {
        let letters = self.backbone.dead_letters(keys::INVOCATION_QUEUE, after, limit).await;
        Ok(letters.map_err(of_backbone)?.into_iter().map(Letter::read).collect())
    }

    /// One letter, if it is there still.
    async fn letter(&self, sequence: u64) -> Result<Option<Letter>, Problem> {
        let found = self.letters(sequence.saturating_sub(1), 1).await?;
        Ok(found.into_iter().find(|letter| letter.letter.sequence == sequence))
    }

    /// The sequences of the letters that are meant: bodies would be too much to
    /// be held all at once.
    async fn choose(&self, which: &Letters) -> Result<Vec<u64>, Problem> {
        let (mut chosen, mut seen, mut after) = (Vec::new(), HashSet::new(), 0);
        loop {
            let page = self.letters(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.letter.sequence;
            for Letter { letter, .. } in page {
                let id = letter.id.parse::<Uuid>().ok();
                let meant = match which {
                    Letters::All => true,
                    Letters::Of(ids) => id.is_some_and(|id| ids.contains(&id)),
                };
                if meant {
                    chosen.push(letter.sequence);
                    seen.extend(id);
                }
            }
        }
        let Letters::Of(ids) = which else { return Ok(chosen) };
        match ids.iter().find(|id| !seen.contains(*id)) {
            Some(missing) => Err(no_letter(missing)),
            None => Ok(chosen),
        }
    }

    async fn accept_again(&self, id: Uuid, message: &Message) -> Result<(), Problem> {
        if self.ends.get(&id).await?.is_some() {
            return Ok(());
        }
        let mut message = message.clone();
        message.head.origin = Origin::Replay { of: message.head.id };
        (message.head.id, message.head.accepted_at) = (id, time::now());
        if Live::get(&self.backbone, &id).await?.is_none() {
            self.take_room().await?;
            message.live().create(&self.backbone, &id).await?;
            self.counters.accepted.inc();
        }
        self.enqueue(id, message.encode()?).await.map(drop)
    }

    async fn remove(&self, sequences: Vec<u64>) -> Result<usize, Problem> {
        self.backbone.discard(keys::INVOCATION_QUEUE, sequences).await.map_err(of_backbone)
    }

    /// Removes the letters that nobody has replayed in time. Those that cannot
    /// be read, whose time is not known either, are left to people.
    pub(super) async fn expire_letters(&self) -> Result<(), Problem> {
        let (now, mut after) = (time::now(), 0);
        let is_old = |letter: &&Letter| {
            let age = letter.message.as_ref().map(|message| now.since(message.head.accepted_at));
            age.is_some_and(|age| age >= self.config.window)
        };
        loop {
            let page = self.letters(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.letter.sequence;
            self.drop_letters(page.iter().filter(is_old).map(|old| old.letter.sequence).collect()).await?;
        }
    }

    /// Removes the oldest letters when there are too many, or too large ones: a function that
    /// always fails must not fill the disk. How their invocations ended stays known.
    pub(super) async fn trim_letters(&self) -> Result<(), Problem> {
        let InvocationsConfig { dead_letters_max, dead_letter_bytes_max, .. } = self.config;
        let queue = keys::INVOCATION_QUEUE;
        let trimmed = self.backbone.trim_dead_letters(queue, dead_letters_max, dead_letter_bytes_max).await;
        self.note_lost(trimmed.map_err(of_backbone)?);
        Ok(())
    }

    async fn drop_letters(&self, sequences: Vec<u64>) -> Result<(), Problem> {
        if !sequences.is_empty() {
            self.note_lost(self.remove(sequences).await?);
        }
        Ok(())
    }

    /// Counts letters that are gone although nobody has replayed or discarded them.
    pub(super) fn note_lost(&self, count: usize) {
        if count > 0 {
            self.counters.expired.inc_by(count as u64);
            tracing::warn!(count, "dead letters of invocations were removed that nobody has replayed");
        }
    }
}

fn no_letter(id: &Uuid) -> Problem {
    Problem::new(
        ErrorKind::InvocationNotFound,
        format!(
            "expected a dead letter of invocation {id}, found none; see `fanfold invocations dead-letters`"
        ),
    )
}

fn unreadable(id: &str) -> Problem {
    Problem::new(
        ErrorKind::Internal,
        format!("expected the dead letter of {id} to be a call, found what cannot be read; discard it"),
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_letter_has_one_replay() {
        let letter = |id: &str, sequence| {
            let (id, reason) = (id.to_owned(), String::new());
            Letter::read(DeadLetter { sequence, id, payload: Bytes::new(), attempt: 1, reason })
        };
        assert_eq!(letter("a", 1).replay_id(), letter("a", 2).replay_id());
        assert_ne!(letter("a", 1).replay_id(), letter("b", 1).replay_id());
        assert_eq!(letter("a", 1).replay_id().get_version_num(), 8);
    }
}
