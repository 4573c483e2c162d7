// SPDX-License-Identifier: Apache-2.0
//! Objects: the one S3 client of Fanfold, and the S3 server that comes with it.
//!
//! [`client`] stands between every other crate and whatever store an operator
//! has chosen; [`server`] is the store that `fanfold dev` and the tests bring
//! along, reached by the same client over loopback. Nothing here knows about
//! functions, jobs or tenants: keys are bytes and bodies are opaque.

pub mod client;
mod credentials;
mod encoding;
pub mod server;

pub use client::{
    Arbiter, BucketEntry, Error, ListEntry, ListOptions, Meta, Meter, MultipartWriter, Pin, Probe,
    PutOptions, PutOutcome, ReadAhead, Result, Store, StoreConfig, Support, Upload, Usage,
};
pub use credentials::{Credentials, CredentialsError};
pub use server::{Server, ServerConfig};

/// What the embedded server calls an object whose body is gone from its disk, which no other try brings back.
const BODY_LOST: &str = "StoredBodyLost";
