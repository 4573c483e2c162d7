// SPDX-License-Identifier: Apache-2.0
//! The streams of a deployment: what they should be, and the check of what is there.
//!
//! Runs once, when the backbone opens. Missing streams are made; one that differs from the configuration is
//! reported setting by setting and never changed, since a change can lose data.

use std::fmt::{Debug, Display};
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use futures::{StreamExt, stream};

use super::config::NatsConfig;
use super::names::Names;
use super::patience::{Lack, Patience, is_without_jetstream, lack_of_create, lack_of_get};

/// Begins what the stream of keys says of its deployment: whoever spreads queues over another number of streams would
/// look for them where they are not.
const SHARDS: &str = "shards of the work queue: ";
/// Streams that are asked about or made at once, and their consumers.
pub(super) const AT_ONCE: usize = 16;
/// How long the first successor of a revision is known: longer than a write can be under way.
const SUCCESSORS_KNOWN: Duration = Duration::from_secs(60);

/// Checks every stream, and makes those that are missing where all others fit; answers what is wrong, all of it.
pub(super) async fn prepare(
    jetstream: &Context,
    names: &Names,
    config: &NatsConfig,
    patience: &Patience,
) -> Vec<String> {
    let (missing, mut problems) = inspect(jetstream, names, config, patience).await;
    // Beside what does not fit, nothing is made: it may be another deployment's.
    if !problems.is_empty() {
        return problems;
    }
    let making = missing.into_iter().map(|wanted| async move { make(jetstream, &wanted, patience).await });
    let mut making = stream::iter(making).buffered(AT_ONCE);
    while let Some(made) = making.next().await {
        match made {
            Ok(found) => problems.extend(found),
            Err(silence) => {
                problems.push(silence);
                break;
            }
        }
    }
    problems
}

/// Checks every stream and changes nothing; answers those that are missing, and what is wrong with the others, in their
/// order. Servers that do not answer about one are not asked about the rest.
pub(super) async fn inspect(
    jetstream: &Context,
    names: &Names,
    config: &NatsConfig,
    patience: &Patience,
) -> (Vec<Config>, Vec<String>) {
    let (mut missing, mut problems) = (Vec::new(), Vec::new());
    let asking = wanted(names, config).into_iter().map(|wanted| async move {
        let found = patience.insist(|| jetstream.get_stream(&wanted.name), lack_of_get).await;
        (wanted, found)
    });
    let mut asking = stream::iter(asking).buffered(AT_ONCE);
    while let Some((wanted, found)) = asking.next().await {
        match found {
            Ok(stream) => problems.extend(differences(&wanted, &stream.cached_info().config)),
            Err(error) if is_missing(&error) => missing.push(wanted),
            Err(error) => {
                let problem = refused(&wanted.name, patience);
                problems.push(problem.unwrap_or_else(|| unfound(&wanted.name, &error)));
                if error.kind() == GetStreamErrorKind::Request || lack_of_get(&error).is_some() {
                    break;
                }
            }
        }
    }
    (missing, problems)
}

fn unfound(name: &str, error: &GetStreamError) -> String {
    if is_without_jetstream(error) {
        return format!(
            "expected JetStream to be on, found nobody at NATS who answers about the stream {name}; turn it on"
        );
    }
    if lack_of_get(error).is_some() {
        return leaderless(name, error);
    }
    format!("expected the stream {name} or leave to make it, found: {error}")
}

fn leaderless(name: &str, error: &impl Display) -> String {
    format!(
        "expected servers of NATS with a leader, found no answer about the stream {name} ({error}); see that most of \
         them run and reach each other"
    )
}

/// What NATS does not let us do, where it said so; an answer fails to come for that as well.
fn refused(name: &str, patience: &Patience) -> Option<String> {
    let refusal = patience.refusal()?;
    Some(format!(
        "expected the rights of a gateway to the stream {name}, found: {refusal}; give the user what `fanfold \
         nats-users` writes"
    ))
}

fn wanted(names: &Names, config: &NatsConfig) -> Vec<Config> {
    let common = |name: String, subject: String, bytes_max: u64| Config {
        name,
        subjects: vec![subject],
        max_bytes: i64::try_from(bytes_max).unwrap_or(i64::MAX),
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: config.replicas,
        duplicate_window: config.dedupe_window,
        ..Config::default()
    };
    let mut all = vec![
        Config {
            max_messages_per_subject: 1,
            // For workers that may read some keys and not others.
            allow_direct: true,
            duplicate_window: SUCCESSORS_KNOWN,
            description: Some(format!("{SHARDS}{}", names.shards())),
            ..common(names.keys_stream(), names.keys_all(), config.keys_bytes_max)
        },
        common(names.dead_stream(), names.dead_all(), config.dead_bytes_max),
    ];
    all.extend((0..names.shards()).map(|shard| Config {
        retention: RetentionPolicy::WorkQueue,
        ..common(names.work_stream(shard), names.work_all(shard), config.shard_bytes_max)
    }));
    all
}

