// SPDX-License-Identifier: Apache-2.0
//! Writing objects of unknown size: one put when small, parts in parallel when not.
//!
//! Nothing is visible until [`MultipartWriter::finish`] returns; a writer that
//! is dropped or aborted leaves no object, and its parts are removed as far as
//! the store can be reached.

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::task::JoinSet;

use super::{
    Error, ObjectUri, Pin, PutOptions, Result, Store, WRITER_METADATA, bare_etag, error::Target, quoted_etag,
    read::version,
};

/// Size of the first parts, and the bound under which one put is enough.
const PART_BYTES: usize = 8 << 20;
/// After this many parts the next are larger, so that 10,000 parts (S3's bound)
/// reach 440 GiB.
const PARTS_PER_SIZE: i32 = 1_000;
/// Parts in flight; with the one being filled, the writer's memory.
const PARALLEL: usize = 4;

/// Writes one object piece by piece. Made by [`Store::writer`].
#[derive(Debug)]
pub struct MultipartWriter {
    store: Store,
    uri: ObjectUri,
    options: PutOptions,
    buffer: BytesMut,
    /// The open upload, once there is one.
    upload: Option<String>,
    /// Names this writer in the object's metadata, see [`WRITER_METADATA`].
    writer: String,
    flying: JoinSet<Result<CompletedPart>>,
    parts: Vec<CompletedPart>,
    next_part: i32,
    size: u64,
}

impl Store {
    /// A writer of one object. `if_match` of the options is checked at the end.
    pub fn writer(&self, uri: &ObjectUri, options: PutOptions) -> MultipartWriter {
        MultipartWriter {
            store: self.clone(),
            uri: uri.clone(),
            options,
            buffer: BytesMut::new(),
            upload: None,
            writer: uuid::Uuid::new_v4().simple().to_string(),
            flying: JoinSet::new(),
            parts: Vec::new(),
            next_part: 1,
            size: 0,
        }
    }
}

impl MultipartWriter {
    /// Adds bytes. Waits while too many parts are in flight; an error is that of
    /// an earlier part as often as not, and the writer is then of no more use.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = part_bytes(self.next_part) - self.buffer.len();
            self.buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.buffer.len() >= part_bytes(self.next_part) {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether there is anything in the store that giving it up would remove.
    pub fn has_begun(&self) -> bool {
        self.upload.is_some()
    }

    /// Makes the object visible and returns its pin.
    pub async fn finish(mut self) -> Result<Pin> {
        if self.upload.is_none() {
            let body = std::mem::take(&mut self.buffer).freeze();
            let options = std::mem::take(&mut self.options);
            return self.store.put(&self.uri, body, options).await;
        }
        if !self.buffer.is_empty() {
            self.send_part().await?;
        }
        while let Some(part) = self.flying.join_next().await {
            self.keep(part)?;
        }
        self.parts.sort_by_key(CompletedPart::part_number);
        let pin = self.complete().await?;
        self.upload = None;
        Ok(pin)
    }

    /// Gives the object up and removes what was uploaded.
    pub async fn abort(mut self) -> Result<()> {
        self.flying.shutdown().await;
        match self.upload.take() {
            Some(id) => abort(&self.store, &self.uri, &id).await,
            None => Ok(()),
        }
    }

    async fn send_part(&mut self) -> Result<()> {
        let id = self.open().await?;
        while self.flying.len() >= PARALLEL {
            if let Some(part) = self.flying.join_next().await {
                self.keep(part)?;
            }
        }
        let (store, uri, number) = (self.store.clone(), self.uri.clone(), self.next_part);
        let body = std::mem::take(&mut self.buffer).freeze();
        self.next_part += 1;
        self.flying.spawn(async move { upload_part(&store, &uri, &id, number, body).await });
        Ok(())
    }

    fn keep(&mut self, part: Result<Result<CompletedPart>, tokio::task::JoinError>) -> Result<()> {
        let stopped = |e: tokio::task::JoinError| Error::Unavailable {
            target: self.uri.to_string(),
            detail: format!("the upload of a part was stopped: {e}"),
        };
        self.parts.push(part.map_err(stopped)??);
        Ok(())
    }

    async fn open(&mut self) -> Result<String> {
        if let Some(id) = &self.upload {
            return Ok(id.clone());
        }
        let mut metadata = self.options.metadata.clone();
        metadata.insert(WRITER_METADATA.to_owned(), self.writer.clone());
        let request = self
            .store
            .client_of(self.uri.bucket())?
            .create_multipart_upload()
            .bucket(self.uri.bucket())
            .key(self.uri.key())
            .set_content_type(self.options.content_type.clone())
            .set_metadata(Some(metadata.into_iter().collect()));
        let answer = request.send().boxed().await.map_err(|e| Target::Object(&self.uri).error(e))?;
        let id = answer.upload_id().ok_or_else(|| Error::protocol(&self.uri, "no upload id"))?.to_owned();
        self.upload = Some(id.clone());
        Ok(id)
    }

    async fn complete(&self) -> Result<Pin> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.parts.clone())).build();
        let request = self
            .store
            .client_of(self.uri.bucket())?
            .complete_multipart_upload()
            .bucket(self.uri.bucket())
            .key(self.uri.key())
            .set_upload_id(self.upload.clone())
            .set_if_match(self.options.if_match.as_deref().map(quoted_etag))
            .multipart_upload(parts)
            .customize()
            .config_override(self.store.config().patient());
        match request.send().boxed().await.map_err(|e| Target::Object(&self.uri).error(e)) {
            Ok(answer) => {
                let etag = answer.e_tag().ok_or_else(|| Error::protocol(&self.uri, "no ETag"))?;
                Ok(Pin { etag: bare_etag(etag), size: self.size, version_id: version(answer.version_id()) })
            }
            // The answer to an earlier try may have been lost: is the object ours?
            Err(
                error @ (Error::Other { .. }
                | Error::NotFound { .. }
                | Error::Conflict { .. }
                | Error::Unavailable { .. }),
            ) => self.recognise().await.ok_or(error),
            Err(error) => Err(error),
        }
    }

    async fn recognise(&self) -> Option<Pin> {
        let meta = self.store.head(&self.uri).await.ok()?;
        let ours = meta.user_metadata.get(WRITER_METADATA).is_some_and(|w| *w == self.writer);
        (ours && meta.pin.size == self.size).then_some(meta.pin)
    }
}

