// SPDX-License-Identifier: Apache-2.0
//! What a process may do at the servers, as NATS itself enforces it: accounts, and subjects to publish and to subscribe to.
//!
//! Pure, out of the same names that the backbone uses. A gateway does everything within its deployment but what loses
//! data; of a worker, the platform says what it needs ([`Needs`]). Invariant: a worker deletes, purges and changes no
//! stream, and settles no delivery but those it got, because the subjects of settlements are not among what it may
//! publish: the server allows replies to what it delivered, and no others.
//!
//! Each worker has an account of its own, with a share in what it needs of the deployment's. Permissions alone would not
//! do: whoever asks names the subject of the answer, and the servers publish it there by their own right, so that in one
//! account a record of a worker's becomes any other record, or a request that deletes a stream. Across accounts the
//! answer goes to a subject of the servers' own, and from there to the one that was named, in the account that asked.

use std::fmt;

use super::names::{self, Names};
use super::{NatsConfig, Secret};
use crate::error::Result;
use crate::name::Scope;

/// What JetStream is asked under, in the account that has it.
pub(super) const API: &str = "$JS.API";

/// The keys, queues and subjects that a worker works with.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Scopes of keys that it reads, lists and watches.
    pub reads: &'a [&'a str],
    /// Scopes of keys that it writes.
    pub writes: &'a [&'a str],
    /// Queues that it pulls from, which others [keep](crate::Backbone::keep_queue).
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

/// A user of NATS.
#[derive(Debug, Clone)]
pub struct NatsUser {
    /// Also what a worker's account is named by.
    pub name: String,
    /// What it proves itself with.
    pub password: Secret,
}

/// What the accounts of workers have of the deployment's, by its subjects there.
#[derive(Debug, Default)]
struct Shares {
    /// To be asked, with one answer each.
    requests: Vec<String>,
    /// To be asked, with many answers.
    pulls: Vec<String>,
    /// Where deliveries are settled.
    settlements: Vec<String>,
    /// To be heard.
    events: Vec<String>,
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

    /// What a worker of this deployment may do in its account that proves itself as `user` and is
    /// [restricted](NatsConfig::restricted).
    ///
    /// # Errors
    /// [`crate::Error::InvalidKey`] for a scope that is none.
    pub fn worker_permissions(&self, user: &str, needs: Needs<'_>) -> Result<Permissions> {
        let shares = self.shares(needs)?;
        let publish = shares.requests.iter().chain(&shares.pulls).map(|subject| self.of_worker(subject));
        let inbox = format!("{}.>", Self::inbox(user));
        Ok(Permissions {
            publish: publish.collect(),
            subscribe: std::iter::once(inbox).chain(shares.events).collect(),
            replies: true,
        })
    }

    /// The accounts of this deployment as they stand in a server's configuration: the one that has its streams, of
    /// which gateways are users, and one for each worker.
    ///
    /// # Errors
    /// As [`NatsConfig::worker_permissions`].
    pub fn accounts(&self, gateways: &[NatsUser], workers: &[NatsUser], needs: Needs<'_>) -> Result<String> {
        let shares = self.shares(needs)?;
        let user = |user: &NatsUser, permissions: &Permissions| {
            let (name, password) = (&user.name, &user.password.0);
            format!("      {{ user: {name:?}, password: {password:?}, permissions: {{ {permissions} }} }}\n")
        };
        let account = |name: &str, more: &str, users: &str, shared: &str, lines: &[String]| {
            let lines = lines.concat();
            format!("  {name:?}: {{\n{more}    users: [\n{users}    ]\n    {shared}: [\n{lines}    ]\n  }}\n")
        };
        let permissions = self.gateway_permissions();
        let users: String = gateways.iter().map(|gateway| user(gateway, &permissions)).collect();
        let of_workers: Vec<String> = workers.iter().map(|worker| self.account_of(worker)).collect();
        // What is shared with nobody in particular is everybody's.
        let exports = if workers.is_empty() { Vec::new() } else { shares.exports(&of_workers) };
        let own = account(&self.prefix, "    jetstream: enabled\n", &users, "exports", &exports);
        let imports = self.imports(&shares);
        let mut accounts = vec![own];
        for (worker, name) in workers.iter().zip(&of_workers) {
            let users = user(worker, &self.worker_permissions(&worker.name, needs)?);
            accounts.push(account(name, "", &users, "imports", &imports));
        }
        Ok(format!("accounts {{\n{}}}\n", accounts.concat()))
    }

