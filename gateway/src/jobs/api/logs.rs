// SPDX-License-Identifier: Apache-2.0
//! What the tasks of a job logged, a page at a time, failed ones first.
//!
//! Read from the objects that workers put beside their commits, which are found by
//! listing: of tasks that logged nothing there is none. Invariants: what an attempt
//! logged that did not commit is never shown; and lines are read lease by lease, so
//! that those of a million tasks take no more memory than those of a thousand.

use axum::{Json, extract::State};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::TaskLog,
    invocation::{self, LogLine},
    keys::{self, LogKey},
    plan::Plan,
};
use fanfold_storage::{ListEntry, ListOptions};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::routes::job_id;
use crate::jobs::{
    Jobs,
    error::{Error, Result},
    unknown,
    vault::Vault,
};
use crate::{
    extract::{Path, Query},
    page,
    problem::Answer,
    state::AppState,
};

/// Leases whose lines are read at once.
const READS_AT_ONCE: usize = 8;
/// A page is full with so many leases, or with so many bytes of lines.
const PAGE_LEASES: usize = 500;
const PAGE_BYTES: usize = 1 << 20;

/// Which lines are read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Of this task only.
    pub task: Option<u32>,
    /// The stage of `task`; when absent 0, which reads the input.
    pub stage: Option<u32>,
    /// Only of attempts that failed.
    #[serde(default)]
    pub failed: bool,
    /// Only what the store got at this time or later, ms since 1970: `newest` of an
    /// earlier answer, and a little before it, to go on with a job that runs.
    pub since: Option<u64>,
    /// `next` of the page before.
    pub page: Option<String>,
}

/// A line that a task of a job logged.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TaskLineView {
    /// Stage of the plan; 0 reads the input.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// The attempt at it, from 1.
    pub attempt: u32,
    /// Whether that attempt failed.
    pub failed: bool,
    /// Milliseconds since 1970.
    pub at: u64,
    /// The same in RFC 3339.
    pub time: String,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    #[schema(value_type = String)]
    pub level: invocation::Level,
    /// One line, control characters escaped.
    pub message: String,
}

/// A page of lines: those of whole leases, about 1 MiB.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct TaskLogPage {
    /// Those of attempts that failed first, then in the order of the plan; those of
    /// one attempt oldest first, and never on two pages.
    pub lines: Vec<TaskLineView>,
    /// For `page`, to get the next ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// When the store got the newest of them, ms since 1970, for `since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<u64>,
}

