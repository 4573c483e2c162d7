// SPDX-License-Identifier: Apache-2.0
//! Removing what attempts staged and no manifest names.
//!
//! Runs when a job ends, under the job's claim on its output prefix: parts there
//! that are in no manifest belong to losers. Only names that an attempt gives
//! are touched, and only objects that are not older than the job.

use std::{collections::HashSet, time::Duration};

use fanfold_protocol::{keys, time::Timestamp, uri::ObjectUri};
use fanfold_storage::{ListEntry, ListOptions};
use futures::TryStreamExt;
use uuid::Uuid;

use super::{error::Result, vault::Vault};

/// How far the store's clock may be behind ours.
const SKEW_MAX: Duration = Duration::from_secs(3_600);

/// Removes the states and answers that attempts staged.
pub async fn staged(vault: &Vault, id: &Uuid) -> Result<usize> {
    vault.clear(&format!("{}staged/", keys::job(id))).await
}

/// Removes the tables under `output` that attempts staged since `submitted`,
/// except those of the manifest.
pub async fn losers(
    vault: &Vault,
    output: &ObjectUri,
    keep: &HashSet<String>,
    submitted: Timestamp,
) -> Result<usize> {
    let oldest = Timestamp(submitted.0.saturating_sub(u64::try_from(SKEW_MAX.as_millis()).unwrap_or(0)));
    let listing =
        vault.store().list(output.bucket(), &format!("{}part-", output.key()), ListOptions::default());
    let mut listing = std::pin::pin!(listing);
    let mut losers = Vec::new();
    while let Some(entry) = listing.try_next().await? {
        let ListEntry::Object { key, last_modified, .. } = entry else { continue };
        let name = &key[output.key().len().min(key.len())..];
        if is_part(name) && last_modified >= oldest && !keep.contains(&key) {
            losers.push(key);
        }
    }
    let count = losers.len();
    if count > 0 {
        vault.store().delete_many(output.bucket(), losers).await?;
    }
    Ok(count)
}

/// Whether a name is one that [`keys::output_part`] makes.
fn is_part(name: &str) -> bool {
    let read = || {
        let (task, rest) = name.strip_prefix("part-")?.split_at_checked(7)?;
        let (attempt, extension) = rest.strip_prefix('-')?.split_at_checked(36)?;
        let task: u32 = task.parse().ok()?;
        let attempt: Uuid = attempt.parse().ok()?;
        Some(
            keys::output_part(task, &attempt, extension.strip_prefix('.')?) == name
                && !extension.contains('/'),
        )
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_attempts_are_parts() {
        let name = keys::output_part(12, &Uuid::from_u128(7), "parquet");
        assert!(is_part(&name), "{name}");
        for other in [
            "part-0000012.parquet",
            "part-0000012-x.parquet",
            "_manifest.json",
            "part-",
            &format!("{name}/x"),
        ] {
            assert!(!is_part(other), "{other}");
        }
    }
}
