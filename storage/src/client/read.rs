// SPDX-License-Identifier: Apache-2.0
//! Reading objects: what is there, whole ones, ranges, and long ordered streams.
//!
//! A read with a pin returns bytes of exactly the pinned state, of exactly the
//! asked length, or an error: a body that is cut or stalls is taken up again
//! where it broke off, under the same pin, soon at first and more patiently with each try.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream};
use bytes::{Bytes, BytesMut};
use fanfold_protocol::time::Timestamp;
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::{Error, ObjectUri, Pin, Result, Store, back_off, bare_etag, error::Target, is_weak, quoted_etag};

/// How often in a row a body may break off before it has brought [`PROGRESS_BYTES`].
const RESUMES_MAX: u32 = 5;
/// What a body brings within the patience of a try, unless it counts as broken off: a trickle holds
/// a read as long as silence does. The SDK itself is content with a byte a second.
const PROGRESS_BYTES: u64 = 16 << 10;

/// What a store knows about an object besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The state that was seen.
    pub pin: Pin,
    /// When it was written, to the second.
    pub last_modified: Timestamp,
    /// Its media type.
    pub content_type: Option<String>,
    /// Its user metadata (`x-amz-meta-…`), names in lower case.
    pub user_metadata: BTreeMap<String, String>,
}

/// How far a [`Store::reader`] runs ahead of its consumer. It holds at most
/// `chunk_bytes * parallel` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// Bytes of one ranged read.
    pub chunk_bytes: u64,
    /// Reads in flight.
    pub parallel: usize,
}

impl Default for ReadAhead {
    /// 8 MiB, 4 in flight: enough to cover the latency of a remote store.
    fn default() -> Self {
        Self { chunk_bytes: 8 << 20, parallel: 4 }
    }
}

impl Store {
    /// What the store knows about an object.
    pub async fn head(&self, uri: &ObjectUri) -> Result<Meta> {
        let request = self.client_of(uri.bucket())?.head_object().bucket(uri.bucket()).key(uri.key());
        let answer = self
            .hedged(move |tried| request.clone().customize().interceptor(tried).send().boxed())
            .boxed()
            .await;
        let answer = match answer.map_err(|e| Target::Object(uri).error(e)) {
            Ok(answer) => answer,
            // An answer to HEAD has no body to say which of the two is missing.
            Err(Error::NotFound { .. }) if matches!(self.bucket_exists(uri.bucket()).await, Ok(false)) => {
                return Err(Error::NoSuchBucket { bucket: uri.bucket().to_owned() });
            }
            // Nor what is wrong with the request.
            Err(error @ Error::Other { .. }) => {
                return Err(match self.list_one(uri.bucket()).await {
                    Err(reason @ (Error::OtherRegion { .. } | Error::Other { .. })) => reason,
                    _ => error,
                });
            }
            Err(error) => return Err(error),
        };
        let size = length(uri, answer.content_length())?;
        let etag = answer.e_tag().ok_or_else(|| Error::protocol(uri, "no ETag"))?;
        Ok(Meta {
            pin: Pin { etag: bare_etag(etag), size, version_id: version(answer.version_id()) },
            last_modified: timestamp(answer.last_modified()),
            content_type: answer.content_type().map(str::to_owned),
            user_metadata: answer
                .metadata()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        })
    }

    /// The whole object, in the pinned state or as it is now. Objects above
    /// `get_bytes_max` of the configuration are refused with [`Error::TooLarge`].
    pub async fn get(&self, uri: &ObjectUri, pin: Option<&Pin>) -> Result<Bytes> {
        self.get_with_pin(uri, pin).await.map(|(bytes, _)| bytes)
    }

    /// Like [`Store::get`], with the pin of the state that was read.
    pub async fn get_with_pin(&self, uri: &ObjectUri, pin: Option<&Pin>) -> Result<(Bytes, Pin)> {
        let answer = self.request(uri, pin, None).await?;
        let size = length(uri, answer.content_length())?;
        let etag = bare_etag(answer.e_tag().ok_or_else(|| Error::protocol(uri, "no ETag"))?);
        let seen = Pin { etag, size, version_id: version(answer.version_id()) };
        if let Some(pin) = pin {
            same(uri, pin, &seen)?;
        }
        let bytes_max = self.inner.config.get_bytes_max;
        if size > bytes_max {
            return Err(Error::TooLarge { uri: uri.to_string(), bytes: size, bytes_max });
        }
        let mut body = BytesMut::with_capacity(capacity(uri, size)?);
        if let Err(error) = self.drain(uri, answer.body, size, &mut body, self.patience(0)).await {
            self.resume(uri, &seen, 0..size, &mut body, error).await?;
        }
        Ok((body.freeze(), seen))
    }

