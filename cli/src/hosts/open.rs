// SPDX-License-Identifier: Apache-2.0
//! What a process stands on: the store and the backbone, reached before anything else.

use std::{collections::BTreeSet, fmt, future::Future, path::Path, time::Duration};

use fanfold_backbone::{Backbone, NatsConfig};
use fanfold_protocol::uri;
use fanfold_storage::{Error as StoreError, Store, StoreConfig};

use super::{config, mistakes::Mistakes};
use crate::{
    arbiter::arbitrated,
    error::{Error, Result},
    output,
    patience::Patience,
};

/// How long NATS may take to answer, which is waited for where it has no leader yet.
const NATS_ANSWER: Duration = Duration::from_secs(45);

/// How they are reached.
#[derive(Clone)]
pub struct Ways {
    store: Option<StoreConfig>,
    nats: Option<NatsConfig>,
    bucket: String,
}

impl Ways {
    /// Out of the configuration.
    pub fn of(store: &config::Store, nats: &config::Nats, bucket: &str, mistakes: &mut Mistakes) -> Self {
        Self { store: store.build(mistakes), nats: nats.build(mistakes), bucket: bucket.to_owned() }
    }

    /// Fails if there are mistakes in the configuration, and tells beside them what else is wrong: `others`,
    /// and what of the store and NATS can be reached in spite of them. Changes nothing.
    ///
    /// # Errors
    /// Wrong use.
    pub async fn admit(&self, path: &Path, mistakes: Mistakes, others: &[String]) -> Result<()> {
        if mistakes.all().is_empty() {
            return Ok(());
        }
        let mut ways = self.clone();
        // No store is asked for a bucket that can be none.
        if mistakes.are_about("store") || uri::check_bucket(&ways.bucket).is_err() {
            ways.store = None;
        }
        if mistakes.are_about("nats") {
            ways.nats = None;
        }
        let (_, problems) = ways.look([], others).await;
        Err(mistakes.with([others, &problems[..]].concat()).into_error(path))
    }

    /// Reaches both, and waits with this patience for what cannot serve yet. With `others`, problems that were
    /// found before, the start fails in any case: then nothing is waited for, made or changed.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub async fn open(
        self,
        path: &Path,
        mut others: Vec<String>,
        patience: &Patience,
    ) -> Result<(Store, Backbone)> {
        if !others.is_empty() {
            let (_, problems) = self.look([], &others).await;
            others.extend(problems);
            return Err(absent(path, &others));
        }
        let Self { store, nats, bucket } = self;
        let store = async { reach_store(store, &bucket, patience).await.inspect_err(|_| patience.give_up()) };
        let nats = async { reach_nats(nats, patience).await.inspect_err(|_| patience.give_up()) };
        let problems = match tokio::join!(store, nats) {
            (Ok(store), Ok(backbone)) => match arbitrated(&store, &backbone, &bucket, patience).await {
                Ok(store) => return Ok((store, backbone)),
                Err(error) => vec![format!("store: {error}")],
            },
            (store, backbone) => {
                let nats = backbone.err().map(|problem| format!("nats: {problem}"));
                store.err().into_iter().chain(nats).collect()
            }
        };
        Err(absent(path, &problems))
    }

    /// Reaches both, changes nothing, and says what a start would make. `buckets` are those that it needs
    /// beside its own, `others` problems that were found before.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub async fn check(
        self,
        path: &Path,
        buckets: impl IntoIterator<Item = String>,
        mut others: Vec<String>,
    ) -> Result<()> {
        let (missing, problems) = self.look(buckets, &others).await;
        others.extend(problems);
        if !others.is_empty() {
            return Err(absent(path, &others));
        }
        missing.iter().for_each(|what| output::note(format!("{what} is not there yet; a start makes it")));
        output::note("the configuration is sound, and what it names can be reached");
        Ok(())
    }
}

