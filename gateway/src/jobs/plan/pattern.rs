// SPDX-License-Identifier: Apache-2.0
//! The words of a job's `input`: objects, prefixes, globs and manifests.
//!
//! Pure text, used by [`super::input`]. Keys are matched as they are, character for
//! character; what the characters of a pattern mean is in [`crate::glob`]. Names that hide
//! an object or a folder are matched by themselves alone.

use fanfold_protocol::{ErrorKind, Problem, job::input_uri, uri::ObjectUri};

use crate::glob::{Glob, Place};

/// Characters that make a key a pattern.
const META: [char; 5] = ['*', '?', '[', '{', '\\'];

/// What one input names.
#[derive(Debug)]
pub enum Source {
    /// One object.
    Object(ObjectUri),
    /// Everything under a prefix that ends in `/`, or in a whole bucket.
    Prefix(ObjectUri),
    /// What a glob matches.
    Pattern(Pattern),
    /// What the manifest of another job names.
    Manifest(ObjectUri),
}

impl Source {
    /// Reads an input: `s3://bucket/key`, `s3://bucket/prefix/`, a key with any
    /// of `* ** ? [..] {a,b}`, or `manifest://bucket/key`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let uri = input_uri(text)?;
        if text.starts_with("manifest://") {
            return Ok(Self::Manifest(uri));
        }
        let uri = match literal(uri.key()) {
            Some(key) => ObjectUri::new(uri.bucket(), key)?,
            None => return Pattern::parse(text, &uri).map(Self::Pattern),
        };
        let prefix = uri.key().is_empty() || uri.key().ends_with('/');
        Ok(if prefix { Self::Prefix(uri) } else { Self::Object(uri) })
    }

    /// What it can name at most, as a prefix.
    pub fn scope(&self) -> ObjectUri {
        match self {
            Self::Object(uri) | Self::Prefix(uri) | Self::Manifest(uri) => uri.clone(),
            Self::Pattern(pattern) => pattern.scope.clone(),
        }
    }

    /// Whether a listing tells what it names.
    pub fn is_listed(&self) -> bool {
        matches!(self, Self::Prefix(_) | Self::Pattern(_))
    }

    /// Whether its listing may show what a job writes to this place, given the names of that as
    /// [`Pattern::may_show`] takes them, or lies within the place.
    pub fn may_list(&self, place: &ObjectUri, written: &[String]) -> bool {
        match self {
            Self::Object(_) | Self::Manifest(_) => false,
            Self::Prefix(prefix) => {
                let shows = || Pattern::everything(prefix).enters(place.key());
                prefix.is_under(place) || place.is_under(prefix) && shows()
            }
            Self::Pattern(pattern) => {
                let shows = || written.iter().any(|name| pattern.may_show(place, name));
                pattern.scope.is_under(place) || place.is_under(&pattern.scope) && shows()
            }
        }
    }
}

