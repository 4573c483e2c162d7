// SPDX-License-Identifier: Apache-2.0
//! A trigger as it is kept, and as it is held against events.
//!
//! The record goes to the store and the backbone; a [`Trigger`] is the record
//! with its pattern compiled. A removed trigger leaves a small record behind, so
//! that whoever knew it learns of the removal.

use fanfold_protocol::{
    ErrorKind, Problem,
    event::Notice,
    names::TriggerName,
    time::Timestamp,
    trigger::{SenderAuth, TriggerDocument},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    auth::{Token, TokenDigest},
    glob::Glob,
};

/// Beginnings of keys that are remembered apart.
const FORMERLY_MAX: usize = 16;

/// What is kept of a trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriggerRecord {
    /// Names this trigger for ever: one made anew under its name has another.
    pub id: Uuid,
    /// Its name.
    pub name: TriggerName,
    /// As submitted.
    pub document: TriggerDocument,
    /// Whether its events wait.
    pub paused: bool,
    /// Why, when it paused itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_because: Option<String>,
    /// What senders are checked with.
    pub secret: Secret,
    /// When it was made, by the store's clock if that was told: objects of before are not its own.
    pub created_at: Timestamp,
    /// What keys begin with that it acted on before and does not any more: their objects may
    /// have outcomes, which stay as long as those are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<String>,
    /// Whether it is gone.
    #[serde(default)]
    pub removed: bool,
}

impl TriggerRecord {
    /// The same trigger with another document.
    ///
    /// # Errors
    /// `invalid-trigger` when that is of another bucket: what was started for objects of this one
    /// could not be told any more.
    pub fn with(&self, document: TriggerDocument) -> Result<Self, Problem> {
        let (before, now) = (&self.document, literal(&document));
        if document.bucket != before.bucket {
            return Err(Problem::new(
                ErrorKind::InvalidTrigger,
                format!(
                    "bucket must stay {}, for which {} was made, found {}; make another trigger, or remove this one first",
                    before.bucket, self.name, document.bucket
                ),
            ));
        }
        let mut formerly = self.formerly.clone();
        if before.acts_on_created() {
            formerly.push(literal(before).to_owned());
        }
        if document.acts_on_created() {
            formerly.retain(|start| !start.starts_with(now));
        }
        formerly.sort_unstable();
        formerly.dedup_by(|start, shorter| start.starts_with(shorter.as_str()));
        if formerly.len() > FORMERLY_MAX {
            formerly = vec![common(&formerly)];
        }
        Ok(Self { document, formerly, ..self.clone() })
    }

    /// Marks the trigger as gone. Such records stay until another has the name: what is
    /// left of it says which trigger it was, and nothing else.
    pub fn remove(&mut self) {
        self.removed = true;
        // No token has this digest.
        self.secret = Secret::Token("0".repeat(64));
        self.paused_because = None;
        self.formerly.clear();
        let document = &mut self.document;
        (document.prefix, document.suffix, document.glob) = (String::new(), String::new(), None);
        (document.function, document.job) = (None, None);
        (document.sqs, document.sns) = (None, None);
        document.events.clear();
    }
}

/// What senders are checked with. A token is kept as its digest; the key of
/// signatures must be kept as it is, since every check computes with it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Secret {
    /// The SHA-256 digest of the token, in hexadecimal digits.
    Token(String),
    /// The key of HMAC-SHA256.
    Signature(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// What is kept of a secret that its owner is shown once.
    pub fn of(token: &Token, auth: SenderAuth) -> Self {
        match auth {
            SenderAuth::Token => Self::Token(token.digest().to_hex()),
            SenderAuth::Signature => Self::Signature(token.reveal().to_owned()),
        }
    }

    /// Whether it is of the kind that the document asks for.
    pub fn is_for(&self, auth: SenderAuth) -> bool {
        matches!(
            (self, auth),
            (Self::Token(_), SenderAuth::Token) | (Self::Signature(_), SenderAuth::Signature)
        )
    }

    /// The digest of the token, when senders are to show one.
    pub fn token(&self) -> Option<TokenDigest> {
        match self {
            Self::Token(digest) => TokenDigest::from_hex(digest),
            Self::Signature(_) => None,
        }
    }

    /// The key of signatures, when senders are to sign.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Token(_) => None,
            Self::Signature(key) => Some(key),
        }
    }
}

/// A trigger that can be held against events.
#[derive(Debug)]
pub struct Trigger {
    /// As kept.
    pub record: TriggerRecord,
    glob: Option<Glob>,
}

impl Trigger {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// `invalid-trigger` when it is none.
    pub fn new(mut record: TriggerRecord) -> Result<Self, Problem> {
        name_newest(&mut record.document);
        let glob = record.document.glob.as_deref().map(compile).transpose()?;
        Ok(Self { record, glob })
    }

    /// Whether the trigger acts on this event. Either reading of the key will do:
    /// which one holds is seen when the object is looked for.
    pub fn admits(&self, notice: &Notice) -> bool {
        notice.bucket == self.record.document.bucket
            && [Some(&notice.key), notice.other_key.as_ref()]
                .into_iter()
                .flatten()
                .any(|key| self.admits_key(&notice.name, key))
    }

    /// Whether the trigger acts on an event of this name and key.
    pub fn admits_key(&self, name: &str, key: &str) -> bool {
        self.record.document.admits(name, key) && self.glob.as_ref().is_none_or(|glob| glob.is_match(key))
    }

    /// What all keys begin with that it acts on.
    pub fn literal(&self) -> &str {
        literal(&self.record.document)
    }

    /// Events that a gateway may have in work at once.
    pub fn in_work_max(&self) -> u64 {
        let document = &self.record.document;
        u64::from(document.concurrency) * u64::from(document.batch.as_ref().map_or(1, |batch| batch.size))
    }
}

