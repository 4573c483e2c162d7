// SPDX-License-Identifier: Apache-2.0
//! Whether a trigger could start itself, told before it is taken.
//!
//! What a trigger starts may write under the grants of its function and the
//! output of its job; a trigger may act on all keys that begin as its filter
//! does. Where the two can meet, an edge leads from one to the other, and a
//! circle through the new trigger is refused. This is on the side of caution:
//! suffixes and the rest of a pattern are not weighed. What changes later, such
//! as grants, is met by the depth of the chain or, where removals have none, by another look. A thousand triggers, each of whose
//! functions may write in fifteen hundred places, are gone through in a moment.

use std::sync::Arc;

use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    function::{Export, Version},
    names::FunctionRef,
    trigger::TriggerDocument,
    uri::ObjectUri,
};

use super::{
    record::{Trigger, literal},
    registry::Triggers,
};
use crate::{functions::Registry, jobs, problem::is_of_a_record};

/// Refuses a target that is not there or is none, and a trigger that closes a
/// circle, unless its document allows that. One over the platform's own bucket
/// would always: whatever it starts is written down there, without a depth.
///
/// # Errors
/// `function-not-found` and its like, `export-missing`, `invalid-job`, `trigger-loop`; or the store or
/// the backbone does not answer, of the functions of other triggers as well.
pub async fn check(
    triggers: &Triggers,
    functions: &Registry,
    name: &str,
    document: &TriggerDocument,
) -> Result<(), Problem> {
    if document.bucket == triggers.system_bucket() {
        return Err(Problem::new(
            ErrorKind::TriggerLoop,
            format!(
                "expected a bucket of yours, found {}, in which the platform itself writes for whatever starts; let jobs \
                 and functions write elsewhere and name that bucket",
                document.bucket
            ),
        ));
    }
    if document.allow_loops {
        return written(functions, document).await.map(drop);
    }
    match closing(triggers, functions, name, document).await? {
        None => Ok(()),
        Some((by, place)) => Err(Problem::new(
            ErrorKind::TriggerLoop,
            format!(
                "expected that nothing started here writes what it acts on, found that {by} may write {place}; write \
                 elsewhere, narrow the filter or the grants, or set allow_loops = true"
            ),
        )),
    }
}

/// Which trigger, itself or one that it leads to, may write what it acts on, as functions are now, and where.
///
/// # Errors
/// As [`check`], but that a circle is none.
pub async fn closing(
    triggers: &Triggers,
    functions: &Registry,
    name: &str,
    document: &TriggerDocument,
) -> Result<Option<(String, ObjectUri)>, Problem> {
    let written = written(functions, document).await?;
    let others = triggers.list();
    let others = others.iter().filter(|other| other.record.name.as_str() != name);
    let mut nodes = Vec::new();
    for other in others {
        let written = or_nothing(self::written(functions, &other.record.document).await)?;
        nodes.push((Arc::clone(other), Places::new(written)));
    }
    let written = Places::new(written);
    let found = circle(&nodes, document, &written);
    Ok(found.map(|(by, place)| (by.unwrap_or(name).to_owned(), place.clone())))
}

/// Prefixes under which something may be written: in order, and none under another.
struct Places(Vec<ObjectUri>);

/// What all objects have in common that a trigger may act on.
struct Goal<'a> {
    bucket: &'a str,
    /// What their keys begin with.
    literal: &'a str,
}

impl<'a> Goal<'a> {
    fn of(document: &'a TriggerDocument) -> Self {
        Self { bucket: &document.bucket, literal: literal(document) }
    }
}

impl Places {
    fn new(mut places: Vec<ObjectUri>) -> Self {
        places.sort_unstable();
        places.dedup_by(|place, before| place.is_under(before));
        Self(places)
    }

    /// A place where something may be written that the trigger acts on. Whatever begins
    /// like its keys stands right behind these in the order, and the only place that is
    /// a beginning of them right before.
    fn meeting(&self, goal: &Goal<'_>) -> Option<&ObjectUri> {
        let reached = |place: &ObjectUri| (place.bucket(), place.key()) <= (goal.bucket, goal.literal);
        let behind = self.0.partition_point(reached);
        let beside = &self.0[behind.saturating_sub(1)..self.0.len().min(behind + 1)];
        beside.iter().find(|place| meets(place, goal))
    }
}

/// Who, of all that the document leads to, may write what it acts on, and where.
/// No name means itself.
fn circle<'a>(
    nodes: &'a [(Arc<Trigger>, Places)],
    document: &TriggerDocument,
    written: &'a Places,
) -> Option<(Option<&'a str>, &'a ObjectUri)> {
    let goal = Goal::of(document);
    let goals: Vec<Goal<'_>> = nodes.iter().map(|(node, _)| Goal::of(&node.record.document)).collect();
    let mut open: Vec<(Option<&str>, &Places)> = vec![(None, written)];
    let mut seen = vec![false; nodes.len()];
    while let Some((by, places)) = open.pop() {
        if let Some(place) = places.meeting(&goal) {
            return Some((by, place));
        }
        for (index, (node, next)) in nodes.iter().enumerate() {
            if !seen[index] && places.meeting(&goals[index]).is_some() {
                seen[index] = true;
                open.push((Some(node.record.name.as_str()), next));
            }
        }
    }
    None
}

/// Whether something written under this prefix may be what the trigger acts on.
fn meets(place: &ObjectUri, goal: &Goal<'_>) -> bool {
    place.bucket() == goal.bucket
        && (place.key().starts_with(goal.literal) || goal.literal.starts_with(place.key()))
}

