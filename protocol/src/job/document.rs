// SPDX-License-Identifier: Apache-2.0
//! A job as its author writes it: a TOML file or a JSON body, in which unknown
//! keys are errors.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    by_name,
    error::{ErrorKind, Problem},
    invocation::Usage,
    limits,
    names::FunctionRef,
    size::{ByteSize, Span},
    stored::COMMA,
    tolerance::Tolerance,
    uri::ObjectUri,
};

/// How tables are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Told from the object's name and first bytes.
    #[default]
    Auto,
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values, RFC 4180.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Arrow IPC.
    Arrow,
    /// Not read as a table: one row for each object, with the columns `uri`,
    /// `size` and `etag`; the function reads the objects by itself.
    Bytes,
}

impl Format {
    /// The suffix of output objects in this format, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Auto | Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Arrow => "arrow",
            Self::Bytes => "bin",
        }
    }
}

/// Which objects make one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaRule {
    /// Those with the same columns in the same types.
    #[default]
    Same,
    /// Any: a row has all columns that the objects have together, each in the
    /// narrowest type that holds its values, and none where its object lacks it.
    Union,
}

impl SchemaRule {
    /// Whether it is the one that goes without saying.
    pub fn is_same(&self) -> bool {
        *self == Self::Same
    }
}

/// How CSV is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "csv to be an object")]
pub struct CsvOptions {
    /// Between fields; one ASCII character. When absent, as the object's name has it: a tab where
    /// that ends in `.tsv` or `.tab`, a comma elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Around fields; one ASCII character.
    pub quote: char,
    /// Unquoted texts that mean a missing value.
    pub nulls: Vec<String>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        let nulls = ["", "NA", "N/A", "null", "NaN"].map(str::to_owned).to_vec();
        Self { delimiter: None, header: true, quote: '"', nulls }
    }
}

/// How input is taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "split to be an object")]
pub struct SplitOptions {
    /// Stored bytes that a partition aims at; when absent, as [`SplitOptions::target`] has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_bytes: Option<ByteSize>,
}

/// Partitions that an input is taken apart into at least, where it is large enough.
const PARTITIONS_WANTED: u64 = 16;
/// Least and most that a partition aims at, when its author does not say.
const TARGET_BYTES: (u64, u64) = (1 << 20, 64 << 20);

impl SplitOptions {
    /// Stored bytes that a partition of an input of `total` bytes aims at: as its author
    /// says, or a power of two, so that an input that grows a little is parted as before.
    pub fn target(&self, total: u64) -> u64 {
        let share = (total / PARTITIONS_WANTED).clamp(TARGET_BYTES.0, TARGET_BYTES.1);
        self.target_bytes.map_or(1 << share.ilog2(), |target| target.0)
    }

    /// The most that it aims at for any input.
    pub fn target_max(&self) -> u64 {
        self.target(u64::MAX)
    }
}

/// How failed tasks are tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "retry to be an object")]
pub struct RetryOptions {
    /// Attempts at a task, the first included.
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Span,
    /// Whether tasks that take much longer than the others of their stage are
    /// begun a second time beside the first.
    pub speculation: bool,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self { attempts: limits::ATTEMPTS_DEFAULT, backoff: Span(1_000), speculation: true }
    }
}

/// Bounds of a job, tighter than its function's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "limits to be an object")]
pub struct JobLimits {
    /// Memory of a task; the function's when absent.
    pub memory: Option<ByteSize>,
    /// Wall time of a task; the function's when absent, or 5 min where it has none.
    pub task_timeout: Option<Span>,
    /// Partitions that may fail without failing the job, such as `3` or `5%`.
    pub tolerated_failures: Tolerance,
    /// Tasks running at once; 0 for as many as there is room for.
    pub max_parallel: u32,
}

/// What a job may take before it is stopped; without bounds when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "budget to be an object")]
pub struct Budget {
    /// CPU time of all attempts together, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Bytes read from and written to the store by all attempts together.
    pub bytes: Option<ByteSize>,
}

impl Budget {
    /// What of it is spent, in words, once something is.
    pub fn spent(&self, usage: &Usage) -> Option<String> {
        let (cpu, bytes) = (usage.cpu_us / 1_000_000, usage.bytes_in.saturating_add(usage.bytes_out));
        if let Some(most) = self.cpu_seconds.filter(|most| cpu >= *most) {
            return Some(format!("cpu_seconds of at most {most}, found {cpu} spent"));
        }
        let most = self.bytes.filter(|most| bytes >= most.0)?;
        Some(format!("bytes of at most {most}, found {} moved", ByteSize(bytes)))
    }
}