impl Ways {
    /// What is missing, and what is wrong, of both beside `others`.
    async fn look(
        self,
        buckets: impl IntoIterator<Item = String>,
        others: &[String],
    ) -> (Vec<String>, Vec<String>) {
        let buckets = buckets.into_iter().chain([self.bucket]).collect();
        // With certificates that are wrong it would be told to be wrong itself.
        let nats = self.nats.filter(|_| !others.iter().any(|problem| problem.starts_with("nats.")));
        let (store, nats) = tokio::join!(missing_buckets(self.store, buckets), missing_streams(nats));
        let (mut missing, mut problems) = (Vec::new(), Vec::new());
        for found in [store, nats.map_err(|problem| format!("nats: {problem}"))] {
            match found {
                Ok(found) => missing.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        (missing, problems)
    }
}

fn absent(path: &Path, problems: &[String]) -> Error {
    Error::service(format!(
        "expected everything that {} names to be there, found\n  {}",
        path.display(),
        problems.join("\n  ")
    ))
    .help("nothing was started and no port was bound; correct it and start again")
}

/// A store's client that is not to wait through all the retries of a call.
fn impatient(config: &StoreConfig) -> fanfold_storage::Result<Store> {
    Store::connect(StoreConfig { attempts_max: 2, ..config.clone() })
}

/// What is wrong with a store, behind the key to change.
fn of_store(error: &StoreError, config: &StoreConfig) -> String {
    match error {
        StoreError::Unavailable { target, detail } | StoreError::Timeout { target, detail } => {
            let at = config.endpoint.as_deref().unwrap_or("AWS");
            format!(
                "store.endpoint: expected a store at {at} that serves {target}, found: {detail}; correct it, or see \
                 to the store"
            )
        }
        StoreError::AccessDenied { .. } => format!(
            "store.credentials: {error}, or choose another `system_bucket` where somebody else has this one"
        ),
        StoreError::OtherRegion { .. } => format!("store.region: {error}"),
        _ => format!("store: {error}"),
    }
}

async fn missing_buckets(
    config: Option<StoreConfig>,
    buckets: BTreeSet<String>,
) -> std::result::Result<Vec<String>, String> {
    // What is wrong with a configuration that is none was told.
    let Some(config) = config else { return Ok(Vec::new()) };
    let told = |error: StoreError| of_store(&error, &config);
    let store = impatient(&config).map_err(told)?;
    let mut missing = Vec::new();
    for bucket in buckets {
        let there = Patience::none().insist(&bucket, || store.bucket_exists(&bucket)).await;
        if !there.map_err(told)? {
            missing.push(format!("the bucket {bucket}"));
        }
    }
    Ok(missing)
}

async fn missing_streams(config: Option<NatsConfig>) -> std::result::Result<Vec<String>, String> {
    let Some(config) = config else { return Ok(Vec::new()) };
    let missing = of_nats(Backbone::nats_missing(config)).await.map_err(|trouble| trouble.told)?;
    Ok(missing.into_iter().map(|name| format!("the stream {name} of NATS")).collect())
}

async fn reach_store(
    config: Option<StoreConfig>,
    bucket: &str,
    patience: &Patience,
) -> std::result::Result<Store, String> {
    let config = config.ok_or("store: it is not configured")?;
    let told = |error: StoreError| of_store(&error, &config);
    let store = impatient(&config).map_err(told)?;
    let reached = patience.insist(bucket, || store.ensure_bucket(bucket)).await;
    reached.and_then(|()| Store::connect(config.clone())).map_err(told)
}

async fn reach_nats(
    config: Option<NatsConfig>,
    patience: &Patience,
) -> std::result::Result<Backbone, String> {
    let config = config.ok_or("it is not configured")?;
    let open = || of_nats(Backbone::nats(config.clone()));
    let opened = patience.insist_on("NATS", open, |trouble| trouble.is_out_of_reach).await;
    opened.map_err(|trouble| trouble.told)
}

/// Why NATS cannot be worked with.
struct Trouble {
    told: String,
    /// So that it may come up.
    is_out_of_reach: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

/// The answer of NATS, in time.
async fn of_nats<T>(
    answer: impl Future<Output = fanfold_backbone::Result<T>>,
) -> std::result::Result<T, Trouble> {
    let Ok(opened) = tokio::time::timeout(NATS_ANSWER, answer).await else {
        let told = format!("expected NATS to answer within {} s, found none", NATS_ANSWER.as_secs());
        return Err(Trouble { told, is_out_of_reach: false });
    };
    opened.map_err(|error| {
        let is_out_of_reach = matches!(error, fanfold_backbone::Error::OutOfReach { .. });
        let told = match error {
            fanfold_backbone::Error::Misconfigured { problems } => problems.join("; "),
            other => other.to_string(),
        };
        Trouble { told, is_out_of_reach }
    })
}

#[cfg(test)]
mod tests {
    use fanfold_storage::Credentials;

    use super::*;

    #[tokio::test]
    async fn no_store_is_asked_for_a_bucket_that_can_be_none() {
        for (bucket, is_asked) in [("fanfold", true), ("", false), ("A", false)] {
            let store = Some(StoreConfig::at("http://127.0.0.1:1", Credentials::new("key", "secret")));
            let ways = Ways { store, nats: None, bucket: bucket.to_owned() };
            let mut mistakes = Mistakes::default();
            mistakes.note("slots", "expected some");
            let told = ways.admit(Path::new("f"), mistakes, &[]).await.unwrap_err().to_string();
            assert_eq!(told.contains("store"), is_asked, "{bucket:?}: {told}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_certificate_for_nats_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "no certificate").unwrap();
        for ca in [folder.path().join("none.pem"), file] {
            let nats: config::Nats =
                toml::from_str(&format!("urls = [\"nats://127.0.0.1:1\"]\nca = {ca:?}")).unwrap();
            let others = || crate::hosts::tls::problems(None, &nats);
            let ways = Ways {
                store: None,
                nats: nats.build(&mut Mistakes::default()),
                bucket: "fanfold".to_owned(),
            };
            let mut mistakes = Mistakes::default();
            mistakes.note("slots", "expected some");
            let path = Path::new("f");
            let told = [
                ways.admit(path, mistakes, &others()).await,
                ways.clone().open(path, others(), &Patience::of_start()).await.map(drop),
                ways.check(path, [], others()).await,
            ];
            for told in told.map(|told| told.unwrap_err().to_string()) {
                assert!(told.contains("nats.ca: ") && told.matches("nats").count() == 1, "{told}");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_store_names_the_key_to_change() {
        let check = |config: &StoreConfig, error: StoreError, expected: &[&str]| {
            let told = of_store(&error, config);
            let [key, named @ ..] = expected else { panic!("expected a key") };
            assert!(told.starts_with(&format!("{key}: expected")), "{told}");
            assert!(named.iter().all(|named| told.contains(named)), "{told}");
        };
        let keys = || Credentials::new("key", "secret");
        let own = StoreConfig::at("http://127.0.0.1:1", keys());
        let aws = StoreConfig::new("us-east-1", keys());
        let (target, detail) = ("the bucket fanfold".to_owned(), "no answer".to_owned());
        let away = StoreError::Unavailable { target: target.clone(), detail: detail.clone() };
        check(&own, away, &["store.endpoint", "at http://127.0.0.1:1 that", "no answer"]);
        let slow = StoreError::Timeout { target: target.clone(), detail: detail.clone() };
        check(&aws, slow, &["store.endpoint", "at AWS that", "no answer"]);
        let denied = StoreError::AccessDenied { target: target.clone(), detail: detail.clone() };
        check(&aws, denied, &["store.credentials", "the bucket fanfold", "`system_bucket`"]);
        let asked = "us-east-1".to_owned();
        let elsewhere = StoreError::OtherRegion { target: target.clone(), asked, found: None };
        check(&aws, elsewhere, &["store.region", "us-east-1"]);
        check(&own, StoreError::Full { target, detail }, &["store", "no answer"]);
    }
}
