// SPDX-License-Identifier: Apache-2.0
//! `fanfold trigger`: what objects start.
//!
//! A trigger comes from a TOML file or from flags and is checked here with the
//! platform's own rules. Its secret is printed once, when it is made, and is
//! the only thing on standard output then that cannot be asked for again.

use std::path::Path;

use fanfold_protocol::{names::TriggerName, trigger::TriggerDocument};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    args::{Trigger, TriggerAdd, TriggerReplay},
    client::Client,
    error::{Error, Result},
    json_text,
    output::{self, Table},
};

/// A trigger as the service shows it.
#[derive(Deserialize)]
struct TriggerView {
    name: String,
    paused: bool,
    created_at: String,
    address: String,
    document: TriggerDocument,
    events: EventsView,
    #[serde(default)]
    secret: Option<String>,
}

#[derive(Deserialize)]
struct EventsView {
    waiting: u64,
    running: u64,
    delayed: u64,
    dead: u64,
}

#[derive(Deserialize)]
struct Found {
    listed: u64,
    queued: u64,
}

/// Runs the subcommand.
pub async fn run(client: &Client, command: Trigger) -> Result<()> {
    match command {
        Trigger::Add(args) => add(client, &args).await,
        Trigger::Ls(shown) => {
            let list: Value = client.get("/v1/triggers", &[]).await?;
            let triggers: Vec<TriggerView> = serde_json::from_value(list["triggers"].clone())?;
            if triggers.is_empty() {
                output::note("there are no triggers yet; begin with `fanfold trigger add`");
            }
            output::shown(shown.view, &list, |_| table(&triggers))
        }
        Trigger::Show { name, shown } => {
            let trigger: Value = client.get(&path(&name), &[]).await?;
            let view: TriggerView = serde_json::from_value(trigger.clone())?;
            output::shown(shown.view, &trigger, |_| page(client, &view))
        }
        Trigger::Rm { name } => {
            client.act(Method::DELETE, &path(&name)).await?;
            output::note(format!("removed {name}; what it started goes on"));
            Ok(())
        }
        Trigger::Pause { name } => {
            client.act(Method::POST, &format!("{}/pause", path(&name))).await?;
            output::note(format!("{name} is paused; its events are kept"));
            Ok(())
        }
        Trigger::Resume { name } => {
            client.act(Method::POST, &format!("{}/resume", path(&name))).await?;
            output::note(format!("{name} goes on"));
            Ok(())
        }
        Trigger::Replay(args) => replay(client, &args).await,
    }
}

fn path(name: &TriggerName) -> String {
    format!("/v1/triggers/{name}")
}

async fn add(client: &Client, args: &TriggerAdd) -> Result<()> {
    let document = document(args)?;
    document.check()?;
    let query = if args.rotate { "?rotate=true" } else { "" };
    let trigger: Value = client.send(Method::PUT, &format!("{}{query}", path(&args.name)), &document).await?;
    let view: TriggerView = serde_json::from_value(trigger.clone())?;
    if view.secret.is_some() {
        output::note("the secret is shown this once; give it to the store that sends");
    }
    if args.backfill {
        let found: Found =
            client.send(Method::POST, &format!("{}/replay", path(&args.name)), &json!({})).await?;
        output::note(format!(
            "{} of {} objects that were there start {}",
            found.queued, found.listed, view.name
        ));
    }
    output::shown(args.shown.view, &trigger, |_| page(client, &view))
}

fn document(args: &TriggerAdd) -> Result<TriggerDocument> {
    if let Some(file) = &args.file {
        return of_file(file);
    }
    let (Some(bucket), Some(function)) = (&args.bucket, &args.function) else {
        return Err(Error::usage(
            "expected a trigger as FILE.toml, or --bucket and --function, found neither",
        )
        .help("a trigger that starts a job needs a file; the guide to triggers shows one"));
    };
    let mut document = json!({"bucket": bucket, "function": function.to_string()});
    for (name, value) in [("prefix", &args.prefix), ("suffix", &args.suffix), ("glob", &args.glob)] {
        if let Some(value) = value {
            document[name] = json!(value);
        }
    }
    Ok(serde_json::from_value(document)?)
}

fn of_file(path: &Path) -> Result<TriggerDocument> {
    let text = std::fs::read_to_string(path).map_err(|cause| {
        Error::usage(format!("expected a trigger as TOML in {}, found: {cause}", path.display()))
    })?;
    json_text::toml(&path.display().to_string(), &text)
}

