// SPDX-License-Identifier: Apache-2.0
//! The dead letters of a job: its tasks that failed for good, one a line.
//!
//! They may be a million, with 4 KiB of words and many objects each, so they are written as they
//! are read: a few are held, and of the object a few parts. Invariant: they are complete before
//! anything points at them, and whoever wrote them first stays.

use fanfold_protocol::{
    commit::{DeadLetter, MANIFEST_FAILED_MAX},
    keys,
    plan::Plan,
};
use fanfold_storage::{Error::NotFound, MultipartWriter, PutOptions};

use crate::jobs::{
    error::{Error, Result},
    failures::Problems,
    manifest::Failed,
    plan::Shards,
    progress::slots::Failure,
    vault::Vault,
};

/// Letters that are read at once.
const LETTERS_AT_ONCE: usize = 1_000;
/// Bytes of letters that are one put. More are written in parts, a part for each so many.
const PUT_BYTES_MAX: usize = 8 << 20;

const CONTENT_TYPE: &str = "application/jsonl";

/// Writes down the tasks of a job that failed for good; answers what its manifest says of them.
pub async fn bury(vault: &Vault, plan: &Plan, mut dead: &[Failure]) -> Result<Failed> {
    let (key, mut failed) = (keys::dead_letters(&plan.job), Failed::default());
    // Whoever ends a job again, after a failure of the store say, reads no more of many than its
    // manifest says; what is one more tells that there are more.
    let is_written = dead.len() > MANIFEST_FAILED_MAX && is_there(vault, &key).await?;
    if is_written {
        dead = dead.get(..=MANIFEST_FAILED_MAX).unwrap_or(dead);
    }
    let mut shards = Shards::new(vault.clone(), plan);
    let (mut body, mut parts) = (Vec::new(), None::<MultipartWriter>);
    for some in dead.chunks(LETTERS_AT_ONCE) {
        let places = some.iter().map(Failure::place).collect();
        let mut problems = Problems::read(vault, &plan.job, places).await?;
        for failure in some {
            let Failure { stage, task, attempts, .. } = *failure;
            let slices = if stage == 0 { shards.partition(task).await?.slices } else { Vec::new() };
            let input = slices.into_iter().map(|slice| slice.object.uri).collect();
            let letter = DeadLetter { stage, task, input, attempts, problem: problems.of(failure) };
            if !is_written {
                serde_json::to_writer(&mut body, &letter).map_err(|e| Error::damaged(&key, e))?;
                body.push(b'\n');
            }
            failed.note(letter);
            if body.len() >= PUT_BYTES_MAX {
                let uri = vault.uri(&key)?;
                let begin = || vault.store().writer(&uri, PutOptions::typed(CONTENT_TYPE));
                parts.get_or_insert_with(begin).write(std::mem::take(&mut body).into()).await?;
            }
        }
    }
    match parts {
        Some(mut parts) => {
            parts.write(body.into()).await?;
            finish(vault, &key, parts).await?;
        }
        None if body.is_empty() => {}
        None => {
            vault.write_bytes_once(&key, body.into(), CONTENT_TYPE).await?;
        }
    }
    Ok(failed)
}

/// Makes an object in parts visible, unless one is there.
async fn finish(vault: &Vault, key: &str, parts: MultipartWriter) -> Result<()> {
    if !is_there(vault, key).await? {
        parts.finish().await?;
        return Ok(());
    }
    // The letters are there, so that the job ends whatever becomes of these; the sweep tries again.
    if let Err(error) = parts.abort().await {
        tracing::warn!(key, %error, "dead letters that came too late stay behind as an open upload");
    }
    Ok(())
}

async fn is_there(vault: &Vault, key: &str) -> Result<bool> {
    match vault.store().head(&vault.uri(key)?).await {
        Ok(_) => Ok(true),
        Err(NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "letters_tests.rs"]
mod tests;
