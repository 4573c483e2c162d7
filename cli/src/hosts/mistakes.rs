// SPDX-License-Identifier: Apache-2.0
//! Mistakes in a configuration, gathered so that all are told at once.
//!
//! serde stops at the first. Here it is asked about each key by itself: what it has against a
//! key it says before it misses others. What can be read without the wrong keys is looked at further; where that is not
//! all that there has to be, it is asked for what it misses, again and again.

use std::path::Path;

use fanfold_protocol::limits;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{
    error::{Error, Result},
    input, json_text,
};

/// Mistakes, each with the key that it is about.
#[derive(Default)]
pub struct Mistakes(Vec<String>);

/// Reads a file; keys that are wrong are left out, and noted.
///
/// # Errors
/// Wrong use: it is no TOML, or too much is wrong or missing to go on.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Mistakes)> {
    let text = input::text(path, limits::DOCUMENT_BYTES_MAX).map_err(|cause| {
        Error::usage(format!("expected a configuration in {}, found: {cause}", path.display())).help(
            "deploy/gateway.toml and deploy/worker.toml are examples; docs/configuration.md has every key",
        )
    })?;
    // A single mistake is shown in its line.
    let first = match json_text::toml(&path.display().to_string(), &text) {
        Ok(config) => return Ok((config, Mistakes::default())),
        Err(first) => first,
    };
    let Ok(table) = toml::from_str::<Table>(&text) else { return Err(first) };
    let (kept, mut mistakes) = sift::<T>(table);
    if let Ok(config) = Value::Table(kept.clone()).try_into::<T>() {
        return Ok((config, mistakes));
    }
    let wrong = mistakes.0.len();
    miss::<T>(kept, "", &|table| table, &mut mistakes);
    Err(if wrong < 2 && mistakes.0.len() == wrong { first } else { mistakes.into_error(path) })
}

impl Mistakes {
    /// What a key should be.
    pub fn note(&mut self, key: &str, mistake: impl std::fmt::Display) {
        self.0.push(format!("{key}: {mistake}"));
    }

    /// The same, unless something is noted about the key already.
    pub fn note_first(&mut self, key: &str, mistake: impl std::fmt::Display) {
        if !self.are_about(&format!("{key}: ")) {
            self.note(key, mistake);
        }
    }

    /// The value, or a mistake.
    pub fn take<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        value: std::result::Result<T, E>,
    ) -> Option<T> {
        value.map_err(|error| self.note(key, error)).ok()
    }

    /// What a file of a secret holds.
    pub fn secret(&mut self, key: &str, path: &Path) -> Option<String> {
        let text = input::text(path, limits::DOCUMENT_BYTES_MAX)
            .map_err(|cause| format!("expected the secret in {}, found: {cause}", path.display()));
        let text = self.take(key, text)?.trim().to_owned();
        if text.is_empty() {
            self.note(key, format!("expected the secret in {}, found it empty", path.display()));
            return None;
        }
        Some(text)
    }

    /// The access key and the secret key in a file. It is read once, at the start, so keys that
    /// are good for hours only are of no use.
    pub fn key_pair(&mut self, key: &str, path: &Path) -> Option<(String, String)> {
        let text = self.secret(key, path)?;
        let mut lines = text.lines().map(|line| line.trim().to_owned());
        let pair = lines.next().zip(lines.next());
        if pair.is_none() {
            self.note(
                key,
                "expected the access key on the first line and the secret key on the second, found one line",
            );
        }
        if lines.next().is_some() {
            self.note(
                key,
                "expected keys that do not expire, found a third line behind them; temporary keys with a session \
                 token are not taken, so make a user for the service",
            );
        }
        pair
    }

    /// All of them.
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// Whether there are any about a section.
    pub fn are_about(&self, section: &str) -> bool {
        self.0.iter().any(|mistake| mistake.starts_with(section))
    }

    /// The same with what else is wrong.
    #[must_use]
    pub fn with(mut self, others: Vec<String>) -> Self {
        self.0.extend(others);
        self
    }

    /// Wrong use, with all of them.
    pub fn into_error(self, path: &Path) -> Error {
        Error::usage(format!(
            "expected a configuration without mistakes in {}, found\n  {}",
            path.display(),
            self.0.join("\n  ")
        ))
        .help("docs/configuration.md has every key")
    }
}

/// The keys that serde takes, and what it has against each of the others.
fn sift<T: DeserializeOwned>(table: Table) -> (Table, Mistakes) {
    let mut mistakes = Mistakes::default();
    let kept = sift_table::<T>(table, "", &|table| table, &mut mistakes);
    (kept, mistakes)
}