/// What the tasks of a job logged, in attempts that are committed.
///
/// Tasks that were taken over from an earlier job logged there.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/logs", tag = "jobs",
    params(("id" = String, Path, description = "The job"), LogQuery),
    responses(
        (status = 200, description = "Those of attempts that failed first", body = TaskLogPage),
        (status = 400, description = "No such task or page"),
        (status = 404, description = "No such job")
    )
)]
pub(crate) async fn logs(
    State(app): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Answer<Json<TaskLogPage>> {
    Ok(Json(app.jobs.logs(&job_id(&id)?, &query).await?))
}

impl Jobs {
    /// A page of what a job's tasks logged.
    ///
    /// # Errors
    /// `job-not-found`; `invalid-request` for a task or a page that there is not; or
    /// the store or backbone does not answer.
    pub async fn logs(&self, id: &Uuid, query: &LogQuery) -> Result<TaskLogPage, Problem> {
        let vault = &self.inner.vault;
        self.get(id).await?;
        let after = query.page.as_deref().map(|page| place(id, page)).transpose()?;
        let since = query.since.unwrap_or(0);
        let listings = stream::iter(prefixes(vault, id, query).await?).map(|prefix| {
            let options = ListOptions { start_after: after.clone(), ..ListOptions::default() };
            vault.store().list(vault.bucket(), &prefix, options)
        });
        let listed = listings.flatten().map_err(Error::from).try_filter_map(|entry| {
            std::future::ready(Ok(match entry {
                ListEntry::Object { key, last_modified, .. } if last_modified.0 >= since => {
                    Some((key, last_modified.0))
                }
                ListEntry::Object { .. } | ListEntry::Prefix(_) => None,
            }))
        });
        let read = |(key, put_at): (String, u64)| async move {
            let found = committed(vault, id, &key).await?;
            Ok::<_, Error>((key, put_at, found))
        };
        let mut read = std::pin::pin!(listed.map_ok(read).try_buffered(READS_AT_ONCE));
        let (mut page, mut leases, mut bytes) = (TaskLogPage::default(), 0, 0);
        while let Some((key, put_at, found)) = read.try_next().await? {
            page.newest = page.newest.max(Some(put_at));
            if let Some((at, text)) = found {
                bytes += page.add(at, &text, query.task).map_err(|error| Error::damaged(&key, error))?;
            }
            leases += 1;
            if leases == PAGE_LEASES || bytes >= PAGE_BYTES {
                page.next = key.strip_prefix(&keys::task_logs(id)).map(str::to_owned);
                break;
            }
        }
        Ok(page)
    }
}

impl TaskLogPage {
    /// Adds what tasks of a lease logged; answers the bytes that were added.
    fn add(&mut self, at: LogKey, text: &[u8], wanted: Option<u32>) -> serde_json::Result<usize> {
        let mut bytes = 0;
        for log in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let TaskLog { task, attempt, lines } = serde_json::from_slice(log)?;
            if wanted.is_some_and(|wanted| wanted != task) {
                continue;
            }
            // As stored, so that lines without a word count, too.
            bytes += log.len();
            let view = |LogLine { at: written, level, message }| TaskLineView {
                stage: at.stage,
                task,
                attempt,
                failed: at.failed,
                at: written.0,
                time: written.to_string(),
                level,
                message,
            };
            self.lines.extend(lines.into_iter().map(view));
        }
        Ok(bytes)
    }
}

/// Of a commit, whose it is.
#[derive(Deserialize)]
struct Committed {
    attempt: Uuid,
}

/// What lies under a key, if the attempt that put it there has committed.
async fn committed(vault: &Vault, id: &Uuid, key: &str) -> Result<Option<(LogKey, Bytes)>> {
    let Some(at) = LogKey::parse(id, key) else { return Ok(None) };
    let commit = keys::commit(id, at.stage, at.group, at.round);
    let (commit, text) = tokio::try_join!(vault.read::<Committed>(&commit), vault.bytes(key))?;
    Ok(commit.filter(|commit| commit.attempt == at.attempt).and(text).map(|text| (at, text)))
}

/// The key that a page begins after.
fn place(id: &Uuid, page: &str) -> Result<String, Problem> {
    let key = format!("{}{page}", keys::task_logs(id));
    LogKey::parse(id, &key).map(|_| key).ok_or_else(|| page::bad(page))
}

/// Where the wanted lines lie, in order.
async fn prefixes(vault: &Vault, id: &Uuid, query: &LogQuery) -> Result<Vec<String>> {
    let ended: &[bool] = if query.failed { &[true] } else { &[true, false] };
    let Some(task) = query.task else {
        return Ok(ended.iter().map(|failed| LogKey::of_job(id, *failed)).collect());
    };
    let stage = query.stage.unwrap_or(0);
    // A job that is forgotten just now has lost it first.
    let plan: Plan = vault.read(&keys::plan(id)).await?.ok_or_else(|| unknown(id))?;
    let groups = plan.groups_of(stage);
    let holds = |(first, count): &(u32, u32)| (*first..first + count).contains(&task);
    let group = groups.iter().position(holds).and_then(|group| u32::try_from(group).ok());
    let group = group.ok_or_else(|| {
        let tasks = plan.stages.get(stage as usize).copied().unwrap_or(0);
        Problem::new(
            ErrorKind::InvalidRequest,
            format!(
                "expected a task of stage {stage}, which has {tasks} of them, counted from 0, found {task}; see \
                 /v1/jobs/{id}/tasks"
            ),
        )
    })?;
    Ok(ended.iter().map(|failed| LogKey::of_group(id, *failed, stage, group)).collect())
}