    /// The bytes `range` of the pinned state: exactly as many as asked for. A
    /// range beyond the pinned size is an error.
    pub async fn get_range(&self, uri: &ObjectUri, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > pin.size {
            let detail = format!("bytes {}..{} of an object of {} bytes", range.start, range.end, pin.size);
            return Err(Error::Other {
                target: uri.to_string(),
                code: "a range outside the object".into(),
                detail,
            });
        }
        let mut body = BytesMut::with_capacity(capacity(uri, range.end - range.start)?);
        if let Err(error) = self.read_into(uri, pin, range.clone(), &mut body, self.patience(0)).await {
            self.resume(uri, pin, range, &mut body, error).await?;
        }
        Ok(body.freeze())
    }

    /// The bytes `range` of the pinned state in order, read by large ranges, with
    /// a bounded number of them in flight. Ends after the first error.
    pub fn reader(
        &self,
        uri: &ObjectUri,
        pin: &Pin,
        range: Range<u64>,
        ahead: ReadAhead,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let (store, uri, pin) = (self.clone(), uri.clone(), pin.clone());
        let step = ahead.chunk_bytes.max(1);
        let starts = std::iter::successors(Some(range.start), move |at| at.checked_add(step));
        let chunks = starts
            .take_while(move |at| *at < range.end)
            .map(move |at| at..at.saturating_add(step).min(range.end));
        let read = move |chunk| {
            let (store, uri, pin) = (store.clone(), uri.clone(), pin.clone());
            async move { store.get_range(&uri, &pin, chunk).await }
        };
        let mut failed = false;
        stream::iter(chunks).map(read).buffered(ahead.parallel.max(1)).take_while(move |item| {
            let ended = failed;
            failed |= item.is_err();
            std::future::ready(!ended)
        })
    }

    /// Goes on after `error` from where `body` stands, until `range` is complete.
    async fn resume(
        &self,
        uri: &ObjectUri,
        pin: &Pin,
        range: Range<u64>,
        body: &mut BytesMut,
        mut error: Error,
    ) -> Result<()> {
        let mut attempt = 0;
        while error.is_transient() && attempt < RESUMES_MAX {
            attempt += 1;
            tracing::debug!(%uri, read = body.len(), %error, "resuming a read");
            back_off(attempt).await;
            let (before, patience) = (body.len(), self.patience(attempt));
            match self.read_into(uri, pin, range.start + before as u64..range.end, body, patience).await {
                Ok(()) => return Ok(()),
                Err(e) => error = e,
            }
            if (body.len() - before) as u64 >= PROGRESS_BYTES {
                attempt = 0;
            }
        }
        Err(error)
    }

    /// One ranged request. What has arrived stays in `body` also on an error.
    async fn read_into(
        &self,
        uri: &ObjectUri,
        pin: &Pin,
        range: Range<u64>,
        body: &mut BytesMut,
        patience: Duration,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let answer = self.request(uri, Some(pin), Some(&range)).await?;
        let expected = format!("bytes {}-{}/{}", range.start, range.end - 1, pin.size);
        if answer.content_range() != Some(expected.as_str()) {
            let found = answer.content_range().unwrap_or("none");
            // Whoever pinned it, a list of somebody else's say, knew less than the store.
            let size = found.rsplit_once('/').and_then(|(_, size)| size.parse::<u64>().ok());
            if let Some(size) = size.filter(|size| *size != pin.size) {
                return Err(another(uri, pin, answer.e_tag().map(bare_etag), size));
            }
            return Err(Error::protocol(uri, format!("Content-Range must be {expected}, found {found}")));
        }
        if answer.e_tag().map(bare_etag).as_ref() != Some(&pin.etag) {
            let found = answer.e_tag().map(bare_etag);
            return Err(Error::Changed { uri: uri.to_string(), expected: pin.etag.clone(), found });
        }
        self.drain(uri, answer.body, range.end - range.start, body, patience).await
    }

