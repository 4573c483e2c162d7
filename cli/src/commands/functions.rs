// SPDX-License-Identifier: Apache-2.0
//! `fanfold functions`: what is deployed, and where its aliases point.

use std::collections::BTreeMap;

use fanfold_protocol::{
    ErrorKind,
    function::{AliasTarget, Canary},
    names::{AliasName, FunctionName},
    time::Timestamp,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::trigger;
use crate::{
    args::Functions,
    client::{Client, FunctionList, FunctionView},
    error::{Error, Result},
    output::{self, Table},
    similar,
};

/// Most functions that are asked for at once.
const PAGE_MAX: usize = 1_000;
/// Triggers that are named of those that start a removed function.
const TRIGGERS_NAMED: usize = 10;

/// Runs the subcommand.
pub async fn run(client: &Client, command: Functions) -> Result<()> {
    match command {
        Functions::Ls(shown) => {
            let found: Vec<Value> =
                client.pages("/v1/functions", "functions", &[], usize::MAX, PAGE_MAX).await?;
            let list = json!({ "functions": found });
            let functions = serde_json::from_value::<FunctionList>(list.clone())?.functions;
            if functions.is_empty() {
                output::note("nothing is deployed yet; begin with `fanfold new`");
            }
            output::shown(shown.view, &list, |_| table(&functions))
        }
        Functions::Show { name, shown } => {
            let detail = show(client, &name).await?;
            let view: FunctionView = serde_json::from_value(detail.clone())?;
            output::shown(shown.view, &detail, |detail| page(&view, detail))
        }
        Functions::Rm { name } => {
            let removed = client.act(Method::DELETE, &format!("/v1/functions/{name}")).await;
            client.suggest(removed, &name).await?;
            output::note(format!("removed {name}"));
            // It is removed, whether or not there is anything to be learnt of triggers.
            let triggers = trigger::starting(client, &name).await.unwrap_or_default();
            left(&triggers, &name).into_iter().for_each(output::note);
            Ok(())
        }
        Functions::Alias { name, alias, version, canary, percent } => {
            let canary = canary.zip(percent).map(|(version, percent)| Canary::new(version, percent));
            point(client, &name, &alias, AliasTarget::new(version, canary)).await
        }
        Functions::Rollback { name, alias } => rollback(client, &name, &alias).await,
    }
}

/// Tells of triggers that start what is not there any more.
fn left(triggers: &[String], name: &FunctionName) -> Option<String> {
    let (first, rest) = triggers.split_at(triggers.len().min(TRIGGERS_NAMED));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let found = format!("{}{more}", first.join(", "));
    (!first.is_empty()).then(|| {
        format!(
            "expected no trigger that starts {name}, found {found}; their events are given up until {name} is deployed \
             again: remove those of no use by `fanfold trigger rm NAME`"
        )
    })
}

async fn show(client: &Client, name: &FunctionName) -> Result<Value> {
    let shown = client.get(&format!("/v1/functions/{name}"), &[]).await;
    client.suggest(shown, name).await
}

async fn point(client: &Client, name: &FunctionName, alias: &AliasName, target: AliasTarget) -> Result<()> {
    let path = format!("/v1/functions/{name}/aliases/{alias}");
    let sent = client.send::<Value>(Method::PUT, &path, &target).await;
    client.suggest(sent, name).await?;
    output::note(format!("{name}@{alias} -> {}", target_text(&target)));
    Ok(())
}

async fn rollback(client: &Client, name: &FunctionName, alias: &AliasName) -> Result<()> {
    let view: FunctionView = serde_json::from_value(show(client, name).await?)?;
    let from = pointed_at(&view.aliases, alias)?;
    let oldest =
        || Error::usage(format!("expected a version before {}, found none; it is the oldest", from.version));
    let version = before(from).ok_or_else(oldest)?;
    match point(client, name, alias, AliasTarget::new(version, None)).await {
        Err(error) if error.code() == Some(ErrorKind::VersionNotFound.code()) => Err(oldest()),
        pointed => pointed,
    }
}

/// The version that an alias goes back to. One with a canary has two, of which the newer is on
/// trial: the older one gets all calls again, and none before it any.
fn before(target: &AliasTarget) -> Option<u32> {
    match &target.canary {
        Some(canary) => Some(target.version.min(canary.version)),
        // Numbers have no gaps: whether there is one before, the service knows.
        None => target.version.checked_sub(1).filter(|version| *version > 0),
    }
}

/// Where an alias points.
fn pointed_at<'a>(
    aliases: &'a BTreeMap<AliasName, AliasTarget>,
    alias: &AliasName,
) -> Result<&'a AliasTarget> {
    if let Some(target) = aliases.get(alias) {
        return Ok(target);
    }
    let names: Vec<_> = aliases.keys().map(AliasName::as_str).collect();
    let error = Error::usage(format!("expected an alias {alias}, found {}", list(&names)));
    Err(match similar::closest(alias.as_str(), &names) {
        Some(close) => error.help(format!("did you mean --alias {close}?")),
        None => error.help("name one of them by --alias, or make it with `fanfold functions alias`"),
    })
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn target_text(target: &AliasTarget) -> String {
    match &target.canary {
        Some(canary) => format!("{} ({}% to {})", target.version, canary.percent, canary.version),
        None => target.version.to_string(),
    }
}

