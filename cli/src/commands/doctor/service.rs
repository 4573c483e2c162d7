// SPDX-License-Identifier: Apache-2.0
//! The service and the store behind it, as this program reaches them.

use std::time::Duration;

use fanfold_protocol::{ErrorKind, keys::SYSTEM_BUCKET_DEFAULT};
use fanfold_storage::{Probe, Store, Support};
use reqwest::Method;
use serde_json::Value;

use super::Finding;
use crate::{client::Client, commands::store};

/// On each question.
const PATIENCE: Duration = Duration::from_secs(5);
/// On the store's probe, which tries a dozen things.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// Looks at the service and its store.
pub async fn look(endpoint: Option<&str>, token: Option<&str>) -> Vec<Finding> {
    let (mut findings, readiness) = match Client::open(endpoint, token) {
        Ok(client) => gateway(&client).await,
        Err(error) => {
            let finding = Finding::bad("gateway", error.to_string(), error.advice());
            (vec![finding], Value::Null)
        }
    };
    let told = readiness.get("store_abilities").filter(|told| told.is_object());
    match store::connect(endpoint, token) {
        Ok(store) => findings.push(object_store(&store, told).await),
        Err(error) => findings.push(Finding::bad("store", error.to_string(), error.advice())),
    }
    findings
}

/// What is found of the service, and what it says of itself.
async fn gateway(client: &Client) -> (Vec<Finding>, Value) {
    let request = client.request(Method::GET, "/readyz").timeout(PATIENCE);
    let answer = match client.any_answer(request).await {
        Ok(answer) => answer,
        Err(error) => {
            return (vec![Finding::bad("gateway", error.to_string(), error.advice())], Value::Null);
        }
    };
    let (at, status) = (client.endpoint(), answer.status());
    let Ok(readiness) = answer.json::<Value>().await else {
        let found = format!("{at} answers with HTTP status {status}, and not as fanfold does");
        let finding = Finding::bad("gateway", found, "check --endpoint: something else may listen there");
        return (vec![finding], Value::Null);
    };
    let mut findings = parts(at, &readiness);
    findings.push(access(client).await);
    (findings, readiness)
}

/// The gateway and what it stands on, but for the store.
fn parts(at: &str, readiness: &Value) -> Vec<Finding> {
    let anew = "see the log of the service; a restart opens it anew";
    let mut findings = vec![ready(at, readiness), dependency("backbone", &readiness["backbone"], anew)];
    // Only where they are other processes.
    if let Some(workers) = readiness.get("workers") {
        let start = "start one by `fanfold worker`, or see the logs of those that should be there";
        findings.push(dependency("workers", workers, start));
    }
    findings
}

fn ready(at: &str, readiness: &Value) -> Finding {
    if readiness["ready"] == true {
        return Finding::good("gateway", at);
    }
    let wrong: Vec<_> = ["store", "backbone", "workers"]
        .into_iter()
        .filter(|part| readiness[*part]["ready"] == false)
        .map(|part| format!("{part}: {}", readiness[part]["detail"].as_str().unwrap_or("it does not say")))
        .collect();
    let wrong = if wrong.is_empty() { String::new() } else { format!(" ({})", wrong.join(", ")) };
    Finding::bad("gateway", format!("{at} is not ready{wrong}"), "mend what it lacks, and see its log")
}

fn dependency(what: &'static str, state: &Value, mend: &str) -> Finding {
    let detail = state["detail"].as_str().unwrap_or("it does not say");
    match state["ready"].as_bool() {
        Some(true) => Finding::good(what, "ready"),
        _ => Finding::bad(what, detail, mend),
    }
}

async fn access(client: &Client) -> Finding {
    match client.answer(client.request(Method::GET, "/v1/functions").timeout(PATIENCE)).await {
        Ok(_) => Finding::good("token", "accepted"),
        Err(error) => Finding::bad("token", error.to_string(), error.advice()),
    }
}

/// Whether the store answers, and what it can do: as the service was `told` by it, and else by
/// trying, where there is a bucket for that. The service may have another one.
async fn object_store(store: &Store, told: Option<&Value>) -> Finding {
    let at = store.config().endpoint.clone().unwrap_or_else(|| format!("AWS {}", store.config().region));
    let tried = async {
        let there = store.bucket_exists(SYSTEM_BUCKET_DEFAULT).await?;
        let probes = there && told.is_none();
        let probe = if probes { Some(store.probe(SYSTEM_BUCKET_DEFAULT).await) } else { told.map(probed) };
        Ok::<_, fanfold_storage::Error>(probe)
    };
    let probe = match tokio::time::timeout(PROBE_PATIENCE, tried).await {
        Ok(Ok(Some(probe))) => probe,
        Ok(Ok(None)) => {
            return Finding::warning(
                "store",
                format!(
                    "{at} answers; it has no bucket {SYSTEM_BUCKET_DEFAULT}, so what it can do was not tried"
                ),
                "start the service: it makes its bucket, and tries the store",
            );
        }
        // A bucket of that name may be somebody else's.
        Ok(Err(error)) if told.is_some() && is_denied(&error) => {
            return Finding::warning(
                "store",
                format!("{at} answers the service, and refuses the keys that are known here: {error}"),
                "check these keys where `fanfold s3` is refused as well",
            );
        }
        Ok(Err(error)) => {
            return Finding::bad("store", error.to_string(), "check that it runs, its address and its keys");
        }
        Err(_) => {
            return Finding::bad("store", format!("{at} does not answer in time"), "check that it runs");
        }
    };
    let needed = probe.needed();
    let lacking: Vec<_> = needed
        .iter()
        .filter_map(|(name, support)| match support {
            Support::Supported => None,
            Support::Unsupported(how) => Some(format!("no {name}: {how}")),
            Support::Unknown(why) => Some(format!("{name} could not be tried: {why}")),
        })
        .collect();
    if lacking.is_empty() {
        return Finding::good("store", format!("{at}: {}", needed.map(|(name, _)| name).join(", ")));
    }
    let mend = if needed.iter().any(|(_, support)| matches!(support, Support::Unsupported(_))) {
        "use a store that has these, or a newer version of it; where it cannot put if absent or over one ETag alone, the \
         backbone decides instead, which takes more requests"
    } else {
        "check that it serves, and that these keys may write there; then try again"
    };
    Finding::bad("store", format!("{at}\n{}", lacking.join("\n")), mend)
}

