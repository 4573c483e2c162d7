// SPDX-License-Identifier: Apache-2.0
//! `fanfold trigger`: what objects start.
//!
//! A trigger comes from a TOML file or from flags and is checked here with the
//! platform's own rules. Its secret is printed once, when it is made, and is
//! the only thing on standard output then that cannot be asked for again.

use std::path::Path;

use fanfold_protocol::{
    limits,
    names::{FunctionName, FunctionRef, TriggerName},
    time::Timestamp,
    trigger::TriggerDocument,
};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    args::{Shown, Trigger, TriggerAdd, TriggerReplay, TriggerScope},
    client::Client,
    error::{Error, Result, Unanswered},
    input, json_text,
    output::{self, Table},
};

/// Most letters that the service gives at once.
const PAGE_MAX: usize = 100;

/// A trigger as the service shows it.
#[derive(Deserialize)]
struct TriggerView {
    name: String,
    paused: bool,
    paused_because: Option<String>,
    warning: Option<String>,
    created_at: String,
    address: String,
    document: TriggerDocument,
    events: EventsView,
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

/// An event that was given up.
#[derive(Deserialize)]
struct LetterView {
    id: String,
    bucket: Option<String>,
    key: Option<String>,
    event: Option<String>,
    taken_at: Option<Timestamp>,
    attempts: u32,
    reason: String,
}

impl LetterView {
    /// Its object; of what is no event, its own name.
    fn object(&self) -> String {
        let object = self.bucket.as_ref().zip(self.key.as_ref());
        object.map_or_else(|| self.id.clone(), |(bucket, key)| format!("s3://{bucket}/{key}"))
    }
}

/// Runs the subcommand.
pub async fn run(client: &Client, command: Trigger) -> Result<()> {
    match command {
        Trigger::Add(args) => add(client, &args).await,
        Trigger::Ls(shown) => {
            let (list, triggers) = all(client).await?;
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
        Trigger::Replay(TriggerReplay { name, dead_letters, scope, again, shown }) => {
            feed(client, &name, json!({"dead_letters": dead_letters, "again": again}), &scope, &shown).await
        }
        Trigger::Backfill { name, scope, shown } => feed(client, &name, json!({}), &scope, &shown).await,
        Trigger::DeadLetters { name, limit, shown } => {
            let path = format!("{}/dead-letters", path(&name));
            let found: Vec<Value> = client.pages(&path, "dead_letters", &[], limit, PAGE_MAX).await?;
            let views: Vec<LetterView> = serde_json::from_value(Value::Array(found.clone()))?;
            output::shown(shown.view, &json!({ "dead_letters": found }), |_| letters(&views))
        }
        Trigger::Discard { name } => {
            let gone: Value =
                client.ask(Method::DELETE, &format!("{}/dead-letters", path(&name)), &[]).await?;
            output::note(format!("discarded {}", gone["discarded"].as_u64().unwrap_or_default()));
            Ok(())
        }
    }
}

/// Names of the triggers that start a function.
pub async fn starting(client: &Client, function: &FunctionName) -> Result<Vec<String>> {
    let (_, triggers) = all(client).await?;
    let starts = |trigger: &TriggerView| function_of(&trigger.document).as_ref() == Some(function);
    Ok(triggers.into_iter().filter(starts).map(|trigger| trigger.name).collect())
}

async fn all(client: &Client) -> Result<(Value, Vec<TriggerView>)> {
    let list: Value = client.get("/v1/triggers", &[]).await?;
    let triggers = serde_json::from_value(list["triggers"].clone())?;
    Ok((list, triggers))
}

fn function_of(document: &TriggerDocument) -> Option<FunctionName> {
    let of_job = || -> Option<FunctionRef> { document.job.as_ref()?["function"].as_str()?.parse().ok() };
    document.function.clone().or_else(of_job).map(|function| function.name)
}

fn path(name: &TriggerName) -> String {
    format!("/v1/triggers/{name}")
}

async fn add(client: &Client, args: &TriggerAdd) -> Result<()> {
    let document = document(args)?;
    document.check()?;
    let query = if args.rotate { "?rotate=true" } else { "" };
    let made = client.send::<Value>(Method::PUT, &format!("{}{query}", path(&args.name)), &document).await;
    let trigger = match function_of(&document) {
        Some(function) => client.suggest(made, &function).await?,
        None => made?,
    };
    let view: TriggerView = serde_json::from_value(trigger.clone())?;
    if view.secret.is_some() {
        output::note("the secret is shown this once; give it to the store that sends");
    }
    // Before anything else can fail: nobody is told the secret again.
    output::shown(args.shown.view, &trigger, |_| page(client, &view))?;
    if args.backfill {
        let found = replay(client, &args.name, &json!({})).await.map_err(|error| {
            error.help(format!("the trigger is made; `fanfold trigger backfill {}` feeds it", args.name))
        })?;
        let Found { queued, listed } = serde_json::from_value(found)?;
        output::note(format!("{queued} of {listed} objects that were there start {}", view.name));
    }
    Ok(())
}

/// Has the service feed a trigger, which takes as long as the trigger has no room for all that is found.
async fn replay(client: &Client, trigger: &TriggerName, request: &Value) -> Result<Value> {
    let queued = client.plan(&format!("{}/replay", path(trigger)), Some(request)).await;
    queued.map_err(|error| match error.unanswered() {
        Some(Unanswered::Lost) if request["dead_letters"] != true => error.help(format!(
            "a replay that has begun goes on without being waited for; `fanfold trigger show {trigger}` counts what waits"
        )),
        _ => error,
    })
}

fn document(args: &TriggerAdd) -> Result<TriggerDocument> {
    if let Some(file) = &args.file {
        return of_file(file);
    }
    let (Some(bucket), Some(function)) = (&args.bucket, &args.function) else {
        let found = match (&args.bucket, &args.function) {
            (Some(_), _) => "--bucket alone",
            (None, Some(_)) => "--function alone",
            (None, None) => "neither",
        };
        return Err(Error::usage(format!(
            "expected a trigger as FILE.toml, or --bucket and --function, found {found}"
        ))
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
    let name = input::name(path);
    let text = input::text_or_stream(path, limits::DOCUMENT_BYTES_MAX)
        .map_err(|cause| Error::usage(format!("expected a trigger as TOML in {name}, found: {cause}")))?;
    json_text::toml(&name, &text)
}

/// Queues what is in scope.
async fn feed(
    client: &Client,
    trigger: &TriggerName,
    mut request: Value,
    scope: &TriggerScope,
    shown: &Shown,
) -> Result<()> {
    for (name, value) in [("prefix", &scope.prefix), ("since", &scope.since), ("until", &scope.until)] {
        if let Some(value) = value {
            request[name] = json!(value);
        }
    }
    let found = replay(client, trigger, &request).await?;
    let view: Found = serde_json::from_value(found.clone())?;
    output::shown(shown.view, &found, |_| {
        output::pairs(&[("listed", view.listed.to_string()), ("queued", view.queued.to_string())])
    })
}

fn letters(views: &[LetterView]) -> String {
    let mut table = Table::new(&["object", "event", "taken in", ">attempts", "reason"]);
    for view in views {
        table.row([
            view.object(),
            view.event.clone().unwrap_or_default(),
            view.taken_at.map(output::moment).unwrap_or_default(),
            view.attempts.to_string(),
            view.reason.clone(),
        ]);
    }
    table.text()
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
    pairs.extend(trigger.paused_because.clone().map(|because| ("paused because", because)));
    pairs.extend(trigger.warning.clone().map(|warning| ("warning", warning)));
    pairs.extend(trigger.secret.clone().map(|secret| ("secret", secret)));
    output::pairs(&pairs)
}

fn state(trigger: &TriggerView) -> &'static str {
    match (trigger.paused, &trigger.warning) {
        (true, _) => "paused",
        (false, Some(_)) => "warning",
        (false, None) => "active",
    }
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
        (Some(function), _) => format!("{function}{}", together(document)),
        (None, Some(job)) => {
            format!("job of {}{}", job["function"].as_str().unwrap_or("?"), together(document))
        }
        (None, None) => "nothing".to_owned(),
    }
}

fn together(document: &TriggerDocument) -> String {
    let batch = document.batch.as_ref();
    batch.map(|batch| format!(", up to {} at once", batch.size)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::View;

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

    #[tokio::test]
    async fn a_replay_that_nobody_waits_for_is_told_to_go_on() {
        use tokio::io::AsyncReadExt;
        // It takes the question and hangs up.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4_096]).await;
            }
        });
        let client = Client::open(Some(&endpoint), Some("t")).unwrap();
        let check = async |request: Value, goes_on: bool| {
            let error = replay(&client, &"t1".parse().unwrap(), &request).await.unwrap_err();
            assert_eq!(error.advice().contains("goes on"), goes_on, "{error}: {}", error.advice());
        };
        check(json!({}), true).await;
        check(json!({"dead_letters": true}), false).await;
    }

