// SPDX-License-Identifier: Apache-2.0
//! `fanfold logs`: what functions said.
//!
//! Of an invocation or a job by its id, of a function by its name. Lines come escaped
//! from the service, so a terminal shows them as they are. Whoever follows them outlasts a
//! restart of the service.

use std::{collections::HashSet, time::Duration};

use fanfold_protocol::{invocation::LogLine, names::FunctionName};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::job::follow::Away;
use crate::{
    args::{Logs, View},
    client::{Client, Events, InvocationView, JobView, LogPage, SkippedView, TaskLine, TaskLogPage},
    error::{Error, Result, Unanswered},
    output,
};

/// Between two looks at an invocation that goes on.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Between two looks at a job that goes on: its lines are found by listing.
const JOB_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A stream that lasts so long was one, whether or not it had anything to tell.
const STEADY: Duration = Duration::from_secs(5);
/// How much later than its time an object may show in a listing, ms.
const LATE_MS: u64 = 5_000;

/// Prints lines.
pub async fn run(client: &Client, args: &Logs) -> Result<()> {
    if let Ok(id) = args.of.parse::<Uuid>() {
        return of_id(client, &id, args).await;
    }
    let name: FunctionName = args.of.parse().map_err(|_| {
        Error::usage(format!(
            "expected the id of an invocation or a job, or the name of a function, found {:?}",
            args.of
        ))
    })?;
    if of_tasks(args) {
        return Err(Error::usage(format!(
            "expected the id of a job with --task or --failed, found the name {name}; see `fanfold job ls`"
        )));
    }
    let path = format!("/v1/functions/{name}/logs");
    let shown = if args.follow {
        follow(client, &path, args.shown.view).await
    } else {
        show(client, &path, args.shown.view).await
    };
    client.suggest(shown, &name).await
}

/// Whether only a job can be meant.
fn of_tasks(args: &Logs) -> bool {
    args.task.is_some() || args.failed
}

/// An id does not say what it is of; most are those of invocations.
async fn of_id(client: &Client, id: &Uuid, args: &Logs) -> Result<()> {
    if of_tasks(args) {
        return of_job(client, id, args).await;
    }
    match of_invocation(client, id, args).await {
        Err(error) if error.code() == Some("invocation-not-found") => match of_job(client, id, args).await {
            Err(neither) if neither.code() == Some("job-not-found") => {
                Err(error.help("nor is it the id of a job; see `fanfold job ls`"))
            }
            shown => shown,
        },
        shown => shown,
    }
}

async fn of_invocation(client: &Client, id: &Uuid, args: &Logs) -> Result<()> {
    if args.follow {
        end(client, id).await?;
    }
    show(client, &format!("/v1/invocations/{id}/logs"), args.shown.view).await
}

