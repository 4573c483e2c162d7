// SPDX-License-Identifier: Apache-2.0
//! `fanfold s3 ls`: buckets, or what lies under a prefix.
//!
//! Lines go out as pages come in, so that a listing of any length needs no
//! memory and shows at once.

use fanfold_protocol::uri::ObjectUri;
use fanfold_storage::{ListEntry, ListOptions, Store};
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::place::prefix;
use crate::{
    args::View,
    error::Result,
    output::{self, Table},
};

/// Lines written at once.
const LINES_AT_ONCE: usize = 1_000;

/// Lists.
pub async fn run(store: &Store, uri: Option<&str>, recursive: bool, view: View) -> Result<()> {
    match uri {
        None | Some("s3://") => buckets(store, view).await,
        Some(text) => objects(store, &prefix(text)?, recursive, view).await,
    }
}

async fn buckets(store: &Store, view: View) -> Result<()> {
    let buckets = store.list_buckets().await?;
    let shown: Vec<_> =
        buckets.iter().map(|b| json!({ "bucket": b.name, "created": b.created.to_string() })).collect();
    output::shown(view, &shown, |_| {
        let mut table = Table::new(&["created", "bucket"]);
        buckets
            .iter()
            .for_each(|bucket| table.row([output::moment(bucket.created), format!("s3://{}/", bucket.name)]));
        table.text()
    })
}

async fn objects(store: &Store, place: &ObjectUri, recursive: bool, view: View) -> Result<()> {
    let options = if recursive { ListOptions::default() } else { ListOptions::level() };
    let mut listing = store.list(place.bucket(), place.key(), options);
    let mut found = 0_u64;
    let mut lines = Vec::new();
    let mut all = Vec::new();
    while let Some(entry) = listing.try_next().await? {
        found += 1;
        match view {
            View::Json => all.push(value(place, &entry)),
            View::Table => lines.push(line(place, &entry)),
        }
        if lines.len() == LINES_AT_ONCE && !output::data_taken(&std::mem::take(&mut lines).join("\n"))? {
            return Ok(());
        }
    }
    if view == View::Json {
        return output::json(&all);
    }
    if found == 0 {
        output::note(output::harmless(&format!("nothing lies under {place}")));
    }
    output::data(&lines.join("\n"))
}

fn line(place: &ObjectUri, entry: &ListEntry) -> String {
    match entry {
        ListEntry::Object { key, pin, last_modified } => {
            let (at, size) = (output::moment(*last_modified), output::bytes(pin.size));
            format!("{at}  {size:>10}  s3://{}/{}", place.bucket(), output::harmless(key))
        }
        ListEntry::Prefix(prefix) => format!("{:33}s3://{}/{}", "", place.bucket(), output::harmless(prefix)),
    }
}

fn value(place: &ObjectUri, entry: &ListEntry) -> Value {
    let uri = format!("s3://{}/{}", place.bucket(), entry.name());
    match entry {
        ListEntry::Object { pin, last_modified, .. } => {
            json!({ "uri": uri, "size": pin.size, "etag": pin.etag, "modified": last_modified.to_string() })
        }
        ListEntry::Prefix(_) => json!({ "prefix": uri }),
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::{time::Timestamp, uri::Pin};

    use super::*;

    #[test]
    fn lines_stand_in_columns_and_hide_no_control_characters() {
        let place: ObjectUri = "s3://bank/".parse().unwrap();
        let pin = Pin { etag: "e".into(), size: 2_048, version_id: None };
        let object = ListEntry::Object { key: "a\u{1b}[2J".into(), pin, last_modified: Timestamp(0) };
        assert_eq!(line(&place, &object), "1970-01-01 00:00:00    2.00 KiB  s3://bank/a\\u{1b}[2J");
        let quotes = ListEntry::Prefix(r#"it's "a\b"/"#.into());
        assert!(line(&place, &quotes).ends_with(r#"s3://bank/it's "a\b"/"#));
        let prefix = line(&place, &ListEntry::Prefix("a/".into()));
        assert_eq!(prefix.find("s3://"), line(&place, &object).find("s3://"));
    }
}
