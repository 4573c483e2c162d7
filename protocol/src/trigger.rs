//! A trigger as its author writes it: which objects, which events, and what
//! they start.
//!
//! [`TriggerDocument`] is the contract (TOML file or JSON body, unknown keys
//! are errors). Templates are filled in here, since what an author wrote is
//! checked by filling it in.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{ErrorKind, Problem},
    event::ObjectEvent,
    job::JobDocument,
    limits,
    names::FunctionRef,
    size::Span,
    uri,
};

/// A trigger as submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerDocument {
    /// The bucket whose events it acts on.
    pub bucket: String,
    /// What keys must begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What keys must end with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suffix: String,
    /// What the whole key must match, such as `in/**/*.csv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// Names of events in S3's words; a last `*` stands for any rest.
    #[serde(default = "created")]
    pub events: Vec<String>,
    /// The handler to invoke with each event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionRef>,
    /// The job to submit for each event: a job document whose texts may hold
    /// `{bucket}`, `{key}`, `{etag}` and `{date}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Value>,
    /// Events in work at once, in each gateway.
    #[serde(default = "concurrency")]
    pub concurrency: u32,
    /// Whether an event is dropped when a later one of the same key has been
    /// seen, by their sequencers.
    #[serde(default)]
    pub ordered: bool,
    /// How an event is tried again that could not be delivered.
    #[serde(default)]
    pub retry: TriggerRetry,
    /// How senders show who they are.
    #[serde(default)]
    pub auth: SenderAuth,
    /// Between two looks for objects whose events were lost; `0s` for none.
    #[serde(default = "reconcile")]
    pub reconcile: Span,
    /// Takes the trigger although what it starts may write what it acts on.
    #[serde(default)]
    pub allow_loops: bool,
}

/// How an event is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerRetry {
    /// Attempts, the first included; then the event is a dead letter.
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Span,
}

impl Default for TriggerRetry {
    fn default() -> Self {
        Self { attempts: limits::ATTEMPTS_DEFAULT, backoff: Span(1_000) }
    }
}

/// How senders at a trigger's own address show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SenderAuth {
    /// With the trigger's token, as a bearer token or as the password of basic
    /// authentication.
    #[default]
    Token,
    /// With an HMAC-SHA256 over time and body, whose key is the trigger's secret.
    Signature,
}

fn created() -> Vec<String> {
    vec!["ObjectCreated:*".to_owned()]
}

fn concurrency() -> u32 {
    10
}

fn reconcile() -> Span {
    Span(limits::RECONCILE_INTERVAL_DEFAULT.as_millis() as u64)
}

impl TriggerDocument {
    /// Checks what can be checked without looking at the function or at other
    /// triggers, and reports all mistakes together.
    ///
    /// # Errors
    /// `invalid-trigger`.
    pub fn check(&self) -> Result<(), Problem> {
        let mut mistakes = Vec::new();
        mistakes.extend(uri::check_bucket(&self.bucket).err().map(|problem| problem.detail));
        for (name, text) in [("prefix", &self.prefix), ("suffix", &self.suffix)] {
            if text.len() > uri::KEY_BYTES_MAX {
                mistakes.push(format!(
                    "{name} must be at most {} bytes, found {}",
                    uri::KEY_BYTES_MAX,
                    text.len()
                ));
            }
        }
        if self.events.is_empty() {
            mistakes.push("events must name at least one event, such as \"ObjectCreated:*\"".to_owned());
        }
        mistakes.extend(self.events.iter().filter(|name| !is_known(name)).map(|name| {
            format!("events must be of ObjectCreated or ObjectRemoved, such as \"ObjectCreated:Put\", found {name:?}")
        }));
        if !(1..=limits::TRIGGER_CONCURRENCY_MAX).contains(&self.concurrency) {
            mistakes.push(format!(
                "concurrency must be from 1 to {}, found {}",
                limits::TRIGGER_CONCURRENCY_MAX,
                self.concurrency
            ));
        }
        if !(1..=limits::ATTEMPTS_MAX).contains(&self.retry.attempts) {
            mistakes.push(format!(
                "retry.attempts must be from 1 to {}, found {}",
                limits::ATTEMPTS_MAX,
                self.retry.attempts
            ));
        }
        if self.reconcile.0 != 0 && self.reconcile.as_duration() < limits::RECONCILE_INTERVAL_MIN {
            mistakes.push(format!(
                "reconcile must be 0s or at least {} s, found {}",
                limits::RECONCILE_INTERVAL_MIN.as_secs(),
                self.reconcile
            ));
        }
        mistakes.extend(self.check_target());
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Problem::new(ErrorKind::InvalidTrigger, mistakes.join("; ")))
    }

    fn check_target(&self) -> Vec<String> {
        match (&self.function, &self.job) {
            (Some(_), None) => Vec::new(),
            (None, Some(template)) => check_template(template, &self.bucket).err().into_iter().collect(),
            _ => vec!["exactly one of function and job must be given".to_owned()],
        }
    }

    /// Whether the filter lets an event of this name and key through; the glob is
    /// the caller's to match.
    pub fn admits(&self, name: &str, key: &str) -> bool {
        key.starts_with(&self.prefix)
            && key.ends_with(&self.suffix)
            && key.len() >= self.prefix.len().max(self.suffix.len())
            && self.events.iter().any(|pattern| names(pattern, name))
    }

    /// Whether the trigger acts on objects that are there, which alone a listing
    /// shows.
    pub fn acts_on_created(&self) -> bool {
        self.events.iter().any(|name| plain(name).starts_with("ObjectCreated"))
    }
}

