// SPDX-License-Identifier: Apache-2.0
//! `fanfold logs`: what functions said.
//!
//! Of an invocation by its id, of a function by its name. Lines come escaped from
//! the service, so a terminal shows them as they are.

use std::time::Duration;

use fanfold_protocol::names::FunctionName;
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    args::{Logs, View},
    client::{Client, Events, InvocationView, LogPage},
    error::{Error, Result},
    output,
};

/// Between two looks at an invocation that goes on.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Prints lines.
pub async fn run(client: &Client, args: &Logs) -> Result<()> {
    if let Ok(id) = args.of.parse::<Uuid>() {
        if args.follow {
            end(client, &id).await?;
        }
        return show(client, &format!("/v1/invocations/{id}/logs"), args.shown.view).await;
    }
    let name: FunctionName = args.of.parse().map_err(|_| {
        Error::usage(format!(
            "expected the id of an invocation or the name of a function, found {:?}",
            args.of
        ))
    })?;
    let path = format!("/v1/functions/{name}/logs");
    let shown = if args.follow {
        follow(client, &path, args.shown.view).await
    } else {
        show(client, &path, args.shown.view).await
    };
    match shown {
        Ok(()) => Ok(()),
        Err(error) => Err(client.suggest(error, &name).await),
    }
}

/// Waits for an invocation to end: its log is there from then on, whole.
async fn end(client: &Client, id: &Uuid) -> Result<()> {
    loop {
        let found: InvocationView = client.get(&format!("/v1/invocations/{id}"), &[]).await?;
        if !matches!(found.state.as_str(), "queued" | "running") {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
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
    let request = client.request(Method::GET, path).query(&[("follow", "true")]);
    let mut events = Events::new(client.answer(request).await?);
    while let Some(event) = events.next().await {
        match view {
            View::Json => output::data(&event.data)?,
            View::Table => output::data(&line(&serde_json::from_str(&event.data)?))?,
        }
    }
    Err(Error::service(format!("the log from {} broke off", client.endpoint())))
}

fn line(line: &fanfold_protocol::invocation::LogLine) -> String {
    let level = format!("{:?}", line.level).to_uppercase();
    format!("{}  {level:<5}  {}", line.at, line.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_service_writes_them() {
        let page = serde_json::json!({"lines": [{"invocation": "x", "version": 1, "at": 7, "time": "…", "level": "warn", "message": "m"}]});
        let page: LogPage = serde_json::from_value(page).unwrap();
        assert_eq!(line(&page.lines[0]), "1970-01-01T00:00:00.007Z  WARN   m");
    }
}