/// One URI or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected input to be a URI or a list of them")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// A job as submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct JobDocument {
    /// A map, an aggregate, or a component with both.
    pub function: FunctionRef,
    /// `s3://` globs, objects, or prefixes that end in `/`, or `manifest://`
    /// with the manifest of another job, a list of objects as JSON or CSV, or
    /// the manifest of an S3 Inventory.
    pub input: OneOrMany,
    /// How the input is stored.
    #[serde(default)]
    pub format: Format,
    /// Which objects make one table.
    #[serde(default, skip_serializing_if = "SchemaRule::is_same")]
    pub schema: SchemaRule,
    /// Columns to read; what the function declares when absent.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// Which rows to read.
    #[serde(default)]
    pub filter: Option<String>,
    /// Prefix of the output, ending in `/`; `{run}` in it stands for the job's id, unless a
    /// trigger made the job: what it filled in stands for itself.
    #[serde(default)]
    pub output: Option<ObjectUri>,
    /// How output is stored; Parquet when absent.
    #[serde(default)]
    pub output_format: Format,
    /// Replaces the output of an earlier job.
    #[serde(default)]
    pub overwrite: bool,
    /// For `context.params`: a JSON object. Functions get its integers from -2^63 to 2^64 - 1 and
    /// its doubles as they are, and larger integers as the nearest doubles.
    #[serde(default)]
    pub params: Option<Value>,
    /// How CSV is read.
    #[serde(default, deserialize_with = "by_name::required")]
    pub csv: CsvOptions,
    /// How input is taken apart.
    #[serde(default, deserialize_with = "by_name::required")]
    pub split: SplitOptions,
    /// Parts of the result of a keyed aggregate, each with its share of the keys;
    /// by the size of the input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducers: Option<u32>,
    /// How failed tasks are tried again.
    #[serde(default, deserialize_with = "by_name::required")]
    pub retry: RetryOptions,
    /// Bounds.
    #[serde(default, deserialize_with = "by_name::required")]
    pub limits: JobLimits,
    /// What it may take.
    #[serde(default, deserialize_with = "by_name::required")]
    pub budget: Budget,
    /// Whether tasks may be served from what earlier jobs committed over the
    /// same input, by the same component with the same settings and parameters.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub cache: bool,
    /// Triggers in the chain that led here, which set it; what the job writes is
    /// marked with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn yes() -> bool {
    true
}

fn is_yes(flag: &bool) -> bool {
    *flag
}

impl JobDocument {
    /// What was said of a document that cannot be read, without the key that only triggers set: it is not the
    /// author's to choose.
    pub fn for_authors(message: &str) -> String {
        message.replace(", `depth`", "")
    }