fn aliases_text(aliases: &BTreeMap<AliasName, AliasTarget>) -> String {
    aliases
        .iter()
        .map(|(name, target)| format!("{name} -> {}", target_text(target)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn table(functions: &[FunctionView]) -> String {
    let mut table = Table::new(&["name", ">latest", "exports", ">size", "updated", "aliases", "description"]);
    for function in functions {
        table.row([
            function.name.to_string(),
            function.latest.to_string(),
            words(function.rest.get("exports")),
            size(function.rest.get("size_bytes")),
            moment(function.rest.get("updated_at")),
            aliases_text(&function.aliases),
            function.rest.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
        ]);
    }
    table.text()
}

fn page(view: &FunctionView, detail: &Value) -> String {
    let description = view.rest.get("description").and_then(Value::as_str).unwrap_or_default();
    let head = output::pairs(&[
        ("function", view.name.to_string()),
        ("description", description.to_owned()),
        ("latest", view.latest.to_string()),
        ("aliases", aliases_text(&view.aliases)),
    ]);
    let mut table = Table::new(&[">version", "exports", ">size", ">memory", "created", "digest"]);
    for version in versions(detail) {
        let text = |member: &Value| member.as_str().unwrap_or_default().to_owned();
        table.row([
            version["version"].to_string(),
            words(version.get("exports")),
            size(version.get("size_bytes")),
            text(&version["settings"]["memory"]),
            moment(version.get("created_at")),
            text(&version["digest"]).chars().take("sha256:".len() + 12).collect(),
        ]);
    }
    format!("{head}\n{}", table.text())
}

fn versions(detail: &Value) -> &[Value] {
    detail["versions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn words(list: Option<&Value>) -> String {
    let items = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn size(bytes: Option<&Value>) -> String {
    bytes.and_then(Value::as_u64).map(output::bytes).unwrap_or_default()
}

fn moment(at: Option<&Value>) -> String {
    at.and_then(Value::as_u64).map(|ms| output::moment(Timestamp(ms))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn detail() -> Value {
        json!({
            "name": "hello", "latest": 4, "description": "clears\u{1b}[2J", "exports": ["handler"],
            "aliases": {"prod": {"version": 4}},
            "versions": [
                {"version": 2, "exports": ["handler"], "size_bytes": 2048, "created_at": 0,
                 "settings": {"memory": "64MiB"}, "digest": "sha256:0123456789abcdef"},
                {"version": 4, "exports": ["handler"], "size_bytes": 2048, "created_at": 0, "digest": "sha256:ff"}
            ]
        })
    }

    #[test]
    fn an_alias_is_found_or_another_is_suggested() {
        let view: FunctionView = serde_json::from_value(detail()).unwrap();
        assert_eq!(pointed_at(&view.aliases, &"prod".parse().unwrap()).unwrap().version, 4);
        let error = pointed_at(&view.aliases, &"prd".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("found prod"), "{error}");
    }

    #[test]
    fn an_alias_goes_back_to_what_was_before() {
        let check = |version, canary: Option<u32>, expected| {
            let canary = canary.map(|version| Canary::new(version, 10));
            assert_eq!(before(&AliasTarget::new(version, canary)), expected);
        };
        check(3, None, Some(2));
        check(1, None, None);
        check(3, Some(4), Some(3));
        check(4, Some(2), Some(2));
        check(1, Some(2), Some(1));
    }

    #[test]
    fn triggers_that_are_left_are_told() {
        let name = "hello".parse().unwrap();
        let names = |count: usize| (1..=count).map(|n| format!("t{n}")).collect::<Vec<_>>();
        assert_eq!(left(&[], &name), None);
        let check = |count, said: &str| {
            let text = left(&names(count), &name).unwrap();
            assert!(text.contains(said) && text.contains("`fanfold trigger rm NAME`"), "{text}");
        };
        check(1, "starts hello, found t1; ");
        check(10, ", t9, t10; ");
        check(12, ", t10 and 2 more; ");
    }

    #[test]
    fn a_page_shows_versions() {
        let detail = detail();
        let page = page(&serde_json::from_value(detail.clone()).unwrap(), &detail);
        for part in ["prod -> 4", "2.00 KiB", "64MiB", "sha256:0123456789ab", "1970-01-01 00:00:00"] {
            assert!(page.contains(part), "{page}");
        }
        assert!(!page.contains("abcdef"));
    }

    #[test]
    fn a_description_commands_no_terminal() {
        let detail = detail();
        let view = || serde_json::from_value::<FunctionView>(detail.clone()).unwrap();
        for shown in [page(&view(), &detail), table(&[view()])] {
            assert!(shown.contains("clears\\u{1b}[2J") && !shown.contains('\u{1b}'), "{shown}");
        }
    }
}
