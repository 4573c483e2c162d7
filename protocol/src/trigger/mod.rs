// SPDX-License-Identifier: Apache-2.0
//! A trigger as its author writes it: which objects, which events, and what
//! they start.
//!
//! [`TriggerDocument`] is the contract (TOML file or JSON body, unknown keys
//! are errors). Templates of jobs are checked by filling them in.

mod source;
mod template;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    source::{SnsTopic, SqsSource},
    template::job_of,
};
use crate::{
    by_name,
    error::{ErrorKind, Problem},
    event::{CREATED, EXPIRED, EventKind, REMOVED},
    job::retry_mistakes,
    limits,
    names::FunctionRef,
    size::{ByteSize, Span},
    uri,
};

/// The ways in which S3 writes objects: whatever is there was written in one of them.
const WAYS: [&str; 4] = ["Put", "Post", "Copy", "CompleteMultipartUpload"];

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
    /// The job to submit for each event or batch: a job document whose texts may
    /// hold `{bucket}`, `{key}`, `{etag}`, `{date}` and `{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Value>,
    /// Events, or batches, in work at once, in each gateway: until what they started
    /// has ended, or waits for another attempt.
    #[serde(default = "concurrency")]
    pub concurrency: u32,
    /// Whether events of one key are taken one after the other: none while what an
    /// earlier one started still runs, and none after a later one by their
    /// sequencers.
    #[serde(default)]
    pub ordered: bool,
    /// How many events start one thing together; absent, each starts its own.
    #[serde(default, deserialize_with = "by_name::optional", skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Starts a minute, in each gateway, above which the trigger pauses itself; 0
    /// for no bound. Absent, it is bounded only where a loop could go unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_per_minute: Option<u32>,
    /// How an event is tried again that could not be delivered.
    #[serde(default, deserialize_with = "by_name::required")]
    pub retry: TriggerRetry,
    /// How senders show who they are.
    #[serde(default)]
    pub auth: SenderAuth,
    /// A queue that its events are fetched from.
    #[serde(default, deserialize_with = "by_name::optional", skip_serializing_if = "Option::is_none")]
    pub sqs: Option<SqsSource>,
    /// A topic whose messages are taken for its signature.
    #[serde(default, deserialize_with = "by_name::optional", skip_serializing_if = "Option::is_none")]
    pub sns: Option<SnsTopic>,
    /// Between two looks for objects whose events were lost; `0s` for none.
    #[serde(default = "reconcile")]
    pub reconcile: Span,
    /// Takes the trigger although what it starts may write what it acts on.
    #[serde(default)]
    pub allow_loops: bool,
}

/// How events are put together: whichever bound is met first ends a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Most events.
    pub size: u32,
    /// Longest wait for more, from the first.
    #[serde(default = "window")]
    pub window: Span,
}

