// SPDX-License-Identifier: Apache-2.0
//! The log: on standard error, as lines of text or of JSON.
//!
//! It begins before anything else, so the environment alone says how, and not the file of a gateway or a
//! worker. Invariant: what is said there wrongly is told in the log, and ends nothing.

use std::ffi::OsStr;

use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter, util::SubscriberInitExt as _};

/// What the lines are: `text` or `json`.
const FORMAT: &str = "FANFOLD_LOG_FORMAT";

/// What lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// For people.
    Text,
    /// For programs: an object in each.
    Json,
}

/// Logs from now on. Standard output is for data. What the S3 server refuses its clients is told
/// to them; the library would log each as an error.
pub fn begin() {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let (filter, unread) = what_is_logged(&asked);
    let format = std::env::var_os(FORMAT).unwrap_or_default();
    let known = format_of(&format);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let colors = is_terminal && are_colors_welcome(std::env::var_os("NO_COLOR").as_deref());
    log(known.unwrap_or(Format::Text), filter, colors, std::io::stderr).init();
    if let Some(error) = unread {
        tracing::warn!(%error, "RUST_LOG was not taken: expected levels such as info or warn,fanfold=debug");
    }
    if known.is_none() {
        tracing::warn!("{FORMAT} was not taken: expected text or json, found {format:?}");
    }
}

fn log<W>(format: Format, filter: EnvFilter, colors: bool, to: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A log that cannot be written, on a full disk for one, is no reason to fail: telling of it on
    // the same stderr would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to).log_internal_errors(false);
    match format {
        Format::Text => Dispatch::new(log.with_ansi(colors).finish()),
        Format::Json => Dispatch::new(log.json().finish()),
    }
}

/// No longer once `NO_COLOR` says anything (no-color.org).
fn are_colors_welcome(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
}

/// What lines are to be, if it is one of those that there are. Compose files and units set it to nothing.
fn format_of(asked: &OsStr) -> Option<Format> {
    match asked.to_str()?.trim() {
        "" | "text" => Some(Format::Text),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// What `RUST_LOG` asks for, or what is usual where that says nothing, and why it is not what was asked for.
fn what_is_logged(asked: &str) -> (EnvFilter, Option<ParseError>) {
    const USUAL: &str = "warn,s3s=off";
    if asked.trim().is_empty() {
        return (EnvFilter::new(USUAL), None);
    }
    match EnvFilter::try_new(asked) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(USUAL), Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_line_of_json_says_which_request_it_is_about() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let begun = log(Format::Json, EnvFilter::new("info"), true, file.reopen().unwrap());
        tracing::dispatcher::with_default(&begun, || {
            let request =
                tracing::info_span!("request", request_id = "r-1", trace_id = tracing::field::Empty);
            request.record("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736");
            request.in_scope(|| tracing::warn!(found = "a \"quote\"\n", "the store is away"));
            tracing::debug!("not asked for");
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((text.lines().count(), &line["level"]), (1, &json!("WARN")), "{text}");
        assert_eq!(line["fields"], json!({"message": "the store is away", "found": "a \"quote\"\n"}));
        let request =
            json!({"name": "request", "request_id": "r-1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"});
        assert_eq!((&line["span"], &line["spans"]), (&request, &json!([request])));
    }

    #[test]
    fn formats_are_known_by_their_names() {
        let check = |asked: &str, expected| assert_eq!(format_of(OsStr::new(asked)), expected, "{asked:?}");
        check("", Some(Format::Text));
        check("text", Some(Format::Text));
        check("json", Some(Format::Json));
        check("JSON", None);
        check("logfmt", None);
    }

    #[test]
    fn what_is_logged_is_told_where_it_is_not_what_was_asked_for() {
        let check = |asked: &str, expected: &str, is_taken: bool| {
            let (filter, unread) = what_is_logged(asked);
            let same = filter.to_string() == EnvFilter::new(expected).to_string();
            assert!(same && unread.is_none() == is_taken, "{asked:?}: {filter}, {unread:?}");
        };
        let usual = "warn,s3s=off";
        // Compose files and units set it to nothing.
        check("", usual, true);
        check(" ", usual, true);
        check("info,fanfold=debug", "info,fanfold=debug", true);
        check("warn,fanfold=loud", usual, false);
    }

    #[test]
    fn who_wants_no_colors_gets_none() {
        let check =
            |set: Option<&str>, expected| assert_eq!(are_colors_welcome(set.map(OsStr::new)), expected);
        check(None, true);
        check(Some(""), true);
        check(Some("1"), false);
    }
}
