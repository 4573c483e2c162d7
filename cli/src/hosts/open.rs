// SPDX-License-Identifier: Apache-2.0
//! What a process stands on: the store and the backbone, reached before anything else.

use std::{path::Path, time::Duration};

use fanfold_backbone::{Backbone, NatsConfig};
use fanfold_storage::{Store, StoreConfig};

use super::config::{self, Mistakes};
use crate::{
    arbiter::arbitrated,
    error::{Error, Result},
};

/// How long each may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

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

    /// Reaches both. `others` are problems that were found before.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub async fn open(self, path: &Path, mut others: Vec<String>) -> Result<(Store, Backbone)> {
        let (store, backbone) = tokio::join!(reach_store(self.store, &self.bucket), reach_nats(self.nats));
        let opened = match (store, backbone) {
            (Ok(store), Ok(backbone)) if others.is_empty() => {
                match tokio::time::timeout(PATIENCE, arbitrated(&store, &backbone, &self.bucket)).await {
                    Ok(Ok(store)) => return Ok((store, backbone)),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("expected the store to be tried in time, found it slow".to_owned()),
                }
                .map_err(|problem| vec![format!("store: {problem}")])
            }
            (store, backbone) => Err([
                store.err().map(|problem| format!("store: {problem}")),
                backbone.err().map(|problem| format!("nats: {problem}")),
            ]
            .into_iter()
            .flatten()
            .collect()),
        };
        let problems: std::result::Result<(), Vec<String>> = opened;
        others.extend(problems.err().unwrap_or_default());
        Err(Error::service(format!(
            "expected everything that {} names to be there, found\n  {}",
            path.display(),
            others.join("\n  ")
        ))
        .help("nothing was started and no port was bound; correct it and start again"))
    }
}

async fn reach_store(config: Option<StoreConfig>, bucket: &str) -> std::result::Result<Store, String> {
    let config = config.ok_or("it is not configured")?;
    // A start is not to wait through all the retries of a call.
    let store =
        Store::connect(StoreConfig { attempts_max: 2, ..config.clone() }).map_err(|e| e.to_string())?;
    match tokio::time::timeout(PATIENCE, store.ensure_bucket(bucket)).await {
        Ok(Ok(())) => Store::connect(config).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "expected an answer about the bucket {bucket} within {} s, found none",
            PATIENCE.as_secs()
        )),
    }
}

async fn reach_nats(config: Option<NatsConfig>) -> std::result::Result<Backbone, String> {
    let config = config.ok_or("it is not configured")?;
    match tokio::time::timeout(PATIENCE, Backbone::nats(config)).await {
        Ok(opened) => opened.map_err(|error| match error {
            fanfold_backbone::Error::Misconfigured { problems } => problems.join("; "),
            other => other.to_string(),
        }),
        Err(_) => Err(format!("expected NATS to answer within {} s, found none", PATIENCE.as_secs())),
    }
}
