// SPDX-License-Identifier: Apache-2.0
//! Triggers as the API shows them. Secrets are shown once, when they are made.

use fanfold_backbone::Depth;
use fanfold_protocol::trigger::TriggerDocument;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{record::TriggerRecord, sqs::SqsView};

/// A trigger.
#[derive(Serialize, ToSchema)]
pub struct TriggerView {
    /// Its name.
    #[schema(example = "on-upload")]
    pub name: String,
    /// Names it for ever.
    pub id: String,
    /// Whether its events wait.
    pub paused: bool,
    /// Why, when it paused itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_because: Option<String>,
    /// What keeps it from starting anything, or some of what it may be meant to, as things are now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "expected a bucket named bank, found none; nothing starts until it is made")]
    pub warning: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// Where its senders send to.
    #[schema(example = "/v1/events/s3/on-upload")]
    pub address: String,
    /// As submitted, with what was left out filled in.
    #[schema(value_type = Object)]
    pub document: Value,
    /// Its events, by where they are.
    pub events: EventsView,
    /// How the polling of its queue goes, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqs: Option<SqsView>,
    /// What its senders show or sign with; only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// How many events are where.
#[derive(Default, Serialize, ToSchema)]
pub struct EventsView {
    /// Waiting for their turn.
    pub waiting: u64,
    /// In work.
    pub running: u64,
    /// Waiting to be tried again.
    pub delayed: u64,
    /// Given up.
    pub dead: u64,
}

/// Every trigger.
#[derive(Serialize, ToSchema)]
pub struct TriggerList {
    /// By name.
    pub triggers: Vec<TriggerView>,
}

impl TriggerView {
    /// The view of a record.
    pub fn new(record: &TriggerRecord, depth: Depth) -> Self {
        Self {
            name: record.name.to_string(),
            id: record.id.to_string(),
            paused: record.paused,
            paused_because: record.paused_because.clone(),
            warning: unlooked(&record.document),
            created_at: record.created_at.to_string(),
            address: format!("/v1/events/s3/{}", record.name),
            document: serde_json::to_value(&record.document).unwrap_or_default(),
            events: EventsView {
                waiting: depth.ready,
                running: depth.leased,
                delayed: depth.delayed,
                dead: depth.dead,
            },
            sqs: None,
            secret: None,
        }
    }
}

/// Tells that looks start nothing although they are asked for.
fn unlooked(document: &TriggerDocument) -> Option<String> {
    let in_vain = document.reconcile.0 != 0 && document.acts_on_created() && !document.acts_on_all_created();
    in_vain.then(|| {
        "expected events with ObjectCreated:* or reconcile = \"0s\", found some ways of writing alone, which no listing \
         tells: looks start nothing of what was lost; name one or the other"
            .to_owned()
    })
}