async fn replay(client: &Client, args: &TriggerReplay) -> Result<()> {
    let mut request = json!({"dead_letters": args.dead_letters, "again": args.again});
    for (name, value) in [("prefix", &args.prefix), ("since", &args.since), ("until", &args.until)] {
        if let Some(value) = value {
            request[name] = json!(value);
        }
    }
    let found: Value = client.send(Method::POST, &format!("{}/replay", path(&args.name)), &request).await?;
    let view: Found = serde_json::from_value(found.clone())?;
    output::shown(args.shown.view, &found, |_| {
        output::pairs(&[("listed", view.listed.to_string()), ("queued", view.queued.to_string())])
    })
}

fn table(triggers: &[TriggerView]) -> String {
    let mut table = Table::new(&["NAME", "OBJECTS", "STARTS", "STATE", "WAITING", "DEAD"]);
    for trigger in triggers {
        let waiting = trigger.events.waiting + trigger.events.running + trigger.events.delayed;
        table.row([
            trigger.name.clone(),
            objects(&trigger.document),
            starts(&trigger.document),
            state(trigger).to_owned(),
            waiting.to_string(),
            trigger.events.dead.to_string(),
        ]);
    }
    table.text()
}

fn page(client: &Client, trigger: &TriggerView) -> String {
    let (document, events) = (&trigger.document, &trigger.events);
    let mut pairs = vec![
        ("name", trigger.name.clone()),
        ("objects", objects(document)),
        ("events", document.events.join(", ")),
        ("starts", starts(document)),
        ("state", state(trigger).to_owned()),
        ("made", trigger.created_at.clone()),
        ("address", format!("{}{}", client.endpoint(), trigger.address)),
        ("waiting", events.waiting.to_string()),
        ("running", events.running.to_string()),
        ("delayed", events.delayed.to_string()),
        ("dead letters", events.dead.to_string()),
    ];
    pairs.extend(trigger.secret.clone().map(|secret| ("secret", secret)));
    output::pairs(&pairs)
}

fn state(trigger: &TriggerView) -> &'static str {
    if trigger.paused { "paused" } else { "active" }
}

fn objects(document: &TriggerDocument) -> String {
    let pattern = match &document.glob {
        Some(glob) => glob.clone(),
        None => format!("{}*{}", document.prefix, document.suffix),
    };
    format!("s3://{}/{pattern}", document.bucket)
}

fn starts(document: &TriggerDocument) -> String {
    match (&document.function, &document.job) {
        (Some(function), _) => function.to_string(),
        (None, Some(job)) => format!("job of {}", job["function"].as_str().unwrap_or("?")),
        (None, None) => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Shown, View};

    fn args(file: Option<&str>, bucket: Option<&str>) -> TriggerAdd {
        TriggerAdd {
            name: "t".parse().unwrap(),
            file: file.map(Into::into),
            bucket: bucket.map(str::to_owned),
            prefix: Some("in/".to_owned()),
            suffix: None,
            glob: None,
            function: Some("f@prod".parse().unwrap()),
            backfill: false,
            rotate: false,
            shown: Shown { view: View::Table },
        }
    }

    #[test]
    fn flags_make_a_document() {
        let made = document(&args(None, Some("bank"))).unwrap();
        assert_eq!((made.prefix.as_str(), made.check()), ("in/", Ok(())));
        assert_eq!((objects(&made).as_str(), starts(&made).as_str()), ("s3://bank/in/*", "f@prod"));
        assert!(document(&args(None, None)).unwrap_err().to_string().contains("FILE.toml"));
        assert!(document(&args(Some("/nowhere.toml"), None)).unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn a_file_makes_a_document() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "bucket = \"bank\"\nglob = \"in/**/*.csv\"\n[job]\nfunction = \"score\"\ninput = \"s3://{bucket}/{key}\"\n";
        std::fs::write(file.path(), text).unwrap();
        let made = document(&args(file.path().to_str(), None)).unwrap();
        assert_eq!((made.check(), starts(&made).as_str()), (Ok(()), "job of score"));
        assert_eq!(objects(&made), "s3://bank/in/**/*.csv");
        std::fs::write(file.path(), "bucket = \"bank\"\nprefx = \"in/\"\n").unwrap();
        assert!(document(&args(file.path().to_str(), None)).unwrap_err().to_string().contains("prefx"));
    }
}
