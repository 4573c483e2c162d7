// SPDX-License-Identifier: Apache-2.0
//! One event, or one batch, from its delivery to its end.
//!
//! What cannot be delivered is given back with a growing pause, and becomes a
//! dead letter after its attempts; what the platform or a bound is to blame for,
//! or another job that has yet to end, is tried for hours, since the event is not
//! at fault. The backbone counts deliveries: one that was no failed attempt ends
//! with the event queued anew, under another id. Invariant: each delivery is settled with a fate that is counted, or
//! comes again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use fanfold_backbone::Delivery;
use fanfold_protocol::{ErrorKind, Fault, Problem, digest::Digest, keys, limits, time};
use futures::{StreamExt, stream};
use uuid::Uuid;

use super::{
    batch, breaker,
    counters::Fate,
    dispatch::{self, Candidate, Next},
    intake::{Waiting, taken_at},
    loops,
    order::{self, Turns},
    outcome::{self, Started},
    record::{Trigger, TriggerRecord},
    runner::LEASE,
    sqs::unread_reason,
    target,
};
use crate::state::AppState;

/// How often a lease is extended.
pub const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// Before an event looks again whether it is its turn; doubled a few times.
const TURN_PAUSE: Duration = Duration::from_millis(200);
/// Events of a batch that are looked at side by side.
const EXAMINED_AT_ONCE: usize = 16;
/// After a trigger that could not be paused.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause before an attempt of those that are not counted, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest pause between two attempts that doubling makes; the first of a trigger may be longer.
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Handles an event or a batch, which stays ours meanwhile, and sees what it starts
/// to its end, for which the trigger has a bounded number of places.
pub async fn handle(app: AppState, trigger: Arc<Trigger>, deliveries: Vec<Delivery>) {
    let turns = Turns::default();
    let started = {
        let mut acting = std::pin::pin!(act(&app, &trigger, &turns, &deliveries));
        let first = tokio::time::Instant::now() + EXTEND_EVERY;
        let mut ticks = tokio::time::interval_at(first, EXTEND_EVERY);
        loop {
            tokio::select! {
                started = &mut acting => break started,
                _ = ticks.tick() => {
                    extend(&deliveries).await;
                    turns.keep(&app, &trigger).await;
                }
            }
        }
    };
    drop(deliveries);
    for started in started {
        target::rest(&app, &started).await;
    }
}

/// An event in work.
struct Item {
    delivery: Delivery,
    waiting: Waiting,
}

impl Item {
    /// How often it has failed, this time included: by what it is not to blame for, or by its own fault. A lease that
    /// lapsed counts as the latter, since the event may be what ended the process.
    fn failures(&self, excused: bool) -> u32 {
        let before = if excused { self.waiting.put_back } else { self.waiting.failures };
        before.saturating_add(self.delivery.attempt)
    }
}

async fn act(app: &AppState, trigger: &Trigger, turns: &Turns, deliveries: &[Delivery]) -> Vec<Started> {
    let examine = |delivery: Delivery| async move {
        let item = read(app, trigger, delivery).await?;
        let next = dispatch::examine(app, trigger, turns, &item.waiting).await;
        Some((item, next))
    };
    let examined = stream::iter(deliveries.to_vec()).map(examine).buffered(EXAMINED_AT_ONCE);
    let examined: Vec<_> = examined.filter_map(std::future::ready).collect().await;
    let (mut candidates, mut items) = (Vec::new(), HashMap::new());
    let mut begun: BTreeMap<Uuid, Vec<(Digest, Item)>> = BTreeMap::new();
    for (item, next) in examined {
        match next {
            // Of one state there is one candidate; what else tells of it comes after.
            Ok(Next::Start(candidate)) if items.contains_key(&candidate.identity) => {
                wait(app, trigger, item).await;
            }
            Ok(Next::Start(candidate)) => {
                items.insert(candidate.identity, item);
                candidates.push(*candidate);
            }
            Ok(Next::Begun(state, id)) => begun.entry(id).or_default().push((state, item)),
            Ok(Next::Wait) => wait(app, trigger, item).await,
            Ok(Next::Settled(fate)) => done(app, trigger, &item, fate).await,
            Ok(Next::Refused(state, problem)) => failed(app, trigger, item, Some(&state), &problem).await,
            Err(problem) => failed(app, trigger, item, None, &problem).await,
        }
    }
    let mut all_started = Vec::new();
    for (id, items) in begun {
        let finished = batch::finish(app, trigger, &id).await;
        all_started.extend(finished.iter().flatten().filter_map(|ended| ended.started.clone()));
        for (state, item) in items {
            match &finished {
                Ok(_) => done(app, trigger, &item, Fate::Duplicate).await,
                Err(problem) => failed(app, trigger, item, Some(&state), problem).await,
            }
        }
    }
    all_started.extend(start_all(app, trigger, candidates, items).await);
    all_started
}

