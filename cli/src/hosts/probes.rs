// SPDX-License-Identifier: Apache-2.0
//! A worker's `/healthz`, `/readyz` and `/metrics`, for what supervises it.
//!
//! Plain HTTP on an address of its own, which tells nothing that is secret and
//! takes nothing.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use fanfold_backbone::Backbone;
use fanfold_runtime::{Runtime, remote::Identity};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// For the headers of a request, and for the backbone to answer.
const PATIENCE: Duration = Duration::from_secs(3);

const PLAIN: &str = "text/plain; charset=utf-8";
/// Prometheus' text format; since 3.0 it takes no metrics that do not say what they are.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers until `gone`.
pub async fn serve(
    listener: TcpListener,
    runtime: Runtime,
    backbone: Backbone,
    identity: watch::Receiver<Identity>,
    draining: CancellationToken,
    gone: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = gone.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (runtime, backbone, draining) = (runtime.clone(), backbone.clone(), draining.clone());
        let identity = identity.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (runtime, backbone, draining) = (runtime.clone(), backbone.clone(), draining.clone());
            let ends = identity.borrow().ends;
            async move {
                let path = request.uri().path();
                Ok::<_, Infallible>(answer(path, &runtime, &backbone, ends, &draining).await)
            }
        });
        let gone = gone.clone();
        tokio::spawn(async move {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            let _ = gone.run_until_cancelled(serving).await;
        });
    }
}

async fn answer(
    path: &str,
    runtime: &Runtime,
    backbone: &Backbone,
    certificate_ends: u64,
    draining: &CancellationToken,
) -> Response<Full<Bytes>> {
    let (mut status, mut kind) = (StatusCode::OK, PLAIN);
    let text = match path {
        "/healthz" => "ok\n".to_owned(),
        "/readyz" => {
            let reached = matches!(tokio::time::timeout(PATIENCE, backbone.ping()).await, Ok(Ok(())));
            let stored = runtime.store_answers();
            let ready = reached && stored && !draining.is_cancelled();
            if !ready {
                status = StatusCode::SERVICE_UNAVAILABLE;
            }
            let draining = draining.is_cancelled();
            let state = serde_json::json!({"ready": ready, "store": stored, "backbone": reached, "draining": draining});
            kind = "application/json";
            format!("{state}\n")
        }
        "/metrics" => {
            kind = METRICS;
            metrics(runtime, certificate_ends)
        }
        _ => {
            status = StatusCode::NOT_FOUND;
            "expected /healthz, /readyz or /metrics\n".to_owned()
        }
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn metrics(runtime: &Runtime, certificate_ends: u64) -> String {
    let counters = runtime.counters();
    let memory = runtime.memory();
    let gauges = [
        (
            "fanfold_certificate_expiration_timestamp_seconds",
            "When the certificate that it shows to gateways ends, in Unix time",
            certificate_ends,
        ),
        (
            "fanfold_components_quarantined",
            "Components that no worker runs any more",
            counters.components_quarantined,
        ),
        (
            "fanfold_sandbox_memory_budget_bytes",
            "Memory that sandboxes may take together",
            memory.budget_bytes,
        ),
        (
            "fanfold_sandbox_memory_reserved_bytes",
            "Memory that sandboxes have taken or are expected to take",
            memory.reserved_bytes,
        ),
    ]
    .map(|(name, help, value)| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"))
    .concat();
    let counted = [
        ("fanfold_components_compiled_total", "Components compiled", counters.components_compiled),
        ("fanfold_artifacts_refused_total", "Compiled artifacts refused", counters.artifacts_refused),
    ]
    .map(|(name, help, value)| format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"))
    .concat();
    counted + &gauges
}
