// SPDX-License-Identifier: Apache-2.0
//! The service and the store behind it, as this program reaches them.

use std::time::Duration;

use fanfold_protocol::keys::SYSTEM_BUCKET_DEFAULT;
use fanfold_storage::{Store, Support};
use reqwest::Method;
use serde_json::Value;

use super::Finding;
use crate::{client::Client, commands::store, error::Error};

/// On each question.
const PATIENCE: Duration = Duration::from_secs(5);
/// On the store's probe, which tries a dozen things.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// Looks at the service and its store.
pub async fn look(endpoint: Option<&str>, token: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Client::open(endpoint, token) {
        Ok(client) => findings.extend(gateway(&client).await),
        Err(error) => {
            findings.push(Finding::bad("gateway", error.to_string(), "check --endpoint and the profiles"))
        }
    }
    match store::connect(endpoint) {
        Ok(store) => findings.push(object_store(&store).await),
        Err(error) => findings.push(Finding::bad("store", error.to_string(), error.advice())),
    }
    findings
}

async fn gateway(client: &Client) -> Vec<Finding> {
    let request = client.request(Method::GET, "/readyz").timeout(PATIENCE);
    let answer = match client.any_answer(request).await {
        Ok(answer) => answer,
        Err(error) => return vec![Finding::bad("gateway", error.to_string(), error.advice())],
    };
    let status = answer.status();
    let Ok(readiness) = answer.json::<Value>().await else {
        let found =
            format!("{} answers with HTTP status {status}, and not as fanfold does", client.endpoint());
        return vec![Finding::bad("gateway", found, "check --endpoint: something else may listen there")];
    };
    vec![ready(client, &readiness), dependency("backbone", &readiness["backbone"]), access(client).await]
}

fn ready(client: &Client, readiness: &Value) -> Finding {
    let at = client.endpoint().to_owned();
    if readiness["ready"] == true {
        return Finding::good("gateway", at);
    }
    let store =
        readiness["store"]["detail"].as_str().map(|detail| format!(" (store: {detail})")).unwrap_or_default();
    Finding::bad(
        "gateway",
        format!("{at} is not ready{store}"),
        "see what is said of store and backbone, and its log",
    )
}

fn dependency(what: &'static str, state: &Value) -> Finding {
    let detail = state["detail"].as_str().unwrap_or("it does not say");
    match state["ready"].as_bool() {
        Some(true) => Finding::good(what, "ready"),
        _ => Finding::bad(what, detail, "see the log of the service; a restart opens it anew"),
    }
}

async fn access(client: &Client) -> Finding {
    match client.answer(client.request(Method::GET, "/v1/functions").timeout(PATIENCE)).await {
        Ok(_) => Finding::good("token", "accepted"),
        Err(error) => Finding::bad("token", error.to_string(), error.advice()),
    }
}

async fn object_store(store: &Store) -> Finding {
    let at = store.config().endpoint.clone().unwrap_or_else(|| format!("AWS {}", store.config().region));
    let tried = async {
        store.bucket_exists(SYSTEM_BUCKET_DEFAULT).await.map_err(Error::from)?;
        Ok::<_, Error>(store.probe(SYSTEM_BUCKET_DEFAULT).await)
    };
    let probe = match tokio::time::timeout(PROBE_PATIENCE, tried).await {
        Ok(Ok(probe)) => probe,
        Ok(Err(error)) => {
            return Finding::bad("store", error.to_string(), "check that it runs, its address and its keys");
        }
        Err(_) => {
            return Finding::bad("store", format!("{at} does not answer in time"), "check that it runs");
        }
    };
    let abilities = [
        ("put-if-absent", &probe.put_if_absent),
        ("pinned reads", &probe.pinned_reads),
        ("ranged reads", &probe.ranged_reads),
        ("multipart", &probe.multipart),
    ];
    let lacking: Vec<_> = abilities
        .iter()
        .filter_map(|(name, support)| match support {
            Support::Supported => None,
            Support::Unsupported(how) => Some(format!("no {name}: {how}")),
            Support::Unknown(why) => Some(format!("{name} could not be tried: {why}")),
        })
        .collect();
    if lacking.is_empty() {
        return Finding::good("store", format!("{at}: put-if-absent, pinned and ranged reads, multipart"));
    }
    Finding::bad(
        "store",
        format!("{at}\n{}", lacking.join("\n")),
        "use a store that has these, or a newer version of it; where it cannot put if absent, the backbone decides \
         instead, which takes more requests",
    )
}