fn plain(name: &str) -> &str {
    name.strip_prefix("s3:").unwrap_or(name)
}

fn is_known(pattern: &str) -> bool {
    let name = plain(pattern);
    ["ObjectCreated:", "ObjectRemoved:"].iter().any(|kind| name.len() > kind.len() && name.starts_with(kind))
}

/// Whether a name of an event is one that the pattern means.
fn names(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (plain(pattern), plain(name));
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Fills a template with an example, and says what is wrong with what comes out.
fn check_template(template: &Value, bucket: &str) -> Result<(), String> {
    let document = fill(template, &Filling { bucket, key: "example", etag: "0", date: "2000-01-01" })
        .map_err(|problem| problem.detail)?;
    let distinct = ["{key}", "{etag}"];
    let output = template["output"].as_str();
    if output.is_some_and(|text| !distinct.iter().any(|part| text.contains(part))) && !document.overwrite {
        return Err("job.output must hold {key} or {etag}, so that each event has a place of its own, or \
                    job.overwrite must be true"
            .to_owned());
    }
    document.check().map_err(|problem| format!("job: {}", problem.detail))
}

/// What stands for the names in a template.
struct Filling<'a> {
    bucket: &'a str,
    key: &'a str,
    etag: &'a str,
    date: &'a str,
}

/// The job of an event.
///
/// # Errors
/// `invalid-trigger` when what comes out is no job document.
pub fn job_of(template: &Value, event: &ObjectEvent) -> Result<JobDocument, Problem> {
    let at = event.at.to_string();
    let etag = event.object.as_ref().map(|pin| pin.etag.as_str()).unwrap_or_default();
    let date = at.get(..10).unwrap_or_default();
    fill(template, &Filling { bucket: &event.bucket, key: &event.key, etag, date })
}

fn fill(template: &Value, filling: &Filling<'_>) -> Result<JobDocument, Problem> {
    let mut document = template.clone();
    if let Value::Object(members) = &mut document {
        for (name, value) in members {
            fill_value(value, filling, name == "input");
        }
    }
    serde_json::from_value(document).map_err(|error| {
        Problem::new(ErrorKind::InvalidTrigger, format!("job must be a job document, found: {error}"))
    })
}

fn fill_value(value: &mut Value, filling: &Filling<'_>, pattern: bool) {
    match value {
        Value::String(text) => *text = fill_text(text, filling, pattern),
        Value::Array(items) => items.iter_mut().for_each(|item| fill_value(item, filling, pattern)),
        Value::Object(members) => {
            members.values_mut().for_each(|member| fill_value(member, filling, pattern));
        }
        _ => {}
    }
}