/// What a pattern means in which every special character is escaped: that needs
/// no listing. None of any other.
fn literal(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => out.push(rest.next()?),
            c if META.contains(&c) => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// A glob over the keys of a bucket.
#[derive(Debug)]
pub struct Pattern {
    /// The bucket and the text before the first special character.
    scope: ObjectUri,
    /// `None` matches everything in scope.
    glob: Option<Glob>,
}

impl Pattern {
    /// Everything under a prefix.
    pub fn everything(prefix: &ObjectUri) -> Self {
        Self { scope: prefix.clone(), glob: None }
    }

    fn parse(text: &str, uri: &ObjectUri) -> Result<Self, Problem> {
        let glob = Glob::new(uri.key()).map_err(|found| {
            Problem::new(
                ErrorKind::InvalidJob,
                format!(
                    "expected a pattern of * ** ? [..] {{a,b}} in {text}, found {found}; put \\ before what is meant \
                     as it is"
                ),
            )
        })?;
        let literal = uri.key().split(META).next().unwrap_or_default();
        Ok(Self { scope: ObjectUri::new(uri.bucket(), literal)?, glob: Some(glob) })
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        self.scope.bucket()
    }

    /// What all matching keys begin with.
    pub fn literal(&self) -> &str {
        self.scope.key()
    }

    /// The folder in which all matching keys lie.
    pub fn folder(&self) -> ObjectUri {
        let literal = self.literal();
        let folder = literal.rfind('/').map_or("", |slash| &literal[..=slash]);
        // A part of a valid key is a valid key.
        ObjectUri::new(self.bucket(), folder).unwrap_or_else(|_| self.scope.clone())
    }

    /// Whether the object's key fits.
    pub fn matches(&self, uri: &ObjectUri) -> bool {
        uri.is_under(&self.scope) && self.glob.as_ref().is_none_or(|glob| glob.is_match(uri.key()))
    }

    /// Whether a listed object is input: it fits, is no mark of a folder, and neither its name
    /// nor a folder that it lies in is hidden, unless the pattern asks for that.
    pub fn shows(&self, uri: &ObjectUri) -> bool {
        let fits = || match &self.glob {
            Some(glob) => glob.meets(places(uri.key())),
            None => self.enters(uri.key()),
        };
        !is_mark(uri.key()) && uri.is_under(&self.scope) && fits()
    }

    /// Whether input may lie in a folder of the bucket: no step of it is hidden, unless the
    /// pattern asks for that.
    pub fn enters(&self, folder: &str) -> bool {
        match &self.glob {
            Some(glob) => glob.may_begin(places(folder)),
            None => !has_hidden(folder.strip_prefix(self.literal()).unwrap_or_default()),
        }
    }

    /// Whether an object in this folder could be input whose name is like this one, in
    /// which `0` stands for any hexadecimal digit.
    pub fn may_show(&self, folder: &ObjectUri, name: &str) -> bool {
        let open = |place: Place| if matches!(place, Place::Is('0')) { Place::Hex } else { place };
        let fits = || match &self.glob {
            Some(glob) => glob.meets(places(folder.key()).chain(places(name).map(open))),
            None => folder.is_under(&self.scope) && self.enters(folder.key()) && !has_hidden(name),
        };
        folder.bucket() == self.bucket() && fits()
    }
}

/// Whether a key that nobody asked for is input: no mark of a folder, and no step of it is hidden.
pub fn is_shown(key: &str) -> bool {
    !is_mark(key) && !has_hidden(key)
}

fn is_mark(key: &str) -> bool {
    key.is_empty() || key.ends_with('/')
}

/// The characters of a key, of which those that hide a step must be asked for.
fn places(key: &str) -> impl Iterator<Item = Place> {
    key.split_inclusive('/').flat_map(|step| {
        let hidden = is_hidden(step);
        let place =
            move |(at, c): (usize, char)| if at == 0 && hidden { Place::Asked(c) } else { Place::Is(c) };
        step.char_indices().map(place)
    })
}

fn has_hidden(key: &str) -> bool {
    key.split('/').any(is_hidden)
}

/// Whether the name of an object or a folder is hidden, as Spark has it: folders of partitions
/// may be named after columns such as `_year`.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::{
        event::{EventKind, ObjectEvent},
        time::Timestamp,
        trigger::job_of,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn check(input: &str, key: &str, expected: bool) {
        let uri = ObjectUri::new("bank", key).unwrap();
        let shown = match Source::parse(input).unwrap() {
            Source::Pattern(pattern) => pattern.shows(&uri),
            Source::Prefix(prefix) => Pattern::everything(&prefix).shows(&uri),
            other => panic!("{other:?}"),
        };
        assert_eq!(shown, expected, "{input} {key}");
    }

    #[test]
    fn globs_match_keys_as_they_are() {
        check("s3://bank/a/*.csv", "a/x.csv", true);
        check("s3://bank/a/*.csv", "a/b/x.csv", false);
        check("s3://bank/a/**/*.csv", "a/b/c/x.csv", true);
        check("s3://bank/a/**/*.csv", "a/x.csv", true);
        check("s3://bank/a/?.csv", "a/xy.csv", false);
        check("s3://bank/a/[ab].csv", "a/b.csv", true);
        check("s3://bank/{a,b}/x", "b/x", true);
        check("s3://bank/*/x", "a/../x", false);
        check("s3://bank/**", "a//x", true);
        check("s3://bank/a/*.csv{,.gz}", "a/x.csv", true);
        check("s3://bank/a/*.csv{,.gz}", "a/x.csv.gz", true);
        check("s3://bank/a/?.csv", "a/ä.csv", true);
        check("s3://bank/a[!x]b.csv", "a/b.csv", false);
    }

    #[test]
    fn names_that_are_not_known_yet_are_met() {
        let check = |input: &str, name: &str, expected: bool| {
            let Source::Pattern(pattern) = Source::parse(input).unwrap() else { panic!("{input}") };
            let folder = "s3://bank/x/0/".parse().unwrap();
            assert_eq!(pattern.may_show(&folder, name), expected, "{input} {name}");
        };
        check("s3://bank/x/**/*.csv", "part-000.csv", true);
        check("s3://bank/x/**/*.csv", "part-000.parquet", false);
        check("s3://bank/x/*/part-1[a-f]?.csv", "part-000.csv", true);
        check("s3://bank/x/*/part-1[g-z]?.csv", "part-000.csv", false);
        check("s3://bank/x/1/*.csv", "part-000.csv", false);
        check("s3://bank/x/**", "_manifest.json", false);
        check("s3://bank/x/**/_*.json", "_manifest.json", true);
        check("s3://other/**", "part-000.csv", false);
    }

    #[test]
    fn what_is_written_to_a_place_may_be_listed() {
        let written = ["part-000.csv".to_owned(), "_manifest.json".to_owned()];
        let check = |input: &str, place: &str, expected: bool| {
            let source = Source::parse(input).unwrap();
            assert_eq!(source.may_list(&place.parse().unwrap(), &written), expected, "{input} {place}");
            assert!(source.is_listed() || !expected, "{input}");
        };
        check("s3://bank/a/", "s3://bank/a/", true);
        check("s3://bank/", "s3://bank/a/b/", true);
        check("s3://bank/a/b/c/", "s3://bank/a/", true);
        check("s3://bank/a/", "s3://bank/ab/", false);
        check("s3://shop/a/", "s3://bank/a/", false);
        check("s3://bank/a/", "s3://bank/a/_out/", false);
        check("s3://bank/a/", "s3://bank/a/_n=1/", true);
        check("s3://bank/_out/", "s3://bank/_out/a/", true);
        check("s3://bank/a/*", "s3://bank/a/", true);
        check("s3://bank/**/*.csv", "s3://bank/a/_out/", false);
        check("s3://bank/a/*.parquet", "s3://bank/a/", true);
        check("s3://bank/a*/*.csv", "s3://bank/ab/", true);
        check("s3://bank/a*/*.parquet", "s3://bank/ab/", false);
        check("s3://bank/*.csv", "s3://bank/a/", false);
        check("s3://bank/**/*.csv", "s3://bank/a/", true);
        check("s3://bank/a/part-000.csv", "s3://bank/a/", false);
        check("manifest://bank/a/_manifest.json", "s3://bank/a/", false);
    }

    #[test]
    fn hidden_names_and_marks_are_no_input() {
        check("s3://bank/a/", "a/x", true);
        check("s3://bank/a/", "a/_SUCCESS", false);
        check("s3://bank/a/", "a/.x.crc", false);
        check("s3://bank/a/", "a/b/", false);
        check("s3://bank/a/*", "a/_manifest.json", false);
        check("s3://bank/a/_*.csv", "a/_x.csv", true);
        check("s3://bank/", "x", true);
        check("s3://bank/**/_x", "a/_x/", false);
    }

    #[test]
    fn what_lies_in_hidden_folders_is_no_input() {
        for input in
            ["s3://bank/", "s3://bank/a/", "s3://bank/a/**", "s3://bank/a*/**/*.csv", "s3://bank/**/*"]
        {
            check(input, "a/.ipynb_checkpoints/x.csv", false);
            check(input, "a/_temporary/0/x.csv", false);
            check(input, "a/b/.Trash/b/x.csv", false);
            check(input, "a/b=1/_c/x.csv", false);
            check(input, "a/b_c/d.e/x.csv", true);
            // Names of partitions, but those with a dot.
            check(input, "a/_year=2026/x.csv", true);
            check(input, "a/_year=2026/_x.csv", false);
            check(input, "a/.year=2026/x.csv", false);
        }
        check("s3://bank/*/*/x.csv", "a/_temporary/x.csv", false);
        check("s3://bank/a/?temporary/x.csv", "a/_temporary/x.csv", false);
        check("s3://bank/a/[_t]*/x.csv", "a/_temporary/x.csv", false);
        check("s3://bank/*", "_year=1", true);
    }

    #[test]
    fn hidden_folders_are_input_where_they_are_asked_for() {
        check("s3://bank/a/_raw/", "a/_raw/x.csv", true);
        check("s3://bank/a/_raw/", "a/_raw/_x.csv", false);
        check("s3://bank/_raw/**/*.csv", "_raw/b/x.csv", true);
        check("s3://bank/_raw/**/*.csv", "_raw/.b/x.csv", false);
        check("s3://bank/*/_raw/*.csv", "a/_raw/x.csv", true);
        check("s3://bank/**/{_raw,b}/*.csv", "a/_raw/x.csv", true);
        check("s3://bank/**/_r*/**", "a/_raw/b/x.csv", true);
        check("s3://bank/**/_r*/_r*/**", "a/_raw/_r/x.csv", true);
        check("s3://bank/**/_r*/**", "a/_raw/_b/x.csv", false);
        check("s3://bank/a/_r*/x.csv", "a/_raw/x.csv", true);
    }

    #[test]
    fn folders_are_entered_that_are_not_hidden() {
        let check = |input: &str, folder: &str, expected: bool| {
            let pattern = match Source::parse(input).unwrap() {
                Source::Pattern(pattern) => pattern,
                Source::Prefix(prefix) => Pattern::everything(&prefix),
                other => panic!("{other:?}"),
            };
            assert_eq!(pattern.enters(folder), expected, "{input} {folder}");
        };
        check("s3://bank/", "", true);
        check("s3://bank/a/", "a/", true);
        check("s3://bank/a/", "a/b/_c=1/", true);
        check("s3://bank/a/", "a/_b/c/", false);
        check("s3://bank/_a/", "_a/b/", true);
        check("s3://bank/a/_m*", "a/", true);
        check("s3://bank/a*/**/*.csv", "ab/c/", true);
        check("s3://bank/a*/**/*.csv", "ab/.c/", false);
        check("s3://bank/a*/*.csv", "ab/c/", false);
    }

    #[test]
    fn inventories_list_what_a_listing_shows() {
        let check = |key: &str, expected: bool| assert_eq!(is_shown(key), expected, "{key}");
        check("a/x.csv", true);
        check("a/_b=1/x.csv", true);
        check("a/", false);
        check("a/_SUCCESS", false);
        check("a/_temporary/0/x.csv", false);
        check(".x/a.csv", false);
    }

    #[test]
    fn inputs_are_told_apart() {
        assert!(matches!(Source::parse("s3://bank/a.csv"), Ok(Source::Object(_))));
        assert!(matches!(Source::parse("s3://bank/a/"), Ok(Source::Prefix(_))));
        assert!(matches!(Source::parse("s3://bank"), Ok(Source::Prefix(_))));
        assert!(matches!(Source::parse("manifest://bank/a/_manifest.json"), Ok(Source::Manifest(_))));
        assert_eq!(Source::parse("s3://bank/[a").unwrap_err().code, ErrorKind::InvalidJob);
        let Ok(Source::Pattern(pattern)) = Source::parse("s3://bank/a/b*/c") else { panic!() };
        assert_eq!((pattern.literal(), pattern.folder().key()), ("a/b", "a/"));
    }

    #[test]
    fn escaped_texts_are_no_patterns() {
        assert_eq!(literal(r"in/\[a\]\*\\.csv").as_deref(), Some(r"in/[a]*\.csv"));
        assert_eq!((literal(r"in/\[a]*"), literal("a\\")), (None, None));
    }

    proptest! {
        /// Whatever an object's key is, a trigger's job reads that object and no other.
        #[test]
        fn a_key_in_a_template_names_its_object_alone(key in r#"[a-c*?\[\]{},!^\\ '"%+\n€/._-]{1,40}"#) {
            prop_assume!(!key.ends_with('/'));
            let event = ObjectEvent {
                trigger: "t".parse().unwrap(), id: Uuid::nil(), kind: EventKind::Created, bucket: "bank".into(),
                key: key.clone(), object: None, content_type: None, at: Timestamp(0), depth: 0,
            };
            let template = serde_json::json!({"function": "f", "input": "s3://{bucket}/{key}"});
            let job = job_of(&template, &[event], &Uuid::nil()).unwrap();
            let fanfold_protocol::job::OneOrMany::One(input) = job.input else { panic!() };
            let Source::Object(found) = Source::parse(&input).unwrap() else { panic!("{input:?}") };
            prop_assert_eq!(found.key(), key);
        }
    }
}
