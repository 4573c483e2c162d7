// SPDX-License-Identifier: Apache-2.0
//! A function as the platform knows it: its versions, settings and aliases.
//!
//! A version is immutable: bytes (by digest) and settings. Aliases move.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    by_name,
    digest::Digest,
    error::{ErrorKind, Problem},
    limits,
    names::{AliasName, FunctionName},
    size::{ByteSize, Span},
    time::Timestamp,
    uri::ObjectUri,
};

/// What a component exports of `fanfold:function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Export {
    /// Answers requests.
    Handler,
    /// Maps tables.
    Mapper,
    /// Aggregates tables.
    Aggregator,
    /// Aggregates tables by key.
    Grouper,
}

impl Export {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Handler, Self::Mapper, Self::Aggregator, Self::Grouper];

    /// The interface's name in the WIT package, and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Mapper => "mapper",
            Self::Aggregator => "aggregator",
            Self::Grouper => "grouper",
        }
    }
}

/// What the author asks for, as written in `function.toml` and sent with a
/// deployment. Everything is optional; unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsDocument {
    /// Memory of an invocation, all memories together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Wall time of an invocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What a person should know of the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Buckets and prefixes that the function may read and write by itself.
    #[serde(deserialize_with = "by_name::required")]
    pub grants: Grants,
    /// Variables for `context.variable`.
    pub env: BTreeMap<String, String>,
}

impl SettingsDocument {
    /// The document for the header `X-Fanfold-Settings`: JSON of nothing but visible
    /// ASCII and blanks, in which other characters take 6 or 12 bytes.
    pub fn to_header(&self) -> String {
        // Texts, amounts and maps of texts always have a JSON form.
        let text = serde_json::to_string(self).unwrap_or_default();
        let mut ascii = String::with_capacity(text.len());
        for unit in text.chars() {
            match unit {
                ' '..='~' => ascii.push(unit),
                _ => {
                    let mut pair = [0; 2];
                    let halves = unit.encode_utf16(&mut pair).iter();
                    halves.for_each(|half| ascii.push_str(&format!("\\u{half:04x}")));
                }
            }
        }
        ascii
    }
}

/// Buckets and prefixes, each `s3://bucket/prefix`; compared byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// What may be read.
    pub read: Vec<ObjectUri>,
    /// What may be written and removed.
    pub write: Vec<ObjectUri>,
}

impl Grants {
    /// Whether the object may be read. What may be written may not be read for
    /// that alone.
    pub fn may_read(&self, uri: &ObjectUri) -> bool {
        self.read.iter().any(|prefix| uri.is_under(prefix))
    }

    /// Whether the object may be written and removed.
    pub fn may_write(&self, uri: &ObjectUri) -> bool {
        self.write.iter().any(|prefix| uri.is_under(prefix))
    }
}

/// Settings with every value filled in and checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Memory of an invocation, all memories together.
    pub memory: ByteSize,
    /// Wall time of an invocation; `None` leaves it to the way of calling:
    /// 30 s for a synchronous call, 5 min for an asynchronous one or a task.
    pub timeout: Option<Span>,
    /// What a person should know of the function.
    pub description: Option<String>,
    /// What the function may read and write by itself.
    pub grants: Grants,
    /// Variables for `context.variable`.
    pub env: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: ByteSize(limits::MEMORY_BYTES_DEFAULT),
            timeout: None,
            description: None,
            grants: Grants::default(),
            env: BTreeMap::new(),
        }
    }
}

impl TryFrom<SettingsDocument> for Settings {
    type Error = Problem;

