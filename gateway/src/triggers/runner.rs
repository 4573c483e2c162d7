// SPDX-License-Identifier: Apache-2.0
//! Works through the events that wait, each trigger beside the others.
//!
//! One task for each trigger pulls as many events, or batches of events, as it
//! may have in work, and no more. An event is in work until what it started has
//! ended, so that a storm waits here, where there is room for it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use fanfold_backbone::{Backbone, Delivery};
use fanfold_protocol::{keys, seldom::Seldom, trigger::Batch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    letters, reconcile, settled, sqs,
    work::{EXTEND_EVERY, extend, give_back, handle},
};
use crate::state::AppState;

/// How long an event stays with who pulled it, unless that is extended.
pub const LEASE: Duration = Duration::from_secs(30);
/// How long a pull waits for the first event.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// After a pull that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Dead letters of a removed trigger that are dropped at once.
const DROPPED_AT_ONCE: usize = 1_000;

/// Works through events until `stop`, for triggers that are there and that come.
pub(crate) fn start(app: &AppState, stop: &CancellationToken) {
    let token = stop.clone();
    let managing = manage(Arc::clone(app), stop.clone());
    tokio::spawn(async move { token.run_until_cancelled(managing).await });
    let (looking, token) = (reconcile::run(Arc::clone(app)), stop.clone());
    tokio::spawn(async move { token.run_until_cancelled(looking).await });
    let (sweeping, token) = (letters::sweep(Arc::clone(app)), stop.clone());
    tokio::spawn(async move { token.run_until_cancelled(sweeping).await });
    let (polling, token) = (sqs::run(Arc::clone(app)), stop.clone());
    tokio::spawn(async move { token.run_until_cancelled(polling).await });
}

/// Keeps a runner for every trigger, which drops what waits for it once it is removed.
async fn manage(app: AppState, stop: CancellationToken) {
    let mut changes = app.triggers.changes();
    let mut running: HashMap<Uuid, JoinHandle<()>> = HashMap::new();
    let mut begun = HashSet::new();
    loop {
        changes.mark_unchanged();
        running.retain(|_, runner| !runner.is_finished());
        let records = app.triggers.records();
        let there: HashSet<Uuid> = records.iter().map(|trigger| trigger.record.id).collect();
        begun.retain(|id| there.contains(id));
        for trigger in records {
            let (id, removed) = (trigger.record.id, trigger.record.removed);
            if running.contains_key(&id) || !begun.insert(id) && removed {
                continue;
            }
            if !removed {
                app.triggers.counters().begin(&trigger.record.name);
            }
            let (app, stop) = (Arc::clone(&app), stop.clone());
            running.insert(
                id,
                tokio::spawn(async move {
                    let runner = async {
                        if !removed {
                            run(&app, id).await;
                            // Not left to whoever finds its record: another may have its name by then.
                            drop_rest(&app, &id).await;
                            // What was in work comes back once its leases have lapsed.
                            tokio::time::sleep(LEASE + PULL_WAIT).await;
                        }
                        drop_rest(&app, &id).await;
                    };
                    stop.run_until_cancelled(runner).await;
                }),
            );
        }
        // A runner notices a removal after its pull at the latest.
        let _ = tokio::time::timeout(PULL_WAIT, changes.changed()).await;
    }
}

/// Works through the events of a trigger until it is removed.
async fn run(app: &AppState, id: Uuid) {
    let queue = keys::event_queue(&id);
    let mut changes = app.triggers.changes();
    let mut work = JoinSet::new();
    while let Some(trigger) = app.triggers.by_id(&id) {
        changes.mark_unchanged();
        while work.try_join_next().is_some() {}
        if trigger.record.paused {
            app.triggers.breaker().forget(&id);
            let _ = changes.changed().await;
            continue;
        }
        let document = &trigger.record.document;
        let room = (document.concurrency as usize).saturating_sub(work.len());
        if room == 0 {
            work.join_next().await;
            continue;
        }
        let pulled = match &document.batch {
            Some(batch) => collect(&app.backbone, &queue, batch).await,
            None => app.backbone.pull(&queue, room, PULL_WAIT, LEASE).await,
        };
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(error) => {
                // Of all triggers alike.
                static TOLD: Seldom = Seldom::new();
                if TOLD.is_due(error.kind().code()) {
                    tracing::warn!(trigger = %trigger.record.name, %error, "events are not pulled; this is tried again");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // The trigger may have been changed, paused or removed meanwhile.
        let now = app.triggers.by_id(&id).filter(|trigger| !trigger.record.paused);
        let Some(trigger) = now else {
            give_back(app, &trigger, pulled).await;
            continue;
        };
        let together = if trigger.record.document.batch.is_some() { pulled.len() } else { 1 };
        for deliveries in pulled.chunks(together.max(1)) {
            work.spawn(handle(Arc::clone(app), Arc::clone(&trigger), deliveries.to_vec()));
        }
    }
}

/// Pulls the events of a batch: as many as it may have, or those that came
/// before its window closed.
async fn collect(backbone: &Backbone, queue: &str, batch: &Batch) -> fanfold_backbone::Result<Vec<Delivery>> {
    let size = batch.size as usize;
    let mut collected = backbone.pull(queue, size, PULL_WAIT, LEASE).await?;
    let closes = Instant::now() + batch.window.as_duration();
    let mut extended = Instant::now();
    while !collected.is_empty() && collected.len() < size && Instant::now() < closes {
        let wait = closes.duration_since(Instant::now()).min(PULL_WAIT);
        // What is collected is not lost with a pull that fails.
        match backbone.pull(queue, size - collected.len(), wait, LEASE).await {
            Ok(pulled) => collected.extend(pulled),
            Err(_) => break,
        }
        if extended.elapsed() >= EXTEND_EVERY {
            extended = Instant::now();
            extend(&collected).await;
        }
    }
    Ok(collected)
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
        for scope in [keys::outcomes(id), keys::batches(id), keys::last_events(id)] {
            loop {
                let page = app.backbone.list_part(&scope, None).await?;
                if page.entries.is_empty() {
                    break;
                }
                for (key, _) in page.entries {
                    app.backbone.delete(&key, None).await?;
                }
            }
        }
        Ok::<_, fanfold_backbone::Error>(())
    };
    settled::drop_packed(app, id).await;
    if let Err(error) = dropped.await {
        tracing::warn!(%error, "events of a removed trigger stay behind until the next start");
    }
}
