// SPDX-License-Identifier: Apache-2.0
//! `fanfold job`: submit, follow, look into, stop.
//!
//! [`document`] makes the job from a file or flags, [`follow`] waits for it,
//! [`show`] prints it. Whether a job that was waited for has failed, the exit
//! code says. Jobs are printed as JSON as the service wrote them, since they
//! hold answers of functions.

mod document;
pub mod follow;
mod show;

use std::collections::BTreeMap;

use fanfold_protocol::job::JobState;
use reqwest::Method;
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use crate::{
    args::{Job, JobRun, JobSource, View},
    client::{Client, ComparisonView, JobView, TaskPage},
    error::{Error, Result},
    output,
};

/// Most lines that the service gives at once.
const PAGE_MAX: usize = 1_000;

/// Runs the subcommand.
pub async fn run(client: &Client, command: Job) -> Result<()> {
    match command {
        Job::Run(args) => submit(client, &args).await,
        Job::Ls { state, function, limit, shown } => {
            let function = function.map(|name| name.to_string());
            let query = [("state", state.as_deref()), ("function", function.as_deref())];
            let jobs: Vec<Box<RawValue>> = client.pages("/v1/jobs", "jobs", &query, limit, PAGE_MAX).await?;
            let views = jobs.iter().map(|job| view(job)).collect::<Result<Vec<_>>>()?;
            output::shown(shown.view, &BTreeMap::from([("jobs", jobs)]), |_| show::list(&views))
        }
        Job::Show { id, shown } => {
            let job: Box<RawValue> = client.get(&format!("/v1/jobs/{id}"), &[]).await?;
            let view = view(&job)?;
            output::shown(shown.view, &job, |_| show::page(&view))
        }
        Job::Watch { id, shown } => finish(&follow::watch(client, id).await?, shown.view),
        Job::Tasks { id, state, limit, shown } => {
            let (path, query) = (format!("/v1/jobs/{id}/tasks"), [("state", state.as_deref())]);
            let tasks: Vec<Value> = client.pages(&path, "tasks", &query, limit, PAGE_MAX).await?;
            let views = tasks
                .iter()
                .cloned()
                .map(serde_json::from_value)
                .collect::<std::result::Result<Vec<_>, _>>()?;
            output::shown(shown.view, &TaskPage { tasks, next: None }, |_| show::tasks(&views))
        }
        Job::Estimate { job, sample, json } => estimate(client, &job, sample, job.view(json)).await,
        Job::Cancel { id } => {
            client.act(Method::POST, &format!("/v1/jobs/{id}/cancel")).await?;
            output::note(format!("job {id} is cancelled"));
            Ok(())
        }
        Job::Retry { id, dry_run: true, shown, .. } => {
            let (compared, comparison) = compare(client, id).await?;
            output::shown(shown.view, &compared, |_| show::comparison(&comparison))
        }
        Job::Retry { id, wait, shown, .. } => retry(client, id, wait, shown.view).await,
    }
}

async fn submit(client: &Client, args: &JobRun) -> Result<()> {
    let document = document::to_run(args)?;
    let submitted = client.submit::<Box<RawValue>>("/v1/jobs", Some(&document)).await;
    let job = client.suggest(submitted, &document.function.name).await?;
    let accepted = view(&job)?;
    if !args.wait {
        // Whoever waits is told with the result.
        for warning in &accepted.warnings {
            output::note(format!("warning: {warning}"));
        }
        output::note(format!("submitted; follow it with `fanfold job watch {}`", accepted.id));
        return output::shown(args.view(), &job, |_| accepted.id.to_string());
    }
    waits_for(accepted.id);
    let job = follow::follow(client, accepted.id).await?;
    let ended = view(&job)?;
    if args.view() == View::Table && ended.state == JobState::Succeeded && !ended.gives_tables() {
        output::note(summary(&ended));
        return super::result::print(client, ended.id).await;
    }
    finish(&job, args.view())
}

/// Says which job is waited for, and, since Ctrl-C ends the wait at once, that this is all it ends.
fn waits_for(id: Uuid) {
    output::note(format!(
        "job {id}; it goes on without this command, and `fanfold job cancel {id}` stops it"
    ));
}