/// Starts something for these events, or something for all of them together.
async fn start_all(
    app: &AppState,
    trigger: &Trigger,
    candidates: Vec<Candidate>,
    mut items: HashMap<Digest, Item>,
) -> Vec<Started> {
    let mut all_started = Vec::new();
    let batches = match batch::divided(candidates) {
        Ok(batches) => batches,
        Err(problem) => {
            for (state, item) in items {
                failed(app, trigger, item, Some(&state), &problem).await;
            }
            return all_started;
        }
    };
    for batch in batches {
        let Some(minute) = within_rate(app, trigger).await else {
            for candidate in batch {
                // It may have been written again once its event comes back: that is another one by then.
                order::give_back(app, trigger, &candidate.event).await;
                if let Some(item) = items.remove(&candidate.identity) {
                    put_back(app, trigger, item, Duration::ZERO).await;
                }
            }
            continue;
        };
        let ended = match &batch[..] {
            [one] if trigger.record.document.batch.is_none() => dispatch::start(app, trigger, one)
                .await
                .map(|started| batch::Ended { won: started.iter().map(|_| one.identity).collect(), started }),
            all => batch::start(app, trigger, all).await,
        };
        // What the backbone did not note may have been started.
        let nothing_started = match &ended {
            Ok(ended) => ended.started.is_none(),
            Err(problem) => problem.code != ErrorKind::BackboneUnavailable,
        };
        if nothing_started {
            app.triggers.breaker().take_back(&trigger.record.id, minute);
        }
        for candidate in &batch {
            let Some(item) = items.remove(&candidate.identity) else { continue };
            match &ended {
                Ok(ended) if ended.won.contains(&candidate.identity) => {
                    done(app, trigger, &item, candidate.fate()).await;
                }
                Ok(_) => done(app, trigger, &item, Fate::Duplicate).await,
                Err(problem) => failed(app, trigger, item, Some(&candidate.identity), problem).await,
            }
        }
        all_started.extend(ended.ok().and_then(|ended| ended.started));
    }
    all_started
}

/// Counts a start, in the minute that it gives, unless the trigger is paused; pauses it when there are more
/// than there may be.
async fn within_rate(app: &AppState, trigger: &Trigger) -> Option<Instant> {
    let record = &trigger.record;
    if app.triggers.by_id(&record.id).is_none_or(|now| now.record.paused) {
        return None;
    }
    let (starts, keeps_metadata) = (app.triggers.breaker(), app.health.store_keeps_metadata());
    let most = breaker::most(&record.document, keeps_metadata);
    let mut admitted = starts.admit(&record.id, most, Instant::now());
    if admitted.is_none()
        && breaker::is_for_removals(&record.document, keeps_metadata)
        && !leads_to_itself(app, trigger).await
    {
        starts.excuse(&record.id);
        admitted = starts.admit(&record.id, most, Instant::now());
    }
    if admitted.is_some() {
        return admitted;
    }
    let most = most.unwrap_or_default();
    app.triggers.counters().tripped(&record.name);
    tracing::error!(trigger = %record.name, most, "a trigger paused itself: it starts more a minute than it may");
    let because =
        format!("it started more than {most} times within a minute, as a loop would; look, then resume it");
    let paused = app.triggers.pause_itself(record, because).await;
    if let Err(problem) = paused {
        tracing::warn!(trigger = %record.name, detail = %problem.detail, "the trigger was not paused");
        tokio::time::sleep(PAUSE).await;
    }
    None
}

