// SPDX-License-Identifier: Apache-2.0
//! Writing objects of unknown size: one put when small, parts in parallel when not.
//!
//! Nothing is visible until [`MultipartWriter::finish`] returns; a writer that
//! is dropped or aborted leaves no object, and its parts are removed as far as
//! the store can be reached. Invariant: all parts of an upload but the last are
//! of one size, since some stores (Cloudflare R2) complete no others.

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

/// Least size of a part, and that of all where nobody says that more is needed: up to 78 GiB.
const PART_BYTES_MIN: u64 = 8 << 20;
/// What larger parts are multiples of.
const PART_BYTES_STEP: u64 = 1 << 20;
/// Parts of an upload, as S3 has it.
const PARTS_MAX: u16 = 10_000;
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
    /// Size of each part, and the bound under which one put is enough.
    part_bytes: usize,
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
            part_bytes: part_bytes(0),
            writer: uuid::Uuid::new_v4().simple().to_string(),
            flying: JoinSet::new(),
            parts: Vec::new(),
            next_part: 1,
            size: 0,
        }
    }
}

impl MultipartWriter {
    /// The same writer of an object that may have so many bytes: where that needs it, its parts
    /// are larger, and with them the writer's memory. To be said before anything is written.
    #[must_use]
    pub fn expecting(mut self, bytes: u64) -> Self {
        self.part_bytes = part_bytes(bytes);
        self
    }

    /// Adds bytes. Waits while too many parts are in flight; an error is that of
    /// an earlier part as often as not, and the writer is then of no more use.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.part_bytes - self.buffer.len();
            self.buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.buffer.len() >= self.part_bytes {
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
        if self.next_part > i32::from(PARTS_MAX) {
            let bytes_max = u64::from(PARTS_MAX) * self.part_bytes as u64;
            return Err(Error::TooManyParts { uri: self.uri.to_string(), bytes_max });
        }
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

/// Bytes of the parts of an object that may have so many.
fn part_bytes(expected: u64) -> usize {
    let least = expected.div_ceil(u64::from(PARTS_MAX)).next_multiple_of(PART_BYTES_STEP);
    usize::try_from(least.max(PART_BYTES_MIN)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Credentials, Server, ServerConfig, StoreConfig};

    /// A store in this process.
    fn store(root: &std::path::Path) -> Store {
        let credentials = Credentials::load_or_create(&root.join("credentials.json")).unwrap();
        let config = ServerConfig { root: root.join("store"), credentials: credentials.clone() };
        let server = Some(Server::open(config).unwrap());
        Store::connect(StoreConfig { server, ..StoreConfig::at("http://127.0.0.1:9", credentials) }).unwrap()
    }

    #[test]
    fn parts_are_as_large_as_their_number_needs() {
        let check = |expected: u64, mebibytes: usize| {
            assert_eq!(part_bytes(expected), mebibytes << 20, "{expected}");
            assert!(part_bytes(expected) as u64 * u64::from(PARTS_MAX) >= expected);
        };
        check(0, 8);
        check(80_000 << 20, 8);
        check((80_000 << 20) + 1, 9);
        check(1 << 40, 105);
        check(48_828_125 << 20, 4_883);
    }

    #[tokio::test]
    async fn all_parts_but_the_last_are_of_one_size() {
        let root = tempfile::tempdir().unwrap();
        let (store, uri) = (store(root.path()), "s3://bank/parts".parse::<ObjectUri>().unwrap());
        store.create_bucket("bank").await.unwrap();
        let mut writer = store.writer(&uri, PutOptions::default());
        // As if so many had been sent; their number says nothing of their size.
        writer.next_part = 999;
        for _ in 0..41 {
            writer.write(Bytes::from(vec![b'x'; 1 << 20])).await.unwrap();
        }
        while let Some(part) = writer.flying.join_next().await {
            writer.keep(part).unwrap();
        }
        let listed = store.client_of("bank").unwrap().list_parts().bucket("bank").key("parts");
        let listed = listed.upload_id(writer.upload.clone().unwrap()).send().await.unwrap();
        let parts: Vec<_> =
            listed.parts().iter().map(|part| (part.part_number().unwrap(), part.size().unwrap())).collect();
        assert_eq!(parts, [999, 1_000, 1_001, 1_002, 1_003].map(|number| (number, 8 << 20)));
        let pin = writer.finish().await.unwrap();
        assert_eq!((pin.size, store.head(&uri).await.unwrap().pin.size), (41 << 20, 41 << 20));
    }

    #[tokio::test]
    async fn more_than_the_parts_can_hold_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (store, uri) = (store(root.path()), "s3://bank/parts".parse::<ObjectUri>().unwrap());
        store.create_bucket("bank").await.unwrap();
        let mut writer = store.writer(&uri, PutOptions::default()).expecting(10_000);
        writer.next_part = 10_000;
        writer.write(Bytes::from(vec![b'x'; 8 << 20])).await.unwrap();
        writer.write(Bytes::from_static(b"y")).await.unwrap();
        let refused = writer.finish().await;
        assert!(matches!(refused, Err(Error::TooManyParts { bytes_max: 83_886_080_000, .. })), "{refused:?}");
        store.settled().await;
        assert!(store.uploads("bank", "").await.unwrap().is_empty());
    }
}