    /// With a character between the two that is in no prefix, so that no deployment beside this one has it.
    fn account_of(&self, worker: &NatsUser) -> String {
        format!("{}:{}", self.prefix, worker.name)
    }

    fn shares(&self, needs: Needs<'_>) -> Result<Shares> {
        let names = Names::new(&self.prefix, self.shards);
        let (keys, mut shares) = (names.keys_stream(), Shares::default());
        shares.pulls.push(format!("{API}.CONSUMER.MSG.NEXT.{keys}.*"));
        for scope in needs.reads {
            let subject = names.scope(&Scope::parse(scope)?);
            shares.requests.push(format!("{API}.DIRECT.GET.{keys}.{subject}"));
            shares.requests.push(format!("{API}.CONSUMER.CREATE.{keys}.*.{subject}"));
        }
        for scope in needs.writes {
            shares.requests.push(names.scope(&Scope::parse(scope)?));
        }
        for queue in needs.pulls {
            let (stream, consumer) = (names.work_stream(names.shard(queue)), names::consumer(queue));
            // Not to make it: the servers take that for leave to change it, for everybody who pulls.
            shares.requests.push(format!("{API}.CONSUMER.INFO.{stream}.{consumer}"));
            shares.requests.push(names.dead(queue));
            shares.pulls.push(format!("{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}"));
            shares.settlements.push(format!("$JS.ACK.{stream}.{consumer}.>"));
        }
        shares.requests.extend(needs.tells.iter().map(|pattern| names.event(pattern)));
        shares.events.extend(needs.hears.iter().map(|pattern| names.event(pattern)));
        Ok(shares)
    }

    /// A subject as a worker's account has it. The servers answer what is asked under JetStream's own in any account,
    /// if only that it has none.
    fn of_worker(&self, subject: &str) -> String {
        let api = Names::new(&self.prefix, self.shards).worker_api();
        subject.strip_prefix(API).map_or_else(|| subject.to_owned(), |asked| format!("{api}{asked}"))
    }

    fn imports(&self, shares: &Shares) -> Vec<String> {
        let account = &self.prefix;
        let services = shares.services().map(|(subject, _)| {
            let to = self.of_worker(subject);
            format!("      {{ service: {{ account: {account:?}, subject: {subject:?} }}, to: {to:?} }}\n")
        });
        let events = shares
            .events
            .iter()
            .map(|subject| format!("      {{ stream: {{ account: {account:?}, subject: {subject:?} }} }}\n"));
        services.chain(events).collect()
    }
}

impl Shares {
    /// What is asked, and how it is answered.
    fn services(&self) -> impl Iterator<Item = (&String, &'static str)> {
        let single = self.requests.iter().chain(&self.settlements).map(|subject| (subject, "single"));
        single.chain(self.pulls.iter().map(|subject| (subject, "stream")))
    }

    fn exports(&self, accounts: &[String]) -> Vec<String> {
        let services = self.services().map(|(subject, answers)| {
            format!("      {{ service: {subject:?}, response_type: {answers}, accounts: {accounts:?} }}\n")
        });
        let events = self.events.iter();
        let events =
            events.map(|subject| format!("      {{ stream: {subject:?}, accounts: {accounts:?} }}\n"));
        services.chain(events).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of a deployment's accounts.
    fn accounts(prefix: &str, workers: &[&str]) -> Vec<String> {
        let mut config = NatsConfig::new(["nats://127.0.0.1:4222"]);
        config.prefix = prefix.to_owned();
        let user = |name: &&str| NatsUser { name: (*name).to_owned(), password: Secret::new("p") };
        let workers: Vec<_> = workers.iter().map(user).collect();
        let needs = Needs { reads: &[], writes: &[], pulls: &[], hears: &[], tells: &[] };
        let text = config.accounts(&[], &workers, needs).unwrap();
        let named = text.lines().filter_map(|line| line.strip_prefix("  \"")?.strip_suffix("\": {"));
        named.map(str::to_owned).collect()
    }

    #[test]
    fn no_account_of_one_deployment_is_anothers() {
        assert_eq!(accounts("x", &["y", "y-z"]), ["x", "x:y", "x:y-z"]);
        assert_eq!(accounts("x-y", &["z"]), ["x-y", "x-y:z"]);
    }
}