/// Whether what a trigger starts may start it again by now. Where nobody can tell, no chain is known.
async fn leads_to_itself(app: &AppState, trigger: &Trigger) -> bool {
    let TriggerRecord { name, document, .. } = &trigger.record;
    let found = loops::closing(&app.triggers, &app.registry, name.as_str(), document).await;
    found.is_ok_and(|found| found.is_some())
}

/// What a delivery carries; none when that cannot be told. It is given up then, unless a newer release
/// has queued it, whose gateways have as long for it as for what is no event's own fault.
async fn read(app: &AppState, trigger: &Trigger, delivery: Delivery) -> Option<Item> {
    let (name, payload) = (&trigger.record.name, &delivery.payload);
    let error = match serde_json::from_slice(payload) {
        Ok(waiting) => return Some(Item { delivery, waiting }),
        Err(error) => error,
    };
    let (again, reason) = match unread_reason(payload) {
        Some(reason) => (None, reason),
        None => {
            let found = format!("expected an event of this release or an older one, found: {error}");
            let problem = Problem::new(ErrorKind::Internal, found);
            let age = taken_at(payload).map(|at| time::now().since(at));
            let again = pause(trigger, &problem, delivery.attempt, age.unwrap_or(Duration::MAX));
            (again, problem.reason())
        }
    };
    tracing::warn!(trigger = %name, id = delivery.id, reason, left = again.is_some(), "an event cannot be read");
    app.triggers.counters().event(name, if again.is_some() { Fate::Retried } else { Fate::Dead });
    match again {
        Some(pause) => settle(delivery.nak(pause).await),
        None => give_up(app, trigger, &delivery, &reason).await,
    }
    None
}

async fn done(app: &AppState, trigger: &Trigger, item: &Item, fate: Fate) {
    app.triggers.counters().event(&trigger.record.name, fate);
    settle(item.delivery.ack().await);
}

/// Lets an event wait for its turn.
async fn wait(app: &AppState, trigger: &Trigger, item: Item) {
    app.triggers.counters().event(&trigger.record.name, Fate::Waited);
    let pause = TURN_PAUSE * (1 << item.waiting.turns.min(4));
    let Item { delivery, mut waiting } = item;
    waiting.turns = waiting.turns.saturating_add(1);
    queue_anew(app, trigger, &delivery, waiting, pause).await;
}

/// Puts an event back that is not to blame for being put off.
async fn put_back(app: &AppState, trigger: &Trigger, item: Item, pause: Duration) {
    let Item { delivery, mut waiting } = item;
    waiting.put_back = waiting.put_back.saturating_add(1);
    queue_anew(app, trigger, &delivery, waiting, pause).await;
}

/// Gives back what was pulled and not looked at.
pub async fn give_back(app: &AppState, trigger: &Trigger, deliveries: Vec<Delivery>) {
    let give_back = |delivery: Delivery| async move {
        match serde_json::from_slice(&delivery.payload) {
            Ok(waiting) => put_back(app, trigger, Item { delivery, waiting }, Duration::ZERO).await,
            Err(_) => settle(delivery.nak(Duration::ZERO).await),
        }
    };
    stream::iter(deliveries).for_each_concurrent(EXAMINED_AT_ONCE, give_back).await;
}

