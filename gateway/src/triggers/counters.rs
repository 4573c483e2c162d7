// SPDX-License-Identifier: Apache-2.0
//! What is counted of events, under labels of few values.
//!
//! Every event that came in is counted again under what became of it, so that
//! nothing is dropped unseen. Triggers are counted by name: there are at most
//! `TRIGGER_NAMES_MAX`, and only those that exist or did.

use fanfold_protocol::{ErrorKind, names::TriggerName};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What became of an event of a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken in, durably.
    Kept,
    /// It started what it was to start.
    Started,
    /// Its outcome was there already.
    Duplicate,
    /// The object is not there any more.
    Gone,
    /// The object was written again since it was removed.
    Changed,
    /// It started what it was to start, of another object than it tells of.
    StartedChanged,
    /// It is a removal, and a later event of the same key was seen before.
    Stale,
    /// It does not pass the filter by the key that the object really has.
    Filtered,
    /// It waits for what an earlier event of its key has started.
    Waited,
    /// It is tried again later.
    Retried,
    /// It was given up.
    Dead,
    /// It was given up because too many triggers stand before it.
    Loop,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Started => "started",
            Self::Duplicate => "duplicate",
            Self::Gone => "gone",
            Self::Changed => "changed",
            Self::StartedChanged => "started-changed",
            Self::Stale => "stale",
            Self::Filtered => "filtered",
            Self::Waited => "waited",
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::Loop => "loop",
        }
    }
}

/// What became of a message of a queue, each time that it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFate {
    /// All that it told of was kept, or it told of nothing.
    Taken,
    /// There was no room for it, or nowhere to keep it.
    Left,
    /// It is no notification, and was left.
    Unread,
    /// It is no notification, and is a dead letter now.
    Buried,
}

impl MessageFate {
    fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Left => "left",
            Self::Unread => "unread",
            Self::Buried => "buried",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    trigger: String,
    fate: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TriggerLabels {
    trigger: String,
}

impl From<&TriggerName> for TriggerLabels {
    fn from(trigger: &TriggerName) -> Self {
        Self { trigger: trigger.to_string() }
    }
}

/// Counters of triggers.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    events: Family<EventLabels, Counter>,
    refused: Family<CodeLabels, Counter>,
    unmatched: Counter,
    tripped: Family<TriggerLabels, Counter>,
    messages: Family<EventLabels, Counter>,
    polls_failed: Family<TriggerLabels, Counter>,
    listed: Family<TriggerLabels, Counter>,
    found: Family<TriggerLabels, Counter>,
    requests: Family<TriggerLabels, Counter>,
    letters_expired: Family<TriggerLabels, Counter>,
}

impl Counters {
    /// Names them, without the platform's prefix.
    pub fn describe(&self, registry: &mut Registry) {
        registry.register(
            "trigger_events",
            "Events of triggers, by what became of them",
            self.events.clone(),
        );
        registry.register("notifications_refused", "Notifications refused, by code", self.refused.clone());
        registry.register("events_unmatched", "Events that no trigger acts on", self.unmatched.clone());
        let help = "Times that triggers paused themselves because they started too much";
        registry.register("trigger_breaker_trips", help, self.tripped.clone());
        let help = "Messages received from queues, by what became of them";
        registry.register("sqs_messages", help, self.messages.clone());
        registry.register("sqs_polls_failed", "Requests to queues that failed", self.polls_failed.clone());
        let help = "Objects that reconcilers listed";
        registry.register("reconciler_objects_listed", help, self.listed.clone());
        let help = "Objects that reconcilers found without an outcome";
        registry.register("reconciler_objects_found", help, self.found.clone());
        let help = "Requests that reconcilers sent to the store";
        registry.register("reconciler_store_requests", help, self.requests.clone());
        let help =
            "Dead letters of triggers removed because they were too old or too many, or for want of room";
        registry.register("trigger_dead_letters_expired", help, self.letters_expired.clone());
    }

    /// Has what alerts follow of a trigger there, at 0: the increase of a series that begins
    /// with its first count is seen by nobody.
    pub fn begin(&self, trigger: &TriggerName) {
        self.events(trigger, Fate::Dead, 0);
        self.events(trigger, Fate::Loop, 0);
        self.tripped.get_or_create(&trigger.into()).inc_by(0);
    }

    /// Counts what became of an event.
    pub fn event(&self, trigger: &TriggerName, fate: Fate) {
        self.events(trigger, fate, 1);
    }

    /// Counts what became of several events.
    pub fn events(&self, trigger: &TriggerName, fate: Fate, events: u64) {
        let labels = EventLabels { trigger: trigger.to_string(), fate: fate.word() };
        self.events.get_or_create(&labels).inc_by(events);
    }

    /// Counts a notification that was refused.
    pub fn refused(&self, kind: ErrorKind) {
        self.refused.get_or_create(&CodeLabels { code: kind.code() }).inc();
    }

    /// Counts events that no trigger acts on.
    pub fn unmatched(&self, events: u64) {
        self.unmatched.inc_by(events);
    }

    /// Counts a trigger that paused itself.
    pub fn tripped(&self, trigger: &TriggerName) {
        self.tripped.get_or_create(&trigger.into()).inc();
    }

    /// Counts what became of a message of a queue.
    pub fn message(&self, trigger: &TriggerName, fate: MessageFate) {
        let labels = EventLabels { trigger: trigger.to_string(), fate: fate.word() };
        self.messages.get_or_create(&labels).inc();
    }

    /// Counts a poll that failed.
    pub fn poll_failed(&self, trigger: &TriggerName) {
        self.polls_failed.get_or_create(&trigger.into()).inc();
    }

    /// Counts dead letters that nobody has replayed in time.
    pub fn letters_expired(&self, trigger: &TriggerName, letters: u64) {
        self.letters_expired.get_or_create(&trigger.into()).inc_by(letters);
    }

    /// Counts what a look at a prefix took and found.
    pub fn reconciled(&self, trigger: &TriggerName, listed: u64, found: u64, requests: u64) {
        let labels = TriggerLabels::from(trigger);
        self.listed.get_or_create(&labels).inc_by(listed);
        self.found.get_or_create(&labels).inc_by(found);
        self.requests.get_or_create(&labels).inc_by(requests);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn what_alerts_follow_is_there_before_anything_goes_wrong() {
        let (counters, mut registry) = (Counters::default(), Registry::default());
        counters.describe(&mut registry);
        let name: TriggerName = "t".parse().unwrap();
        let check = |expected: u8| {
            let mut written = String::new();
            text::encode(&mut written, &registry).unwrap();
            for series in [
                r#"trigger_events_total{trigger="t",fate="dead"}"#,
                r#"trigger_events_total{trigger="t",fate="loop"}"#,
                r#"trigger_breaker_trips_total{trigger="t"}"#,
            ] {
                assert!(
                    written.contains(&format!("{series} {expected}\n")),
                    "{series} {expected}: {written}"
                );
            }
        };
        counters.begin(&name);
        check(0);
        counters.event(&name, Fate::Dead);
        counters.event(&name, Fate::Loop);
        counters.tripped(&name);
        // A runner that is started again takes nothing back.
        counters.begin(&name);
        check(1);
    }
}