/// Runs a sample and prints what the whole would take.
async fn estimate(client: &Client, source: &JobSource, sample: u32, shown: View) -> Result<()> {
    let document = document::read(source)?;
    let path = format!("/v1/jobs/estimate?sample={sample}");
    let submitted = client.submit::<JobView>(&path, Some(&document)).await;
    let id = client.suggest(submitted, &document.function.name).await?.id;
    output::note(format!("job {id} runs a sample"));
    let sampled = view(&follow::follow(client, id).await?)?;
    match &sampled.estimate {
        Some(estimate) => output::shown(shown, estimate, show::estimate),
        None => ended(&sampled),
    }
}

/// What would be different from a job as it ran: all that the service says, and the same as it is shown.
async fn compare(client: &Client, id: Uuid) -> Result<(Value, ComparisonView)> {
    let compared: Value = client.plan(&format!("/v1/jobs/{id}/retry?dry_run=true"), None::<&Value>).await?;
    let comparison = serde_json::from_value(compared.clone())?;
    Ok((compared, comparison))
}

/// Says what is different from the job as it ran, and runs that.
async fn retry(client: &Client, id: Uuid, wait: bool, shown: View) -> Result<()> {
    let (_, comparison) = compare(client, id).await?;
    output::note(show::comparison(&comparison).trim_end());
    let job: Box<RawValue> = client.submit(&format!("/v1/jobs/{id}/retry"), None::<&Value>).await?;
    let accepted = view(&job)?;
    if wait {
        waits_for(accepted.id);
        return finish(&follow::follow(client, accepted.id).await?, shown);
    }
    output::note(format!("job {id} runs again; follow it with `fanfold job watch {}`", accepted.id));
    output::shown(shown, &job, |_| accepted.id.to_string())
}

/// Prints a job that has ended; one that did not succeed is an error.
fn finish(job: &RawValue, shown: View) -> Result<()> {
    let view = view(job)?;
    output::shown(shown, &job, |_| show::page(&view))?;
    ended(&view)
}

/// What a job says that is not printed as it is.
fn view(job: &RawValue) -> Result<JobView> {
    Ok(serde_json::from_str(job.get())?)
}

fn ended(view: &JobView) -> Result<()> {
    if view.state == JobState::Succeeded {
        return Ok(());
    }
    let (code, why) = match &view.problem {
        Some(problem) => (problem.code.as_str(), problem.detail.as_str()),
        None => ("task-failed", "it says no reason"),
    };
    let word = view.state.as_str();
    Err(Error::failed(format!("job {} {word}: {why}", view.id))
        .with_code(code)
        .help(format!("its tasks, failed ones first: fanfold job tasks {}", view.id)))
}

/// What a job took, in one line. Rows are those that were read; tasks served from an
/// earlier job read none, so that is said.
fn summary(view: &JobView) -> String {
    let (receipt, tasks) = (&view.receipt, output::count(view.tasks.total));
    let tasks = match receipt.cache_hits {
        0 => format!("{tasks} tasks"),
        hits => format!("{} of {tasks} tasks from an earlier job", output::count(hits)),
    };
    format!("{} rows in {}, {tasks}", output::count(receipt.rows_in), output::span_ms(receipt.elapsed_ms))
}

/// A job as it is now.
pub async fn state(client: &Client, id: Uuid) -> Result<JobView> {
    client.get(&format!("/v1/jobs/{id}"), &[]).await
}

/// Fails unless the job has succeeded.
pub fn require_success(view: &JobView) -> Result<()> {
    if view.state.is_terminal() {
        return ended(view);
    }
    Err(Error::service(format!("expected job {} to have ended, found it {}", view.id, view.state.as_str()))
        .help(format!("wait for it with `fanfold job watch {}`", view.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_came_from_an_earlier_job() {
        let check = |cache_hits: u64, expected: &str| {
            let job = serde_json::json!({
                "id": "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10", "function": "score", "version": 3, "digest": "sha256:x",
                "shape": "map", "state": "succeeded", "submitted_at": 0, "submitted": "…",
                "tasks": {"total": 2, "waiting": 0, "running": 0, "done": 2, "failed": 0}, "partitions": 2,
                "input_bytes": 5, "output": "s3://bank/out/", "warnings": [], "failures": 0,
                "receipt": {"rows_in": 0, "elapsed_ms": 84, "cache_hits": cache_hits}
            });
            assert_eq!(summary(&serde_json::from_value(job).unwrap()), expected);
        };
        check(0, "0 rows in 84 ms, 2 tasks");
        check(2, "0 rows in 84 ms, 2 of 2 tasks from an earlier job");
    }
}
