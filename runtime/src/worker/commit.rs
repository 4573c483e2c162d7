// SPDX-License-Identifier: Apache-2.0
//! The moment at which work counts: one small object, put if absent.
//!
//! Invariant: of all attempts at a lease, one commit stands, and the objects
//! that the others staged are removed; whoever lost reports the winner.

use std::time::Duration;

use bytes::Bytes;
use fanfold_backbone::Backbone;
use fanfold_protocol::{
    Problem,
    commit::{Commit, CommitNotice, Overtaken, RunningNotice, TaskCommit},
    invocation::Usage,
    job::JobState,
    keys, limits,
    plan::Lease,
    time::whole_ms,
    uri::ObjectUri,
};
use fanfold_storage::{PutOptions, PutOutcome};
use serde::Deserialize;
use uuid::Uuid;

use super::{shop::Shop, states::staged};
use crate::{
    host::{Data, store_problem},
    task::Abreast,
};

/// What a lease is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) job: Uuid,
    pub(super) stage: u32,
    pub(super) group: u32,
    pub(super) round: u32,
}

impl From<&Lease> for Place {
    fn from(lease: &Lease) -> Self {
        let Lease { job, stage, group, round, .. } = *lease;
        Self { job, stage, group, round }
    }
}

/// The key of a lease's commit.
fn place(data: &Data, at: Place) -> Result<ObjectUri, Problem> {
    ObjectUri::new(&data.tenant.system_bucket, keys::commit(&at.job, at.stage, at.group, at.round))
}