/// Queues an event anew, so that this delivery is no failed attempt. Where there is no way to, it counts as one.
async fn queue_anew(
    app: &AppState,
    trigger: &Trigger,
    delivery: &Delivery,
    mut waiting: Waiting,
    pause: Duration,
) {
    waiting.failures = waiting.failures.saturating_add(delivery.attempt.saturating_sub(1));
    let queued = match waiting.message() {
        Ok(message) => {
            let queue = keys::event_queue(&trigger.record.id);
            app.backbone.enqueue(&queue, vec![message.delayed(pause)]).await.is_ok()
        }
        Err(_) => false,
    };
    settle(if queued { delivery.ack().await } else { delivery.nak(pause).await });
}

/// Tries an event again later, or gives it up, and with it the state that it led to.
async fn failed(app: &AppState, trigger: &Trigger, item: Item, state: Option<&Digest>, problem: &Problem) {
    let (name, counters) = (&trigger.record.name, app.triggers.counters());
    let (delivery, notice) = (&item.delivery, &item.waiting.notice);
    let (bucket, key) = (&notice.bucket, &notice.key);
    let age = time::now().since(item.waiting.at);
    let excused = is_excused(problem);
    let Some(pause) = pause(trigger, problem, item.failures(excused), age) else {
        if let Some(state) = state
            && let Err(error) = outcome::give_up(&app.backbone, &trigger.record.id, state).await
        {
            tracing::warn!(trigger = %name, bucket, key, detail = %error.detail, "an event is given up, and may be found again by a look");
        }
        let fate = if problem.code == ErrorKind::TriggerLoop { Fate::Loop } else { Fate::Dead };
        counters.event(name, fate);
        tracing::warn!(trigger = %name, bucket, key, code = problem.code.code(), detail = %problem.detail, "an event was given up");
        give_up(app, trigger, delivery, &problem.reason()).await;
        return;
    };
    counters.event(name, Fate::Retried);
    tracing::debug!(trigger = %name, bucket, key, code = problem.code.code(), "an event is tried again");
    if excused {
        put_back(app, trigger, item, pause).await;
    } else {
        settle(delivery.nak(pause).await);
    }
}

/// Makes a dead letter of an event, and counts those that had to go for it.
async fn give_up(app: &AppState, trigger: &Trigger, delivery: &Delivery, reason: &str) {
    match app.backbone.bury(delivery, reason).await {
        Ok(0) => {}
        Ok(lost) => app.triggers.counters().letters_expired(&trigger.record.name, lost as u64),
        Err(error) => settle(Err(error)),
    }
}

/// Whether something other than the event is to blame, or in its way, and will pass.
fn is_excused(problem: &Problem) -> bool {
    match problem.code {
        // Another job writes where this one reads or would write. Credentials that are refused are changed by the
        // operator, in the time that there is for a store that does not answer.
        ErrorKind::JobNotFinished | ErrorKind::StoreDenied => true,
        code => problem.retryable() && matches!(code.fault(), Fault::Platform | Fault::Limit),
    }
}

/// How long to wait before the next attempt; none when there is to be none.
fn pause(trigger: &Trigger, problem: &Problem, attempt: u32, age: Duration) -> Option<Duration> {
    let (retry, excused) = (&trigger.record.document.retry, is_excused(problem));
    let again = match problem.code {
        ErrorKind::TriggerLoop => false,
        // It may have started something, which the next attempt finds once the backbone answers.
        ErrorKind::BackboneUnavailable => age < 2 * limits::EVENT_AGE_MAX,
        _ if excused => age < limits::EVENT_AGE_MAX,
        _ => attempt < retry.attempts,
    };
    let doubled = 1_u32 << attempt.saturating_sub(1).min(16);
    let first = retry.backoff.as_duration().max(if excused { BACKOFF_MIN } else { Duration::ZERO });
    // Of what no attempt is to blame for, the end is looked for often, however patient the trigger is.
    let is_attempt = !excused && problem.code != ErrorKind::BackboneUnavailable;
    let most = if is_attempt { BACKOFF_MAX.max(first) } else { BACKOFF_MAX };
    again.then(|| first.saturating_mul(doubled).min(most))
}

