// SPDX-License-Identifier: Apache-2.0
//! Writing small objects: replace, put-if-absent, delete, copy.
//!
//! A put-if-absent has one winner however often its request is sent: the
//! writer's name lies in the object's metadata, so a writer whose answer was
//! lost meets its own object and knows that it has won. Where a store drops
//! metadata, it knows its object by the bytes.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use aws_sdk_s3::{
    config::{Builder, timeout::TimeoutConfig},
    error::SdkError,
    operation::put_object::{PutObjectError, PutObjectOutput, builders::PutObjectFluentBuilder},
    primitives::ByteStream,
    types::{Delete, MetadataDirective, ObjectIdentifier},
};
use bytes::Bytes;
use fanfold_protocol::time::Timestamp;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{
    DEPTH_METADATA, Error, ListEntry, ListOptions, Meta, ObjectUri, Pin, Result, Store, WRITER_METADATA,
    arbitrate::Written,
    back_off, bare_etag,
    error::Target,
    is_weak, quoted_etag,
    read::{same, version},
};
use crate::encoding::percent_encode;

/// How often a write is tried again that ran into another one at the same moment, and the
/// deletion of an object for which the store was too busy.
const CONFLICTS_MAX: u32 = 8;
/// Keys in one DeleteObjects request, as S3 has it.
const DELETE_KEYS_MAX: usize = 1_000;
/// Deletes in flight where DeleteObjects cannot carry them.
const SINGLE_DELETES: usize = 8;

/// Bytes of a body that every request has the time for.
const PROMPT_BYTES_MAX: usize = 1 << 20;
/// The least rate at which a larger one is waited for, in bytes a second.
const SENDING_RATE_MIN: u64 = 256 << 10;
/// Larger ones are told apart by powers of two from here on only: the SDK keeps connections for
/// each timeout that there is.
const SENDING_BYTES_MIN: usize = 8 << 20;

/// What goes with a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Its media type; the store's default when none.
    pub content_type: Option<String>,
    /// User metadata; names in lower case.
    pub metadata: BTreeMap<String, String>,
    /// Write only over the object with this ETag (without quotes).
    pub if_match: Option<String>,
}

impl PutOptions {
    /// Nothing but a media type.
    pub fn typed(content_type: impl Into<String>) -> Self {
        Self { content_type: Some(content_type.into()), ..Self::default() }
    }

    /// Says how many triggers led to the object; nothing when none did.
    pub fn mark_depth(&mut self, depth: u32) {
        if depth > 0 {
            self.metadata.insert(DEPTH_METADATA.to_owned(), depth.to_string());
        }
    }
}

/// How a put-if-absent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// This writer's object is there.
    Created(Pin),
    /// Another object was there first; it is untouched.
    Exists,
}

impl Store {
    /// Writes an object, over what was there. With `if_match`, an object in
    /// another state (or none) makes it [`Error::Conflict`] or [`Error::NotFound`].
    pub async fn put(&self, uri: &ObjectUri, body: Bytes, options: PutOptions) -> Result<Pin> {
        if let (Some(arbitration), Some(expected)) = (self.arbitration(), options.if_match.clone()) {
            let writer = uuid::Uuid::new_v4().to_string();
            let written =
                Box::pin(self.put_arbitrated(arbitration, uri, Some(&expected), body, &writer, options))
                    .await?;
            return match written {
                Written::Ours(pin) => Ok(pin),
                Written::Otherwise(None) => Err(Error::NotFound { uri: uri.to_string() }),
                Written::Otherwise(Some(found)) => Err(Error::Conflict {
                    target: uri.to_string(),
                    detail: format!("the ETag {}", found.etag),
                }),
            };
        }
        self.put_matched(uri, &body, &options).await
    }

    /// The same, as the store decides.
    pub(super) async fn put_matched(
        &self,
        uri: &ObjectUri,
        body: &Bytes,
        options: &PutOptions,
    ) -> Result<Pin> {
        let mut attempt = 0;
        loop {
            match self.send(self.put_request(uri, body, options)?, body.len()).await {
                Ok(answer) => return self.written(uri, body, &answer),
                Err(e) if collided(&e) && attempt < CONFLICTS_MAX => attempt += 1,
                Err(e) => return Err(Target::Object(uri).error(e)),
            }
            back_off(attempt).await;
        }
    }

    /// Writes an object unless one is there. `writer` names this attempt and must
    /// be unique among all that may write this key; `if_match` is ignored. On a store
    /// that drops metadata, writers of the same bytes count as one.
    pub async fn put_if_absent(
        &self,
        uri: &ObjectUri,
        body: Bytes,
        writer: &str,
        options: PutOptions,
    ) -> Result<PutOutcome> {
        let Some(arbitration) = self.arbitration() else {
            return self.put_unmatched(uri, body, writer, options).await;
        };
        // On the heap: it is rare, and large.
        match Box::pin(self.put_arbitrated(arbitration, uri, None, body, writer, options)).await? {
            Written::Ours(pin) => Ok(PutOutcome::Created(pin)),
            Written::Otherwise(_) => Ok(PutOutcome::Exists),
        }
    }

