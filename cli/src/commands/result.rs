// SPDX-License-Identifier: Apache-2.0
//! `fanfold result`: what a job came to.
//!
//! Of an aggregate the answer, of a map the manifest of its tables. As a table,
//! as JSON, or as a page with the charts drawn. Files appear whole.

use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use super::job;
use crate::{
    args::{ResultOf, View},
    client::{Client, JobView},
    error::{Error, Result},
    output::{self, Table},
    report,
};

/// A job's result and the job.
struct Found {
    job: JobView,
    value: Value,
}

/// Prints or saves.
pub async fn run(client: &Client, args: &ResultOf) -> Result<()> {
    let found = find(client, args.id).await?;
    let text = match (args.html, args.shown.view, &args.out) {
        (true, ..) => page(&found),
        (false, _, Some(_)) => serde_json::to_string_pretty(&found.value)?,
        (false, View::Json, None) => return output::json(&found.value),
        (false, View::Table, None) => return output::data(&table(&found)),
    };
    match &args.out {
        None => output::data(&text),
        Some(path) => {
            save(path, &text)?;
            output::note(format!("wrote {} ({})", path.display(), output::bytes(text.len() as u64)));
            Ok(())
        }
    }
}

/// Prints a job's result.
pub async fn print(client: &Client, id: Uuid, view: View) -> Result<()> {
    let found = find(client, id).await?;
    output::shown(view, &found.value, |_| table(&found))
}

async fn find(client: &Client, id: Uuid) -> Result<Found> {
    let job = job::state(client, id).await?;
    job::require_success(&job)?;
    for warning in &job.warnings {
        output::note(format!("warning: {warning}"));
    }
    let what = if job.gives_tables() { "manifest" } else { "result" };
    let value = client.get(&format!("/v1/jobs/{id}/{what}"), &[]).await?;
    Ok(Found { job, value })
}

fn table(found: &Found) -> String {
    if !found.job.gives_tables() {
        return report::text(&found.value);
    }
    let manifest = &found.value;
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut table = Table::new(&["object", ">rows", ">size"]);
    for object in manifest["objects"].as_array().map(Vec::as_slice).unwrap_or_default() {
        table.row([
            object["uri"].as_str().unwrap_or_default().to_owned(),
            output::count(number(&object["rows"])),
            output::bytes(number(&object["size"])),
        ]);
    }
    for shard in manifest["shards"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let (count, uri) =
            (output::count(number(&shard["objects"])), shard["uri"].as_str().unwrap_or_default());
        table.row([format!("{count} objects, named in {uri}"), String::new(), String::new()]);
    }
    let (rows, size) = (output::count(number(&manifest["rows"])), output::bytes(number(&manifest["bytes"])));
    table.row(["all".to_owned(), rows, size]);
    table.text()
}

fn page(found: &Found) -> String {
    let job = &found.job;
    let facts = report::Facts {
        title: found.value["title"].as_str().unwrap_or(&job.function).to_owned(),
        pairs: vec![
            ("Function".to_owned(), format!("{} (version {})", job.function, job.version)),
            ("Job".to_owned(), job.id.to_string()),
            ("Submitted".to_owned(), format!("{} UTC", output::moment(job.submitted_at))),
            ("Took".to_owned(), output::span_ms(job.receipt.elapsed_ms)),
            ("Rows read".to_owned(), output::count(job.receipt.rows_in)),
            ("Tasks".to_owned(), output::count(job.tasks.total)),
            ("Result".to_owned(), job.result_uri.clone().or(job.manifest.clone()).unwrap_or_default()),
        ],
    };
    match job.gives_tables() {
        true => report::html(&facts, &json!({ "objects": found.value["objects"] })),
        false => report::html(&facts, &found.value),
    }
}

fn save(path: &Path, text: &str) -> Result<()> {
    let failed = |cause: std::io::Error| {
        Error::failed(format!("expected to write {}, found: {cause}", path.display()))
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.part", std::process::id()));
    let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        // What is told is why the write failed, whatever becomes of the rest.
        let _ = std::fs::remove_file(&draft);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(shape: &str, value: Value) -> Found {
        let job = json!({"id": Uuid::nil(), "function": "f", "version": 1, "shape": shape, "state": "succeeded", "submitted_at": 0});
        Found { job: serde_json::from_value(job).unwrap(), value }
    }

    #[test]
    fn maps_show_their_manifest() {
        let manifest = json!({"rows": 3_000, "bytes": 2_048, "objects": [{"uri": "s3://b/p", "rows": 3_000, "size": 2_048, "etag": "e"}]});
        let text = table(&found("map", manifest.clone()));
        assert!(text.contains("s3://b/p  3,000  2.00 KiB"), "{text}");
        assert!(page(&found("map", manifest)).contains("s3://b/p"));
    }

    #[test]
    fn aggregates_show_their_answer() {
        let found = found("aggregate", json!({"title": "Credit report", "auc": 0.83}));
        assert!(table(&found).contains("auc    0.83"));
        assert!(page(&found).contains("<h1>Credit report</h1>"));
    }

    #[test]
    fn files_appear_whole() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("r.json"), "{}").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(save(&dir.path().join("no/r.json"), "{}").is_err());
    }
}