/// Earlier releases kept a job's `f@` as it was written and ran the newest version;
/// a document that is submitted now may not hold it.
fn name_newest(document: &mut TriggerDocument) {
    if let Some(Value::String(function)) = document.job.as_mut().and_then(|job| job.get_mut("function"))
        && function.ends_with('@')
    {
        function.pop();
    }
}

/// What all keys begin with that a document's filter lets through: the longer
/// of its prefix and the start of its glob.
pub fn literal(document: &TriggerDocument) -> &str {
    let glob = document.glob.as_deref().unwrap_or_default();
    let start = glob.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
    if start.len() > document.prefix.len() { start } else { &document.prefix }
}

/// What all these texts, which are in order, begin with.
fn common(texts: &[String]) -> String {
    let (Some(first), Some(last)) = (texts.first(), texts.last()) else { return String::new() };
    first.chars().zip(last.chars()).take_while(|(a, b)| a == b).map(|(both, _)| both).collect()
}

fn compile(text: &str) -> Result<Glob, Problem> {
    Glob::new(text).map_err(|found| {
        Problem::new(
            ErrorKind::InvalidTrigger,
            format!(
                "glob must be a pattern of * ** ? [..] {{a,b}}, found {text:?}, in which there is {found}; put \\ before \
                 what is meant as it is"
            ),
        )
    })
}

#[cfg(test)]
pub(super) mod tests {
    use fanfold_protocol::event::EventKind;
    use serde_json::json;

    use super::*;

    pub fn trigger(name: &str, document: Value) -> Trigger {
        let token = Token::generate().unwrap();
        Trigger::new(TriggerRecord {
            id: Uuid::now_v7(),
            name: name.parse().unwrap(),
            document: serde_json::from_value(document).unwrap(),
            paused: false,
            paused_because: None,
            secret: Secret::of(&token, SenderAuth::Token),
            created_at: Timestamp(0),
            formerly: Vec::new(),
            removed: false,
        })
        .unwrap()
    }

    #[test]
    fn a_trigger_admits_what_its_whole_filter_lets_through() {
        let trigger = trigger(
            "t",
            json!({"bucket": "bank", "prefix": "in/", "glob": "in/**/*.{csv,CSV}", "function": "f"}),
        );
        let notice = |bucket: &str, key: &str| Notice {
            bucket: bucket.into(),
            key: key.into(),
            other_key: None,
            kind: EventKind::Created,
            name: "ObjectCreated:Put".into(),
            etag: None,
            version_id: None,
            sequencer: None,
            time: None,
        };
        assert!(trigger.admits(&notice("bank", "in/a/b.csv")));
        assert!(!trigger.admits(&notice("other", "in/a/b.csv")));
        assert!(!trigger.admits(&notice("bank", "in/a/b.json")));
        let two = Notice { other_key: Some("in/a b.csv".into()), ..notice("bank", "x/a+b.csv") };
        assert!(trigger.admits(&two));
        assert_eq!(trigger.literal(), "in/");
    }

    #[test]
    fn what_a_trigger_acted_on_before_is_remembered_unless_it_does_again() {
        let mut record = trigger("t", json!({"bucket": "bank", "prefix": "in/", "function": "f"})).record;
        let mut check = |prefix: &str, events: &str, expected: &[&str]| {
            let document = json!({"bucket": "bank", "prefix": prefix, "events": [events], "function": "f"});
            record = record.with(serde_json::from_value(document).unwrap()).unwrap();
            assert_eq!(record.formerly, expected, "{prefix} {events}");
        };
        let (created, removed) = ("ObjectCreated:*", "ObjectRemoved:*");
        check("in/", created, &[]);
        check("in/2026/", created, &["in/"]);
        check("in/2025/", created, &["in/"]);
        check("in/", created, &[]);
        check("out/", created, &["in/"]);
        check("out/", removed, &["in/", "out/"]);
        check("elsewhere/", removed, &["in/", "out/"]);
        check("out/", created, &["in/"]);
        check("", created, &[]);
        // Many are remembered by what they have in common.
        for n in 10..10 + FORMERLY_MAX + 2 {
            let document = json!({"bucket": "bank", "prefix": format!("é/{n}/"), "function": "f"});
            record.formerly.retain(|start| !start.is_empty());
            record = record.with(serde_json::from_value(document).unwrap()).unwrap();
        }
        assert_eq!(record.formerly, ["é/"]);
        let other = serde_json::from_value(json!({"bucket": "dam", "function": "f"})).unwrap();
        assert_eq!(record.with(other).unwrap_err().code, ErrorKind::InvalidTrigger);
    }

    #[test]
    fn a_kept_job_with_an_empty_qualifier_runs_the_newest_version() {
        let found = |function: &str| {
            let (input, output) = ("s3://{bucket}/{key}", "s3://out/{id}/");
            let job = json!({"function": function, "input": input, "output": output});
            let document = trigger("t", json!({"bucket": "bank", "job": job})).record.document;
            (document.check().is_ok(), document.job.unwrap()["function"].clone())
        };
        assert_eq!(found("f@"), (true, json!("f")));
        assert_eq!(found("f@prod"), (true, json!("f@prod")));
        assert_eq!(found("f@@"), (false, json!("f@")));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let token = Token::generate().unwrap();
        let kept = serde_json::to_string(&Secret::of(&token, SenderAuth::Token)).unwrap();
        assert!(!kept.contains(&token.reveal()[3..]), "{kept}");
        assert!(!format!("{:?}", Secret::of(&token, SenderAuth::Signature)).contains(token.reveal()));
    }
}
