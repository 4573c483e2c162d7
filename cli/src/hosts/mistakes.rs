// SPDX-License-Identifier: Apache-2.0
//! Mistakes in a configuration, gathered so that all are told at once.
//!
//! serde stops at the first, and is asked again without it, or with something in its place where there has to be
//! something. What is read in this way is looked at further. Invariant: of what stands in a place nothing is told.

use std::{collections::BTreeMap, path::Path};

use fanfold_protocol::limits;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use crate::{
    error::{Error, Result},
    input, json_text,
};

/// Mistakes, each with the key that it is about.
#[derive(Default)]
pub struct Mistakes {
    told: Vec<String>,
    /// The first so many are of keys that are wrong or missing in the file.
    unread: usize,
    /// The only one of these, in its line.
    only: Option<Error>,
}

/// Reads a file; keys that are wrong or missing are noted, and have something in their place where they have to be there.
/// Whoever has mistakes goes no further than to look for others.
///
/// # Errors
/// Wrong use: it is no TOML, or too much is wrong or missing to go on.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Mistakes)> {
    let text = input::text(path, limits::DOCUMENT_BYTES_MAX).map_err(|cause| {
        Error::usage(format!("expected a configuration in {}, found: {cause}", path.display())).help(
            "deploy/gateway.toml and deploy/worker.toml are examples; docs/configuration.md has every key",
        )
    })?;
    let first = match json_text::toml(&path.display().to_string(), &text) {
        Ok(config) => return Ok((config, Mistakes::default())),
        Err(first) => first,
    };
    let Ok(table) = toml::from_str::<Table>(&text) else { return Err(first) };
    let (config, refused, missed) = sift(table);
    let is_alone = refused.told.len() < 2 && missed.told.is_empty();
    let told = [refused.told, missed.told].concat();
    let mut mistakes = Mistakes { unread: told.len(), told, only: None };
    match config {
        Some(config) => {
            mistakes.only = (is_alone && mistakes.unread == 1).then_some(first);
            Ok((config, mistakes))
        }
        // A single mistake is shown in its line.
        None if is_alone => Err(first),
        None => Err(mistakes.into_error(path)),
    }
}

impl Mistakes {
    /// What a key should be, unless it was not read at all.
    pub fn note(&mut self, key: &str, mistake: impl std::fmt::Display) {
        if !self.is_unread(key) {
            self.told.push(format!("{key}: {mistake}"));
        }
    }

    fn is_unread(&self, key: &str) -> bool {
        self.told.iter().take(self.unread).any(|mistake| is_told(key, mistake))
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
        &self.told
    }

    /// Whether there are any about a section.
    pub fn are_about(&self, section: &str) -> bool {
        self.told.iter().any(|mistake| mistake.starts_with(section))
    }

    /// The same with what else is wrong.
    #[must_use]
    pub fn with(mut self, mut others: Vec<String>) -> Self {
        others.retain(|other| !self.is_unread(key_of(other)));
        self.told.extend(others);
        self
    }

    /// Wrong use, with all of them.
    pub fn into_error(self, path: &Path) -> Error {
        if let (1, Some(only)) = (self.told.len(), self.only) {
            return only;
        }
        Error::usage(format!(
            "expected a configuration without mistakes in {}, found\n  {}",
            path.display(),
            self.told.join("\n  ")
        ))
        .help("docs/configuration.md has every key")
    }
}

/// What is read from a table, unless an entry of a list in it lacks something; what serde refuses in it, and what it
/// misses.
///
/// Each time it names the first mistake alone. So what it refuses is taken out, and what it misses is put in, until it
/// finds no other.
fn sift<T: DeserializeOwned>(table: Table) -> (Option<T>, Mistakes, Mistakes) {
    let (mut refused, mut missed) = (Mistakes::default(), Mistakes::default());
    let mut document = Value::Table(table);
    // What was put in, each with the values that are left to be tried there.
    let (mut filled, mut is_whole) = (BTreeMap::new(), true);
    loop {
        let error = match serde_path_to_error::deserialize(document.clone()) {
            Ok(read) => return (is_whole.then_some(read), refused, missed),
            Err(error) => error,
        };
        let message = error.inner().message();
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        let mut path: Vec<Segment> = error.path().iter().cloned().collect();
        path.extend(missing.map(|key| Segment::Map { key: key.to_owned() }));
        // What is wrong in a list is told of the list.
        while matches!(path.last(), Some(Segment::Seq { .. })) {
            path.pop();
        }
        let (place, name) = (format!("{path:?}"), name_of(&path));
        let Some(Segment::Map { key }) = path.pop() else { break };
        let Some(table) = table_at(&mut document, &path) else { break };
        if missing.is_some() {
            // Whose entry it is says what else is wrong in it, and for whom.
            is_whole &= !path.iter().any(|step| matches!(step, Segment::Seq { .. }));
            // A section, which is missed by what it has to have: values of other kinds are tried where it is refused.
            table.insert(key, Value::Table(Table::new()));
            let address = "127.0.0.1:1";
            let urls = Value::Array(vec![Value::from(format!("nats://{address}"))]);
            let others = [urls, Value::from("a"), Value::from(address)];
            if filled.insert(place, others.into_iter()).is_some() {
                break;
            }
        } else if let Some(others) = filled.get_mut(&place) {
            let Some(value) = others.next() else { break };
            table.insert(key, value);
            // Not of what was refused, by itself or with its section.
            if !refused.told.iter().chain(&missed.told).any(|mistake| is_told(&name, mistake)) {
                missed.note(&name, "expected a value, found none");
            }
        } else {
            refused.note(&name, message);
            if table.remove(&key).is_none() {
                break;
            }
        }
    }
    (None, refused, missed)
}

