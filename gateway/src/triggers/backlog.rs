// SPDX-License-Identifier: Apache-2.0
//! How many events wait for each trigger, for whoever scrapes.
//!
//! The backbone is asked with each scrape, for a bounded time and about some of the triggers:
//! first about those that it was asked about longest ago, so that each has its turn however many
//! there are. What was not reached stands as it was seen last. No event passes here.

use std::{
    collections::{BTreeSet, HashMap},
    future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_backbone::{Backbone, Depth};
use fanfold_protocol::{keys, names::TriggerName};
use futures::{StreamExt, stream};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{counters::TriggerLabels, record::Trigger};
use crate::metrics::states;

/// Triggers that the backbone is asked about for a scrape, each by a few requests, how many at
/// once, and for how long in all.
const ASKED_MAX: usize = 250;
const ASKED_AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    trigger: String,
    state: &'static str,
}

/// Gauges of the triggers that there are.
#[derive(Default)]
pub struct Backlog {
    events: Family<EventLabels, Gauge>,
    paused: Family<TriggerLabels, Gauge>,
    /// The triggers that have gauges, and when the backbone was asked about each last.
    asked: Mutex<HashMap<TriggerName, Option<Instant>>>,
}

impl Backlog {
    /// Names them, without the platform's prefix.
    pub fn describe(&self, registry: &mut Registry) {
        let help = "Events in the queues of triggers, by where they are";
        registry.register("trigger_events_waiting", help, self.events.clone());
        registry.register("trigger_paused", "1 while a trigger is paused", self.paused.clone());
    }

    /// Brings the gauges up to date with these triggers, which are all there are, as far as there is time.
    pub async fn look(&self, backbone: &Backbone, triggers: &[Arc<Trigger>]) {
        let next = self.in_turn(triggers).into_iter().take(ASKED_MAX);
        let looks = stream::iter(next).map(|trigger| async move {
            let record = &trigger.record;
            self.begin(&record.name);
            if let Ok(depth) = backbone.depth(&keys::event_queue(&record.id)).await {
                self.note(&record.name, depth);
            }
        });
        let looking = looks.buffer_unordered(ASKED_AT_ONCE).for_each(future::ready);
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            tracing::debug!("not all triggers were looked at; the others come first with the next scrape");
        }
    }

    /// The triggers in the order in which they are asked about. Those that are gone lose their gauges.
    fn in_turn(&self, triggers: &[Arc<Trigger>]) -> Vec<Arc<Trigger>> {
        let names: BTreeSet<&TriggerName> = triggers.iter().map(|trigger| &trigger.record.name).collect();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|name, _| {
            let there = names.contains(name);
            if !there {
                self.forget(name);
            }
            there
        });
        for trigger in triggers {
            let record = &trigger.record;
            self.paused.get_or_create(&TriggerLabels::from(&record.name)).set(i64::from(record.paused));
            asked.entry(record.name.clone()).or_default();
        }
        let mut order = triggers.to_vec();
        order.sort_by_key(|trigger| asked.get(&trigger.record.name).copied().flatten());
        order
    }

    /// Whoever is asked about goes to the end of the line, also when no answer comes in time.
    fn begin(&self, name: &TriggerName) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = asked.get_mut(name) {
            *at = Some(Instant::now());
        }
    }

    fn note(&self, name: &TriggerName, depth: Depth) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Another scrape may have found meanwhile that it is gone.
        if !asked.contains_key(name) {
            return;
        }
        for (state, events) in states(depth) {
            let labels = EventLabels { trigger: name.to_string(), state };
            self.events.get_or_create(&labels).set(i64::try_from(events).unwrap_or(i64::MAX));
        }
    }

    fn forget(&self, name: &TriggerName) {
        self.paused.remove(&name.into());
        for (state, _) in states(Depth::default()) {
            self.events.remove(&EventLabels { trigger: name.to_string(), state });
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use serde_json::json;

    use super::*;
    use crate::triggers::record::tests::trigger;

    #[test]
    fn who_was_asked_about_longest_ago_is_next_and_who_is_gone_is_told_of_no_more() {
        let (backlog, mut registry) = (Backlog::default(), Registry::default());
        backlog.describe(&mut registry);
        let all = ["a", "b", "c"].map(|name| {
            let mut trigger = trigger(name, json!({"bucket": "bank", "function": "f"}));
            trigger.record.paused = name == "b";
            Arc::new(trigger)
        });
        let order = |there: &[Arc<Trigger>]| {
            let order = backlog.in_turn(there);
            order.iter().map(|trigger| trigger.record.name.to_string()).collect::<Vec<_>>().concat()
        };
        let written = || {
            let mut written = String::new();
            text::encode(&mut written, &registry).unwrap();
            written
        };
        assert_eq!(order(&all), "abc");
        backlog.begin(&all[0].record.name);
        backlog.note(&all[0].record.name, Depth { ready: 7, ..Depth::default() });
        // It gives no answer.
        backlog.begin(&all[1].record.name);
        assert_eq!(order(&all), "cab");
        let text = written();
        assert!(text.contains("trigger_events_waiting{trigger=\"a\",state=\"ready\"} 7\n"), "{text}");
        assert!(text.contains("trigger_events_waiting{trigger=\"a\",state=\"dead\"} 0\n"), "{text}");
        assert!(!text.contains("trigger_events_waiting{trigger=\"b\""), "{text}");
        assert!(text.contains("trigger_paused{trigger=\"a\"} 0\n"), "{text}");
        assert!(text.contains("trigger_paused{trigger=\"b\"} 1\n"), "{text}");
        assert_eq!(order(&all[1..]), "cb");
        // An answer that comes late.
        backlog.note(&all[0].record.name, Depth::default());
        let text = written();
        assert!(
            !text.contains("trigger=\"a\"") && text.contains("trigger_paused{trigger=\"c\"} 0"),
            "{text}"
        );
    }
}