/// The same of a table at a path, which `within` puts into an otherwise empty document.
fn sift_table<T: DeserializeOwned>(
    table: Table,
    path: &str,
    within: Around<'_>,
    mistakes: &mut Mistakes,
) -> Table {
    let mut kept = Table::new();
    for (key, value) in table {
        let path = at(path, &key);
        let around = |value: Value| within(Value::Table(Table::from_iter([(key.clone(), value)])));
        // What a section has within is asked about key by key.
        let shell = match &value {
            Value::Table(_) => Value::Table(Table::new()),
            Value::Array(items) if are_tables(items) => Value::Array(Vec::new()),
            other => other.clone(),
        };
        if let Some(refusal) = refusal::<T>(around(shell)) {
            mistakes.note(&path, refusal);
            continue;
        }
        let sift = &mut |inner, around: Around<'_>| sift_table::<T>(inner, &path, around, mistakes);
        let value = with_tables(value, &around, sift);
        kept.insert(key, value);
    }
    kept
}

/// Notes what serde misses in a table at a path, which `within` puts into an otherwise empty document, unless something
/// is noted about it already. Of all that is missed it names the first alone, so that is given a value before it is asked
/// for the next. Gives the table with those values.
fn miss<T: DeserializeOwned>(table: Table, path: &str, within: Around<'_>, mistakes: &mut Mistakes) -> Table {
    let mut filled = Table::new();
    for (key, value) in table {
        let path = at(path, &key);
        let around = |value: Value| within(Value::Table(Table::from_iter([(key.clone(), value)])));
        let fill = &mut |inner, around: Around<'_>| miss::<T>(inner, &path, around, mistakes);
        let value = with_tables(value, &around, fill);
        filled.insert(key, value);
    }
    while let Some(key) = missed::<T>(within(Value::Table(filled.clone()))) {
        let path = at(path, &key);
        let around = |value: Value| within(Value::Table(Table::from_iter([(key.clone(), value)])));
        // What is no key of this table is missed in one around it.
        let Some(value) = taken::<T>(&around).filter(|_| !filled.contains_key(&key)) else { break };
        let mut found = Mistakes::default();
        let fill = &mut |inner, around: Around<'_>| miss::<T>(inner, &path, around, &mut found);
        let value = with_tables(value, &around, fill);
        if found.0.is_empty() {
            found.note(&path, "expected a value, found none");
        }
        if !mistakes.are_about(&format!("{path}: ")) {
            mistakes.0.append(&mut found.0);
        }
        filled.insert(key, value);
    }
    filled
}

