// SPDX-License-Identifier: Apache-2.0
//! What the ending of a job has left, for whoever takes it up or shows it later.

use fanfold_protocol::{
    answer::Answer,
    commit::{ANSWER_INLINE_BYTES_MAX, MANIFEST_NAME, RESULT_NAME},
    keys,
    uri::ObjectUri,
};
use uuid::Uuid;

use crate::jobs::{error::Result, reuse::kept, vault::Vault};

/// The manifest of a job and its answer, where it has one, when they have been published and are
/// still there.
pub async fn published(
    vault: &Vault,
    id: &Uuid,
    output: &ObjectUri,
) -> Result<Option<(ObjectUri, Option<ObjectUri>)>> {
    if kept::manifest_head(vault, output).await?.is_none_or(|head| head.job != *id) {
        return Ok(None);
    }
    let answer = match vault.store().head(&vault.uri(&keys::result(id))?).await {
        Ok(_) => Some(output.join(RESULT_NAME)?),
        Err(fanfold_storage::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Some((output.join(MANIFEST_NAME)?, answer)))
}

/// The result of a job that has ended, when it is small enough for a record.
pub async fn small_result(vault: &Vault, id: &Uuid) -> Result<Option<Answer>> {
    let uri = vault.uri(&keys::result(id))?;
    match vault.store().head(&uri).await {
        Ok(meta) if meta.pin.size <= ANSWER_INLINE_BYTES_MAX as u64 => vault.read(&keys::result(id)).await,
        Ok(_) | Err(fanfold_storage::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