/// The prefixes under which what the trigger starts may write.
async fn written(functions: &Registry, document: &TriggerDocument) -> Result<Vec<ObjectUri>, Problem> {
    if let Some(function) = &document.function {
        return granted(functions, function, |version| version.require(Export::Handler)).await;
    }
    let job = document.job.clone().unwrap_or_default();
    let function: FunctionRef = job["function"].as_str().unwrap_or_default().parse()?;
    let mut written = granted(functions, &function, |version| jobs::shape(version).map(drop)).await?;
    if let Some(output) = job["output"].as_str() {
        let output = output.replace("{bucket}", &document.bucket);
        written.push(output.split('{').next().unwrap_or_default().parse()?);
    }
    Ok(written)
}

/// What the version that is started may write by itself, and what a canary beside it may that can be
/// started as well.
async fn granted(
    functions: &Registry,
    function: &FunctionRef,
    fits: fn(&Version) -> Result<(), Problem>,
) -> Result<Vec<ObjectUri>, Problem> {
    let (version, canary) = functions.named(function).await?;
    fits(&version)?;
    let mut written = version.settings.grants.write.clone();
    if let Some(canary) = canary.filter(|canary| fits(canary).is_ok()) {
        written.extend(canary.settings.grants.write.iter().cloned());
    }
    Ok(written)
}

/// What another trigger writes: nothing where its function is gone, or has a record that nobody
/// can read. Where it cannot be asked for now, nobody knows.
fn or_nothing(written: Result<Vec<ObjectUri>, Problem>) -> Result<Vec<ObjectUri>, Problem> {
    match written {
        Err(problem) if problem.code.fault() != Fault::Platform || is_of_a_record(&problem) => Ok(Vec::new()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::record::tests::trigger, *};

    fn document(bucket: &str, prefix: &str) -> TriggerDocument {
        serde_json::from_value(json!({"bucket": bucket, "prefix": prefix, "function": "f"})).unwrap()
    }

    fn places(texts: &[&str]) -> Places {
        Places::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_prefix_meets_what_begins_alike() {
        let check = |place: &str, prefix: &str, expected| {
            let (place, document) = (place.parse().unwrap(), document("bank", prefix));
            assert_eq!(meets(&place, &Goal::of(&document)), expected, "{place} {prefix}");
        };
        check("s3://bank/in/", "in/", true);
        check("s3://bank/", "in/", true);
        check("s3://bank/in/done/", "in/", true);
        check("s3://bank/out/", "in/", false);
        check("s3://other/in/", "in/", false);
        check("s3://bank/out/", "", true);
        check("s3://bank/in-2/", "in/", false);
    }

    #[test]
    fn a_store_that_does_not_answer_is_no_function_that_writes_nothing() {
        let check = |kind: ErrorKind, expected: Option<ErrorKind>| {
            let found = or_nothing(Err(Problem::new(kind, "x")));
            assert_eq!(found.err().map(|problem| problem.code), expected, "{kind}");
        };
        check(ErrorKind::FunctionNotFound, None);
        check(ErrorKind::ExportMissing, None);
        check(ErrorKind::Internal, None);
        for kind in [ErrorKind::StoreUnavailable, ErrorKind::StoreDenied, ErrorKind::BackboneUnavailable] {
            check(kind, Some(kind));
        }
        let written: Vec<ObjectUri> = vec!["s3://bank/in/".parse().unwrap()];
        assert_eq!(or_nothing(Ok(written.clone())), Ok(written));
    }

    #[test]
    fn circles_over_several_triggers_are_found() {
        let node = |name: &str, prefix: &str, writes: &str| {
            let trigger = trigger(name, json!({"bucket": "bank", "prefix": prefix, "function": "f"}));
            (Arc::new(trigger), places(&[writes]))
        };
        let nodes = [node("b", "b/", "s3://bank/c/"), node("c", "c/", "s3://bank/a/")];
        let first = document("bank", "a/");
        let b = places(&["s3://bank/b/"]);
        assert_eq!(circle(&nodes, &first, &b).map(|(by, _)| by), Some(Some("c")));
        let out = places(&["s3://bank/out/"]);
        assert_eq!(circle(&nodes, &first, &out), None);
        assert_eq!(circle(&nodes[..1], &first, &b), None);
        // Among many places the one that matters is found.
        let many: Vec<String> = (0..1_500).map(|n| format!("s3://bank/out/{n}/")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["s3://bank/b/x/"]).collect();
        assert_eq!(circle(&nodes, &first, &places(&many)).map(|(by, _)| by), Some(Some("c")));
        // A circle among others alone is not this trigger's.
        let others = [node("b", "b/", "s3://bank/c/"), node("c", "c/", "s3://bank/b/")];
        assert_eq!(circle(&others, &first, &b), None);
    }

    proptest! {
        #[test]
        fn a_meeting_is_found_wherever_there_is_one(
            all in prop::collection::vec(("bank|dam", "[ab/]{0,4}"), 0..8),
            prefix in "[ab/]{0,4}",
        ) {
            let all: Vec<ObjectUri> = all.into_iter().map(|(b, key)| ObjectUri::new(b, key).unwrap()).collect();
            let document = document("bank", &prefix);
            let goal = Goal::of(&document);
            let expected = all.iter().any(|place| meets(place, &goal));
            let places = Places::new(all);
            let found = places.meeting(&goal);
            prop_assert_eq!(found.is_some(), expected);
            prop_assert!(found.is_none_or(|place| meets(place, &goal)));
        }
    }
}
