// SPDX-License-Identifier: Apache-2.0
//! Asking the service over HTTP and saying what came.

use fanfold_tests::{
    service::{Service, component},
    until,
};
use serde_json::{Value, json};

/// An answer of the gateway.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body as JSON; null when it is none.
    pub body: Value,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
}

impl Answer {
    /// Checks that it is a problem with this code whose sentence names what it should.
    #[track_caller]
    pub fn refused(&self, code: &str, named: &[&str]) {
        assert_eq!(self.body["code"], code, "{self:?}");
        assert!(self.status >= 400, "{self:?}");
        let kind = self.headers.get("content-type").and_then(|v| v.to_str().ok());
        assert_eq!(kind, Some("application/problem+json"), "{self:?}");
        problem(&self.body, code, named);
        assert!(self.body["request_id"].is_string() && self.body["retryable"].is_boolean(), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
    }
}

/// Checks a problem's code and sentence.
#[track_caller]
pub fn problem(problem: &Value, code: &str, named: &[&str]) {
    assert_eq!(problem["code"], code, "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    for word in named {
        assert!(detail.contains(word), "expected {word:?} in {detail:?}");
    }
}

/// A client of the gateway.
pub struct Client<'a> {
    service: &'a Service,
    http: reqwest::Client,
}

impl<'a> Client<'a> {
    pub fn new(service: &'a Service) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { service, http: reqwest::Client::new() }
    }

    /// Sends a request with the token.
    pub async fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Answer {
        let url = format!("{}{path}", self.service.endpoint);
        let request = self.http.request(method.parse().unwrap(), url).bearer_auth(&self.service.token);
        let response = request.header("content-type", kind).body(body).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null), headers }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "application/json", "").await
    }

    /// The sum of the samples of a metric that are labelled so.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let url = format!("{}/metrics", self.service.endpoint);
        let answer = self.http.get(url).bearer_auth(&self.service.token).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let lines =
            text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string()).await
    }

    /// Calls a handler with a JSON body.
    pub async fn invoke(&self, function: &str, body: &Value) -> Answer {
        self.post(&format!("/v1/functions/{function}/invoke"), body).await
    }

    /// Deploys bytes under a name.
    pub async fn deploy(&self, function: &str, component: Vec<u8>) -> Answer {
        self.send("POST", &format!("/v1/functions/{function}/versions"), "application/wasm", component).await
    }

    /// Deploys an example function, or a fixture, with the settings of its folder.
    pub async fn deploy_folder(&self, folder: &str) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions").join(folder);
        let settings = std::fs::read_to_string(folder.join("function.toml")).unwrap();
        let mut settings: Value = toml::from_str(&settings).unwrap();
        let name = settings["name"].take().as_str().unwrap().to_owned();
        settings.as_object_mut().unwrap().remove("name");
        self.deploy_with(&name, &settings).await;
    }

    /// Deploys an example function with settings of one's own.
    pub async fn deploy_with(&self, name: &str, settings: &Value) {
        self.deploy_as(name, name, settings).await;
    }

    /// The same under another name.
    pub async fn deploy_as(&self, example: &str, name: &str, settings: &Value) {
        let component = std::fs::read(component(example).unwrap()).unwrap();
        let url = format!("{}/v1/functions/{name}/versions", self.service.endpoint);
        let request =
            self.http.post(url).bearer_auth(&self.service.token).header("content-type", "application/wasm");
        let response =
            request.header("x-fanfold-settings", settings.to_string()).body(component).send().await.unwrap();
        // 200 is for what is deployed as it was before.
        assert!(matches!(response.status().as_u16(), 200 | 201), "{}", response.text().await.unwrap());
    }

    /// Runs a job to its end; gives its description, or the refusal.
    pub async fn job(&self, mut document: Value) -> Answer {
        // Failures of these jobs are on purpose: one attempt says it all.
        document["retry"] = json!({ "attempts": 1 });
        let accepted = self.post("/v1/jobs", &document).await;
        if accepted.status != 202 {
            return accepted;
        }
        let path = format!("/v1/jobs/{}", accepted.body["id"].as_str().unwrap());
        until("the job's end", || self.get(&path), |job| has_ended(&job.body)).await
    }

    /// A document of the service, once it fits.
    pub async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let shown = async || self.get(path).await.body;
        until(&format!("another state of {path}"), shown, fits).await
    }

    /// A job or a call that was promised, once it has ended.
    pub async fn ended(&self, path: &str) -> Value {
        self.until(path, has_ended).await
    }
}

/// Whether a job or a call that was promised has ended, however it did.
pub fn has_ended(shown: &Value) -> bool {
    !matches!(shown["state"].as_str(), Some("queued" | "running"))
}