    #[test]
    fn flags_make_a_document() {
        let made = document(&args(None, Some("bank"))).unwrap();
        assert_eq!((made.prefix.as_str(), made.check()), ("in/", Ok(())));
        assert_eq!(function_of(&made).unwrap().as_str(), "f");
        assert_eq!((objects(&made).as_str(), starts(&made).as_str()), ("s3://bank/in/*", "f@prod"));
        assert!(document(&args(None, None)).unwrap_err().to_string().contains("FILE.toml"));
        assert!(document(&args(Some("/nowhere.toml"), None)).unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn letters_are_read_as_the_service_writes_them() {
        let views = json!([
            {"id": "1", "bucket": "bank", "key": "in/a b.csv", "event": "ObjectCreated:Put", "taken_at": 0,
             "attempts": 3, "reason": "function-not-found: expected f"},
            {"id": "unread", "attempts": 1, "reason": "message 1: no JSON"},
        ]);
        let text = letters(&serde_json::from_value::<Vec<LetterView>>(views).unwrap());
        for part in ["s3://bank/in/a b.csv", "function-not-found: expected f", "unread", "message 1: no JSON"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_file_makes_a_document() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "bucket = \"bank\"\nglob = \"in/**/*.csv\"\n[job]\nfunction = \"score\"\ninput = \"s3://{bucket}/{key}\"\n";
        std::fs::write(file.path(), text).unwrap();
        let made = document(&args(file.path().to_str(), None)).unwrap();
        assert_eq!((made.check(), starts(&made).as_str()), (Ok(()), "job of score"));
        assert_eq!(objects(&made), "s3://bank/in/**/*.csv");
        assert_eq!(function_of(&made).unwrap().as_str(), "score");
        std::fs::write(file.path(), "bucket = \"bank\"\nprefx = \"in/\"\n").unwrap();
        assert!(document(&args(file.path().to_str(), None)).unwrap_err().to_string().contains("prefx"));
    }
}
