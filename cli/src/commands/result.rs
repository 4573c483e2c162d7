// SPDX-License-Identifier: Apache-2.0
//! `fanfold result`: what a job came to.
//!
//! Of an aggregate the answer, of a map the manifest of its tables. As a table,
//! as JSON, or as the page with the charts drawn that the service makes. As JSON an
//! answer is what its function wrote, to the last digit. Files appear whole.

use std::path::Path;

use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::job;
use crate::{
    args::{ResultOf, View},
    client::{Client, JobView},
    error::{Error, Result},
    indent::indented,
    output::{self, Table},
    report, whole,
};

/// What stands for standard output, as in `fanfold s3 cp`.
const STREAM: &str = "-";

/// A job's result and the job.
struct Found {
    job: JobView,
    json: Box<RawValue>,
}

/// Prints or saves.
pub async fn run(client: &Client, args: &ResultOf) -> Result<()> {
    let text = match args.html {
        true => page(client, args.id).await?,
        false => {
            let found = find(client, args.id).await?;
            match (args.shown.view, &args.out) {
                (_, Some(_)) => indented(found.json.get()),
                (View::Json, None) => return output::json_text(found.json.get()),
                (View::Table, None) => return output::data(&table(&found)?),
            }
        }
    };
    match args.out.as_deref().filter(|path| path.as_os_str() != STREAM) {
        None => output::data(&text),
        Some(path) => {
            save(path, &text)?;
            output::note(format!("wrote {} ({})", path.display(), output::bytes(text.len() as u64)));
            Ok(())
        }
    }
}

/// Prints a job's result for people.
pub async fn print(client: &Client, id: Uuid) -> Result<()> {
    output::data(&table(&find(client, id).await?)?)
}

/// The page that the service makes of it.
async fn page(client: &Client, id: Uuid) -> Result<String> {
    succeeded(client, id).await?;
    client.text(&format!("/v1/jobs/{id}/report")).await
}

async fn find(client: &Client, id: Uuid) -> Result<Found> {
    let job = succeeded(client, id).await?;
    let what = if job.gives_tables() { "manifest" } else { "result" };
    let json = client.get(&format!("/v1/jobs/{id}/{what}"), &[]).await?;
    Ok(Found { job, json })
}

async fn succeeded(client: &Client, id: Uuid) -> Result<JobView> {
    let job = job::state(client, id).await.map_err(|error| match error.code() {
        Some("job-not-found") => error.help(format!("of a call it is: fanfold invocations result {id}")),
        _ => error,
    })?;
    job::require_success(&job)?;
    for warning in &job.warnings {
        output::note(format!("warning: {warning}"));
    }
    Ok(job)
}

fn table(found: &Found) -> Result<String> {
    let value: Value = serde_json::from_str(found.json.get())?;
    Ok(if found.job.gives_tables() { tables(&value) } else { report::text(&value, found.job.id) })
}

/// What a manifest names.
fn tables(manifest: &Value) -> String {
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

fn save(path: &Path, text: &str) -> Result<()> {
    whole::write(path, text.as_bytes()).map_err(|cause| {
        Error::usage(format!("expected to write {}, found: {cause}; choose another place", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Exit;

    fn found(shape: &str, value: &Value) -> Found {
        let job = json!({"id": Uuid::nil(), "function": "f", "version": 1, "shape": shape, "state": "succeeded", "submitted_at": 0});
        let json = serde_json::value::to_raw_value(value).unwrap();
        Found { job: serde_json::from_value(job).unwrap(), json }
    }

    #[test]
    fn maps_show_their_manifest() {
        let manifest = json!({"rows": 3_000, "bytes": 2_048, "objects": [{"uri": "s3://b/p", "rows": 3_000, "size": 2_048, "etag": "e"}]});
        let text = table(&found("map", &manifest)).unwrap();
        assert!(text.contains("s3://b/p  3,000  2.00 KiB"), "{text}");
    }

    #[test]
    fn aggregates_show_their_answer() {
        let found = found("aggregate", &json!({"title": "Credit report", "auc": 0.83}));
        assert!(table(&found).unwrap().contains("auc    0.83"));
    }

    #[test]
    fn files_appear_whole() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("r.json"), "{}").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for wrong in [dir.path().to_owned(), dir.path().join("no/r.json"), dir.path().join("r.json/r.json")] {
            let error = save(&wrong, "{}").unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{error}");
            assert!(error.to_string().contains("choose another place"), "{error}");
        }
    }
}