/// Whether the servers say that there is no such stream.
pub(super) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Makes one stream and answers what is wrong with it; an error where no server says.
async fn make(jetstream: &Context, wanted: &Config, patience: &Patience) -> Result<Vec<String>, String> {
    let name = &wanted.name;
    let error = match patience.insist(|| jetstream.create_stream(wanted), lack_of_create).await {
        Ok(stream) => return Ok(differences(wanted, &stream.cached_info().config)),
        Err(error) => error,
    };
    if lack_of_create(&error) == Some(Lack::Leader) {
        return Err(refused(name, patience).unwrap_or_else(|| leaderless(name, &error)));
    }
    Ok(match error.kind() {
        // Somebody else made it just now, and not as we would have.
        CreateStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NAME_EXIST => {
            match jetstream.get_stream(name).await {
                Ok(stream) => differences(wanted, &stream.cached_info().config),
                Err(error) => vec![format!("expected the stream {name}, found: {error}")],
            }
        }
        CreateStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP => {
            vec![format!(
                "expected the subjects {} for the stream {name} alone, found another stream that takes them too; \
                 remove that one, or set another `prefix`",
                wanted.subjects.join(", ")
            )]
        }
        _ => vec![format!(
            "expected to make the stream {name} with {} replicas and {} bytes, found: {error}; give JetStream the \
             room and the servers, or lower the settings",
            wanted.num_replicas, wanted.max_bytes
        )],
    })
}

/// Of how many shards a stream says that its deployment is.
fn shards(config: &Config) -> Option<usize> {
    config.description.as_deref()?.strip_prefix(SHARDS)?.parse().ok()
}

/// The settings that matter to us in which a stream is not what it should be.
fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |setting: &'static str, wanted: &dyn Debug, found: &dyn Debug| {
        let (wanted, found) = (format!("{wanted:?}"), format!("{found:?}"));
        if wanted != found {
            problems.push((setting, wanted + ", found " + &found));
        }
    };
    check("subjects", &wanted.subjects, &found.subjects);
    check("retention", &wanted.retention, &found.retention);
    check("discard", &wanted.discard, &found.discard);
    check("storage", &wanted.storage, &found.storage);
    check("num_replicas", &wanted.num_replicas, &found.num_replicas);
    check("max_bytes", &wanted.max_bytes, &found.max_bytes);
    check("duplicate_window", &wanted.duplicate_window, &found.duplicate_window);
    // Both 0 and -1 mean that there is no bound.
    let bound = |n: i64| (n > 0).then_some(n);
    check(
        "max_msgs_per_subject",
        &bound(wanted.max_messages_per_subject),
        &bound(found.max_messages_per_subject),
    );
    check("max_msgs", &bound(wanted.max_messages), &bound(found.max_messages));
    check("max_msg_size", &bound(wanted.max_message_size.into()), &bound(found.max_message_size.into()));
    check("max_consumers", &bound(wanted.max_consumers.into()), &bound(found.max_consumers.into()));
    check("max_age", &wanted.max_age, &found.max_age);
    // One that an earlier build made says nothing.
    if let (Some(wanted), Some(found)) = (shards(wanted), shards(found)) {
        check("shards", &wanted, &found);
    }
    check("discard_new_per_subject", &wanted.discard_new_per_subject, &found.discard_new_per_subject);
    check("no_ack", &wanted.no_ack, &found.no_ack);
    check("sealed", &wanted.sealed, &found.sealed);
    check("deny_delete", &wanted.deny_delete, &found.deny_delete);
    // Where nobody needs it, it does no harm.
    check("allow_direct", &wanted.allow_direct, &(wanted.allow_direct && found.allow_direct));
    problems
        .into_iter()
        .map(|(setting, problem)| {
            let (stream, key) = (&wanted.name, key_of(setting, &wanted.name));
            format!(
                "expected the stream {stream} with {setting} {problem}; correct {key}, or edit the stream with the \
                 `nats` command"
            )
        })
        .collect()
}

/// Where the configuration says what a setting of a stream is to be.
fn key_of(setting: &str, stream: &str) -> &'static str {
    match setting {
        "num_replicas" => "`replicas`",
        "shards" => "`shards`",
        "max_bytes" if stream.ends_with("-keys") => "`keys_bytes`",
        "max_bytes" if stream.ends_with("-dead") => "`dead_bytes`",
        "max_bytes" => "`shard_bytes`",
        _ => "the configuration",
    }
}
