// SPDX-License-Identifier: Apache-2.0
//! How polling goes, as far as this gateway knows, for people who look.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use fanfold_protocol::time::{self, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// How the polling of a trigger's queue goes, in the gateway that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SqsView {
    /// When the queue last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<String>,
    /// Since when it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Default)]
struct Status {
    answered: Option<Timestamp>,
    failing: Option<(Timestamp, String)>,
}

/// By trigger.
#[derive(Default)]
pub struct Statuses(Mutex<HashMap<Uuid, Status>>);

impl Statuses {
    /// Notes that the queue answered.
    pub(super) fn answered(&self, trigger: &Uuid) {
        self.change(trigger, |status| (status.answered, status.failing) = (Some(time::now()), None));
    }

    /// Notes what is wrong; true when that is news.
    pub(super) fn failed(&self, trigger: &Uuid, error: &str) -> bool {
        self.change(trigger, |status| {
            let news = status.failing.as_ref().is_none_or(|(_, known)| known != error);
            let since = status.failing.as_ref().map_or_else(time::now, |(since, _)| *since);
            status.failing = Some((since, error.to_owned()));
            news
        })
    }

    /// Forgets triggers that no longer poll.
    pub(super) fn retain(&self, polls: impl Fn(&Uuid) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|trigger, _| polls(trigger));
    }

    /// How polling goes.
    pub fn view(&self, trigger: &Uuid) -> SqsView {
        let status = self.change(trigger, |status| status.clone());
        let (since, error) = status.failing.unzip();
        SqsView {
            answered_at: status.answered.map(|at| at.to_string()),
            failing_since: since.map(|at| at.to_string()),
            error,
        }
    }

    fn change<T>(&self, trigger: &Uuid, change: impl FnOnce(&mut Status) -> T) -> T {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(*trigger).or_default())
    }
}
