// SPDX-License-Identifier: Apache-2.0
//! Records of the platform as JSON objects in the store, changed by whoever knows their entity tags.

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, uri::ObjectUri};
use fanfold_storage::{PutOptions, PutOutcome, Store};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::problem::{internal, of_store};

/// A record as stored, and its entity tag.
pub(crate) async fn read<T: DeserializeOwned>(
    store: &Store,
    uri: &ObjectUri,
) -> Result<Option<(T, String)>, Problem> {
    match store.get_with_pin(uri, None).await {
        Ok((bytes, pin)) => {
            let record =
                serde_json::from_slice(&bytes).map_err(|error| internal(format!("{uri}: {error}")))?;
            Ok(Some((record, pin.etag)))
        }
        Err(error) if error.kind() == ErrorKind::ObjectNotFound => Ok(None),
        Err(error) => Err(of_store(error)),
    }
}

/// Writes a record over the one with this tag, or where there is none.
/// False when something else is there.
pub(crate) async fn write(
    store: &Store,
    uri: &ObjectUri,
    body: Bytes,
    etag: Option<String>,
) -> Result<bool, Problem> {
    let mut options = PutOptions::typed("application/json");
    if etag.is_none() {
        let writer = Uuid::now_v7().to_string();
        let outcome = store.put_if_absent(uri, body, &writer, options).await.map_err(of_store)?;
        return Ok(matches!(outcome, PutOutcome::Created(_)));
    }
    options.if_match = etag;
    match store.put(uri, body, options).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ObjectChanged | ErrorKind::ObjectNotFound) => {
            Ok(false)
        }
        Err(error) => Err(of_store(error)),
    }
}
