// SPDX-License-Identifier: Apache-2.0
//! Works through the events that wait, each trigger beside the others.
//!
//! One task for each trigger pulls as many events as it may have in work, and
//! no more. An event that cannot be delivered is given back with a growing
//! pause, and becomes a dead letter after its attempts; what the platform or a
//! bound is to blame for is tried for hours, since the event is not at fault.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fanfold_backbone::Delivery;
use fanfold_protocol::{ErrorKind, Fault, Problem, keys, limits, time};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{counters::Fate, dispatch, intake::Waiting, reconcile, record::Trigger};
use crate::state::AppState;

/// How long an event stays with who pulled it, and how often that is extended.
const LEASE: Duration = Duration::from_secs(30);
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// How long a pull waits for the first event.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// After a pull that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Dead letters of a removed trigger that are dropped at once.
const DROPPED_AT_ONCE: usize = 1_000;

/// Works through events until `stop`, for triggers that are there and that come.
pub(crate) fn start(app: &AppState, stop: &CancellationToken) {
    let token = stop.clone();
    let managing = manage(Arc::clone(app), stop.clone());
    tokio::spawn(async move { token.run_until_cancelled(managing).await });
    let (looking, token) = (reconcile::run(Arc::clone(app)), stop.clone());
    tokio::spawn(async move { token.run_until_cancelled(looking).await });
}

/// Keeps a runner for every trigger; once one is removed, drops what waits for it.
async fn manage(app: AppState, stop: CancellationToken) {
    let mut changes = app.triggers.changes();
    let mut running: HashMap<Uuid, JoinHandle<()>> = HashMap::new();
    let mut dropped = HashSet::new();
    loop {
        changes.mark_unchanged();
        running.retain(|_, runner| !runner.is_finished());
        for trigger in app.triggers.records() {
            let (id, removed) = (trigger.record.id, trigger.record.removed);
            if running.contains_key(&id) || removed && !dropped.insert(id) {
                continue;
            }
            let (app, stop) = (Arc::clone(&app), stop.clone());
            running.insert(
                id,
                tokio::spawn(async move {
                    let runner =
                        async { if removed { drop_rest(&app, &id).await } else { run(&app, id).await } };
                    stop.run_until_cancelled(runner).await;
                }),
            );
        }
        // A runner notices a removal after its pull at the latest.
        let _ = tokio::time::timeout(PULL_WAIT, changes.changed()).await;
    }
}

