// SPDX-License-Identifier: Apache-2.0
//! Job documents of triggers: texts with names in braces, filled in with events.
//!
//! Every name is replaced once, so that a key that looks like a name stays a
//! key; what would be special in the text around it, a pattern or a condition,
//! is escaped. Invariant: of a batch every object becomes an input of its own,
//! and nothing else in the document depends on a single one of them.

use serde_json::Value;
use uuid::Uuid;

use crate::{
    error::{ErrorKind, Problem},
    event::ObjectEvent,
    job::{JobDocument, words},
};

/// What stands for the names in a template.
struct Filling<'a> {
    bucket: &'a str,
    /// Names what is started.
    id: &'a str,
    date: &'a str,
    /// Key and ETag of each object.
    objects: Vec<(&'a str, &'a str)>,
}

/// Names that mean a single object.
const OF_ONE: [&str; 2] = ["{key}", "{etag}"];
/// All names.
const NAMES: [&str; 5] = ["{bucket}", "{key}", "{etag}", "{date}", "{id}"];

/// What a text is, which says what is special in it.
#[derive(Clone, Copy)]
enum Words {
    Plain,
    /// Of an input: its values' own special characters stand for themselves.
    Pattern,
    /// Of a filter: a value stays within the quotes that it stands in.
    Condition,
}

/// Fills a template with an example, and says what is wrong with what comes out.
pub(super) fn check(template: &Value, bucket: &str, batched: bool) -> Result<(), String> {
    let holds = |text: &str, names: &[&str]| names.iter().any(|name| text.contains(name));
    if batched && elsewhere(template, &|text| holds(text, &OF_ONE)) {
        return Err(
            "job may hold {key} and {etag} in input only, since a batch has several of each; use {id}, \
                    which names the batch"
                .to_owned(),
        );
    }
    if template["filter"].as_str().is_some_and(|text| !are_quoted(text)) {
        return Err("job.filter may hold names in braces within single quotes only, such as source = '{key}', and no \
                    comments beside them"
            .to_owned());
    }
    if template["output"].as_str().is_some_and(|text| text.contains("{run}")) {
        return Err("job.output may hold {run} in jobs that somebody submits, use {id} here".to_owned());
    }
    for place in ["input", "output"] {
        let value = &template[place];
        let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut texts = value.as_str().into_iter().chain(list);
        let is_unknown = |(before, word): &(&str, &str)| {
            !(NAMES.contains(word) || place == "input" && is_ending(before, word))
        };
        if let Some((_, word)) = texts.find_map(|text| words(text).find(is_unknown)) {
            return Err(format!(
                "job.{place} may hold {}, found {word}; correct the name, or leave out its braces",
                NAMES.join(", ")
            ));
        }
    }
    let filling = Filling { bucket, id: "example", date: "2000-01-01", objects: vec![("example", "0")] };
    let document = fill(template, &filling).map_err(|problem| problem.detail)?;
    let distinct = ["{key}", "{etag}", "{id}"];
    if template["output"].as_str().is_some_and(|text| !holds(text, &distinct)) && !document.overwrite {
        let names = if batched { "{id}" } else { "{key}, {etag} or {id}" };
        return Err(format!(
            "job.output must hold {names}, so that each start has a place of its own, or job.overwrite must be true"
        ));
    }
    document.check().map_err(|problem| format!("job: {}", problem.detail))
}

/// Whether a word in braces is a choice of one, as in `*.{csv}`: elsewhere nobody writes one, and a
/// name that is a letter off is meant to be that name.
fn is_ending(before: &str, word: &str) -> bool {
    before.ends_with("*.") && !before.ends_with(r"\*.") && !NAMES.iter().any(|name| are_close(name, word))
}

/// Whether two words differ in a letter at most: it is another one, or one of them lacks it.
fn are_close(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    let same = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    a.len().max(b.len()) - same <= 1
}