/// The commit of a lease, if an attempt at it has already won.
pub(super) async fn winner(data: &Data, at: Place) -> Result<Option<Bytes>, Problem> {
    match data.store.get(&place(data, at)?, None).await {
        Ok(commit) => Ok(Some(commit)),
        Err(fanfold_storage::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(store_problem(&error)),
    }
}

/// How a job is to end, as far as it matters here.
#[derive(Deserialize)]
struct Ending {
    state: JobState,
}

/// Whether it is decided that a job fails or is cancelled, as the store says. Its output is
/// swept after that, so that what lies there when this says no is found by the sweep.
pub(super) async fn is_stopped(data: &Data, job: &Uuid) -> Result<bool, Problem> {
    let place = ObjectUri::new(&data.tenant.system_bucket, keys::ending(job))?;
    let ending = match data.store.get(&place, None).await {
        Ok(ending) => ending,
        Err(fanfold_storage::Error::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(store_problem(&error)),
    };
    let ending: Ending = serde_json::from_slice(&ending)
        .map_err(|error| crate::internal(format!("expected {place} as JSON, found: {error}")))?;
    Ok(ending.state != JobState::Succeeded)
}

/// Commits; when another attempt was first, removes what this one staged, once it is seen
/// that the commit that stands is not its own. Returns that commit, as JSON, and what came to nothing.
pub(super) async fn put(
    data: &Data,
    worker: &str,
    at: Place,
    attempt: Uuid,
    tasks: Vec<TaskCommit>,
) -> Result<(Bytes, Option<Overtaken>), Problem> {
    let Place { job, stage, group, round } = at;
    let commit = Commit { job, stage, group, round, attempt, worker: worker.to_owned(), tasks };
    let body = serde_json::to_vec(&commit).map(Bytes::from);
    let body =
        body.map_err(|error| crate::internal(format!("a commit cannot be written as JSON: {error}")))?;
    let (place, writer) = (place(data, at)?, attempt.to_string());
    let options = PutOptions::typed("application/json");
    let outcome = data.store.put_if_absent(&place, body.clone(), &writer, options).await;
    match outcome.map_err(|error| store_problem(&error))? {
        PutOutcome::Created(_) => Ok((body, None)),
        PutOutcome::Exists => {
            let winner = winner(data, at).await?;
            let winner = winner.ok_or_else(|| crate::internal("expected the commit that won, found none"))?;
            // An answer was lost, and the store has told of our own commit as another's.
            if winner == body {
                return Ok((body, None));
            }
            tracing::info!(%job, stage, group, round, "another attempt has committed first");
            remove(data, &commit.tasks).await;
            Ok((winner, Some(overtaken(attempt, &commit.tasks))))
        }
    }
}

/// What an attempt took that does not count.
pub(super) fn overtaken(attempt: Uuid, tasks: &[TaskCommit]) -> Overtaken {
    let mut usage = Usage::default();
    tasks.iter().for_each(|task| usage.add(&task.usage));
    Overtaken { attempt, tasks: tasks.len() as u64, usage }
}

/// Removes what tasks staged. What cannot be removed now, the job's sweep finds.
pub(super) async fn remove(data: &Data, tasks: &[TaskCommit]) {
    for uri in tasks.iter().flat_map(|task| staged(&task.outcome)) {
        if let Err(error) = data.store.delete(uri).await {
            tracing::warn!(%error, %uri, "a staged object cannot be removed; it is left to the sweep");
        }
    }
}

/// Tells whoever waits for the job. Best effort: the store has the truth, and over a
/// bus of many nobody takes another's word for it.
pub(super) async fn announce(backbone: &Backbone, lease: &Lease, commit: &Bytes) {
    let Lease { job, stage, group, round, .. } = *lease;
    let small = commit.len() as u64 <= limits::ASYNC_PAYLOAD_BYTES_MAX;
    let told = small && backbone.as_embedded().is_some();
    let inline = if told { serde_json::from_slice(commit).ok() } else { None };
    let notice = CommitNotice { job, stage, group, round, commit: inline };
    let payload = match serde_json::to_vec(&notice) {
        Ok(payload) => payload,
        Err(error) => return tracing::warn!(%error, %job, "a commit cannot be announced"),
    };
    if let Err(error) = backbone.publish(&keys::commit_subject(&job), payload).await {
        tracing::debug!(%error, %job, "a commit is not announced");
    }
}

/// Tells of an attempt that takes a while, or has ended without counting. Best
/// effort: no result depends on it.
pub(super) async fn announce_running(
    shop: &Shop,
    at: Place,
    running: Duration,
    abreast: Option<&Abreast>,
    overtaken: Option<Overtaken>,
) {
    let Place { job, stage, group, round } = at;
    let (worker, running_ms) = (shop.name.clone(), whole_ms(running));
    let width = abreast.map_or(1, |abreast| u32::try_from(abreast.width()).unwrap_or(u32::MAX));
    let tasks = abreast.map(Abreast::running).unwrap_or_default();
    let progress = tasks.iter().find_map(|task| task.progress);
    let notice =
        RunningNotice { job, stage, group, round, worker, running_ms, progress, width, tasks, overtaken };
    let payload = match serde_json::to_vec(&notice) {
        Ok(payload) => payload,
        Err(error) => return tracing::warn!(%error, %job, "a running lease cannot be announced"),
    };
    if let Err(error) = shop.backbone.publish(&keys::running_subject(&job), payload).await {
        tracing::debug!(%error, %job, "a running lease is not announced");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use fanfold_protocol::{
        commit::{OutputObject, TaskOutcome},
        names::TenantName,
        tenant::Tenant,
    };
    use fanfold_storage::{Credentials, Store, StoreConfig};
    use http::{Method, Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{net::TcpListener, runtime::Handle};

    use super::*;

    /// A store that has a commit, says of each that it is another writer's, and refuses others.
    struct Misleading {
        /// None: whichever it was sent.
        commit: Option<Bytes>,
        sent: Mutex<Bytes>,
        deleted: Mutex<Vec<String>>,
    }

    impl Misleading {
        async fn answer(&self, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let answer = Response::builder();
            let answer = match head.method {
                Method::PUT => {
                    *self.sent.lock().unwrap() = body;
                    answer.status(StatusCode::PRECONDITION_FAILED).body(Full::default())
                }
                Method::DELETE => {
                    self.deleted.lock().unwrap().push(head.uri.path().to_owned());
                    answer.status(StatusCode::NO_CONTENT).body(Full::default())
                }
                _ => {
                    let commit = self.commit.clone().unwrap_or_else(|| self.sent.lock().unwrap().clone());
                    let answer =
                        answer.header("etag", "\"e\"").header("x-amz-meta-fanfold-writer", "another");
                    answer.body(Full::from(commit))
                }
            };
            Ok(answer.unwrap())
        }
    }

    async fn start(commit: Option<Bytes>) -> (Data, Arc<Misleading>) {
        let server = Arc::new(Misleading { commit, sent: Mutex::default(), deleted: Mutex::default() });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let serving = Arc::clone(&serving);
                let answer = service_fn(move |request| {
                    let serving = Arc::clone(&serving);
                    async move { serving.answer(request).await }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), answer));
            }
        });
        let store = Store::connect(StoreConfig::at(endpoint, Credentials::new("key", "secret"))).unwrap();
        let tenant = Arc::new(Tenant::alone(TenantName::default(), "fanfold"));
        (Data { store, threads: Handle::current(), tenant, settled: Arc::default() }, server)
    }

    #[tokio::test]
    async fn what_the_standing_commit_names_stays() {
        let check = async |standing: Option<&'static str>, removed: &[&str]| {
            let (data, server) = start(standing.map(Bytes::from)).await;
            let uri = ObjectUri::new("bank", "out/part-0").unwrap();
            let table = OutputObject { uri, size: 1, etag: "e".to_owned(), rows: 1 };
            let outcome = TaskOutcome::Table(Some(table));
            let (usage, looked_outside) = (Usage::default(), false);
            let task = TaskCommit { index: 0, attempt: 1, outcome, usage, looked_outside };
            let at = Place { job: Uuid::new_v4(), stage: 0, group: 0, round: 0 };
            let (stands, overtaken) = put(&data, "w", at, Uuid::new_v4(), vec![task]).await.unwrap();
            assert_eq!(*server.deleted.lock().unwrap(), removed, "{standing:?}");
            assert_eq!(overtaken.is_some(), standing.is_some(), "{standing:?}");
            let expected = standing.map_or_else(|| server.sent.lock().unwrap().clone(), Bytes::from);
            assert_eq!(stands, expected);
        };
        check(None, &[]).await;
        check(Some("of another attempt"), &["/bank/out/part-0"]).await;
    }
}
