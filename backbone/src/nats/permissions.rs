// SPDX-License-Identifier: Apache-2.0
//! What a process may do at the servers, as NATS itself enforces it: subjects to publish and to subscribe to.
//!
//! Pure, out of the same names that the backbone uses. A gateway does everything within its deployment but what loses
//! data; of a worker, the platform says what it needs ([`Needs`]). Invariant: nobody may delete, purge or change a
//! stream; and a worker may settle no delivery but those it got, because the subjects of settlements are not among
//! what it may publish: the server allows replies to what it delivered, and no others.

use std::fmt;

use super::NatsConfig;
use super::names::{self, Names};
use crate::error::Result;
use crate::name::Scope;

/// The keys, queues and subjects that a worker works with.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Scopes of keys that it reads, lists and watches.
    pub reads: &'a [&'a str],
    /// Scopes of keys that it writes.
    pub writes: &'a [&'a str],
    /// Queues that it pulls from.
    pub pulls: &'a [&'a str],
    /// Patterns of events that it hears.
    pub hears: &'a [&'a str],
    /// Patterns of events that it tells.
    pub tells: &'a [&'a str],
}

/// Subjects, with wildcards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// What it may publish to.
    pub publish: Vec<String>,
    /// What it may subscribe to.
    pub subscribe: Vec<String>,
    /// Whether it may also publish to where a message it got asks for a reply.
    pub replies: bool,
}

/// How often a reply may be given to one delivery, and for how long: a lease is extended every ten seconds while its
/// tasks run. Where that is not enough, it is delivered again, and its commit found.
const REPLIES: &str = "{ max: 2000, expires: \"4h\" }";

/// As it stands in a server's configuration.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Texts in NATS's configuration are quoted as in Rust's.
        write!(f, "publish: {{ allow: {:?} }}, subscribe: {{ allow: {:?} }}", self.publish, self.subscribe)?;
        if self.replies { write!(f, ", allow_responses: {REPLIES}") } else { Ok(()) }
    }
}

impl NatsConfig {
    /// Where answers to a restricted user go, so that no other hears them.
    pub fn inbox(user: &str) -> String {
        format!("_INBOX_{user}")
    }

    /// What a gateway of this deployment may do.
    pub fn gateway_permissions(&self) -> Permissions {
        let names = Names::new(&self.prefix, self.shards);
        let streams = [names.keys_stream(), names.dead_stream()];
        let work = (0..names.shards()).map(|shard| names.work_stream(shard));
        let mut publish = vec![format!("{}.>", self.prefix)];
        for stream in streams.into_iter().chain(work) {
            let stream_calls = ["INFO", "CREATE", "MSG.GET", "MSG.DELETE"];
            publish.extend(stream_calls.map(|call| format!("$JS.API.STREAM.{call}.{stream}")));
            let consumer_calls = ["CREATE", "INFO", "DELETE", "MSG.NEXT"];
            publish.extend(consumer_calls.map(|call| format!("$JS.API.CONSUMER.{call}.{stream}.>")));
            publish.push(format!("$JS.ACK.{stream}.>"));
        }
        let subscribe = vec!["_INBOX.>".to_owned(), format!("{}.events.>", self.prefix)];
        Permissions { publish, subscribe, replies: false }
    }

    /// What a worker of this deployment may do that proves itself as `user` and is [restricted](NatsConfig::restricted).
    ///
    /// # Errors
    /// [`crate::Error::InvalidKey`] for a scope that is none.
    pub fn worker_permissions(&self, user: &str, needs: Needs<'_>) -> Result<Permissions> {
        let names = Names::new(&self.prefix, self.shards);
        let (keys, mut publish) = (names.keys_stream(), Vec::new());
        publish.push(format!("$JS.API.CONSUMER.MSG.NEXT.{keys}.*"));
        for scope in needs.reads {
            let subject = names.scope(&Scope::parse(scope)?);
            publish.push(format!("$JS.API.DIRECT.GET.{keys}.{subject}"));
            publish.push(format!("$JS.API.CONSUMER.CREATE.{keys}.*.{subject}"));
        }
        for scope in needs.writes {
            publish.push(names.scope(&Scope::parse(scope)?));
        }
        for queue in needs.pulls {
            let (stream, consumer) = (names.work_stream(names.shard(queue)), names::consumer(queue));
            publish.extend(
                ["INFO", "MSG.NEXT"].map(|call| format!("$JS.API.CONSUMER.{call}.{stream}.{consumer}")),
            );
            publish.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{}", names.ready(queue)));
            publish.push(names.dead(queue));
        }
        publish.extend(needs.tells.iter().map(|pattern| names.event(pattern)));
        let mut subscribe = vec![format!("{}.>", Self::inbox(user))];
        subscribe.extend(needs.hears.iter().map(|pattern| names.event(pattern)));
        Ok(Permissions { publish, subscribe, replies: true })
    }
}