    /// Checks all values and reports all mistakes together.
    fn try_from(document: SettingsDocument) -> Result<Self, Problem> {
        let memory = document.memory.unwrap_or(ByteSize(limits::MEMORY_BYTES_DEFAULT));
        let mut mistakes = Vec::new();
        if !(limits::MEMORY_BYTES_MIN..=limits::MEMORY_BYTES_MAX).contains(&memory.0) {
            mistakes.push(format!(
                "memory must be from {} to {}, found {memory}",
                ByteSize(limits::MEMORY_BYTES_MIN),
                ByteSize(limits::MEMORY_BYTES_MAX)
            ));
        }
        if let Some(timeout) = document.timeout
            && (timeout.0 == 0 || timeout.as_duration() > limits::TIMEOUT_MAX)
        {
            mistakes.push(format!("timeout must be from 1ms to 60m, found {timeout}"));
        }
        for name in document.env.keys() {
            let shaped = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if name.is_empty() || name.len() > 128 || !shaped {
                mistakes.push(format!(
                    "a variable's name must be 1 to 128 of A-Z, a-z, 0-9 and '_', found {name:?}"
                ));
            }
        }
        for (name, _) in document.env.iter().filter(|(_, value)| value.contains('\0')) {
            mistakes.push(format!("the variable {name:?} must be text without NUL, found one; leave it out"));
        }
        let bytes = document.to_header().len();
        if bytes as u64 > limits::SETTINGS_BYTES_MAX {
            mistakes.push(format!(
                "settings must be at most {} as JSON in ASCII, found {bytes} bytes; keep data in an object",
                ByteSize(limits::SETTINGS_BYTES_MAX)
            ));
        }
        if !mistakes.is_empty() {
            return Err(Problem::new(
                ErrorKind::InvalidSettings,
                format!("{}; correct it in function.toml", mistakes.join("; ")),
            ));
        }
        Ok(Self {
            memory,
            timeout: document.timeout,
            description: document.description,
            grants: document.grants,
            env: document.env,
        })
    }
}

impl Settings {
    /// The wall time of a call, given what its way of calling allows by default.
    pub fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.map_or(default, Span::as_duration)
    }
}

/// A column that a function declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// The name, matched exactly.
    pub name: String,
    /// The Arrow type as the arrow crate prints it, such as `Int64`.
    pub data_type: String,
    /// Whether missing values are accepted.
    pub nullable: bool,
}

/// What a mapper or an aggregator says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Description {
    /// Columns read; `None` for all.
    pub reads: Option<Vec<Column>>,
    /// Columns written; `None` when it depends on the input.
    pub writes: Option<Vec<Column>>,
}

/// What a grouper says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grouping {
    /// Columns read; `None` for all.
    pub reads: Option<Vec<Column>>,
    /// Columns of the key.
    pub keys: Vec<Column>,
    /// Columns of the result, the key's first; `None` when it depends on the input.
    pub writes: Option<Vec<Column>>,
}

/// What the platform learned of a component when it prepared it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptions {
    /// The mapper's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapper: Option<Description>,
    /// The aggregator's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregator: Option<Description>,
    /// The grouper's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grouper: Option<Grouping>,
}

/// One version of a function: an object in the store, written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The function.
    pub name: FunctionName,
    /// From 1, without gaps.
    pub version: u32,
    /// The component's bytes.
    pub digest: Digest,
    /// Their number.
    pub size_bytes: u64,
    /// What the component exports, in the order of [`Export::ALL`].
    pub exports: Vec<Export>,
    /// Settings, whole.
    pub settings: Settings,
    /// What the component says of itself.
    pub describes: Descriptions,
    /// When it was deployed.
    pub created_at: Timestamp,
}

impl Version {
    /// Fails unless the component exports this.
    pub fn require(&self, export: Export) -> Result<(), Problem> {
        if self.exports.contains(&export) {
            return Ok(());
        }
        let found: Vec<_> = self.exports.iter().map(|e| e.as_str()).collect();
        Err(Problem::new(
            ErrorKind::ExportMissing,
            format!(
                "expected {}@{} to export a {}, found {}; {}",
                self.name,
                self.version,
                export.as_str(),
                found.join(" and "),
                match export {
                    Export::Handler => "run it as a job: fanfold job run --function",
                    _ => "call it with fanfold invoke",
                }
            ),
        ))
    }
}

/// What a newer release keeps in a record beside what is known here. Whoever changes the
/// record writes it as it was found.
pub type Unknown = Map<String, Value>;

/// Where an alias points: one version, or two with a share of the calls each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasTarget {
    /// The version that gets what the other does not.
    pub version: u32,
    /// A second version, tried on a part of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The rest.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl AliasTarget {
    /// One version, or two.
    pub fn new(version: u32, canary: Option<Canary>) -> Self {
        Self { version, canary, unknown: Unknown::new() }
    }
}

