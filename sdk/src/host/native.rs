// SPDX-License-Identifier: Apache-2.0
//! The host of a native build: memory of the running thread.
//!
//! It owns what a native run may see: identity, parameters, variables, objects
//! and clock, all fixed, so that a test answers alike each time. Invariant: one
//! thread's memory is never seen by another, so tests may run in parallel.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::context::{Invocation, Level};
use crate::objects::ObjectInfo;
use crate::{Error, Result};

/// Everything a native run sees and leaves behind.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) invocation: Invocation,
    pub(crate) params: String,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) remaining_ms: u64,
    pub(crate) now_ms: u64,
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    pub(crate) logs: Vec<(Level, String)>,
    pub(crate) progress: Option<(u64, Option<u64>)>,
    random: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            invocation: Invocation {
                id: "00000000-0000-7000-8000-000000000000".to_owned(),
                function: "test".to_owned(),
                version: 1,
                attempt: 1,
            },
            params: "{}".to_owned(),
            variables: BTreeMap::new(),
            remaining_ms: 30_000,
            now_ms: 1_767_225_600_000,
            objects: BTreeMap::new(),
            logs: Vec::new(),
            progress: None,
            random: 0,
        }
    }
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Looks at the thread's memory, or changes it.
pub(crate) fn with_memory<T>(act: impl FnOnce(&mut Memory) -> T) -> T {
    MEMORY.with_borrow_mut(act)
}

pub(crate) fn invocation() -> Invocation {
    with_memory(|memory| memory.invocation.clone())
}

pub(crate) fn params() -> String {
    with_memory(|memory| memory.params.clone())
}

pub(crate) fn variable(name: &str) -> Option<String> {
    with_memory(|memory| memory.variables.get(name).cloned())
}

pub(crate) fn remaining_ms() -> u64 {
    with_memory(|memory| memory.remaining_ms)
}

pub(crate) fn now_ms() -> u64 {
    with_memory(|memory| memory.now_ms)
}

/// Bytes of SplitMix64 from a fixed seed: Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014.
pub(crate) fn random(length: u32) -> Vec<u8> {
    with_memory(|memory| {
        let next = |_| {
            memory.random = memory.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = memory.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) as u8
        };
        (0..length).map(next).collect()
    })
}

pub(crate) fn log(level: Level, message: &str) {
    with_memory(|memory| memory.logs.push((level, message.to_owned())));
}

pub(crate) fn progress(done: u64, total: Option<u64>) {
    with_memory(|memory| memory.progress = Some((done, total)));
}

/// An object as it was when it was opened.
#[derive(Debug)]
pub(crate) struct Object {
    info: ObjectInfo,
    content: Vec<u8>,
}

impl Object {
    pub(crate) fn info(&self) -> ObjectInfo {
        self.info.clone()
    }

    pub(crate) fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let start = usize::try_from(offset)?.min(self.content.len());
        let end = start.saturating_add(length as usize).min(self.content.len());
        Ok(self.content[start..end].to_vec())
    }
}

fn info(uri: &str, content: &[u8]) -> ObjectInfo {
    ObjectInfo { uri: uri.to_owned(), size: content.len() as u64, etag: format!("{:x}", content.len()) }
}

/// The whole of an object in memory.
pub(crate) fn content(uri: &str) -> Result<Vec<u8>> {
    with_memory(|memory| memory.objects.get(uri).cloned()).ok_or_else(|| {
        Error::new(
            "object-not-found",
            format!("expected an object `{uri}`, found none; add it to the test's Env"),
        )
    })
}

pub(crate) fn open_object(uri: &str) -> Result<Object> {
    let content = content(uri)?;
    Ok(Object { info: info(uri, &content), content })
}

pub(crate) fn write_object(uri: &str, _content_type: &str, content: &[u8]) -> Result<()> {
    with_memory(|memory| memory.objects.insert(uri.to_owned(), content.to_vec()));
    Ok(())
}

pub(crate) fn list_objects(prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>> {
    const PAGE: usize = 1000;
    with_memory(|memory| {
        let under = memory.objects.iter().filter(|(uri, _)| uri.starts_with(prefix));
        let rest = under.filter(|(uri, _)| after.is_none_or(|after| uri.as_str() > after));
        Ok(rest.take(PAGE).map(|(uri, content)| info(uri, content)).collect())
    })
}

pub(crate) fn remove_object(uri: &str) -> Result<()> {
    with_memory(|memory| memory.objects.remove(uri));
    Ok(())
}
