// SPDX-License-Identifier: Apache-2.0
//! What the bus says of one job, in one stream for its coordinator.
//!
//! Best effort: what cannot be read or was missed is found by looking at the
//! store, but for what attempts took that do not count. Invariant: over a bus on
//! which others speak a notice says where to look, and never what is there; the
//! object that was put if absent does.

use fanfold_backbone::{Backbone, Event};
use fanfold_protocol::{
    commit::{CommitNotice, RunningNotice},
    keys,
};
use futures::{Stream, StreamExt, stream};
use uuid::Uuid;

use crate::jobs::error::Result;

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
/// it. Commits come with what they hold if the bus is `believed` and of this process.
pub async fn listen(
    backbone: &Backbone,
    id: &Uuid,
    believed: bool,
) -> Result<impl Stream<Item = Heard> + Send + use<>> {
    let believed = believed && backbone.as_embedded().is_some();
    let commits = backbone.subscribe(&keys::commit_subject(id)).await?;
    let cancels = backbone.subscribe(&keys::cancel_subject(id)).await?;
    let running = backbone.subscribe(&keys::running_subject(id)).await?;
    let commits = commits.filter_map(move |event| {
        std::future::ready(match event {
            // What cannot be read is found by looking.
            Event::Published { payload, .. } => read(&payload, believed).map(Heard::Commit),
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

/// A notice of a commit; with what it holds only where that is believed.
fn read(payload: &[u8], believed: bool) -> Option<CommitNotice> {
    let mut notice: CommitNotice = serde_json::from_slice(payload).ok()?;
    notice.commit = notice.commit.filter(|_| believed);
    Some(notice)
}