/// Whether any text of the document but those of `input` is such a one.
fn elsewhere(template: &Value, is: &dyn Fn(&str) -> bool) -> bool {
    match template {
        Value::String(text) => is(text),
        Value::Array(items) => items.iter().any(|item| elsewhere(item, is)),
        Value::Object(members) => members.iter().any(|(name, value)| name != "input" && elsewhere(value, is)),
        _ => false,
    }
}

/// Whether all names in a condition stand within single quotes, where doubled
/// quotes keep them.
fn are_quoted(filter: &str) -> bool {
    if !NAMES.iter().any(|name| filter.contains(name)) {
        return true;
    }
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in filter.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if matches!((before, c), ('-', '-') | ('/', '*')) => return false,
            _ => {}
        }
        if quote != Some('\'') && NAMES.iter().any(|name| filter[at..].starts_with(name)) {
            return false;
        }
        before = c;
    }
    true
}

/// The job that some events start together under an id.
///
/// # Errors
/// `invalid-trigger` when what comes out is no job document.
pub fn job_of(template: &Value, events: &[ObjectEvent], id: &Uuid) -> Result<JobDocument, Problem> {
    let last = events.iter().map(|event| event.at).max().map(|at| at.to_string()).unwrap_or_default();
    let etag = |event: &'_ ObjectEvent| event.object.as_ref().map(|pin| pin.etag.clone()).unwrap_or_default();
    let etags: Vec<String> = events.iter().map(etag).collect();
    let filling = Filling {
        bucket: events.first().map(|event| event.bucket.as_str()).unwrap_or_default(),
        id: &id.to_string(),
        date: last.get(..10).unwrap_or_default(),
        objects: events
            .iter()
            .map(|event| event.key.as_str())
            .zip(etags.iter().map(String::as_str))
            .collect(),
    };
    fill(template, &filling)
}

fn fill(template: &Value, filling: &Filling<'_>) -> Result<JobDocument, Problem> {
    let mut document = template.clone();
    if let Value::Object(members) = &mut document {
        for (name, value) in members {
            match name.as_str() {
                "input" => *value = fill_input(value, filling),
                "filter" => fill_value(value, filling, Words::Condition),
                _ => fill_value(value, filling, Words::Plain),
            }
        }
    }
    serde_json::from_value(document).map_err(|error| {
        Problem::new(ErrorKind::InvalidTrigger, format!("job must be a job document, found: {error}"))
    })
}

/// One text or several, each once for every object that it tells of.
fn fill_input(value: &Value, filling: &Filling<'_>) -> Value {
    let of_text = |text: &str| -> Vec<Value> {
        let objects =
            if OF_ONE.iter().any(|name| text.contains(name)) { &filling.objects[..] } else { &[("", "")] };
        let words = if text.starts_with("manifest://") { Words::Plain } else { Words::Pattern };
        objects.iter().map(|object| fill_text(text, filling, *object, words).into()).collect()
    };
    match value {
        Value::String(text) => match &of_text(text)[..] {
            [one] => one.clone(),
            many => many.into(),
        },
        Value::Array(items) => {
            items.iter().flat_map(|item| item.as_str().map_or_else(|| vec![item.clone()], of_text)).collect()
        }
        other => other.clone(),
    }
}

fn fill_value(value: &mut Value, filling: &Filling<'_>, words: Words) {
    match value {
        Value::String(text) => {
            let object = filling.objects.first().copied().unwrap_or_default();
            *text = fill_text(text, filling, object, words);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_value(item, filling, words)),
        Value::Object(members) => members.values_mut().for_each(|member| fill_value(member, filling, words)),
        _ => {}
    }
}

