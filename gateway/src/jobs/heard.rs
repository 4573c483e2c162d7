// SPDX-License-Identifier: Apache-2.0
//! What the bus says of one job, in one stream for its coordinator.
//!
//! Best effort: what cannot be read or was missed is found by looking at the
//! store, but for what attempts took that do not count.

use fanfold_backbone::{Backbone, Event};
use fanfold_protocol::{
    commit::{CommitNotice, RunningNotice},
    keys,
};
use futures::{Stream, StreamExt, stream};
use uuid::Uuid;

use super::error::Result;

/// What the bus says of a job.
pub enum Heard {
    /// A lease was committed.
    Commit(CommitNotice),
    /// A lease takes a while, or an attempt at one came to nothing.
    Running(Box<RunningNotice>),
    /// The job is to end.
    Cancelled,
    /// Something was missed.
    Lagged,
}

/// What is said of a job from now on, by those who work on it and those who cancel
/// it.
pub async fn listen(backbone: &Backbone, id: &Uuid) -> Result<impl Stream<Item = Heard> + Send + use<>> {
    let commits = backbone.subscribe(&keys::commit_subject(id)).await?;
    let cancels = backbone.subscribe(&keys::cancel_subject(id)).await?;
    let running = backbone.subscribe(&keys::running_subject(id)).await?;
    let commits = commits.filter_map(|event| {
        std::future::ready(match event {
            // What cannot be read is found by looking.
            Event::Published { payload, .. } => serde_json::from_slice(&payload).ok().map(Heard::Commit),
            Event::Lagged(_) => Some(Heard::Lagged),
        })
    });
    let running = running.filter_map(|event| {
        std::future::ready(match event {
            Event::Published { payload, .. } => serde_json::from_slice(&payload).ok().map(Heard::Running),
            Event::Lagged(_) => None,
        })
    });
    Ok(stream::select(stream::select(commits, cancels.map(|_| Heard::Cancelled)), running))
}
