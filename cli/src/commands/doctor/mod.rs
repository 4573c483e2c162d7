// SPDX-License-Identifier: Apache-2.0
//! `fanfold doctor`: what is wrong here, and how to mend it.
//!
//! Looks only; nothing is installed or started, and what the store's probe
//! writes it removes. One finding each, in the order in which a newcomer meets
//! the things.

mod machine;
mod service;

use serde::Serialize;

use crate::{
    args,
    error::{Error, Result},
    output,
};

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing to do.
    Good,
    /// It works, but not as it could.
    Warning,
    /// It does not work.
    Bad,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, state: State::Good, found: found.into(), mend: String::new() }
    }

    fn warning(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, state: State::Warning, found: found.into(), mend: mend.into() }
    }

    fn bad(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, state: State::Bad, found: found.into(), mend: mend.into() }
    }
}

/// Looks at everything.
pub async fn run(endpoint: Option<&str>, token: Option<&str>, args: args::Doctor) -> Result<()> {
    let looking = output::spinner("looking");
    let mut findings = tokio::task::spawn_blocking(machine::look)
        .await
        .map_err(|error| Error::failed(format!("the look at this machine broke: {error}")))?;
    findings.extend(service::look(endpoint, token).await);
    looking.finish_and_clear();
    output::shown(args.shown.view, &findings, |findings| text(findings))?;
    match findings.iter().filter(|finding| finding.state == State::Bad).count() {
        0 => Ok(()),
        1 => Err(Error::failed("one thing needs mending")),
        several => Err(Error::failed(format!("{several} things need mending"))),
    }
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { what, state, found, mend } in findings {
        let sign = match state {
            State::Good => "ok  ",
            State::Warning => "warn",
            State::Bad => "BAD ",
        };
        let indent = format!("\n{:width$}        ", "");
        text.push_str(&format!("{sign}  {what:width$}  {}\n", found.replace('\n', &indent)));
        if !mend.is_empty() {
            text.push_str(&format!("      {:width$}  -> {}\n", "", mend.replace('\n', &indent)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_what_to_do() {
        let findings =
            [Finding::good("store", "it does\nall"), Finding::bad("gateway", "nothing answers", "start it")];
        assert_eq!(
            text(&findings),
            "ok    store    it does\n               all\nBAD   gateway  nothing answers\n               -> start it\n"
        );
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!((json[0]["state"].as_str(), json[0].get("mend")), (Some("good"), None));
    }
}