    /// Checks what can be checked without looking at the function or the
    /// store, and reports all mistakes together.
    pub fn check(&self) -> Result<(), Problem> {
        let mut mistakes = Vec::new();
        let inputs = self.inputs();
        if inputs.is_empty() || inputs.len() > limits::INPUTS_MAX {
            mistakes.push(format!(
                "input must name 1 to {} URIs, found {}",
                limits::INPUTS_MAX,
                inputs.len()
            ));
        }
        mistakes.extend(inputs.iter().filter_map(|i| input_uri(i).err()).map(|p| p.detail));
        if let Some(output) = self.output.as_ref().filter(|o| !o.key().is_empty() && !o.key().ends_with('/'))
        {
            mistakes.push(format!("output must be a prefix that ends in '/', found {output}"));
        }
        let output = self.written_output().map(ObjectUri::key).unwrap_or_default();
        if let Some((_, word)) = words(output).find(|(_, word)| *word != RUN) {
            mistakes.push(format!("output may hold {RUN}, which stands for the job's id, found {word}"));
        }
        let columns = self.columns.as_deref().unwrap_or_default();
        let mut named = HashSet::new();
        if let Some(again) = columns.iter().find(|column| !named.insert(*column)) {
            mistakes.push(format!("columns must name each column once, found {again:?} twice"));
        }
        if self.output_format == Format::Bytes {
            mistakes.push("output_format must be parquet, csv, jsonl or arrow, found bytes".into());
        }
        if self.params.as_ref().is_some_and(|p| !p.is_object()) {
            mistakes.push("params must be a table of names and values".into());
        }
        if self.params.as_ref().is_some_and(|p| !is_within(p, limits::JOB_PARAMS_DEPTH_MAX)) {
            let most = limits::JOB_PARAMS_DEPTH_MAX;
            mistakes.push(format!(
                "params must have at most {most} lists and tables within each other, found more"
            ));
        }
        let delimiter = self.csv.delimiter.unwrap_or(COMMA);
        for (name, c) in [("csv.delimiter", delimiter), ("csv.quote", self.csv.quote)] {
            if !c.is_ascii() || matches!(c, '\r' | '\n' | '\0') {
                mistakes.push(format!("{name} must be one ASCII character, found {c:?}"));
            }
        }
        if delimiter == self.csv.quote {
            mistakes.push("csv.delimiter and csv.quote must differ".into());
        }
        mistakes.extend(retry_mistakes(self.retry.attempts, self.retry.backoff));
        if self.budget.cpu_seconds == Some(0) || self.budget.bytes == Some(ByteSize(0)) {
            mistakes.push(
                "budget.cpu_seconds and budget.bytes must be more than 0; leave out what has no bound".into(),
            );
        }
        if let Some(reducers) = self.reducers
            && !(1..=limits::REDUCERS_MAX).contains(&reducers)
        {
            mistakes.push(format!("reducers must be from 1 to {}, found {reducers}", limits::REDUCERS_MAX));
        }
        if self.split.target_bytes == Some(ByteSize(0)) {
            mistakes.push("split.target_bytes must be more than 0".into());
        }
        mistakes.extend(self.check_limits());
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(Problem::new(ErrorKind::InvalidJob, mistakes.join("; ")))
        }
    }

    fn check_limits(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if let Some(memory) = self.limits.memory
            && !(limits::MEMORY_BYTES_MIN..=limits::MEMORY_BYTES_MAX).contains(&memory.0)
        {
            mistakes.push(format!("limits.memory must be from 4MiB to 4GiB, found {memory}"));
        }
        if let Some(timeout) = self.limits.task_timeout
            && (timeout.0 == 0 || timeout.as_duration() > limits::TIMEOUT_MAX)
        {
            mistakes.push(format!("limits.task_timeout must be from 1ms to 60m, found {timeout}"));
        }
        mistakes
    }

    /// The document of the job with this id, in whose output `{run}` is the id.
    ///
    /// # Errors
    /// `invalid-request` when that makes a key that is too long.
    pub fn of_run(mut self, id: &Uuid) -> Result<Self, Problem> {
        if let Some(output) = self.written_output() {
            let key = output.key().replace(RUN, &id.to_string());
            self.output = Some(ObjectUri::new(output.bucket(), key)?);
        }
        Ok(self)
    }

    /// The output as somebody wrote it.
    fn written_output(&self) -> Option<&ObjectUri> {
        self.output.as_ref().filter(|_| self.depth == 0)
    }

    /// The inputs as a list.
    pub fn inputs(&self) -> &[String] {
        match &self.input {
            OneOrMany::One(uri) => std::slice::from_ref(uri),
            OneOrMany::Many(uris) => uris,
        }
    }
}

/// Whether the value is of at most so many lists and objects within each other.
fn is_within(value: &Value, depth: usize) -> bool {
    let inner = |value: &Value| is_within(value, depth.saturating_sub(1));
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(inner),
        Value::Object(members) => depth > 0 && members.values().all(inner),
        _ => true,
    }
}

/// What is wrong with how often it is tried, and with the pause before a second attempt.
pub(crate) fn retry_mistakes(attempts: u32, backoff: Span) -> Vec<String> {
    let mut mistakes = Vec::new();
    let most = limits::ATTEMPTS_MAX;
    if !(1..=most).contains(&attempts) {
        mistakes.push(format!("retry.attempts must be from 1 to {most}, found {attempts}"));
    }
    if backoff.as_duration() > limits::BACKOFF_MAX {
        let minutes = limits::BACKOFF_MAX.as_secs() / 60;
        mistakes.push(format!("retry.backoff must be at most {minutes} m, found {backoff}"));
    }
    mistakes
}

/// What stands for a job's id in its output.
const RUN: &str = "{run}";

/// The words in braces, which are part of each, and what stands before it.
pub(crate) fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let braces = text.match_indices('{').filter_map(move |(at, _)| {
        let end = text[at..].find('}')?;
        Some((&text[..at], &text[at..=at + end]))
    });
    braces.filter(|(_, word)| {
        let letters = &word[1..word.len() - 1];
        !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    })
}

