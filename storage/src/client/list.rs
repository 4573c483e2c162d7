// SPDX-License-Identifier: Apache-2.0
//! Listing keys, page by page, in the order of their bytes.
//!
//! Keys come back exactly as they were written: pages are asked for with
//! `encoding-type=url`, because XML cannot carry every key.

use aws_sdk_s3::{operation::list_objects_v2::ListObjectsV2Output, types::EncodingType};
use fanfold_protocol::time::Timestamp;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};

use super::{Error, Pin, Result, Store, bare_etag, error::Target, read::timestamp};
use crate::encoding::percent_decode;

/// What narrows a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Keys that go on after the prefix up to this text are rolled into one
    /// [`ListEntry::Prefix`]; most often `/`.
    pub delimiter: Option<String>,
    /// Begin after this key.
    pub start_after: Option<String>,
    /// Keys in one request, at most 1,000; the store's default when none.
    pub page_keys: Option<i32>,
}

impl ListOptions {
    /// One level of a tree whose steps end in `/`.
    pub fn level() -> Self {
        Self { delimiter: Some("/".to_owned()), ..Self::default() }
    }
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// An object.
    Object {
        /// Its key.
        key: String,
        /// Its state; listings know no version.
        pin: Pin,
        /// When it was written.
        last_modified: Timestamp,
    },
    /// Keys rolled together by the delimiter, which ends the text.
    Prefix(String),
}

impl ListEntry {
    /// The key or the prefix.
    pub fn name(&self) -> &str {
        match self {
            Self::Object { key, .. } => key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// Where a listing stands.
enum Page {
    First,
    After(String),
    Done,
}

impl Store {
    /// The objects of a bucket whose keys begin with `prefix`. Requests are sent
    /// as the stream is read. Ends after the first error.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
        options: ListOptions,
    ) -> impl Stream<Item = Result<ListEntry>> + Send + use<> {
        let (store, bucket, prefix) = (self.clone(), bucket.to_owned(), prefix.to_owned());
        let pages = stream::try_unfold(Page::First, move |page| {
            let (store, bucket, prefix, options) =
                (store.clone(), bucket.clone(), prefix.clone(), options.clone());
            async move {
                let token = match page {
                    Page::First => None,
                    Page::After(token) => Some(token),
                    Page::Done => return Ok(None),
                };
                let (entries, next) = store.list_page(&bucket, &prefix, &options, token.clone()).await?;
                if next.is_some() && next == token {
                    let what = "a listing that stays where it is, its continuation token again";
                    return Err(Error::protocol(format!("s3://{bucket}/"), what));
                }
                Ok(Some((entries, next.map_or(Page::Done, Page::After))))
            }
        });
        pages.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten().boxed()
    }

    /// One page and the token of the next.
    async fn list_page(
        &self,
        bucket: &str,
        prefix: &str,
        options: &ListOptions,
        token: Option<String>,
    ) -> Result<(Vec<ListEntry>, Option<String>)> {
        let request = self
            .client_of(bucket)?
            .list_objects_v2()
            .bucket(bucket)
            .set_prefix(Some(prefix.to_owned()).filter(|p| !p.is_empty()))
            .set_delimiter(options.delimiter.clone())
            .set_start_after(options.start_after.clone().filter(|_| token.is_none()))
            .set_max_keys(options.page_keys)
            .set_continuation_token(token)
            .encoding_type(EncodingType::Url);
        let answer = self
            .hedged(move |tried| request.clone().customize().interceptor(tried).send().boxed())
            .boxed()
            .await;
        let answer = answer.map_err(|e| Target::Bucket(bucket).error(e))?;
        let next = answer.next_continuation_token().map(str::to_owned);
        if answer.is_truncated().unwrap_or(false) && next.is_none() {
            return Err(Error::protocol(
                format!("s3://{bucket}/"),
                "a cut listing without a continuation token",
            ));
        }
        let next = next.filter(|_| answer.is_truncated().unwrap_or(false));
        Ok((entries(bucket, &answer)?, next))
    }
}

/// Objects and prefixes of a page, merged into one order.
fn entries(bucket: &str, answer: &ListObjectsV2Output) -> Result<Vec<ListEntry>> {
    let encoded = answer.encoding_type() == Some(&EncodingType::Url);
    let text = |raw: Option<&str>| {
        let raw = raw.unwrap_or_default();
        let text = if encoded { percent_decode(raw) } else { Some(raw.to_owned()) };
        text.ok_or_else(|| {
            Error::protocol(format!("s3://{bucket}/"), format!("a key that cannot be decoded: {raw}"))
        })
    };
    let mut all = Vec::with_capacity(answer.contents().len() + answer.common_prefixes().len());
    for object in answer.contents() {
        let size = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
        let etag = bare_etag(object.e_tag().unwrap_or_default());
        all.push(ListEntry::Object {
            key: text(object.key())?,
            pin: Pin { etag, size, version_id: None },
            last_modified: timestamp(object.last_modified()),
        });
    }
    for prefix in answer.common_prefixes() {
        all.push(ListEntry::Prefix(text(prefix.prefix())?));
    }
    all.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(all)
}