async fn run(app: &AppState, id: Uuid) {
    let queue = keys::event_queue(&id);
    let mut changes = app.triggers.changes();
    let mut work = JoinSet::new();
    while let Some(trigger) = app.triggers.by_id(&id) {
        changes.mark_unchanged();
        while work.try_join_next().is_some() {}
        if trigger.record.paused {
            let _ = changes.changed().await;
            continue;
        }
        let room = (trigger.record.document.concurrency as usize).saturating_sub(work.len());
        if room == 0 {
            work.join_next().await;
            continue;
        }
        let pulled = match app.backbone.pull(&queue, room, PULL_WAIT, LEASE).await {
            Ok(pulled) => pulled,
            Err(error) => {
                tracing::warn!(trigger = %trigger.record.name, %error, "events are not pulled; this is tried again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // The trigger may have been changed, paused or removed meanwhile.
        let now = app.triggers.by_id(&id).filter(|trigger| !trigger.record.paused);
        for delivery in pulled {
            match &now {
                Some(trigger) => drop(work.spawn(handle(Arc::clone(app), Arc::clone(trigger), delivery))),
                None => settle(delivery.nak(Duration::ZERO).await),
            }
        }
    }
}

/// Handles an event, which stays ours meanwhile.
async fn handle(app: AppState, trigger: Arc<Trigger>, delivery: Delivery) {
    let mut acting = std::pin::pin!(act(&app, &trigger, &delivery));
    let first = tokio::time::Instant::now() + EXTEND_EVERY;
    let mut extend = tokio::time::interval_at(first, EXTEND_EVERY);
    loop {
        tokio::select! {
            () = &mut acting => return,
            _ = extend.tick() => settle(delivery.extend(LEASE).await),
        }
    }
}

async fn act(app: &AppState, trigger: &Trigger, delivery: &Delivery) {
    let (name, counters) = (&trigger.record.name, app.triggers.counters());
    let Ok(waiting) = serde_json::from_slice::<Waiting>(&delivery.payload) else {
        counters.event(name, Fate::Dead);
        settle(
            delivery.dead("expected an event of this version of the platform, found something else").await,
        );
        return;
    };
    let problem = match dispatch::act(app, trigger, &waiting).await {
        Ok(fate) => {
            counters.event(name, fate);
            settle(delivery.ack().await);
            return;
        }
        Err(problem) => problem,
    };
    let notice = &waiting.notice;
    let (bucket, key) = (&notice.bucket, &notice.key);
    let Some(pause) = pause(trigger, &problem, delivery.attempt, time::now().since(waiting.at)) else {
        let fate = if problem.code == ErrorKind::TriggerLoop { Fate::Loop } else { Fate::Dead };
        counters.event(name, fate);
        tracing::warn!(trigger = %name, bucket, key, code = problem.code.code(), detail = %problem.detail, "an event was given up");
        settle(delivery.dead(&format!("{}: {}", problem.code, problem.detail)).await);
        return;
    };
    counters.event(name, Fate::Retried);
    tracing::debug!(trigger = %name, bucket, key, code = problem.code.code(), "an event is tried again");
    settle(delivery.nak(pause).await);
}

/// How long to wait before the next attempt; none when there is to be none.
fn pause(trigger: &Trigger, problem: &Problem, attempt: u32, age: Duration) -> Option<Duration> {
    let retry = &trigger.record.document.retry;
    let blameless = problem.retryable() && matches!(problem.code.fault(), Fault::Platform | Fault::Limit);
    let again = match problem.code {
        ErrorKind::TriggerLoop => false,
        _ if blameless => age < limits::EVENT_AGE_MAX,
        _ => attempt < retry.attempts,
    };
    let doubled = 1_u32 << attempt.saturating_sub(1).min(16);
    again.then(|| retry.backoff.as_duration().saturating_mul(doubled).min(BACKOFF_MAX))
}

/// An event that could not be settled is delivered again once its lease lapses.
fn settle(settled: fanfold_backbone::Result<fanfold_backbone::Settled>) {
    if let Err(error) = settled {
        tracing::warn!(%error, "an event was not settled; it is delivered again");
    }
}

/// Drops what waits for a trigger that is gone.
async fn drop_rest(app: &AppState, id: &Uuid) {
    let queue = keys::event_queue(id);
    let dropped = async {
        loop {
            let pulled = app.backbone.pull(&queue, DROPPED_AT_ONCE, Duration::ZERO, LEASE).await?;
            if pulled.is_empty() {
                break;
            }
            for delivery in pulled {
                delivery.ack().await?;
            }
        }
        loop {
            let letters = app.backbone.dead_letters(&queue, 0, DROPPED_AT_ONCE).await?;
            if letters.is_empty() {
                break;
            }
            app.backbone.discard(&queue, letters.iter().map(|letter| letter.sequence).collect()).await?;
        }
        loop {
            let page = app.backbone.list_page(&keys::outcomes(id), None, DROPPED_AT_ONCE).await?;
            if page.entries.is_empty() {
                return Ok::<_, fanfold_backbone::Error>(());
            }
            for (key, _) in page.entries {
                app.backbone.delete(&key, None).await?;
            }
        }
    };
    if let Err(error) = dropped.await {
        tracing::warn!(%error, "events of a removed trigger stay behind until the next start");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::record::tests::trigger, *};

    #[test]
    fn attempts_are_counted_for_what_is_the_events_own_fault() {
        let trigger = trigger(
            "t",
            json!({"bucket": "bank", "function": "f", "retry": {"attempts": 3, "backoff": "1s"}}),
        );
        let pause = |kind: ErrorKind, attempt: u32, hours: u64| {
            pause(&trigger, &Problem::new(kind, "x"), attempt, Duration::from_secs(hours * 3_600))
        };
        assert_eq!(pause(ErrorKind::FunctionNotFound, 1, 0), Some(Duration::from_secs(1)));
        assert_eq!(pause(ErrorKind::FunctionNotFound, 2, 0), Some(Duration::from_secs(2)));
        assert_eq!(pause(ErrorKind::FunctionNotFound, 3, 0), None);
        assert_eq!(pause(ErrorKind::StoreUnavailable, 50, 5), Some(BACKOFF_MAX));
        assert_eq!(pause(ErrorKind::QueueFull, 4, 0), Some(Duration::from_secs(8)));
        assert_eq!(pause(ErrorKind::StoreUnavailable, 2, 7), None);
        assert_eq!(pause(ErrorKind::TriggerLoop, 1, 0), None);
    }
}
