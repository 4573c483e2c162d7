// SPDX-License-Identifier: Apache-2.0
//! `fanfold:function/objects`: objects as bytes, within the grants.
//!
//! Grants compare the bytes of keys. Invariant: an opened object is read in
//! the state that it had when it was opened, or not at all. Calls are
//! synchronous for the guest, so it has one read in flight at most.

use fanfold_protocol::{ErrorKind, Problem, limits, size::ByteSize, uri::ObjectUri};
use fanfold_storage::{ListEntry, ListOptions, Pin, PutOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use wasmtime::component::Resource;

use super::{Host, Refusal, store_problem};
use crate::bindings::handler::fanfold::function::objects;

/// An object that a guest has opened.
#[derive(Debug)]
pub struct Object {
    uri: ObjectUri,
    pin: Pin,
}

impl objects::HostObject for Host {
    async fn info(&mut self, object: Resource<Object>) -> wasmtime::Result<objects::Info> {
        let object = self.table.get(&object)?;
        Ok(info(object.uri.to_string(), &object.pin))
    }

    async fn read(&mut self, object: Resource<Object>, offset: u64, length: u32) -> Result<Vec<u8>, Refusal> {
        check_transfer(u64::from(length), limits::RANGE_BYTES_MAX)?;
        let Object { uri, pin } = self.table.get(&object)?;
        let (uri, pin) = (uri.clone(), pin.clone());
        let start = offset.min(pin.size);
        let range = start..offset.saturating_add(u64::from(length)).min(pin.size);
        let store = self.store();
        let read = async move { store.get_range(&uri, &pin, range).await.map_err(|e| store_problem(&e)) };
        Ok(self.run(read).await?.into())
    }

    async fn drop(&mut self, object: Resource<Object>) -> wasmtime::Result<()> {
        self.table.delete(object)?;
        Ok(())
    }
}

impl objects::Host for Host {
    async fn open(&mut self, uri: String) -> Result<Resource<Object>, Refusal> {
        let uri = ObjectUri::of_object(&uri)?;
        self.check_read(&uri)?;
        let store = self.store();
        let head = async move {
            let pin = store.head(&uri).await.map_err(|e| store_problem(&e))?.pin;
            Ok(Object { uri, pin })
        };
        let object = self.run(head).await?;
        Ok(self.table.push(object)?)
    }

    async fn write(&mut self, uri: String, content_type: String, content: Vec<u8>) -> Result<(), Refusal> {
        let uri = ObjectUri::of_object(&uri)?;
        self.check_write(&uri)?;
        check_transfer(content.len() as u64, limits::TRANSFER_BYTES_MAX)?;
        check_content_type(&content_type)?;
        let mut options =
            if content_type.is_empty() { PutOptions::default() } else { PutOptions::typed(content_type) };
        options.mark_depth(self.call.depth);
        let store = self.store();
        let put =
            async move { store.put(&uri, content.into(), options).await.map_err(|e| store_problem(&e)) };
        self.run(put).await?;
        Ok(())
    }

    async fn list_objects(
        &mut self,
        prefix: String,
        after: Option<String>,
    ) -> Result<Vec<objects::Info>, Refusal> {
        let prefix: ObjectUri = prefix.parse()?;
        self.check_read(&prefix)?;
        let start_after = after.map(|after| key_within(&after, &prefix)).transpose()?;
        let options = ListOptions {
            start_after,
            page_keys: i32::try_from(limits::LIST_PAGE_MAX).ok(),
            ..ListOptions::default()
        };
        let store = self.store();
        let list = async move {
            let entries = store.list(prefix.bucket(), prefix.key(), options).take(limits::LIST_PAGE_MAX);
            let entries: Vec<_> = entries.try_collect().await.map_err(|e| store_problem(&e))?;
            let bucket = prefix.bucket();
            Ok(entries.into_iter().filter_map(|entry| listed(bucket, entry)).collect())
        };
        self.run(list).await
    }

    async fn remove(&mut self, uri: String) -> Result<(), Refusal> {
        let uri = ObjectUri::of_object(&uri)?;
        self.check_write(&uri)?;
        let store = self.store();
        self.run(async move { store.delete(&uri).await.map_err(|e| store_problem(&e)) }).await
    }
}

fn info(uri: String, pin: &Pin) -> objects::Info {
    objects::Info { uri, size: pin.size, etag: pin.etag.clone() }
}

fn listed(bucket: &str, entry: ListEntry) -> Option<objects::Info> {
    match entry {
        ListEntry::Object { key, pin, .. } => Some(info(format!("s3://{bucket}/{key}"), &pin)),
        ListEntry::Prefix(_) => None,
    }
}

/// The key to list after. It only moves the start, so it needs no grant.
fn key_within(after: &str, prefix: &ObjectUri) -> Result<String, Problem> {
    let after: ObjectUri = after.parse()?;
    if after.bucket() == prefix.bucket() {
        return Ok(after.key().to_owned());
    }
    Err(Problem::new(
        ErrorKind::InvalidRequest,
        format!("a listing goes on after an object of its own bucket {}, found {after}", prefix.bucket()),
    ))
}

fn check_transfer(bytes: u64, bytes_max: u64) -> Result<(), Problem> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::TransferTooLarge,
        format!("a host call moves at most {}, found {bytes} bytes; take several calls", ByteSize(bytes_max)),
    ))
}

/// It becomes a header of a request to the store.
fn check_content_type(text: &str) -> Result<(), Problem> {
    if text.len() <= 255 && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Ok(());
    }
    let found: String = text.chars().take(80).collect();
    Err(Problem::new(
        ErrorKind::InvalidRequest,
        format!("a content type must be at most 255 visible ASCII characters, found {found:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_fit_a_header() {
        assert_eq!(check_content_type("application/json; charset=utf-8"), Ok(()));
        assert_eq!(check_content_type(""), Ok(()));
        for bad in ["a\r\nb: c", "ä", "\0", &"x".repeat(256)] {
            assert_eq!(check_content_type(bad).unwrap_err().code, ErrorKind::InvalidRequest);
        }
    }

    #[test]
    fn a_listing_stays_in_its_bucket() {
        let prefix = "s3://bank/a/".parse().unwrap();
        assert_eq!(key_within("s3://bank/a/b", &prefix).as_deref(), Ok("a/b"));
        assert!(key_within("s3://other/a/b", &prefix).is_err());
    }
}