impl Drop for MultipartWriter {
    /// Removes the parts in the background when a runtime is there to do it.
    fn drop(&mut self) {
        let Some(id) = self.upload.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (store, uri) = (self.store.clone(), self.uri.clone());
        let mut flying = std::mem::take(&mut self.flying);
        let removals = self.store.inner.removals.clone();
        let removal = async move {
            flying.shutdown().await;
            if let Err(error) = abort(&store, &uri, &id).await {
                tracing::warn!(%uri, %error, "an abandoned upload could not be removed");
            }
        };
        removals.spawn_on(removal, &runtime);
    }
}

async fn upload_part(
    store: &Store,
    uri: &ObjectUri,
    id: &str,
    number: i32,
    body: Bytes,
) -> Result<CompletedPart> {
    let length = body.len();
    let request = store
        .client_of(uri.bucket())?
        .upload_part()
        .bucket(uri.bucket())
        .key(uri.key())
        .upload_id(id)
        .part_number(number)
        .body(ByteStream::from(body))
        .customize()
        .config_override(store.sending(length));
    let answer = request.send().boxed().await.map_err(|e| Target::Object(uri).error(e))?;
    let etag = answer.e_tag().ok_or_else(|| Error::protocol(uri, "no ETag of a part"))?;
    store.meter.written(length);
    Ok(CompletedPart::builder().part_number(number).e_tag(etag).build())
}

pub(super) async fn abort(store: &Store, uri: &ObjectUri, id: &str) -> Result<()> {
    let request = store
        .client_of(uri.bucket())?
        .abort_multipart_upload()
        .bucket(uri.bucket())
        .key(uri.key())
        .upload_id(id);
    match request.send().boxed().await.map_err(|e| Target::Object(uri).error(e)) {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(Error::Other { code, .. }) if code == "NoSuchUpload" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Bytes of the part with this number, from 1.
fn part_bytes(number: i32) -> usize {
    PART_BYTES * usize::try_from(1 + (number - 1) / PARTS_PER_SIZE).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_so_that_large_objects_fit() {
        let total: usize = (1..=10_000).map(part_bytes).sum();
        assert_eq!(part_bytes(1), 8 << 20);
        assert_eq!(part_bytes(1_001), 16 << 20);
        assert!(total >= 400 << 30, "{total}");
    }
}