/// A second version behind an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The version.
    pub version: u32,
    /// Its share of the calls, in hundredths: 1 to 99.
    pub percent: u8,
    /// The rest.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Canary {
    /// A version and its share.
    pub fn new(version: u32, percent: u8) -> Self {
        Self { version, percent, unknown: Unknown::new() }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A function's moving parts: a small record, changed by compare-and-set. The
/// store keeps it under `keys::aliases`, the backbone a copy for speed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// The function.
    pub name: FunctionName,
    /// The newest version.
    pub latest: u32,
    /// The newest version at the time when the function was last removed. Up
    /// to it there are no versions any more, and numbers are never given again:
    /// what was remembered of one stays true.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed: u32,
    /// Every alias.
    pub aliases: BTreeMap<AliasName, AliasTarget>,
    /// The rest.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_report_all_mistakes_together() {
        let document: SettingsDocument = serde_json::from_value(
            serde_json::json!({"memory": "6TiB", "timeout": "2d", "env": {"a b": "1"}}),
        )
        .unwrap();
        let problem = Settings::try_from(document).unwrap_err();
        for part in ["memory must be from 4MiB to 4GiB, found 6TiB", "timeout must be", "\"a b\""] {
            assert!(problem.detail.contains(part), "{}", problem.detail);
        }
    }

    #[test]
    fn variables_hold_no_nul() {
        let of = |value: &str| serde_json::json!({"env": {"A": "x", "B": value}});
        let check =
            |value| Settings::try_from(serde_json::from_value::<SettingsDocument>(of(value)).unwrap());
        assert!(check("\u{1}\n").is_ok());
        let problem = check("x\0").unwrap_err();
        assert!(problem.detail.contains("the variable \"B\" must be text without NUL"), "{problem}");
    }

    #[test]
    fn grants_are_an_object() {
        let lists = serde_json::json!({"grants": [["s3://bank/zz/"], []]});
        let error = serde_json::from_value::<SettingsDocument>(lists).unwrap_err().to_string();
        assert!(error.starts_with("invalid type: sequence"), "{error}");
    }

    #[test]
    fn unknown_settings_are_errors() {
        let error =
            serde_json::from_value::<SettingsDocument>(serde_json::json!({"memroy": "1MiB"})).unwrap_err();
        assert!(error.to_string().contains("memroy"), "{error}");
    }

    #[test]
    fn a_record_keeps_what_only_a_newer_release_knows() {
        let stored = serde_json::json!({
            "name": "f", "latest": 3, "frozen": {"by": "ops"}, "aliases": {
                "prod": {"version": 2, "shadow": 3, "canary": {"version": 3, "percent": 10, "by": "header"}},
                "test": {"version": 3}
            }
        });
        let mut record: FunctionRecord = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(record.aliases.values().map(|target| target.version).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(serde_json::to_value(&record).unwrap(), stored);
        // What is pointed anew is as this release has it.
        record.aliases.insert("prod".parse().unwrap(), AliasTarget::new(3, Some(Canary::new(1, 5))));
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(
            written["aliases"]["prod"],
            serde_json::json!({"version": 3, "canary": {"version": 1, "percent": 5}})
        );
        assert_eq!(written["frozen"], stored["frozen"]);
    }

    #[test]
    fn settings_fit_a_header_and_mean_the_same() {
        let description = Some("für \u{7f}🦀\n\"x\"".to_owned());
        let settings = SettingsDocument { description, ..SettingsDocument::default() };
        let text = settings.to_header();
        assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text}");
        assert_eq!(serde_json::from_str::<SettingsDocument>(&text).unwrap(), settings);
    }

    #[test]
    fn settings_are_bounded_as_they_travel() {
        let with = |value: String| SettingsDocument {
            env: BTreeMap::from([("TABLE".to_owned(), value)]),
            ..SettingsDocument::default()
        };
        let most = limits::SETTINGS_BYTES_MAX as usize;
        let room = most - with(String::new()).to_header().len();
        assert!(Settings::try_from(with("x".repeat(room))).is_ok());
        for value in ["x".repeat(room + 1), "ä".repeat(room / 6 + 1)] {
            let problem = Settings::try_from(with(value)).unwrap_err();
            assert_eq!(problem.code, ErrorKind::InvalidSettings);
            assert!(problem.detail.contains("at most 24KiB as JSON in ASCII, found 24"), "{problem}");
        }
    }

    #[test]
    fn grants_compare_bytes() {
        let uri = |text: &str| text.parse::<ObjectUri>().unwrap();
        let grants = Grants { read: vec![uri("s3://bank/a/")], write: vec![uri("s3://bank/out/")] };
        assert!(grants.may_read(&uri("s3://bank/a/x")));
        for no in
            ["s3://bank/ab/x", "s3://bank/out/x", "s3://bank/./a/x", "s3://bank/%61/x", "s3://bank2/a/x"]
        {
            assert!(!grants.may_read(&uri(no)), "{no}");
        }
        assert!(grants.may_write(&uri("s3://bank/out/x")));
        assert!(!grants.may_write(&uri("s3://bank/a/x")));
    }
}
