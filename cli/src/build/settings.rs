// SPDX-License-Identifier: Apache-2.0
//! `function.toml`: what an author says of a function beside its Cargo.toml.
//!
//! Read by `fanfold build` and `fanfold deploy`; the document that results is
//! what deployment sends. The platform's own rules (`fanfold_protocol`) judge
//! every value, so nothing passes here that the gateway would refuse. The TOML
//! is walked by hand rather than through serde, because serde stops at the
//! first mistake: here all are reported together, each with its line.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use fanfold_protocol::{
    error::Problem,
    function::{Grants, Settings, SettingsDocument},
    limits,
    names::FunctionName,
    uri::ObjectUri,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::input;

/// The file's name.
pub const FILE_NAME: &str = "function.toml";

/// Where a component's settings lie beside it: `NAME.function.toml`.
pub fn beside(component: &Path) -> PathBuf {
    component.with_extension(FILE_NAME)
}

/// A function's settings as its author wrote them, all of them valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionFile {
    /// The function's name: the file's, or the package's when there is no file.
    pub name: FunctionName,
    /// Everything else, as deployment sends it.
    pub settings: SettingsDocument,
    /// All of it as the file says it.
    pub text: String,
}

/// One thing wrong with a settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// Expected, found, what to do.
    pub text: String,
}

/// Everything wrong with a settings file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// The file, as the author would name it.
    pub file: String,
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: {}", self.file, mistake.line, mistake.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Reads the settings of the function in `dir`; without a file, the function is
/// called like its package and has the platform's defaults.
pub fn read(dir: &Path, package: &str) -> Result<FunctionFile, super::Error> {
    if let Some(file) = read_file(&dir.join(FILE_NAME))? {
        return Ok(file);
    }
    let name: FunctionName = package.replace('_', "-").parse().map_err(|problem: Problem| {
        super::Error::Name { package: package.to_owned(), cause: problem.detail }
    })?;
    let text = format!("name = \"{name}\"\n");
    Ok(FunctionFile { name, settings: SettingsDocument::default(), text })
}

