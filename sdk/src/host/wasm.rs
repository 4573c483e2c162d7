// SPDX-License-Identifier: Apache-2.0
//! The host of a wasm build: calls of `context` and `objects`.
//!
//! It owns the turning of the contract's types into this crate's and back.
//! Invariant: no function here does more than one call.

use crate::context::{Invocation, Level};
use crate::objects::ObjectInfo;
use crate::wasm::bindings::handler::fanfold::function::{context, objects, types};
use crate::{Error, Result};

/// What the host refused, as this crate's error. No `From`: the generated error
/// is a standard one, which `Error` already converts from, losing the code.
pub(super) fn refusal(error: types::Error) -> Error {
    let refusal = Error::new(error.code, error.message);
    if error.retryable { refusal.retryable() } else { refusal }
}

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        let (code, message, retryable) = error.into_parts();
        Self { code, message, retryable }
    }
}

pub(crate) fn invocation() -> Invocation {
    let context::Invocation { id, function, version, attempt } = context::current();
    Invocation { id, function, version, attempt }
}

pub(crate) fn params() -> String {
    context::params()
}

pub(crate) fn variable(name: &str) -> Option<String> {
    context::variable(name)
}

pub(crate) fn remaining_ms() -> u64 {
    context::remaining_ms()
}

pub(crate) fn now_ms() -> u64 {
    context::now_ms()
}

pub(crate) fn random(length: u32) -> Vec<u8> {
    context::random(length)
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => context::Level::Trace,
        Level::Debug => context::Level::Debug,
        Level::Info => context::Level::Info,
        Level::Warn => context::Level::Warn,
        Level::Error => context::Level::Error,
    };
    context::log(level, message);
}

pub(crate) fn progress(done: u64, total: Option<u64>) {
    context::progress(done, total);
}

/// An object that the host holds open.
#[derive(Debug)]
pub(crate) struct Object(objects::Object);

impl Object {
    pub(crate) fn info(&self) -> ObjectInfo {
        info(self.0.info())
    }

    pub(crate) fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.0.read(offset, length).map_err(refusal)
    }
}

fn info(objects::Info { uri, size, etag }: objects::Info) -> ObjectInfo {
    ObjectInfo { uri, size, etag }
}

pub(crate) fn open_object(uri: &str) -> Result<Object> {
    objects::open(uri).map(Object).map_err(refusal)
}

pub(crate) fn write_object(uri: &str, content_type: &str, content: &[u8]) -> Result<()> {
    objects::write(uri, content_type, content).map_err(refusal)
}

pub(crate) fn list_objects(prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>> {
    let page = objects::list_objects(prefix, after).map_err(refusal)?;
    Ok(page.into_iter().map(info).collect())
}

pub(crate) fn remove_object(uri: &str) -> Result<()> {
    objects::remove(uri).map_err(refusal)
}
