// SPDX-License-Identifier: Apache-2.0
//! What the ending of a job has left, for whoever takes it up or shows it later.

use fanfold_protocol::{
    commit::{MANIFEST_NAME, RESULT_NAME},
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