/// The keys of a path, as the file has them in its headings.
fn name_of(path: &[Segment]) -> String {
    let keys = path.iter().filter(|step| !matches!(step, Segment::Seq { .. }));
    keys.map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// Whether a mistake is about the key of this name or a table around it.
fn is_told(name: &str, mistake: &str) -> bool {
    let rest = name.strip_prefix(key_of(mistake));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The key that a mistake is about.
fn key_of(mistake: &str) -> &str {
    mistake.split_once(": ").map_or(mistake, |(key, _)| key)
}

fn table_at<'a>(document: &'a mut Value, path: &[Segment]) -> Option<&'a mut Table> {
    let found = path.iter().try_fold(document, |value, step| match step {
        Segment::Map { key } => value.get_mut(key.as_str()),
        Segment::Seq { index } => value.get_mut(*index),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    found?.as_table_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::config::{Gateway, Worker};

    const GATEWAY: &str = include_str!("../../../deploy/gateway.toml");
    const WORKER: &str = include_str!("../../../deploy/worker.toml");

    fn sifted<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<String>) {
        let (read, refused, _) = sift(toml::from_str(text).unwrap());
        (read, refused.told)
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
        let (_, mistakes) = sifted::<Gateway>("listen = \"localhost\"\n");
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
            let error = match read::<T>(file.path()) {
                Ok((_, mistakes)) => mistakes.into_error(file.path()),
                Err(error) => error,
            };
            let error = error.to_string();
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

    /// Wrong kinds and missing keys hide no wrong values, and what stands in their places is not told.
    #[test]
    fn what_has_to_be_there_and_is_wrong_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let about = |mistakes: &Mistakes| -> Vec<String> {
            mistakes.all().iter().map(|mistake| key_of(mistake).to_owned()).collect()
        };
        let text = "listen = 3\ntoken_digests = \"/none\"\n[store]\ncredentials = 3\n[nats]\nprefix = \"a b\"\n\
                    [tls]\ncert = \"c\"\nkey = \"k\"\n[limits]\nrequests = 0\n";
        std::fs::write(&path, text).unwrap();
        let (config, mut mistakes) = read::<Gateway>(&path).unwrap();
        config.build(&mut mistakes);
        config.store.build(&mut mistakes);
        config.nats.build(&mut mistakes);
        let mistakes = mistakes.with(vec!["tls.ca: of a place".to_owned(), "tls.cert: of a file".to_owned()]);
        let mut told = about(&mistakes);
        told.sort_unstable();
        let expected = [
            "limits.requests",
            "listen",
            "nats",
            "nats.urls",
            "store.credentials",
            "tls.ca",
            "tls.cert",
            "token_digests",
        ];
        assert_eq!(told, expected, "{:#?}", mistakes.all());

        let text =
            WORKER.lines().filter(|line| !line.starts_with("listen =") && !line.starts_with("advertise ="));
        let text = format!("listen = 3\nslots = 0\n{}", text.collect::<Vec<_>>().join("\n"));
        std::fs::write(&path, text.replace("\nslots = 200", "")).unwrap();
        let (config, mut mistakes) = read::<Worker>(&path).unwrap();
        config.check(&mut mistakes);
        let address = config.address(None, &mut mistakes);
        assert_eq!(about(&mistakes), ["listen", "slots"], "{:?}", mistakes.all());
        assert!(address.is_empty(), "no certificate is held against a place: {address}");
        // Alone it is shown in its line.
        std::fs::write(&path, GATEWAY.replace("listen = \"", "listen = \"a")).unwrap();
        let (_, mistakes) = read::<Gateway>(&path).unwrap();
        let error = mistakes.into_error(&path).to_string();
        assert!(error.starts_with(&format!("{}:3: ", path.display())), "{error}");
    }
}