/// The path of a key of the table at a path.
fn at(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What puts a value into an otherwise empty document.
type Around<'a> = &'a dyn Fn(Value) -> Value;

/// A value with the tables that it is or has changed. `around` puts it into an otherwise empty document, and what
/// `change` gets does so with the table.
fn with_tables(
    value: Value,
    around: Around<'_>,
    change: &mut dyn FnMut(Table, Around<'_>) -> Table,
) -> Value {
    match value {
        Value::Table(inner) => Value::Table(change(inner, around)),
        Value::Array(items) if are_tables(&items) => {
            let one = |value: Value| around(Value::Array(vec![value]));
            let changed = items.into_iter().map(|item| match item {
                Value::Table(inner) => Value::Table(change(inner, &one)),
                other => other,
            });
            Value::Array(changed.collect())
        }
        other => other,
    }
}

fn are_tables(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(Value::is_table)
}

/// What serde has against a document, beside what it misses.
fn refusal<T: DeserializeOwned>(document: Value) -> Option<String> {
    let error = document.try_into::<T>().err()?;
    (!error.message().starts_with("missing field")).then(|| error.message().to_owned())
}

/// What serde misses first in a document that it has nothing else against.
fn missed<T: DeserializeOwned>(document: Value) -> Option<String> {
    let error = document.try_into::<T>().err()?;
    Some(error.message().strip_prefix("missing field `")?.strip_suffix('`')?.to_owned())
}

/// A value that serde takes for a key, of the kinds that those have that must be given; none for a key that it does not
/// know.
fn taken<T: DeserializeOwned>(around: Around<'_>) -> Option<Value> {
    let kinds =
        [Value::Table(Table::new()), Value::Array(Vec::new()), Value::from("a"), Value::from("127.0.0.1:1")];
    kinds.into_iter().find(|value| refusal::<T>(around(value.clone())).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::config::{Gateway, Worker};

    const GATEWAY: &str = include_str!("../../../deploy/gateway.toml");
    const WORKER: &str = include_str!("../../../deploy/worker.toml");

    fn sifted<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<String>) {
        let (kept, mistakes) = sift::<T>(toml::from_str(text).unwrap());
        (Value::Table(kept).try_into().ok(), mistakes.0)
    }

    #[test]
    fn what_is_sound_has_no_mistakes() {
        let (read, mistakes) = sifted::<Gateway>(GATEWAY);
        assert!(read.is_some() && mistakes.is_empty(), "{mistakes:?}");
        let (read, mistakes) = sifted::<Worker>(WORKER);
        assert!(read.is_some() && mistakes.is_empty(), "{mistakes:?}");
    }

    #[test]
    fn every_wrong_key_is_named_and_the_rest_is_read() {
        let text = GATEWAY
            .replace("system_bucket = \"fanfold\"", "system_bucket = 3\nlissten = 1")
            .replace("body = \"6MiB\"", "body = \"6\"\nrequests = \"many\"")
            + "[log]\nlevel = \"info\"\n[[tenants]]\nname = \"bank\"\ntoken_digests = \"d\"\nwieght = 2\n";
        let (read, mut mistakes) = sifted::<Gateway>(&text);
        mistakes.sort();
        let about: Vec<&str> = mistakes.iter().filter_map(|text| text.split(':').next()).collect();
        let expected =
            ["limits.body", "limits.requests", "lissten", "log", "system_bucket", "tenants.wieght"];
        assert_eq!(about, expected, "{mistakes:#?}");
        assert!(mistakes[2].contains("unknown field `lissten`, expected one of `listen`"), "{mistakes:#?}");
        let read = read.unwrap();
        assert!(read.limits.drain.is_some() && read.limits.requests.is_none());
        assert_eq!(read.tenants.len(), 1);
    }

    #[test]
    fn no_more_is_read_than_a_configuration_has() {
        let endless = Path::new("/dev/zero");
        let error = read::<Gateway>(endless).err().unwrap().to_string();
        assert!(error.contains("in /dev/zero, found: more than 1MiB"), "{error}");
        let mut mistakes = Mistakes::default();
        assert_eq!(mistakes.secret("nats.token", endless), None);
        assert!(mistakes.all().concat().contains("found: more than 1MiB"), "{:?}", mistakes.all());
    }

    #[test]
    fn keys_are_two_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |text: &str, expected: &str| {
            std::fs::write(file.path(), text).unwrap();
            let mut mistakes = Mistakes::default();
            mistakes.key_pair("store.credentials", file.path());
            let found = mistakes.all().concat();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{text:?}: {found}");
        };
        check("access\nsecret\n\n", "");
        check("access\n", "store.credentials: expected the access key on the first line");
        check("access\nsecret\ntoken\n", "store.credentials: expected keys that do not expire");
    }

    #[test]
    fn an_address_is_told_in_words() {
        let (read, mistakes) = sifted::<Gateway>("listen = \"localhost\"\n");
        assert!(read.is_none());
        assert_eq!(
            mistakes,
            ["listen: expected an address and a port such as 0.0.0.0:7070, found \"localhost\""]
        );
    }

    /// What is missed, by itself and beside what is wrong, whole sections included.
    #[test]
    fn every_missing_key_is_told_with_its_table() {
        fn check<T: DeserializeOwned>(text: &str, expected: &[&str]) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let error = read::<T>(file.path()).err().unwrap().to_string();
            let told = error.lines().filter_map(|line| line.strip_prefix("  ")?.split(": ").next());
            let (mut told, mut expected) = (told.collect::<Vec<_>>(), expected.to_vec());
            told.sort_unstable();
            expected.sort_unstable();
            assert_eq!(told, expected, "{text:?}: {error}");
        }
        let sections = ["store.credentials", "nats.urls", "tls.cert", "tls.key", "tls.ca"];
        let with = |keys: &[&'static str]| [keys, &sections[..]].concat();
        check::<Gateway>("", &with(&["listen"]));
        check::<Worker>("", &with(&["listen", "probe_listen", "cache"]));
        let listen = "listen = \"127.0.0.1:1\"\n";
        check::<Gateway>(&format!("{listen}[tls]\n[nats]\n[store]\n"), &sections);
        // What was refused is not missed as well.
        check::<Gateway>("listen = 1\nlissten = 2\n", &with(&["lissten", "listen"]));
        check::<Gateway>("listen = 1\nstore = 2\n", &[&["listen", "store"][..], &sections[1..]].concat());
        let tenant = format!("{GATEWAY}[[tenants]]\nweight = 2\n");
        check::<Gateway>(&tenant, &["tenants.name", "tenants.token_digests"]);
        check::<Gateway>(&GATEWAY.replace("urls = ", "# "), &["nats.urls"]);
        check::<Worker>(&WORKER.replace("cache = ", "cash = "), &["cash", "cache"]);
    }
}