    /// The same, as the store decides.
    pub(super) async fn put_unmatched(
        &self,
        uri: &ObjectUri,
        body: Bytes,
        writer: &str,
        mut options: PutOptions,
    ) -> Result<PutOutcome> {
        options.if_match = None;
        options.metadata.insert(WRITER_METADATA.to_owned(), writer.to_owned());
        let mut attempt = 0;
        loop {
            let request = self.put_request(uri, &body, &options)?.if_none_match("*");
            let error = match self.send(request, body.len()).await {
                Ok(answer) => return self.written(uri, &body, &answer).map(PutOutcome::Created),
                Err(e) if collided(&e) => Target::Object(uri).error(e),
                Err(e) => match Target::Object(uri).error(e) {
                    Error::Conflict { target, detail } => match self.recognise(uri, writer, &body).await? {
                        Some(outcome) => return Ok(outcome),
                        // Deleted since: the key is free again.
                        None => Error::Conflict { target, detail },
                    },
                    error => return Err(error),
                },
            };
            attempt += 1;
            if attempt > CONFLICTS_MAX {
                return Err(error);
            }
            back_off(attempt).await;
        }
    }

    /// Whose object lies there: this writer's, another's, or none.
    async fn recognise(&self, uri: &ObjectUri, writer: &str, body: &Bytes) -> Result<Option<PutOutcome>> {
        let Some(meta) = self.head_if_there(uri).await? else { return Ok(None) };
        let is_ours = self.is_by(writer, body, uri, &meta).await?;
        Ok(Some(if is_ours { PutOutcome::Created(meta.pin) } else { PutOutcome::Exists }))
    }

