// SPDX-License-Identifier: Apache-2.0
//! What looks know of a trigger's outcomes.
//!
//! The backbone has them all; the store has those of states that are there, packed,
//! so that a lost backbone is no reason to start everything again. An outcome
//! whose state is gone is not removed but left to lapse, and stays after all when
//! another look sees the state again: so one listing that is not whole forgets
//! nothing.

use std::{collections::HashMap, time::Duration};

use bytes::{BufMut, BytesMut};
use fanfold_protocol::{
    Problem,
    digest::Digest,
    event::state_identity,
    keys,
    time::Timestamp,
    uri::{ObjectUri, Pin},
};
use fanfold_storage::{PutOptions, Store};
use uuid::Uuid;

use super::outcome::{self, Outcome};
use crate::{
    problem::{of_backbone, of_store},
    state::App,
};

/// Bytes of an identity that are kept: two of a billion objects meet by one in 10^20.
const SHORT: usize = 16;

/// The beginning of an identity, which names a state here.
pub type Short = [u8; SHORT];

/// What is known of a state.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// It is there still.
    pub seen: bool,
    /// It has started nothing and was given up.
    pub given_up: bool,
    /// Its outcome lapses by itself.
    lapses: bool,
}

impl Known {
    /// Whether its outcome lapses and is to stay, or the other way round.
    fn is_to_change(&self) -> bool {
        self.seen == self.lapses
    }
}

/// What is known of a state that a listing tells. Swift rounds the time of writing down in a listing and up in its
/// answer to a HEAD, by which outcomes are named, so the second after is looked for as well. Were that another state,
/// of the same bytes, the listing would tell that one.
pub fn find<'a>(
    known: &'a mut HashMap<Short, Known>,
    bucket: &str,
    key: &str,
    pin: &Pin,
    last_modified: Timestamp,
) -> Option<&'a mut Known> {
    let seconds = [last_modified, last_modified.later(Duration::from_secs(1))];
    let mut names = seconds.into_iter().map(|at| short(&state_identity(bucket, key, pin, at)));
    let name = names.find(|name| known.contains_key(name))?;
    known.get_mut(&name)
}

/// The name of a state.
fn short(identity: &Digest) -> Short {
    let mut short = [0; SHORT];
    short.copy_from_slice(&identity.as_bytes()[..SHORT]);
    short
}

fn short_of_key(key: &str) -> Option<Short> {
    let mut short = [0; SHORT];
    hex::decode_to_slice(key.rsplit('/').next()?.get(..2 * SHORT)?, &mut short).ok()?;
    Some(short)
}

/// The outcomes in the backbone.
///
/// # Errors
/// The backbone does not answer.
pub async fn outcomes(app: &App, trigger: &Uuid) -> Result<HashMap<Short, Known>, Problem> {
    let scope = keys::outcomes(trigger);
    let mut known = HashMap::new();
    let mut after = None;
    loop {
        let page = app.backbone.list_part(&scope, after.as_deref()).await.map_err(of_backbone)?;
        for (key, entry) in &page.entries {
            let outcome = serde_json::from_slice::<Outcome>(&entry.value).ok();
            let given_up = outcome.as_ref().is_some_and(Outcome::is_given_up);
            let lapses = outcome.as_ref().is_some_and(Outcome::lapses);
            known.extend(short_of_key(key).map(|short| (short, Known { seen: false, given_up, lapses })));
        }
        after = page.next;
        if after.is_none() {
            return Ok(known);
        }
    }
}

/// After a look that would have seen every state that is there: lets outcomes of others lapse,
/// this long from now, and keeps those whose states are there again. Those of removals lapse
/// from the first.
///
/// # Errors
/// The backbone does not answer.
pub async fn settle(
    app: &App,
    trigger: &Uuid,
    known: &HashMap<Short, Known>,
    gone_after: Duration,
) -> Result<(), Problem> {
    if !known.values().any(Known::is_to_change) {
        return Ok(());
    }
    let scope = keys::outcomes(trigger);
    let mut after = None;
    loop {
        let page = app.backbone.list_part(&scope, after.as_deref()).await.map_err(of_backbone)?;
        for (key, entry) in &page.entries {
            let known = short_of_key(key).and_then(|short| known.get(&short));
            if let Some(known) = known.filter(|known| known.is_to_change()) {
                let lapse_after = (!known.seen).then_some(gone_after);
                outcome::set_lapse(&app.backbone, key, entry, lapse_after).await?;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The outcomes that the store keeps for the day the backbone is lost.
///
/// # Errors
/// The store does not answer.
pub async fn unpack(store: &Store, app: &App, trigger: &Uuid) -> Result<Vec<Short>, Problem> {
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::packed_outcomes(trigger))?;
    match store.get(&uri, None).await {
        Ok(bytes) => Ok(bytes.as_chunks::<SHORT>().0.to_vec()),
        Err(fanfold_storage::Error::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(of_store(error)),
    }
}

/// Writes down the outcomes of all states that are there, unless nothing changed. Where not all
/// that may be there was looked for, those that were there before count as well.
/// What was given up is tried again where its dead letter was lost with the backbone.
///
/// # Errors
/// The store does not answer.
pub async fn pack(
    store: &Store,
    app: &App,
    trigger: &Uuid,
    known: &HashMap<Short, Known>,
    packed: &[Short],
    all_seen: bool,
) -> Result<(), Problem> {
    let is_there = |known: &Known| known.seen || !all_seen && !known.lapses;
    let settled = known.iter().filter(|(_, known)| is_there(known) && !known.given_up);
    let mut settled: Vec<Short> = settled.map(|(short, _)| *short).collect();
    settled.sort_unstable();
    if settled == packed {
        return Ok(());
    }
    let mut body = BytesMut::with_capacity(settled.len() * SHORT);
    settled.iter().for_each(|short| body.put_slice(short));
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::packed_outcomes(trigger))?;
    let options = PutOptions::typed("application/octet-stream");
    store.put(&uri, body.freeze(), options).await.map(drop).map_err(of_store)
}

/// Removes the outcomes that the store keeps of a trigger that is gone.
pub async fn drop_packed(app: &App, trigger: &Uuid) {
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::packed_outcomes(trigger));
    let Ok(uri) = uri else { return };
    if let Err(error) = app.store.delete(&uri).await {
        tracing::warn!(%uri, %error, "outcomes of a removed trigger stay behind until the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_that_a_listing_tells_of_a_second_earlier() {
        let pin = Pin { etag: "e".to_owned(), size: 1, version_id: None };
        let name = |key: &str, ms: u64| short(&state_identity("bank", key, &pin, Timestamp(ms)));
        let mut known = HashMap::from([(name("a", 5_000), Known::default())]);
        let mut finds = |key: &str, ms: u64| {
            let found = find(&mut known, "bank", key, &pin, Timestamp(ms));
            found.map(|known| known.seen = true).is_some()
        };
        assert!(finds("a", 5_000) && finds("a", 5_999) && finds("a", 4_321));
        // Written again, and another.
        assert!(!finds("a", 6_000) && !finds("a", 3_999) && !finds("b", 5_000));
        // Of both, the one that is told.
        known.insert(name("a", 4_000), Known { given_up: true, ..Known::default() });
        assert!(find(&mut known, "bank", "a", &pin, Timestamp(4_500)).is_some_and(|known| known.given_up));
    }
}