/// Waits for an invocation to end: its log is there from then on, whole.
async fn end(client: &Client, id: &Uuid) -> Result<()> {
    let (path, mut away) = (format!("/v1/invocations/{id}"), Away::default());
    loop {
        match client.get::<InvocationView>(&path, &[]).await {
            Ok(found) if !matches!(found.state.as_str(), "queued" | "running") => return Ok(()),
            Ok(_) => {
                away.answers();
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(error) => away.wait(error).await?,
        }
    }
}

/// Prints what the tasks of a job logged: what there is, or all of it until it ends.
async fn of_job(client: &Client, id: &Uuid, args: &Logs) -> Result<()> {
    let (path, mut told, mut away) = (format!("/v1/jobs/{id}"), Told::default(), Away::default());
    loop {
        match told.look(client, &path, args).await {
            Ok(true) => break,
            Ok(false) => {
                away.answers();
                tokio::time::sleep(JOB_LOOK_EVERY).await;
            }
            Err(error) if args.follow => away.wait(error).await?,
            Err(error) => return Err(error),
        }
    }
    if !told.any {
        output::note("no line was logged");
    }
    Ok(())
}

/// What was printed of a job that is followed.
#[derive(Default)]
struct Told {
    any: bool,
    /// Whether what comes after the first stage are reducers.
    groups: bool,
    /// Attempts at tasks: stage, task, attempt.
    attempts: HashSet<(u32, u32, u32)>,
    /// When the store got the newest lines.
    newest: u64,
}

impl Told {
    /// From when on lines may be new. They show once their lease has committed, which may be long
    /// after the store got them, so that all are looked at again once the job has ended.
    fn since(&self, ended: bool) -> u64 {
        if ended { 0 } else { self.newest.saturating_sub(LATE_MS) }
    }

    /// Prints what is new, and says whether that was all, or nobody reads on.
    async fn look(&mut self, client: &Client, path: &str, args: &Logs) -> Result<bool> {
        // Asked before the lines are read, so that no line comes after the last look.
        let job: JobView = client.get(path, &[]).await?;
        let ended = job.state.is_terminal();
        self.groups = matches!(job.shape.as_str(), "group" | "map-group");
        let since = self.since(ended);
        let read_on = self.tell(client, &format!("{path}/logs"), args, since).await?;
        Ok(!args.follow || ended || !read_on)
    }

    /// Prints, page by page, what the store got since then and was not printed before, and says whether
    /// anybody reads on.
    async fn tell(&mut self, client: &Client, path: &str, args: &Logs, since: u64) -> Result<bool> {
        let task = args.task.map(|task| task.to_string());
        let since = since.to_string();
        let (mut page, mut newest) = (None::<String>, self.newest);
        loop {
            let mut asked = vec![("since", since.as_str())];
            asked.extend(task.as_deref().map(|task| ("task", task)));
            asked.extend(args.failed.then_some(("failed", "true")));
            asked.extend(page.as_deref().map(|page| ("page", page)));
            let found: TaskLogPage = client.get(path, &asked).await?;
            newest = newest.max(found.newest.unwrap_or_default());
            if !self.print(&found.lines, args)? {
                return Ok(false);
            }
            page = found.next;
            if page.is_none() {
                // Pages are not in the order of time: after some of them others are still to come.
                self.newest = newest;
                return Ok(true);
            }
        }
    }

    fn print(&mut self, lines: &[Value], args: &Logs) -> Result<bool> {
        let fresh = self.fresh(lines)?;
        if fresh.is_empty() {
            return Ok(true);
        }
        self.any = true;
        if args.follow {
            self.attempts.extend(fresh.iter().map(|(line, _)| attempt(line)));
        }
        let shown = fresh.iter().map(|(line, value)| match args.shown.view {
            View::Json => value.to_string(),
            View::Table => task_line(line, self.groups),
        });
        output::data_taken(&shown.collect::<Vec<_>>().join("\n"))
    }

    /// Those of attempts that were not printed before; an attempt's come all at once.
    fn fresh<'a>(&self, lines: &'a [Value]) -> Result<Vec<(TaskLine, &'a Value)>> {
        let mut fresh = Vec::with_capacity(lines.len());
        for value in lines {
            let line = TaskLine::deserialize(value)?;
            if !self.attempts.contains(&attempt(&line)) {
                fresh.push((line, value));
            }
        }
        Ok(fresh)
    }
}

async fn show(client: &Client, path: &str, view: View) -> Result<()> {
    let page: Value = client.get(path, &[]).await?;
    if view == View::Json {
        return output::json(&page);
    }
    let lines = serde_json::from_value::<LogPage>(page)?.lines;
    if lines.is_empty() {
        output::note("no line was logged");
    }
    output::data(&lines.iter().map(line).collect::<Vec<_>>().join("\n"))
}

async fn follow(client: &Client, path: &str, view: View) -> Result<()> {
    let mut away = Away::default();
    loop {
        match stream(client, path, view, &mut away).await {
            Ok(()) => return Ok(()),
            Err(error) => away.wait(error).await?,
        }
    }
}

/// Prints lines as they come, until nobody reads on.
async fn stream(client: &Client, path: &str, view: View, away: &mut Away) -> Result<()> {
    let mut asked = vec![("follow", "true")];
    // A stream begins with lines of the past, which the one before has told.
    asked.extend(away.was_reached().then_some(("limit", "0")));
    let request = client.request(Method::GET, path).query(&asked);
    let mut events = Events::new(client.answer(request).await?);
    let opened = Instant::now();
    if away.reach() {
        output::note("the log goes on; what was logged meanwhile is not shown");
    }
    while let Some(event) = events.next().await {
        away.answers();
        let shown = match (event.name.as_str(), view) {
            ("log", View::Json) => event.data,
            ("log", View::Table) => line(&serde_json::from_str(&event.data)?),
            ("invocations-skipped", _) => {
                output::note(skipped_text(&serde_json::from_str(&event.data)?));
                continue;
            }
            // What a later service tells.
            _ => continue,
        };
        if !output::data_taken(&shown)? {
            return Ok(());
        }
    }
    if opened.elapsed() >= STEADY {
        away.answers();
    }
    Err(Error::service(format!("the log from {} broke off", client.endpoint()))
        .without_answer(Unanswered::Lost))
}

