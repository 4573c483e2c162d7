// SPDX-License-Identifier: Apache-2.0
//! Objects as bytes, for functions that want them raw.
//!
//! It owns the author's side of `fanfold:function/objects`: opening, ranged
//! reads, whole writes, listing by pages, removal. The platform checks each
//! call against the deployment's grants. Invariant: no call moves more than
//! 16 MiB; longer reads are made of several.

use crate::{Error, Result, host};

/// The most bytes one call may move: 16 MiB.
pub const TRANSFER_BYTES_MAX: usize = 16 << 20;

/// The objects that the deployment grants; see [`crate::Context::objects`].
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[fanfold::handler]
/// fn copy(uri: String, context: &Context) -> Result<String> {
///     let bytes = context.objects().read(&uri)?;
///     context.objects().write("s3://bank/copy.bin", "application/octet-stream", &bytes)?;
///     Ok(format!("{} bytes", bytes.len()))
/// }
/// # fn main() {}
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Objects {
    _private: (),
}

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// `s3://bucket/key`.
    pub uri: String,
    /// Bytes.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: String,
}

/// An object as it was when it was opened.
#[derive(Debug)]
pub struct Object {
    inner: host::Object,
}

impl Objects {
    pub(crate) fn granted() -> Self {
        Self { _private: () }
    }

    /// Opens `s3://bucket/key` for reading.
    ///
    /// # Errors
    ///
    /// Those of the platform: not granted, not found, the store out of reach.
    pub fn open(&self, uri: &str) -> Result<Object> {
        host::open_object(uri).map(|inner| Object { inner })
    }

    /// The whole of an object, in reads of at most 16 MiB.
    ///
    /// # Errors
    ///
    /// Those of [`Objects::open`] and [`Object::read`].
    pub fn read(&self, uri: &str) -> Result<Vec<u8>> {
        self.open(uri)?.read_all()
    }

    /// Writes an object whole, at most 16 MiB, replacing what was there.
    ///
    /// # Errors
    ///
    /// `object-too-large`, and those of the platform.
    pub fn write(&self, uri: &str, content_type: &str, content: &[u8]) -> Result<()> {
        if content.len() > TRANSFER_BYTES_MAX {
            return Err(Error::new(
                "object-too-large",
                format!(
                    "an object written in one call must be at most 16 MiB, found {} bytes; \
                     write several objects, or a table",
                    content.len()
                ),
            ));
        }
        host::write_object(uri, content_type, content)
    }

    /// The objects under `s3://bucket/prefix`, in order of their keys' bytes.
    /// Pages of 1,000 are fetched as they are needed.
    pub fn list(&self, prefix: &str) -> impl Iterator<Item = Result<ObjectInfo>> + use<> {
        Listing { prefix: prefix.to_owned(), page: Vec::new().into_iter(), after: None, ended: false }
    }

    /// Removes an object; removing what is not there succeeds.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    pub fn remove(&self, uri: &str) -> Result<()> {
        host::remove_object(uri)
    }
}

impl Object {
    /// What the store said when the object was opened.
    pub fn info(&self) -> ObjectInfo {
        self.inner.info()
    }

    /// Up to `length` bytes from `offset`, at most 16 MiB; fewer at the end of
    /// the object, none beyond it.
    ///
    /// # Errors
    ///
    /// `object-changed` when it is no longer what was opened, and those of the
    /// platform.
    pub fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.inner.read(offset, length.min(TRANSFER_BYTES_MAX as u32))
    }

    /// The whole object, in reads of at most 16 MiB.
    ///
    /// # Errors
    ///
    /// Those of [`Object::read`].
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let size = self.info().size;
        let mut bytes = Vec::with_capacity(usize::try_from(size)?);
        while (bytes.len() as u64) < size {
            let piece = self.read(bytes.len() as u64, TRANSFER_BYTES_MAX as u32)?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

struct Listing {
    prefix: String,
    page: std::vec::IntoIter<ObjectInfo>,
    after: Option<String>,
    ended: bool,
}

impl Iterator for Listing {
    type Item = Result<ObjectInfo>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(info) = self.page.next() {
            self.after = Some(info.uri.clone());
            return Some(Ok(info));
        }
        if self.ended {
            return None;
        }
        match host::list_objects(&self.prefix, self.after.as_deref()) {
            Ok(page) if page.is_empty() => {
                self.ended = true;
                None
            }
            Ok(page) => {
                self.page = page.into_iter();
                self.next()
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}