    /// Whether what lies there is this writer's: by its name or, where none was kept, by its bytes.
    pub(super) async fn is_by(
        &self,
        writer: &str,
        body: &Bytes,
        uri: &ObjectUri,
        meta: &Meta,
    ) -> Result<bool> {
        if let Some(found) = meta.user_metadata.get(WRITER_METADATA) {
            return Ok(found == writer);
        }
        if meta.pin.size != body.len() as u64 {
            return Ok(false);
        }
        match self.get_range(uri, &meta.pin, 0..meta.pin.size).await {
            Ok(found) => Ok(found == *body),
            // It was replaced or deleted since.
            Err(Error::Changed { .. } | Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object. One that is not there is no error.
    pub async fn delete(&self, uri: &ObjectUri) -> Result<()> {
        let request = self.client_of(uri.bucket())?.delete_object().bucket(uri.bucket()).key(uri.key());
        match request.send().boxed().await.map_err(|e| Target::Object(uri).error(e)) {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes objects of one bucket, a thousand in a request. Those that are not
    /// there are no error; the first that cannot be deleted is, after all others
    /// have been tried, unless the store does not serve requests at all.
    pub async fn delete_many(&self, bucket: &str, keys: impl IntoIterator<Item = String>) -> Result<()> {
        let (plain, awkward): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| fits_xml(key));
        let mut refused = Ok(());
        for batch in plain.chunks(DELETE_KEYS_MAX) {
            match self.delete_batch(bucket, batch).await {
                Err(error) if error.is_transient() => return Err(error),
                deleted => refused = refused.and(deleted),
            }
        }
        refused.and(self.delete_singly(bucket, awkward).await)
    }

    /// Deletes the objects of a bucket whose keys begin with `prefix` and that, `now`, are as old as `age` or older.
    pub async fn delete_old(&self, bucket: &str, prefix: &str, now: Timestamp, age: Duration) -> Result<()> {
        let listing = self.list(bucket, prefix, ListOptions::default());
        let old = listing.try_filter_map(|entry| {
            std::future::ready(Ok(match entry {
                ListEntry::Object { key, last_modified, .. } if now.since(last_modified) >= age => Some(key),
                _ => None,
            }))
        });
        let old: Vec<String> = old.try_collect().await?;
        self.delete_many(bucket, old).await
    }

    /// Deletes as many as fit a request, and again those for which the store was too busy.
    async fn delete_batch(&self, bucket: &str, keys: &[String]) -> Result<()> {
        let (mut left, mut refused, mut attempt) = (keys.to_vec(), Ok(()), 0);
        loop {
            if self.inner.takes_no_lists.load(Relaxed) {
                return refused.and(self.delete_singly(bucket, left).await);
            }
            let failed = match self.delete_request(bucket, &left).await {
                Err(refusal @ Error::Other { .. }) => {
                    return refused.and(self.delete_unlisted(bucket, left, &refusal).await);
                }
                failed => failed?,
            };
            let (busy, denied): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|(_, error)| error.is_transient());
            refused = refused.and(denied.into_iter().next().map_or(Ok(()), |(_, error)| Err(error)));
            let Some((_, error)) = busy.first() else { return refused };
            if attempt == CONFLICTS_MAX {
                return refused.and(Err(error.clone()));
            }
            attempt += 1;
            left = busy.into_iter().map(|(key, _)| key).collect();
            back_off(attempt).await;
        }
    }

    /// Deletes singly what the store refused to delete by a list. Where that goes well it is lists
    /// that the store does not take: some want a `Content-MD5`, some have no such request.
    async fn delete_unlisted(&self, bucket: &str, keys: Vec<String>, refusal: &Error) -> Result<()> {
        self.delete_singly(bucket, keys).await?;
        if says_no_lists(refusal) && !self.inner.takes_no_lists.swap(true, Relaxed) {
            tracing::warn!(
                error = %refusal,
                "the store takes no lists of objects to delete; each is deleted by itself from now on"
            );
        }
        Ok(())
    }

    /// Deletes each by a request of its own.
    async fn delete_singly(&self, bucket: &str, keys: Vec<String>) -> Result<()> {
        let deletes = keys.into_iter().map(|key| async move {
            let uri = ObjectUri::new(bucket, key).map_err(|p| Error::Config(p.to_string()))?;
            self.delete(&uri).await
        });
        let (mut deleted, mut refused) = (stream::iter(deletes).buffer_unordered(SINGLE_DELETES), Ok(()));
        while let Some(one) = deleted.next().await {
            match one {
                Err(error) if error.is_transient() => return Err(error),
                one => refused = refused.and(one),
            }
        }
        refused
    }

    /// The keys that the store did not delete, and why.
    async fn delete_request(&self, bucket: &str, keys: &[String]) -> Result<Vec<(String, Error)>> {
        let failed =
            |e: aws_sdk_s3::error::BuildError| Error::protocol(format!("s3://{bucket}/"), e.to_string());
        let ids = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let ids = ids.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let delete = Delete::builder().set_objects(Some(ids)).quiet(true).build().map_err(failed)?;
        let request = self.client_of(bucket)?.delete_objects().bucket(bucket).delete(delete);
        let answer = request.send().boxed().await.map_err(|e| Target::Bucket(bucket).error(e))?;
        let failed = answer.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
        let told = |error: &aws_sdk_s3::types::Error| {
            let key = error.key().unwrap_or_default();
            let code = error.code().unwrap_or("an error without code");
            let detail = error.message().unwrap_or_default();
            (key.to_owned(), Error::of_code(format!("s3://{bucket}/{key}"), code, detail))
        };
        Ok(failed.map(told).collect())
    }

    /// Copies an object within the store, metadata included, over what was there.
    /// With `pin`, only from that state. S3 copies at most 5 GiB in one request.
    pub async fn copy(&self, from: &ObjectUri, pin: Option<&Pin>, to: &ObjectUri) -> Result<Pin> {
        self.copy_with(from, pin, to, None).await
    }

    /// The same for an object to which so many triggers led: the copy is marked
    /// with that, whatever its source says.
    pub async fn copy_at_depth(
        &self,
        from: &ObjectUri,
        pin: Option<&Pin>,
        to: &ObjectUri,
        depth: u32,
    ) -> Result<Pin> {
        let meta = self.head(from).await?;
        let mut options = PutOptions { content_type: meta.content_type, ..PutOptions::default() };
        options.metadata.clone_from(&meta.user_metadata);
        options.metadata.remove(DEPTH_METADATA);
        options.mark_depth(depth);
        let kept = options.metadata == meta.user_metadata;
        self.copy_with(from, pin, to, (!kept).then_some(options)).await
    }

    /// A copy with the source's metadata, or with these options' instead.
    async fn copy_with(
        &self,
        from: &ObjectUri,
        pin: Option<&Pin>,
        to: &ObjectUri,
        instead: Option<PutOptions>,
    ) -> Result<Pin> {
        let mut source = percent_encode(&format!("{}/{}", from.bucket(), from.key()));
        if let Some(id) = pin.and_then(|p| p.version_id.as_deref()) {
            source = format!("{source}?versionId={}", percent_encode(id));
        }
        self.client_of(from.bucket())?;
        let weak = pin.filter(|p| is_weak(&p.etag));
        if let Some(pin) = weak {
            // No condition holds for it: it is looked at before.
            same(from, pin, &self.head(from).await?.pin)?;
        }
        let mut request = self
            .client_of(to.bucket())?
            .copy_object()
            .bucket(to.bucket())
            .key(to.key())
            .copy_source(source)
            .set_copy_source_if_match(pin.filter(|_| weak.is_none()).map(|p| quoted_etag(&p.etag)));
        if let Some(PutOptions { content_type, metadata, .. }) = instead {
            request = request
                .metadata_directive(MetadataDirective::Replace)
                .set_content_type(content_type)
                .set_metadata(Some(metadata.into_iter().collect()));
        }
        let request = request.customize().config_override(self.config().patient());
        let answer = request.send().boxed().await.map_err(|e| {
            let error = Target::Object(from).error(e);
            pin.map_or(error.clone(), |p| error.changed(from, &p.etag))
        })?;
        let etag = answer.copy_object_result().and_then(|r| r.e_tag());
        let etag = bare_etag(etag.ok_or_else(|| Error::protocol(to, "no ETag"))?);
        match pin {
            Some(pin) => Ok(Pin { etag, size: pin.size, version_id: version(answer.version_id()) }),
            None => self.head(to).await.map(|meta| meta.pin),
        }
    }

    fn put_request(
        &self,
        uri: &ObjectUri,
        body: &Bytes,
        options: &PutOptions,
    ) -> Result<PutObjectFluentBuilder> {
        let metadata = options.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let client = self.client_of(uri.bucket())?;
        Ok(client
            .put_object()
            .bucket(uri.bucket())
            .key(uri.key())
            .set_content_type(options.content_type.clone())
            .set_metadata(Some(metadata))
            .set_if_match(options.if_match.as_deref().map(quoted_etag))
            .body(ByteStream::from(body.clone())))
    }

    async fn send(
        &self,
        request: PutObjectFluentBuilder,
        bytes: usize,
    ) -> Result<PutObjectOutput, SdkError<PutObjectError>> {
        if bytes <= PROMPT_BYTES_MAX {
            return request.send().boxed().await;
        }
        request.customize().config_override(self.sending(bytes)).send().boxed().await
    }

    /// What is otherwise for a request with so large a body: `read_timeout` begins with the
    /// request, so that each try has the time for sending it over a slow way besides.
    pub(super) fn sending(&self, bytes: usize) -> Builder {
        let (config, more) = (self.config(), sending_time(bytes));
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout + more)
            .operation_timeout(config.operation_timeout + more.saturating_mul(config.attempts_max))
            .build();
        Builder::new().timeout_config(timeouts)
    }

    fn written(&self, uri: &ObjectUri, body: &Bytes, answer: &PutObjectOutput) -> Result<Pin> {
        self.meter.written(body.len());
        let etag = answer.e_tag().ok_or_else(|| Error::protocol(uri, "no ETag"))?;
        Ok(Pin { etag: bare_etag(etag), size: body.len() as u64, version_id: version(answer.version_id()) })
    }
}

/// How long a body of so many bytes may be under way.
fn sending_time(bytes: usize) -> Duration {
    if bytes <= PROMPT_BYTES_MAX {
        return Duration::ZERO;
    }
    let roughly = bytes.next_power_of_two().max(SENDING_BYTES_MIN);
    Duration::from_secs(roughly as u64 / SENDING_RATE_MIN)
}

/// S3 answers 409 when two conditional writes meet; the loser is to try again.
pub(super) fn collided<E>(
    error: &aws_sdk_s3::error::SdkError<E, aws_sdk_s3::config::http::HttpResponse>,
) -> bool {
    error.raw_response().is_some_and(|r| r.status().as_u16() == 409)
}

/// Whether a store that refuses a list so has no such request, or wants of it what we do not send: other
/// refusals may be of this one request.
fn says_no_lists(refusal: &Error) -> bool {
    let Error::Other { code, detail, .. } = refusal else { return false };
    let codes = ["MissingContentMD5", "InvalidRequest", "NotImplemented", "MethodNotAllowed"];
    codes.iter().any(|known| code.starts_with(known))
        || matches!(detail.as_str(), "HTTP status 405" | "HTTP status 501")
}

/// DeleteObjects carries keys in XML 1.0, which has no words for most control
/// characters and reads carriage returns as line feeds.
fn fits_xml(key: &str) -> bool {
    key.chars().all(|c| (c >= ' ' || c == '\t' || c == '\n') && !matches!(c, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_times_are_told_apart_for_bodies_of_any_size() {
        let check =
            |bytes, expected_secs| assert_eq!(sending_time(bytes).as_secs(), expected_secs, "{bytes}");
        check(0, 0);
        check(1 << 20, 0);
        check((1 << 20) + 1, 32);
        check(8 << 20, 32);
        check((8 << 20) + 1, 64);
        check(80 << 20, 512);
    }
}