/// Keeps deliveries for another lease.
pub async fn extend(deliveries: &[Delivery]) {
    for delivery in deliveries {
        settle(delivery.extend(LEASE).await);
    }
}

/// An event that could not be settled is delivered again once its lease lapses.
pub fn settle(settled: fanfold_backbone::Result<fanfold_backbone::Settled>) {
    if let Err(error) = settled {
        tracing::warn!(%error, "an event was not settled; it is delivered again");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::record::tests::trigger, *};

    #[test]
    fn attempts_are_counted_for_what_is_the_events_own_fault() {
        let with_backoff = |backoff: &str| {
            let retry = json!({"attempts": 3, "backoff": backoff});
            trigger("t", json!({"bucket": "bank", "function": "f", "retry": retry}))
        };
        let (slow, hasty) = (with_backoff("1s"), with_backoff("0s"));
        let pause_of = |trigger: &Trigger, kind: ErrorKind, attempt: u32, hours: u64| {
            pause(trigger, &Problem::new(kind, "x"), attempt, Duration::from_secs(hours * 3_600))
        };
        let pause = |kind: ErrorKind, attempt: u32, hours: u64| pause_of(&slow, kind, attempt, hours);
        assert_eq!(pause(ErrorKind::FunctionNotFound, 1, 0), Some(Duration::from_secs(1)));
        assert_eq!(pause(ErrorKind::FunctionNotFound, 2, 0), Some(Duration::from_secs(2)));
        assert_eq!(pause(ErrorKind::FunctionNotFound, 3, 0), None);
        assert_eq!(pause(ErrorKind::StoreUnavailable, 50, 5), Some(BACKOFF_MAX));
        assert_eq!(pause(ErrorKind::QueueFull, 4, 0), Some(Duration::from_secs(8)));
        assert_eq!(pause(ErrorKind::StoreUnavailable, 2, 7), None);
        assert_eq!(pause(ErrorKind::TriggerLoop, 1, 0), None);
        // Credentials are changed while events wait, as for a store that is away.
        assert_eq!(pause(ErrorKind::StoreDenied, 3, 0), Some(Duration::from_secs(4)));
        assert_eq!(pause(ErrorKind::StoreDenied, 50, 5), Some(BACKOFF_MAX));
        assert_eq!(pause(ErrorKind::StoreDenied, 2, 7), None);
        assert_eq!(pause_of(&hasty, ErrorKind::StoreDenied, 1, 0), Some(BACKOFF_MIN));
        // Another job ends by itself.
        assert_eq!(pause(ErrorKind::JobNotFinished, 4, 0), Some(Duration::from_secs(8)));
        assert_eq!(pause(ErrorKind::JobNotFinished, 50, 5), Some(BACKOFF_MAX));
        assert_eq!(pause(ErrorKind::JobNotFinished, 2, 7), None);
        // Only what is counted is tried again without a pause.
        assert_eq!(pause_of(&hasty, ErrorKind::FunctionNotFound, 2, 0), Some(Duration::ZERO));
        assert_eq!(pause_of(&hasty, ErrorKind::JobNotFinished, 1, 0), Some(BACKOFF_MIN));
        assert_eq!(pause_of(&hasty, ErrorKind::StoreUnavailable, 3, 0), Some(BACKOFF_MIN * 4));
        // What is longer by itself is not shortened, nor doubled.
        let patient = with_backoff("10m");
        for attempt in [1, 2] {
            let found = pause_of(&patient, ErrorKind::FunctionNotFound, attempt, 0);
            assert_eq!(found, Some(Duration::from_secs(600)), "{attempt}");
        }
        for code in [ErrorKind::JobNotFinished, ErrorKind::QueueFull, ErrorKind::BackboneUnavailable] {
            assert_eq!(pause_of(&patient, code, 1, 0), Some(BACKOFF_MAX), "{code:?}");
        }
        // What has been accepted and could not be written down is not given up.
        assert_eq!(pause(ErrorKind::BackboneUnavailable, 2, 7), Some(Duration::from_secs(2)));
    }
}