/// Every name is replaced once: a key that looks like a name stays a key. In a
/// pattern the key's own special characters stand for themselves.
fn fill_text(text: &str, filling: &Filling<'_>, pattern: bool) -> String {
    let mut out = String::with_capacity(text.len() + filling.key.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let names = [
            ("{bucket}", filling.bucket),
            ("{key}", filling.key),
            ("{etag}", filling.etag),
            ("{date}", filling.date),
        ];
        let Some((name, value)) = names.iter().find(|(name, _)| rest.starts_with(name)) else {
            out.push('{');
            rest = &rest[1..];
            continue;
        };
        for c in value.chars() {
            if pattern && matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        rest = &rest[name.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{event::EventKind, job::OneOrMany, time::Timestamp, uri::Pin};

    fn document(value: Value) -> TriggerDocument {
        serde_json::from_value(value).unwrap()
    }

    fn event(key: &str) -> ObjectEvent {
        ObjectEvent {
            trigger: "t".parse().unwrap(),
            id: Uuid::from_u128(1),
            kind: EventKind::Created,
            bucket: "bank".into(),
            key: key.into(),
            object: Some(Pin { etag: "abc-2".into(), size: 3, version_id: None }),
            content_type: None,
            at: Timestamp(951_782_400_000),
            depth: 0,
        }
    }

    #[test]
    fn mistakes_are_reported_together() {
        let wrong = document(json!({
            "bucket": "B", "events": ["ObjectMade:*"], "concurrency": 0, "retry": {"attempts": 0},
            "reconcile": "1s",
        }));
        let detail = wrong.check().unwrap_err().detail;
        for part in ["bucket name", "ObjectMade", "concurrency", "retry.attempts", "reconcile", "exactly one"]
        {
            assert!(detail.contains(part), "{part}: {detail}");
        }
        assert!(serde_json::from_value::<TriggerDocument>(json!({"bucket": "bank", "sufix": "x"})).is_err());
        let good = document(json!({"bucket": "bank", "function": "f@prod"}));
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.events, ["ObjectCreated:*"]);
    }

    #[test]
    fn filters_look_at_name_prefix_and_suffix() {
        let trigger = document(json!({"bucket": "bank", "prefix": "in/", "suffix": ".csv", "function": "f",
            "events": ["s3:ObjectCreated:*", "ObjectRemoved:Delete"]}));
        let check = |name: &str, key: &str, expected| {
            assert_eq!(trigger.admits(name, key), expected, "{name} {key}");
        };
        check("ObjectCreated:Put", "in/a.csv", true);
        check("s3:ObjectCreated:Copy", "in/b/a.csv", true);
        check("ObjectRemoved:Delete", "in/a.csv", true);
        check("ObjectRemoved:DeleteMarkerCreated", "in/a.csv", false);
        check("ObjectCreated:Put", "out/a.csv", false);
        check("ObjectCreated:Put", "in/a.json", false);
    }

    #[test]
    fn templates_are_filled_once_and_keys_stand_for_themselves() {
        let template = json!({
            "function": "f", "input": "s3://{bucket}/{key}", "output": "s3://out/{date}/{etag}/",
            "params": {"key": "{key}", "other": "{x}"},
        });
        let job = job_of(&template, &event("in/{etag}*.csv")).unwrap();
        assert_eq!(job.input, OneOrMany::One(r"s3://bank/in/\{etag\}\*.csv".into()));
        assert_eq!(job.output.unwrap().to_string(), "s3://out/2000-02-29/abc-2/");
        assert_eq!(job.params.unwrap(), json!({"key": "in/{etag}*.csv", "other": "{x}"}));
    }

    #[test]
    fn a_jobs_output_must_be_its_own() {
        let trigger = |output: &str, overwrite: bool| {
            let job = json!({"function": "f", "input": "s3://{bucket}/{key}", "output": output, "overwrite": overwrite});
            document(json!({"bucket": "bank", "job": job})).check()
        };
        assert_eq!(trigger("s3://out/{etag}/", false), Ok(()));
        assert_eq!(trigger("s3://out/all/", true), Ok(()));
        assert!(trigger("s3://out/all/", false).unwrap_err().detail.contains("job.output"));
        assert!(trigger("s3://out/{key}", false).unwrap_err().detail.contains("ends in '/'"));
    }
}