fn window() -> Span {
    Span(5_000)
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
    limits::TRIGGER_CONCURRENCY_DEFAULT
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
        let bytes = serde_json::to_vec(self).map_or(0, |json| json.len());
        if bytes > limits::TRIGGER_BYTES_MAX {
            return Err(Problem::new(
                ErrorKind::InvalidTrigger,
                format!(
                    "a trigger must be at most {} as JSON, found {bytes} bytes; keep data in an object, and name that",
                    ByteSize(limits::TRIGGER_BYTES_MAX as u64)
                ),
            ));
        }
        let mut mistakes = Vec::new();
        mistakes.extend(uri::check_bucket(&self.bucket).err().map(|problem| problem.detail));
        // A pattern is held against every key of every event, and takes longer the longer it is.
        let glob = self.glob.as_deref().unwrap_or_default();
        let (prefix, suffix) = (self.prefix.as_str(), self.suffix.as_str());
        for (name, text) in [("prefix", prefix), ("suffix", suffix), ("glob", glob)] {
            if text.len() > uri::KEY_BYTES_MAX {
                mistakes.push(format!(
                    "{name} must be at most {} bytes, found {}; shorten it, or make several triggers",
                    uri::KEY_BYTES_MAX,
                    text.len()
                ));
            }
        }
        mistakes.extend(self.check_events());
        if !(1..=limits::TRIGGER_CONCURRENCY_MAX).contains(&self.concurrency) {
            mistakes.push(format!(
                "concurrency must be from 1 to {}, found {}",
                limits::TRIGGER_CONCURRENCY_MAX,
                self.concurrency
            ));
        }
        mistakes.extend(self.batch.iter().flat_map(Batch::mistakes));
        mistakes.extend(retry_mistakes(self.retry.attempts, self.retry.backoff));
        if self.reconcile.0 != 0 && self.reconcile.as_duration() < limits::RECONCILE_INTERVAL_MIN {
            mistakes.push(format!(
                "reconcile must be 0s or at least {} s, found {}",
                limits::RECONCILE_INTERVAL_MIN.as_secs(),
                self.reconcile
            ));
        }
        mistakes.extend(self.sqs.iter().flat_map(SqsSource::mistakes));
        mistakes.extend(self.sns.iter().filter_map(SnsTopic::mistake));
        mistakes.extend(self.check_target());
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Problem::new(ErrorKind::InvalidTrigger, mistakes.join("; ")))
    }

    fn check_events(&self) -> Vec<String> {
        let (most, found) = (limits::TRIGGER_EVENTS_MAX, self.events.len());
        if !(1..=most).contains(&found) {
            return vec![format!(
                "events must name 1 to {most} events, such as \"ObjectCreated:*\", found {found}; a last * stands for \
                 any rest"
            )];
        }
        let unknown = self.events.iter().filter(|name| !is_known(name)).map(|name| {
            let shown: String = name.chars().take(80).collect();
            format!(
                "events must be of ObjectCreated, ObjectRemoved or LifecycleExpiration and change an object, such as \
                 \"ObjectCreated:Put\", found {shown:?}"
            )
        });
        unknown.collect()
    }

    fn check_target(&self) -> Vec<String> {
        match (&self.function, &self.job) {
            (Some(_), None) => Vec::new(),
            (None, Some(template)) => {
                template::check(template, &self.bucket, self.batch.is_some()).err().into_iter().collect()
            }
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

    /// Whether it acts on objects that are gone, of which nothing is left to tell what led to that.
    pub fn acts_on_removed(&self) -> bool {
        self.events.iter().any(|name| plain(name).starts_with(REMOVED))
    }

    /// Whether it acts on objects in whichever way they were written, which no listing shows.
    pub fn acts_on_all_created(&self) -> bool {
        let means = |name: &str| self.events.iter().any(|pattern| names(pattern, name));
        WAYS.iter().all(|way| means(&format!("{CREATED}{way}")))
    }
}

fn plain(name: &str) -> &str {
    name.strip_prefix("s3:").unwrap_or(name)
}

fn is_known(pattern: &str) -> bool {
    let name = plain(pattern);
    let has_rest =
        [CREATED, REMOVED, EXPIRED].iter().any(|kind| name.len() > kind.len() && name.starts_with(kind));
    has_rest && EventKind::of(name).is_some()
}

/// Whether a name of an event is one that the pattern means. What a rule of the
/// bucket has removed, in one way or the other, is removed.
fn names(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (plain(pattern), plain(name));
    let means = |name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    means(name) || name.strip_prefix(EXPIRED).is_some_and(|way| means(&format!("{REMOVED}{way}")))
}

impl Batch {
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !(1..=limits::TRIGGER_BATCH_MAX).contains(&self.size) {
            mistakes.push(format!(
                "batch.size must be from 1 to {}, found {}",
                limits::TRIGGER_BATCH_MAX,
                self.size
            ));
        }
        if self.window.0 == 0 || self.window.as_duration() > limits::TRIGGER_WINDOW_MAX {
            mistakes.push(format!(
                "batch.window must be more than 0s and at most {} s, found {}",
                limits::TRIGGER_WINDOW_MAX.as_secs(),
                self.window
            ));
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(value: Value) -> TriggerDocument {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn mistakes_are_reported_together() {
        let wrong = document(json!({
            "bucket": "B", "events": ["ObjectMade:*"], "concurrency": 0, "retry": {"attempts": 0, "backoff": "2h"},
            "reconcile": "1s", "batch": {"size": 0, "window": "1h"},
        }));
        let detail = wrong.check().unwrap_err().detail;
        for part in [
            "bucket name",
            "ObjectMade",
            "concurrency",
            "retry.attempts",
            "retry.backoff must be at most 60 m, found 2h",
            "reconcile",
            "batch.size",
            "batch.window",
            "exactly one",
        ] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
        assert!(serde_json::from_value::<TriggerDocument>(json!({"bucket": "bank", "sufix": "x"})).is_err());
        let good = document(json!({"bucket": "bank", "function": "f@prod"}));
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.events, ["ObjectCreated:*"]);
    }

    #[test]
    fn a_list_is_no_object() {
        for name in ["retry", "batch", "sqs", "sns"] {
            let mut trigger = json!({"bucket": "bank", "function": "f"});
            trigger[name] = json!(["7"]);
            let said = serde_json::from_value::<TriggerDocument>(trigger).unwrap_err().to_string();
            assert!(said.starts_with("invalid type: sequence"), "{name}: {said}");
        }
        let template =
            json!({"function": "f", "input": "s3://bank/{key}", "output": "s3://out/{id}/", "retry": [7]});
        let detail = document(json!({"bucket": "bank", "job": template})).check().unwrap_err().detail;
        assert!(detail.contains("expected retry to be an object"), "{detail}");
    }

    #[test]
    fn a_trigger_has_so_many_bytes() {
        let with = |bytes: usize| {
            let params = json!({"table": "x".repeat(bytes)});
            let (input, output) = ("s3://bank/{key}", "s3://out/{id}/");
            let job = json!({"function": "f", "input": input, "output": output, "params": params});
            document(json!({"bucket": "bank", "job": job}))
        };
        let head = serde_json::to_vec(&with(0)).unwrap().len();
        assert_eq!(with(limits::TRIGGER_BYTES_MAX - head).check(), Ok(()));
        let detail = with(limits::TRIGGER_BYTES_MAX - head + 1).check().unwrap_err().detail;
        assert!(detail.starts_with("a trigger must be at most 64KiB as JSON, found 65537 bytes"), "{detail}");
    }

    #[test]
    fn filters_have_so_many_bytes_and_events() {
        let check = |member: &str, value: Value, part: &str| {
            let mut trigger = json!({"bucket": "bank", "function": "f"});
            trigger[member] = value;
            let detail = document(trigger).check().unwrap_err().detail;
            assert!(detail.starts_with(part), "{detail}");
        };
        for member in ["prefix", "suffix", "glob"] {
            let part = format!("{member} must be at most 1024 bytes, found 1025");
            check(member, json!("*".repeat(uri::KEY_BYTES_MAX + 1)), &part);
        }
        let events = |count: usize| json!(vec!["ObjectCreated:Put"; count]);
        check("events", events(0), "events must name 1 to 64 events");
        check("events", events(limits::TRIGGER_EVENTS_MAX + 1), "events must name 1 to 64 events");
        // It would be told of and start nothing.
        check("events", json!(["s3:ObjectCreated:PutTagging"]), "events must be of ObjectCreated");
        let mut most = json!({"bucket": "bank", "function": "f", "glob": "*".repeat(uri::KEY_BYTES_MAX)});
        most["events"] = events(limits::TRIGGER_EVENTS_MAX);
        assert_eq!(document(most).check(), Ok(()));
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
    fn all_ways_of_writing_are_told_from_some() {
        let check = |events: &[&str], expected| {
            let trigger = document(json!({"bucket": "bank", "function": "f", "events": events}));
            assert_eq!(trigger.acts_on_all_created(), expected, "{events:?}");
        };
        check(&["ObjectRemoved:*", "s3:ObjectCreated:*"], true);
        check(&["ObjectCreated:P*", "ObjectCreated:C*"], true);
        check(&["ObjectCreated:Put", "ObjectCreated:Post", "ObjectCreated:Copy"], false);
        check(&["ObjectCreated:P*", "ObjectCreated:Copy", "ObjectCreated:CompleteMultipartUpload"], true);
        check(&["ObjectCreated:CompleteMultipartUpload"], false);
        check(&["ObjectRemoved:*"], false);
    }

    #[test]
    fn what_a_rule_has_removed_is_removed() {
        let check = |pattern: &str, name: &str, expected| {
            let trigger = document(json!({"bucket": "bank", "function": "f", "events": [pattern]}));
            assert_eq!(trigger.check(), Ok(()), "{pattern}");
            assert_eq!(trigger.admits(name, "a"), expected, "{pattern} {name}");
        };
        check("ObjectRemoved:*", "LifecycleExpiration:Delete", true);
        check("s3:ObjectRemoved:*", "s3:LifecycleExpiration:DeleteMarkerCreated", true);
        check("ObjectRemoved:Delete", "LifecycleExpiration:Delete", true);
        check("ObjectRemoved:Delete", "LifecycleExpiration:DeleteMarkerCreated", false);
        check("ObjectCreated:*", "LifecycleExpiration:Delete", false);
        check("LifecycleExpiration:*", "LifecycleExpiration:Delete", true);
        check("LifecycleExpiration:Delete", "LifecycleExpiration:DeleteMarkerCreated", false);
        check("LifecycleExpiration:*", "ObjectRemoved:Delete", false);
        let none = document(json!({"bucket": "bank", "function": "f", "events": ["LifecycleExpiration:"]}));
        assert!(none.check().unwrap_err().detail.contains("LifecycleExpiration:\""));
    }
}