/// The place that an input names: an object, a prefix, a pattern, or after
/// `manifest://` the object that lists the input.
pub fn input_uri(text: &str) -> Result<ObjectUri, Problem> {
    match text.strip_prefix("manifest://") {
        Some(rest) => format!("s3://{rest}").parse(),
        None => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(json: Value) -> Result<JobDocument, serde_json::Error> {
        serde_json::from_value(json)
    }

    #[test]
    fn keys_of_triggers_are_not_offered_to_authors() {
        let text = r#"{"function": "f", "outptu": "x"}"#;
        let said = serde_json::from_str::<JobDocument>(text).unwrap_err().to_string();
        let told = JobDocument::for_authors(&said);
        assert!(said.contains("`depth`") && told.contains("`cache`") && !told.contains("depth"), "{told}");
    }

    #[test]
    fn the_example_of_the_contract_is_read() {
        let job = document(serde_json::json!({
            "function": "credit-score@prod",
            "input": ["s3://bank/customers/*.parquet"],
            "format": "auto",
            "columns": ["id", "income"],
            "output": "s3://bank/scores/2026-11/",
            "params": {"threshold": 0.2},
            "csv": {"delimiter": ",", "header": true, "quote": "\"", "nulls": ["", "NA"]},
            "split": {"target_bytes": "64MiB"},
            "retry": {"attempts": 3, "backoff": "1s"},
            "limits": {"memory": "256MiB", "task_timeout": "5m", "tolerated_failures": "0%", "max_parallel": 0},
            "budget": {"cpu_seconds": 600, "bytes": "10GiB"}, "cache": false
        }))
        .unwrap();
        assert_eq!(job.check(), Ok(()));
        assert_eq!(job.inputs().len(), 1);
    }

    #[test]
    fn numbers_in_params_keep_their_value() {
        for number in [
            "18446744073709551615",
            "-9223372036854775808",
            "51.248178375505404",
            "-93.31137037688033",
            "52.314008204106244",
        ] {
            let text = format!(r#"{{"function": "f", "input": "s3://a/", "params": {{"n": {number}}}}}"#);
            let job: JobDocument = serde_json::from_str(&text).unwrap();
            // As it is stored, and read again.
            let job: JobDocument = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
            assert_eq!(job.params.unwrap()["n"].to_string(), number);
        }
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let job = document(serde_json::json!({
            "function": "f", "input": "bank/x", "output": "s3://bank/out", "params": [1],
            "csv": {"delimiter": "\""}, "retry": {"attempts": 0}, "limits": {"memory": "1B"}, "reducers": 0
        }))
        .unwrap();
        let problem = job.check().unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidJob);
        for part in [
            "reducers must",
            "s3://bucket/key",
            "ends in '/', found s3://bank/out",
            "params",
            "must differ",
            "attempts",
            "limits.memory",
        ] {
            assert!(problem.detail.contains(part), "{part}: {}", problem.detail);
        }
    }

    #[test]
    fn params_are_as_deep_as_can_be_read_again() {
        let of = |depth: usize| {
            let params = (0..depth).fold(serde_json::json!(1), |inner, _| serde_json::json!({"a": inner}));
            document(serde_json::json!({"function": "f", "input": "s3://bank/x", "params": params})).unwrap()
        };
        assert_eq!(of(limits::JOB_PARAMS_DEPTH_MAX).check(), Ok(()));
        let problem = of(limits::JOB_PARAMS_DEPTH_MAX + 1).check().unwrap_err();
        assert!(problem.detail.contains("params must have at most 64 lists"), "{problem}");
        let listed: Value =
            (0..=limits::JOB_PARAMS_DEPTH_MAX).fold(Value::Null, |inner, _| vec![inner].into());
        assert!(!is_within(&listed, limits::JOB_PARAMS_DEPTH_MAX));
    }

    #[test]
    fn a_second_attempt_comes_within_the_hour() {
        let of = |backoff: &str| {
            let retry = serde_json::json!({"backoff": backoff});
            document(serde_json::json!({"function": "f", "input": "s3://bank/x", "retry": retry})).unwrap()
        };
        assert_eq!(of("60m").check(), Ok(()));
        for backoff in ["3600001ms", "99999999999d"] {
            let problem = of(backoff).check().unwrap_err();
            assert!(problem.detail.starts_with("retry.backoff must be at most 60 m, found "), "{problem}");
        }
    }

    #[test]
    fn a_budget_is_spent_by_time_or_bytes() {
        let usage = |cpu_us, bytes_in| Usage { cpu_us, bytes_in, bytes_out: 1, ..Usage::default() };
        let budget = Budget { cpu_seconds: Some(2), bytes: Some(ByteSize(100)) };
        assert_eq!(budget.spent(&usage(1_999_999, 98)), None);
        assert!(budget.spent(&usage(2_000_000, 0)).unwrap().starts_with("cpu_seconds of at most 2, found 2"));
        assert!(budget.spent(&usage(0, 99)).unwrap().starts_with("bytes of at most 100B, found 100B"));
        assert_eq!(Budget::default().spent(&usage(u64::MAX, u64::MAX)), None);
    }

    #[test]
    fn an_input_is_shared_among_many_tasks_unless_its_author_says_otherwise() {
        let check =
            |total: u64, target: u64| assert_eq!(SplitOptions::default().target(total), target, "{total}");
        check(0, 1 << 20);
        check(18 << 20, 1 << 20);
        check(32 << 20, 2 << 20);
        check(63 << 20, 2 << 20);
        check(685_000_000, 32 << 20);
        check(1 << 30, 64 << 20);
        check(u64::MAX, 64 << 20);
        let said = SplitOptions { target_bytes: Some(ByteSize(5)) };
        assert_eq!((said.target(0), said.target_max()), (5, 5));
    }

    #[test]
    fn an_output_may_be_named_after_its_run() {
        let of = |output: &str| {
            document(serde_json::json!({"function": "f", "input": "s3://bank/in/", "output": output}))
                .unwrap()
        };
        let check = |output: &str, expected: &str| {
            let job = of(output);
            assert_eq!(job.check(), Ok(()), "{output}");
            assert_eq!(job.of_run(&Uuid::nil()).unwrap().output.unwrap().to_string(), expected);
        };
        let id = Uuid::nil();
        check("s3://bank/out/{run}/", &format!("s3://bank/out/{id}/"));
        check("s3://bank/{run}/x-{run}/", &format!("s3://bank/{id}/x-{id}/"));
        check("s3://bank/out/", "s3://bank/out/");
        check("s3://bank/{}/{A}/{/a}/", "s3://bank/{}/{A}/{/a}/");
        for word in ["{id}", "{date}", "{run_id}"] {
            let problem = of(&format!("s3://bank/{word}/")).check().unwrap_err();
            assert!(problem.detail.contains("{run}") && problem.detail.contains(word), "{problem}");
        }
        // Of a trigger, from the keys of objects.
        for output in ["s3://bank/{draft}.csv/", "s3://bank/{run}/"] {
            let job = JobDocument { depth: 1, ..of(output) };
            assert_eq!(job.check(), Ok(()), "{output}");
            assert_eq!(job.of_run(&id).unwrap().output.unwrap().to_string(), output);
        }
        let long = of(&format!("s3://bank/{}{{run}}/", "x".repeat(1_000)));
        assert_eq!(long.of_run(&id).unwrap_err().code, ErrorKind::InvalidRequest);
    }

    #[test]
    fn inputs_may_be_manifests() {
        let check = |text: &str, good: bool| assert_eq!(input_uri(text).is_ok(), good, "{text}");
        check("manifest://bank/scores/_manifest.json", true);
        check("s3://bank/*.csv", true);
        check("manifest://", false);
        check("bank/x", false);
    }

    #[test]
    fn a_column_is_read_once() {
        let of = |columns: &[&str]| {
            document(serde_json::json!({"function": "f", "input": "s3://bank/x", "columns": columns}))
                .unwrap()
        };
        assert_eq!(of(&["a", "A", "b"]).check(), Ok(()));
        let problem = of(&["a", "b", "a"]).check().unwrap_err();
        assert_eq!(problem.detail, "columns must name each column once, found \"a\" twice");
    }

    #[test]
    fn what_is_no_document_is_refused_in_words() {
        let check = |name: &str, value: Value, words: &str| {
            let mut job = serde_json::json!({"function": "f", "input": "s3://bank/x"});
            job[name] = value;
            let said = document(job).unwrap_err().to_string();
            assert!(said.ends_with(words), "{name}: {said}");
        };
        check("input", Value::from(5), "expected input to be a URI or a list of them");
        for name in ["csv", "split", "retry", "limits", "budget"] {
            for value in [serde_json::json!(5), serde_json::json!([]), serde_json::json!([1])] {
                check(name, value, &format!("expected {name} to be an object"));
            }
        }
        assert!(document(Value::from(5)).unwrap_err().to_string().ends_with("expected an object"));
    }

    #[test]
    fn unknown_keys_are_errors() {
        let job = serde_json::json!({"function": "f", "input": "s3://bank/x", "outptu": "s3://bank/"});
        assert!(document(job).unwrap_err().to_string().contains("outptu"));
    }
}