fn is_denied(error: &fanfold_storage::Error) -> bool {
    error.kind() == ErrorKind::StoreDenied
}

/// What the service found when it tried its store, as `/readyz` says it.
fn probed(told: &Value) -> Probe {
    let support = |ability: &str| match told[ability].as_str() {
        Some("supported") => Support::Supported,
        Some("unsupported") => Support::Unsupported("the service tried it".to_owned()),
        _ => Support::Unknown("the log of the service says why".to_owned()),
    };
    Probe {
        put_if_absent: support("put_if_absent"),
        put_if_match: support("put_if_match"),
        pinned_reads: support("pinned_reads"),
        ranged_reads: support("ranged_reads"),
        multipart: support("multipart"),
        user_metadata: support("user_metadata"),
    }
}

#[cfg(test)]
mod tests {
    use fanfold_storage::{Credentials, Server, ServerConfig, StoreConfig};
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::commands::doctor::State;

    #[test]
    fn what_keeps_the_service_from_being_ready_is_named() {
        let check = |readiness: Value, expected: &[(&str, State, &str)]| {
            let findings = parts("http://g", &readiness);
            let found: Vec<_> =
                findings.iter().map(|one| (one.what, one.state, one.found.as_str())).collect();
            assert_eq!(found, expected, "{readiness}");
        };
        let (ready, none) = (json!({"ready": true}), json!({"ready": false, "detail": "no worker is there"}));
        let (gateway, backbone) = (("gateway", State::Good, "http://g"), ("backbone", State::Good, "ready"));
        check(json!({"ready": true, "store": ready, "backbone": ready}), &[gateway, backbone]);
        let workers = ("workers", State::Good, "ready");
        let all = json!({"ready": true, "store": ready, "backbone": ready, "workers": ready});
        check(all, &[gateway, backbone, workers]);
        check(
            json!({"ready": false, "store": ready, "backbone": ready, "workers": none}),
            &[
                ("gateway", State::Bad, "http://g is not ready (workers: no worker is there)"),
                backbone,
                ("workers", State::Bad, "no worker is there"),
            ],
        );
        let lost = json!({"ready": false, "detail": "it does not answer in time"});
        let both =
            "http://g is not ready (store: it does not answer in time, backbone: it does not answer in time)";
        check(
            json!({"ready": false, "store": lost, "backbone": lost}),
            &[("gateway", State::Bad, both), ("backbone", State::Bad, "it does not answer in time")],
        );
    }

    #[tokio::test]
    async fn a_store_is_tried_where_its_bucket_is_unless_the_service_has_done_so() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials::random().unwrap();
        let config = ServerConfig { root: folder.path().join("s3"), credentials: credentials.clone() };
        let (server, stop) = (Server::open(config).unwrap(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let stopped = stop.clone();
        tokio::spawn(async move { server.serve(listener, stopped).await });
        let _stop = stop.drop_guard();
        let stranger = StoreConfig::at(endpoint.clone(), Credentials::random().unwrap());
        let stranger = Store::connect(StoreConfig { attempts_max: 1, ..stranger }).unwrap();
        let store = Store::connect(StoreConfig::at(endpoint, credentials)).unwrap();
        let words = |word: &str| {
            json!({"put_if_absent": "supported", "put_if_match": word, "pinned_reads": "supported",
                "ranged_reads": "supported", "multipart": "supported", "user_metadata": "supported"})
        };
        let check = async |store: &Store, told: Option<&Value>, state: State, part: &str| {
            let finding = object_store(store, told).await;
            assert!(finding.state == state && finding.found.contains(part), "{told:?}: {finding:?}");
        };
        check(&store, None, State::Warning, "no bucket fanfold").await;
        check(&store, Some(&words("supported")), State::Good, "put-if-absent, put-if-match").await;
        check(&store, Some(&words("unsupported")), State::Bad, "no put-if-match").await;
        check(&store, Some(&words("unknown")), State::Bad, "put-if-match could not be tried").await;
        let busy = object_store(&store, Some(&words("unknown"))).await;
        assert!(busy.mend.contains("try again"), "{busy:?}");
        check(&stranger, Some(&words("supported")), State::Warning, "refuses the keys").await;
        check(&stranger, None, State::Bad, "").await;
        store.ensure_bucket(SYSTEM_BUCKET_DEFAULT).await.unwrap();
        check(&store, None, State::Good, "put-if-absent").await;
    }
}