    /// How long a body may stand still on a read's try, counted from 0. Most that do never go on, which
    /// the first tries find out soon; the later ones have the time for a store that is slow.
    fn patience(&self, attempt: u32) -> Duration {
        self.soon().saturating_mul(1 << attempt.min(2))
    }

    async fn request(
        &self,
        uri: &ObjectUri,
        pin: Option<&Pin>,
        range: Option<&Range<u64>>,
    ) -> Result<GetObjectOutput> {
        let request = self
            .client_of(uri.bucket())?
            .get_object()
            .bucket(uri.bucket())
            .key(uri.key())
            // Of a weak one the answer's own is compared, alone.
            .set_if_match(pin.filter(|p| !is_weak(&p.etag)).map(|p| quoted_etag(&p.etag)))
            .set_version_id(pin.and_then(|p| p.version_id.clone()))
            .set_range(range.map(|r| format!("bytes={}-{}", r.start, r.end - 1)));
        let answer = self
            .hedged(move |tried| request.clone().customize().interceptor(tried).send().boxed())
            .boxed()
            .await;
        answer.map_err(|e| {
            let error = Target::Object(uri).error(e);
            pin.map_or(error.clone(), |p| error.changed(uri, &p.etag))
        })
    }

    /// Appends a body of `length` bytes. Shorter: transient. Longer: an error.
    async fn drain(
        &self,
        uri: &ObjectUri,
        mut stream: ByteStream,
        length: u64,
        body: &mut BytesMut,
        patience: Duration,
    ) -> Result<()> {
        let broken = |left: u64, why: &dyn std::fmt::Display| Error::Unavailable {
            target: uri.to_string(),
            detail: format!("the body broke off {left} bytes before its end: {why}"),
        };
        let mut left = length;
        let (mut due, mut left_then) = (Instant::now() + patience, left);
        loop {
            let next = timeout_at(due, stream.next()).await;
            let Some(chunk) = next.map_err(|_| broken(left, &"it only trickled"))? else { break };
            let chunk = chunk.map_err(|e| broken(left, &e))?;
            let Some(rest) = left.checked_sub(chunk.len() as u64) else {
                return Err(Error::protocol(uri, format!("a body of more than its {length} bytes")));
            };
            left = rest;
            self.meter.read(chunk.len());
            body.extend_from_slice(&chunk);
            if left_then - left >= PROGRESS_BYTES {
                (due, left_then) = (Instant::now() + patience, left);
            }
        }
        if left == 0 {
            return Ok(());
        }
        let detail = format!("the body ended {left} bytes early");
        Err(Error::Unavailable { target: uri.to_string(), detail })
    }
}

/// Some stores ignore If-Match; the answer's own headers are checked as well.
pub(super) fn same(uri: &ObjectUri, pin: &Pin, seen: &Pin) -> Result<()> {
    if pin.etag == seen.etag && pin.size == seen.size {
        return Ok(());
    }
    Err(another(uri, pin, Some(seen.etag.clone()), seen.size))
}

/// What is there is not what was pinned.
fn another(uri: &ObjectUri, pin: &Pin, etag: Option<String>, size: u64) -> Error {
    let found = match etag {
        Some(etag) if etag == pin.etag => Some(format!("it with {size} bytes and not {}", pin.size)),
        other => other,
    };
    Error::Changed { uri: uri.to_string(), expected: pin.etag.clone(), found }
}

fn length(uri: &ObjectUri, length: Option<i64>) -> Result<u64> {
    let length = length.ok_or_else(|| Error::protocol(uri, "no Content-Length"))?;
    u64::try_from(length).map_err(|_| Error::protocol(uri, format!("a Content-Length of {length}")))
}

fn capacity(uri: &ObjectUri, bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::TooLarge {
        uri: uri.to_string(),
        bytes,
        bytes_max: usize::MAX as u64,
    })
}

/// Stores without versions say `null`.
pub(super) fn version(id: Option<&str>) -> Option<String> {
    id.filter(|id| !id.is_empty() && *id != "null").map(str::to_owned)
}

pub(super) fn timestamp(time: Option<&aws_sdk_s3::primitives::DateTime>) -> Timestamp {
    Timestamp(time.and_then(|t| t.to_millis().ok()).and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default())
}