fn skipped_text(skipped: &SkippedView) -> String {
    let skipped = output::count(skipped.skipped);
    format!("lines came too fast: those of {skipped} invocations, of this function or others, were skipped")
}

fn line(line: &LogLine) -> String {
    of(line, "")
}

fn of(line: &LogLine, whose: &str) -> String {
    let level = format!("{:?}", line.level).to_uppercase();
    format!("{}  {level:<5}  {whose}{}", line.at, line.message)
}

/// With the task, and with the attempt where it is not the first.
fn task_line(line: &TaskLine, groups: bool) -> String {
    let TaskLine { stage, task, attempt, line } = line;
    let whose = match stage {
        0 => format!("task {task}"),
        _ if groups => format!("reducer {task}"),
        _ => format!("task {task} of fold {stage}"),
    };
    let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
    of(line, &format!("{whose}{again}: "))
}

fn attempt(line: &TaskLine) -> (u32, u32, u32) {
    (line.stage, line.task, line.attempt)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_task_is_named_as_the_list_of_tasks_names_it() {
        let task = |text: &str| {
            let words = ["fanfold", "logs", "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10", "--task", text];
            let Command::Logs(args) = Cli::try_parse_from(words).ok()?.command else { unreachable!() };
            args.task
        };
        assert_eq!((task("7"), task("0/7")), (Some(7), Some(7)));
        assert_eq!((task("1/7"), task("0/"), task("-1")), (None, None, None));
    }

    #[test]
    fn all_lines_are_looked_at_again_once_a_job_has_ended() {
        let told = Told { newest: 60_000, ..Told::default() };
        assert_eq!((told.since(false), told.since(true)), (60_000 - LATE_MS, 0));
        assert_eq!(Told::default().since(false), 0);
    }

    #[test]
    fn lines_are_read_as_the_service_writes_them() {
        let page = json!({"lines": [{"invocation": "x", "version": 1, "at": 7, "time": "…", "level": "warn", "message": "m"}]});
        let page: LogPage = serde_json::from_value(page).unwrap();
        assert_eq!(line(&page.lines[0]), "1970-01-01T00:00:00.007Z  WARN   m");
    }

    #[test]
    fn what_was_skipped_is_told() {
        let text = skipped_text(&serde_json::from_str(r#"{"skipped": 1200}"#).unwrap());
        assert!(text.contains("those of 1,200 invocations"), "{text}");
    }

    #[test]
    fn lines_of_tasks_say_whose_they_are_and_are_told_once() {
        let written = |stage: u32, task: u32, attempt: u32| {
            json!({
                "stage": stage, "task": task, "attempt": attempt, "failed": false, "at": 7, "time": "…",
                "level": "info", "message": "m"
            })
        };
        let lines = [written(0, 3, 1), written(0, 3, 1), written(0, 3, 2), written(1, 0, 1)];
        let mut told = Told::default();
        let fresh = told.fresh(&lines).unwrap();
        let shown: Vec<_> = fresh.iter().map(|(line, _)| task_line(line, false)).collect();
        let at = "1970-01-01T00:00:00.007Z  INFO   task";
        assert_eq!(
            shown,
            [
                format!("{at} 3: m"),
                format!("{at} 3: m"),
                format!("{at} 3, attempt 2: m"),
                format!("{at} 0 of fold 1: m")
            ]
        );
        let shown: Vec<_> = fresh.iter().skip(2).map(|(line, _)| task_line(line, true)).collect();
        let at = "1970-01-01T00:00:00.007Z  INFO   ";
        assert_eq!(shown, [format!("{at}task 3, attempt 2: m"), format!("{at}reducer 0: m")]);
        told.attempts.insert((0, 3, 1));
        assert_eq!(told.fresh(&lines).unwrap().len(), 2);
    }
}
