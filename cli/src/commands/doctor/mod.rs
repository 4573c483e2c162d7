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
    error::{Error, Exit, Result},
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
    let machine = tokio::task::spawn_blocking(machine::look)
        .await
        .map_err(|error| Error::usage(format!("the look at this machine broke: {error}")))?;
    let service = service::look(endpoint, token).await;
    looking.finish_and_clear();
    let findings = [&machine[..], &service[..]].concat();
    output::shown(args.shown.view, &findings, |findings| text(findings))?;
    verdict(bad(&machine), bad(&service))
}

fn bad(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.state == State::Bad).count()
}

/// What is bad of the service comes first: without it no other command does anything.
fn verdict(machine: usize, service: usize) -> Result<()> {
    let exit = if service > 0 { Exit::Service } else { Exit::Usage };
    match machine + service {
        0 => Ok(()),
        1 => Err(Error::of(exit, "one thing needs mending")),
        several => Err(Error::of(exit, format!("{several} things need mending"))),
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
        let lines = |said: &str| output::harmless_lines(said).replace('\n', &indent);
        text.push_str(&format!("{sign}  {what:width$}  {}\n", lines(found)));
        if !mend.is_empty() {
            text.push_str(&format!("      {:width$}  -> {}\n", "", lines(mend)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_it_is_the_service() {
        let exit = |machine, service| verdict(machine, service).err().map(|error| error.exit());
        assert_eq!((exit(0, 0), exit(2, 0)), (None, Some(Exit::Usage)));
        assert_eq!((exit(0, 1), exit(1, 1)), (Some(Exit::Service), Some(Exit::Service)));
    }

    #[test]
    fn findings_say_what_to_do() {
        let findings = [
            Finding::good("store", "it does\nall"),
            Finding::bad("gateway", "nothing\u{1b} answers", "start it"),
        ];
        assert_eq!(
            text(&findings),
            "ok    store    it does\n               all\nBAD   gateway  nothing\\u{1b} answers\n               -> start it\n"
        );
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!((json[0]["state"].as_str(), json[0].get("mend")), (Some("good"), None));
    }
}