/// Reads a settings file, if it is there.
pub fn read_file(path: &Path) -> Result<Option<FunctionFile>, super::Error> {
    match input::text(path, limits::DOCUMENT_BYTES_MAX) {
        Ok(text) => Ok(Some(parse(&path.display().to_string(), &text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(super::Error::file("read", path, cause)),
    }
}

/// Reads the text of a settings file; `file` is its name for messages.
pub fn parse(file: &str, text: &str) -> Result<FunctionFile, Mistakes> {
    let mut walk = Walk { text, mistakes: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        walk.mistake(
            error.span().map_or(0, |span| span.start),
            format!("expected TOML: {}", error.message()),
        );
    }
    let found = walk.document(table.get_ref());
    // A file that is not TOML is reported as that; what else seems wrong with
    // it may only follow from it.
    if !errors.is_empty() {
        walk.mistakes.truncate(errors.len());
    }
    let mut mistakes = walk.mistakes;
    match found {
        Some(found) if mistakes.is_empty() => Ok(found),
        _ => {
            mistakes.sort_by_key(|mistake| mistake.line);
            Err(Mistakes { file: file.to_owned(), mistakes })
        }
    }
}

/// A walk over the file that collects mistakes.
struct Walk<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl Walk<'_> {
    fn mistake(&mut self, offset: usize, text: String) {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        self.mistakes.push(Mistake { line, text });
    }

    /// `None` only when a mistake was noted.
    fn document(&mut self, table: &DeTable<'_>) -> Option<FunctionFile> {
        let mut name = None;
        let mut named = false;
        let mut settings = SettingsDocument::default();
        for (key, value) in table {
            let key_name: &str = key.get_ref();
            let alone = match key_name {
                "name" => {
                    named = true;
                    name = self.read(key_name, value);
                    continue;
                }
                "memory" => SettingsDocument { memory: self.read(key_name, value), ..Default::default() },
                "timeout" => SettingsDocument { timeout: self.read(key_name, value), ..Default::default() },
                "description" => {
                    SettingsDocument { description: self.string(key_name, value), ..Default::default() }
                }
                "env" => SettingsDocument { env: self.env(value), ..Default::default() },
                "grants" => SettingsDocument { grants: self.grants(value), ..Default::default() },
                _ => {
                    self.unknown(key, "name, memory, timeout, description, [grants] and [env]");
                    continue;
                }
            };
            self.judge(value.span().start, &alone);
            merge(&mut settings, alone);
        }
        if !named {
            self.mistake(0, "expected name = \"…\", found no name; give the function one".to_owned());
        }
        // What no setting is too large for by itself, all of them may be together.
        if self.mistakes.is_empty() {
            self.judge(0, &settings);
        }
        Some(FunctionFile { name: name?, settings, text: self.text.to_owned() })
    }

    /// Asks the platform's rules about one setting alone, so that the answer
    /// belongs to one line.
    fn judge(&mut self, offset: usize, alone: &SettingsDocument) {
        if let Err(problem) = Settings::try_from(alone.clone()) {
            let detail = problem.detail.trim_end_matches("; correct it in function.toml").to_owned();
            self.mistake(offset, detail);
        }
    }

    fn unknown(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, known: &str) {
        self.mistake(
            key.span().start,
            format!("expected one of {known}, found {:?}; correct or remove it", key.get_ref()),
        );
    }

    fn string(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            let found = value.get_ref().type_str();
            self.mistake(value.span().start, format!("{key} must be text in quotes, found {found}"));
        }
        text
    }

    fn read<T: FromStr<Err = Problem>>(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let text = self.string(key, value)?;
        match text.parse() {
            Ok(read) => Some(read),
            Err(problem) => {
                self.mistake(value.span().start, format!("{key}: {}", problem.detail));
                None
            }
        }
    }

    fn env(&mut self, value: &Spanned<DeValue<'_>>) -> BTreeMap<String, String> {
        let Some(table) = value.get_ref().as_table() else {
            self.not_a_table("env", value);
            return BTreeMap::new();
        };
        let mut env = BTreeMap::new();
        for (key, value) in table {
            if let Some(text) = self.string(&format!("env.{}", key.get_ref()), value) {
                env.insert(key.get_ref().clone().into_owned(), text);
            }
        }
        env
    }

    fn grants(&mut self, value: &Spanned<DeValue<'_>>) -> Grants {
        let mut grants = Grants::default();
        let Some(table) = value.get_ref().as_table() else {
            self.not_a_table("grants", value);
            return grants;
        };
        for (key, value) in table {
            let name: &str = key.get_ref();
            match name {
                "read" => grants.read = self.prefixes("grants.read", value),
                "write" => grants.write = self.prefixes("grants.write", value),
                _ => self.unknown(key, "read and write"),
            }
        }
        grants
    }

    fn prefixes(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Vec<ObjectUri> {
        let Some(array) = value.get_ref().as_array() else {
            let found = value.get_ref().type_str();
            self.mistake(
                value.span().start,
                format!("{key} must be a list such as [\"s3://bucket/prefix/\"], found {found}"),
            );
            return Vec::new();
        };
        array.iter().filter_map(|item| self.prefix(key, item)).collect()
    }

    /// Grants compare bytes, so `a` would also grant `ab/secret`: a prefix ends
    /// at a slash.
    fn prefix(&mut self, key: &str, item: &Spanned<DeValue<'_>>) -> Option<ObjectUri> {
        let uri: ObjectUri = self.read(key, item)?;
        if uri.key().is_empty() || uri.key().ends_with('/') {
            return Some(uri);
        }
        let found = uri.to_string();
        // What seems to be a pattern is none: the folder before it is what was meant.
        let before = found.split(['*', '?']).next().unwrap_or_default();
        let prefix = match before.rsplit_once('/') {
            Some((folder, _)) if before.len() < found.len() => folder,
            _ => found.as_str(),
        };
        self.mistake(
            item.span().start,
            format!("{key} must hold prefixes that end in '/', found {found:?}; write \"{prefix}/\""),
        );
        None
    }

    fn not_a_table(&mut self, key: &str, value: &Spanned<DeValue<'_>>) {
        let found = value.get_ref().type_str();
        self.mistake(value.span().start, format!("{key} must be a table under [{key}], found {found}"));
    }
}

/// Takes over the one setting that `alone` holds.
fn merge(settings: &mut SettingsDocument, alone: SettingsDocument) {
    let SettingsDocument { memory, timeout, description, grants, env } = alone;
    settings.memory = settings.memory.or(memory);
    settings.timeout = settings.timeout.or(timeout);
    settings.description = settings.description.take().or(description);
    settings.grants.read.extend(grants.read);
    settings.grants.write.extend(grants.write);
    settings.env.extend(env);
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::size::{ByteSize, Span};

    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        parse("f", text).unwrap_err().mistakes.iter().map(|m| format!("{}: {}", m.line, m.text)).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found = mistakes(text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "expected {expected}, found {found}");
        }
    }

    #[test]
    fn no_more_is_read_than_settings_have() {
        let said = read_file(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(said, "could not read /dev/zero: more than 1MiB, the most that is taken");
    }

    #[test]
    fn a_whole_file_is_read() {
        let file = parse(
            "f",
            r#"
name = "credit-score"
memory = "512MiB"
timeout = "5m"
description = "scores customers"
[grants]
read = ["s3://bank/customers/", "s3://bank"]
write = ["s3://bank/scores/"]
[env]
REGION = "north"
"#,
        )
        .unwrap();
        assert_eq!(file.name.as_str(), "credit-score");
        assert_eq!(file.settings.memory, Some(ByteSize(512 << 20)));
        assert_eq!(file.settings.timeout, Some(Span(300_000)));
        assert_eq!(file.settings.description.as_deref(), Some("scores customers"));
        let read: Vec<_> = file.settings.grants.read.iter().map(ToString::to_string).collect();
        assert_eq!(read, ["s3://bank/customers/", "s3://bank/"]);
        assert_eq!(file.settings.grants.write.len(), 1);
        assert_eq!(file.settings.env["REGION"], "north");
    }

    #[test]
    fn a_name_is_enough() {
        let file = parse("f", "name = \"a\"").unwrap();
        assert_eq!(file.settings, SettingsDocument::default());
    }

    #[test]
    fn what_a_package_is_called_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = read(dir.path(), "credit_score").unwrap();
        assert_eq!((file.name.as_str(), &file.settings), ("credit-score", &SettingsDocument::default()));
        assert_eq!(parse("f", &file.text).unwrap(), file);
        assert_eq!(beside(Path::new("a/b.wasm")), Path::new("a/b.function.toml"));
    }

    #[test]
    fn all_mistakes_are_reported_with_their_lines() {
        check(
            "name = \"Bad\"\nmemory = \"8GiB\"\ntimeout = 30\nspeed = 1\n[grants]\nread = [\n  \"s3://bank/a\",\n  \"/x/\",\n]\nexecute = []\n[env]\nA = 1\n",
            &[
                "1: name: a function name must be",
                "2: memory must be from 4MiB to 4GiB, found 8GiB",
                "3: timeout must be text in quotes, found integer",
                "4: expected one of name, memory",
                "7: grants.read must hold prefixes that end in '/', found \"s3://bank/a\"; write \"s3://bank/a/\"",
                "8: grants.read: an object's place must be written s3://bucket/key",
                "10: expected one of read and write, found \"execute\"",
                "12: env.A must be text in quotes, found integer",
            ],
        );
    }

    #[test]
    fn a_grant_is_no_pattern() {
        let check_grant = |grant: &str, advice: &str| {
            let text = format!("name = \"a\"\n[grants]\nread = [\"{grant}\"]");
            let told = format!(
                "3: grants.read must hold prefixes that end in '/', found \"{grant}\"; write \"{advice}\""
            );
            check(&text, &[told.as_str()]);
        };
        check_grant("s3://bank/in/*.csv", "s3://bank/in/");
        check_grant("s3://bank/in/2026-*/a?.csv", "s3://bank/in/");
        check_grant("s3://bank/*.csv", "s3://bank/");
        check_grant("s3://bank/in", "s3://bank/in/");
    }

    #[test]
    fn bounds_are_the_platform_s() {
        check("name = \"a\"\ntimeout = \"61m\"", &["2: timeout must be from 1ms to 60m, found 61m"]);
        check("name = \"a\"\ntimeout = \"0s\"", &["2: timeout must be"]);
        check("name = \"a\"\nmemory = \"1KiB\"", &["2: memory must be"]);
        check("name = \"a\"\nmemory = \"lots\"", &["2: memory: expected a whole number and a unit"]);
        check("name = \"a\"\n[env]\n\"a b\" = \"x\"", &["2: a variable's name"]);
        check("name = \"a\"\nenv = 1\ngrants = []", &["2: env must be a table", "3: grants must be a table"]);
        let (half, whole) = ("x".repeat(13 << 10), "x".repeat(25 << 10));
        let large = format!("name = \"a\"\n[env]\nA = \"{whole}\"");
        check(&large, &["2: settings must be at most 24KiB"]);
        let together = format!("name = \"a\"\ndescription = \"{half}\"\n[env]\nA = \"{half}\"");
        check(&together, &["1: settings must be at most 24KiB"]);
    }

    #[test]
    fn what_is_not_toml_is_reported_as_that() {
        check("name = \"a\"\nmemory =\n", &["2: expected TOML"]);
        check("", &["1: expected name"]);
        check("memory = \"64MiB\"", &["1: expected name"]);
    }

    #[test]
    fn a_message_names_file_and_line() {
        let said = parse("here/function.toml", "x = 1").unwrap_err().to_string();
        assert!(said.starts_with("here/function.toml:1: expected "), "{said}");
        assert_eq!(said.lines().count(), 2);
    }
}