fn fill_text(text: &str, filling: &Filling<'_>, (key, etag): (&str, &str), words: Words) -> String {
    let names = [
        ("{bucket}", filling.bucket),
        ("{key}", key),
        ("{etag}", etag),
        ("{date}", filling.date),
        ("{id}", filling.id),
    ];
    let mut out = String::with_capacity(text.len() + key.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some((name, value)) = names.iter().find(|(name, _)| rest.starts_with(name)) else {
            out.push('{');
            rest = &rest[1..];
            continue;
        };
        for c in value.chars() {
            match words {
                Words::Pattern if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') => out.push('\\'),
                Words::Condition if c == '\'' => out.push('\''),
                _ => {}
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

    use super::*;
    use crate::{event::EventKind, job::OneOrMany, time::Timestamp, uri::Pin};

    const ID: Uuid = Uuid::from_u128(7);

    fn event(key: &str, at: u64) -> ObjectEvent {
        ObjectEvent {
            trigger: "t".parse().unwrap(),
            id: Uuid::from_u128(1),
            kind: EventKind::Created,
            bucket: "bank".into(),
            key: key.into(),
            object: Some(Pin { etag: "abc-2".into(), size: 3, version_id: None }),
            content_type: None,
            at: Timestamp(at),
            depth: 0,
        }
    }

    #[test]
    fn templates_are_filled_once_and_keys_stand_for_themselves() {
        let template = json!({
            "function": "f", "input": "s3://{bucket}/{key}", "output": "s3://out/{date}/{etag}/",
            "params": {"key": "{key}", "other": "{x}"},
        });
        let job = job_of(&template, &[event("in/{etag}*.csv", 951_782_400_000)], &ID).unwrap();
        assert_eq!(job.input, OneOrMany::One(r"s3://bank/in/\{etag\}\*.csv".into()));
        assert_eq!(job.output.unwrap().to_string(), "s3://out/2000-02-29/abc-2/");
        assert_eq!(job.params.unwrap(), json!({"key": "in/{etag}*.csv", "other": "{x}"}));
    }

    #[test]
    fn no_key_gets_out_of_the_text_that_it_stands_in() {
        let template = json!({
            "function": "f", "input": ["s3://{bucket}/{key}", "manifest://{bucket}/{key}"],
            "output": "s3://out/{id}/", "filter": "source = '{key}' and n > 0", "params": {"key": "{key}"},
        });
        assert_eq!(check(&template, "bank", false), Ok(()));
        let run = json!({"function": "f", "input": "s3://{bucket}/{key}", "output": "s3://out/{run}/{id}/"});
        assert!(check(&run, "bank", false).unwrap_err().contains("use {id}"));
        let hostile = [
            "' or 1 = 1 --",
            "\"}, \"function\": \"g\", {\"",
            "a\nfunction = \"g\"\n",
            "''",
            "{bucket}{id}",
            "\\'",
        ];
        for key in hostile {
            let job = job_of(&template, &[event(key, 0)], &ID).unwrap();
            assert_eq!(job.function.to_string(), "f", "{key}");
            assert_eq!(job.params.unwrap(), json!({"key": key}));
            let expected = format!("source = '{}' and n > 0", key.replace('\'', "''"));
            assert_eq!(job.filter.as_deref(), Some(&*expected));
            #[cfg(feature = "filter")]
            crate::filter::Filter::parse(&expected).unwrap();
            let OneOrMany::Many(input) = job.input else { panic!("{key}") };
            assert_eq!(input[1], format!("manifest://bank/{key}"));
        }
        for filter in ["{key} > 1", "\"{key}\" = 1", "a = 'x' /* ' */ and b = '{key}'", "a = 'x' -- '{key}'"]
        {
            let wrong =
                json!({"function": "f", "input": "s3://a-b/c", "output": "s3://out/{id}/", "filter": filter});
            assert!(check(&wrong, "bank", false).unwrap_err().contains("single quotes"), "{filter}");
        }
    }

    #[test]
    fn every_object_of_a_batch_is_an_input() {
        let template = json!({
            "function": "f", "input": ["s3://{bucket}/{key}", "s3://other/all.csv"], "output": "s3://out/{date}/{id}/",
        });
        assert_eq!(check(&template, "bank", true), Ok(()));
        let events = [event("b?.csv", 951_782_400_000), event("a.csv", 951_868_800_000)];
        let job = job_of(&template, &events, &ID).unwrap();
        let expected = [r"s3://bank/b\?.csv", "s3://bank/a.csv", "s3://other/all.csv"].map(str::to_owned);
        assert_eq!(job.input, OneOrMany::Many(expected.to_vec()));
        assert_eq!(job.output.unwrap().to_string(), format!("s3://out/2000-03-01/{ID}/"));
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_refused() {
        let found = |input: Value, output: &str| {
            check(&json!({"function": "f", "input": input, "output": output}), "bank", false)
        };
        let misspelt =
            [json!("s3://{bucket}/{kee}"), json!(["s3://{bucket}/{key}", "s3://other/{kee}/*.{csv,json}"])];
        for input in misspelt {
            let wrong = found(input, "s3://out/{id}/").unwrap_err();
            assert!(wrong.contains("job.input may hold {bucket}, {key}"), "{wrong}");
            assert!(wrong.contains("found {kee}"), "{wrong}");
        }
        let wrong = found(json!("s3://{bucket}/{key}"), "s3://out/{id}/{datum}/").unwrap_err();
        assert!(wrong.contains("job.output may hold") && wrong.contains("found {datum}"), "{wrong}");
        for pattern in ["s3://a-b/*.{csv,json}", "s3://a-b/{x,{y,z}}/[0-9]*", r"s3://a-b/\{kee\}.csv"] {
            assert_eq!(found(json!(pattern), "s3://out/{id}/"), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn an_ending_in_braces_is_a_choice_of_one() {
        let found = |input: &str| {
            let job = json!({"function": "f", "input": input, "output": "s3://out/{id}/"});
            check(&job, "bank", false)
        };
        for input in ["s3://a-b/*.{csv}", "s3://{bucket}/in/**/part-*.{parquet}", "s3://a-b/*.{date}"] {
            assert_eq!(found(input), Ok(()), "{input}");
        }
        for input in [
            "s3://a-b/*.{kee}",
            "s3://a-b/*.{dat}",
            "s3://a-b/*.{keys}",
            "s3://a-b/x.{csv}",
            "s3://a-b/{csv}/*.gz",
            r"s3://a-b/\*.{csv}",
        ] {
            let wrong = found(input).unwrap_err();
            assert!(wrong.contains("job.input may hold {bucket}, {key}"), "{input}: {wrong}");
        }
        let job = json!({"function": "f", "input": "s3://bank/*.{csv}", "output": "s3://out/*.{csv}/{id}/"});
        assert!(check(&job, "bank", false).unwrap_err().contains("job.output may hold"));
        let template = json!({"function": "f", "input": "s3://{bucket}/*.{csv}", "output": "s3://out/{id}/"});
        let job = job_of(&template, &[event("a", 0)], &ID).unwrap();
        assert_eq!(job.input, OneOrMany::One("s3://bank/*.{csv}".into()));
    }

    #[test]
    fn words_are_close_that_differ_in_a_letter() {
        for (a, b, expected) in [
            ("key", "key", true),
            ("key", "kee", true),
            ("key", "keey", true),
            ("key", "ky", true),
            ("date", "dat", true),
            ("aab", "ab", true),
            ("key", "csv", false),
            ("date", "data_", false),
            ("id", "di", false),
        ] {
            assert_eq!((are_close(a, b), are_close(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn a_jobs_output_must_be_its_own() {
        let found = |output: &str, overwrite: bool, batched: bool| {
            let job = json!({"function": "f", "input": "s3://{bucket}/{key}", "output": output, "overwrite": overwrite});
            check(&job, "bank", batched)
        };
        assert_eq!(found("s3://out/{etag}/", false, false), Ok(()));
        assert_eq!(found("s3://out/{id}/", false, true), Ok(()));
        assert_eq!(found("s3://out/all/", true, true), Ok(()));
        assert!(found("s3://out/all/", false, false).unwrap_err().contains("job.output"));
        assert!(found("s3://out/all/", false, true).unwrap_err().contains("{id}"));
        assert!(found("s3://out/{etag}/", false, true).unwrap_err().contains("input only"));
        assert!(found("s3://out/{key}", false, false).unwrap_err().contains("ends in '/'"));
    }
}
