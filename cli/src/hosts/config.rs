// SPDX-License-Identifier: Apache-2.0
//! The files that a gateway and a worker are configured with: TOML, unknown keys
//! are errors, secrets stand in files of their own.
//!
//! docs/configuration.md describes every key; a test holds it against these.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use fanfold_backbone::{NatsConfig, NatsCredentials, NatsTls, Secret};
use fanfold_gateway::{AwsCredentials, GatewayConfig, SourcesConfig, TokenDigest, config::Mistake};
use fanfold_protocol::{
    keys, limits,
    names::{TenantName, WorkerName},
    size::{ByteSize, Span},
    tenant::{BucketPattern, Tenant},
    uri,
};
use fanfold_runtime::budget_mistake;
use fanfold_storage::{Credentials, StoreConfig};
use serde::Deserialize;

use super::{mistakes::Mistakes, tls};

/// The file of `fanfold gateway`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Address for users.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Whom it serves, if that is one.
    pub tenant: Option<TenantName>,
    /// File with the SHA-256 digests of that one's tokens, one a line.
    pub token_digests: Option<PathBuf>,
    /// Whom it serves, if these are several.
    #[serde(default)]
    pub tenants: Vec<Resident>,
    /// The bucket of the platform's own objects.
    #[serde(default = "system_bucket")]
    pub system_bucket: String,
    pub store: Store,
    pub nats: Nats,
    pub tls: Tls,
    /// What triggers of the one tenant fetch with.
    #[serde(default)]
    pub sources: Sources,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// One of several tenants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resident {
    pub name: TenantName,
    /// Its share of the workers beside those of others that have work.
    #[serde(default = "weight")]
    pub weight: u32,
    /// File with the SHA-256 digests of its tokens, one a line.
    pub token_digests: PathBuf,
    /// The buckets that are its own: names, or beginnings with a `*` behind.
    #[serde(default)]
    pub buckets: Vec<String>,
    /// The bucket of the platform's own objects of this tenant.
    pub system_bucket: Option<String>,
    /// What its triggers fetch with.
    #[serde(default)]
    pub sources: Sources,
    /// Over those of `limits`.
    pub function_concurrency: Option<usize>,
    pub tenant_concurrency: Option<usize>,
}

/// The file of `fanfold worker`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Its name, which no other worker has; the host's when absent.
    pub name: Option<WorkerName>,
    /// Address for gateways.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// `host:port` by which gateways reach it; its certificate names the host.
    /// `{name}` stands for the worker's name.
    pub advertise: Option<String>,
    /// Address of `/healthz`, `/readyz` and `/metrics`, without TLS.
    #[serde(deserialize_with = "address")]
    pub probe_listen: SocketAddr,
    /// Calls at once.
    #[serde(default = "slots")]
    pub slots: u32,
    /// Threads that run functions; one for each core when absent.
    pub threads: Option<usize>,
    /// Memory that functions may take together; three quarters of what there is when absent.
    pub memory: Option<ByteSize>,
    /// From the signal to stop until calls that still run are dropped and tasks given back.
    pub drain: Option<Span>,
    /// Where it stands.
    pub zone: Option<String>,
    /// Folder of compiled components.
    pub cache: PathBuf,
    /// The bucket of the platform's own objects.
    #[serde(default = "system_bucket")]
    pub system_bucket: String,
    pub store: Store,
    pub nats: Nats,
    pub tls: Tls,
}

/// How the store is reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Base URL; absent, AWS.
    pub endpoint: Option<String>,
    #[serde(default = "region")]
    pub region: String,
    /// File with the access key on its first line and the secret key on its second.
    pub credentials: PathBuf,
    /// Whether the bucket goes into the path; by itself, with an endpoint.
    pub path_style: Option<bool>,
}

/// How NATS is reached, and what is kept there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nats {
    pub urls: Vec<String>,
    /// A `.creds` file.
    pub credentials: Option<PathBuf>,
    /// File with a token.
    pub token: Option<PathBuf>,
    /// File with the seed of an nkey.
    pub nkey: Option<PathBuf>,
    /// `{name}` stands for a worker's name.
    pub user: Option<String>,
    /// File with the password of `user`.
    pub password: Option<PathBuf>,
    /// The user is a worker's and may do only what `fanfold nats-users` allows it.
    #[serde(default)]
    pub restricted: bool,
    #[serde(default)]
    pub require_tls: bool,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub prefix: Option<String>,
    pub replicas: Option<usize>,
    pub shards: Option<usize>,
    pub keys_bytes: Option<ByteSize>,
    pub shard_bytes: Option<ByteSize>,
    pub dead_bytes: Option<ByteSize>,
    /// How long an operation may take before NATS counts as away.
    pub operation_timeout: Option<Span>,
}

/// Certificates between gateways and workers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our chain, as PEM.
    pub cert: PathBuf,
    /// Our key, as PEM.
    pub key: PathBuf,
    /// The authority that the others' certificates are of.
    pub ca: PathBuf,
}

/// With what triggers fetch their events, and from where.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// File with the access key of AWS on its first line and the secret key on its
    /// second, for queues of SQS.
    pub credentials: Option<PathBuf>,
    /// Whether queues may be at private addresses.
    #[serde(default)]
    pub private_endpoints: bool,
}

/// Bounds of a gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub body: Option<ByteSize>,
    pub component: Option<ByteSize>,
    pub function_concurrency: Option<usize>,
    pub tenant_concurrency: Option<usize>,
    pub remembered: Option<ByteSize>,
    pub requests: Option<usize>,
    pub connections: Option<usize>,
    pub drain: Option<Span>,
    pub job_retention: Option<Span>,
}

fn weight() -> u32 {
    1
}

fn system_bucket() -> String {
    keys::SYSTEM_BUCKET_DEFAULT.to_owned()
}

fn region() -> String {
    "us-east-1".to_owned()
}

fn slots() -> u32 {
    u32::try_from(limits::TENANT_CONCURRENCY_DEFAULT).unwrap_or(u32::MAX)
}

/// An address, told in words of ours where it is none.
fn address<'de, D: serde::Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "expected an address and a port such as 0.0.0.0:7070, found {text:?}"
        ))
    })
}

impl Store {
    /// How the client is to reach it.
    pub fn build(&self, mistakes: &mut Mistakes) -> Option<StoreConfig> {
        let pair = mistakes.key_pair("store.credentials", &self.credentials);
        let is_known = pair.is_some();
        let (access, secret) = pair.unwrap_or_default();
        let config = StoreConfig {
            endpoint: self.endpoint.clone(),
            path_style: self.path_style.unwrap_or(self.endpoint.is_some()),
            ..StoreConfig::new(self.region.clone(), Credentials::new(access, secret))
        };
        let wrong = config.mistakes();
        wrong.iter().for_each(|mistake| mistakes.note("store", mistake));
        (is_known && wrong.is_empty()).then_some(config)
    }
}

impl Nats {
    /// How the backbone is to be opened.
    pub fn build(&self, mistakes: &mut Mistakes) -> Option<NatsConfig> {
        let ways =
            [self.credentials.is_some(), self.token.is_some(), self.nkey.is_some(), self.user.is_some()];
        if ways.iter().filter(|given| **given).count() > 1 {
            mistakes.note("nats", "expected one of credentials, token, nkey and user, found several");
        }
        if self.user.is_some() != self.password.is_some() {
            mistakes.note("nats.user", "expected user and password together, found one of them");
        }
        if self.cert.is_some() != self.key.is_some() {
            mistakes.note("nats.cert", "expected cert and key together, found one of them");
        }
        let mut config = NatsConfig::new(self.urls.clone());
        if let Some(path) = &self.credentials {
            config.credentials = NatsCredentials::File(path.clone());
        } else if let Some(path) = &self.token {
            config.credentials = NatsCredentials::Token(Secret::new(mistakes.secret("nats.token", path)?));
        } else if let Some(path) = &self.nkey {
            config.credentials = NatsCredentials::Nkey(Secret::new(mistakes.secret("nats.nkey", path)?));
        } else if let (Some(user), Some(path)) = (&self.user, &self.password) {
            let password = Secret::new(mistakes.secret("nats.password", path)?);
            config.credentials = NatsCredentials::Password { user: user.clone(), password };
        }
        config.restricted = self.restricted;
        config.prefix = self.prefix.clone().unwrap_or(config.prefix);
        config.replicas = self.replicas.unwrap_or(config.replicas);
        config.shards = self.shards.unwrap_or(config.shards);
        config.keys_bytes_max = self.keys_bytes.map_or(config.keys_bytes_max, |size| size.0);
        config.shard_bytes_max = self.shard_bytes.map_or(config.shard_bytes_max, |size| size.0);
        config.dead_bytes_max = self.dead_bytes.map_or(config.dead_bytes_max, |size| size.0);
        let timeout = self.operation_timeout.map(Span::as_duration);
        config.operation_timeout = timeout.unwrap_or(config.operation_timeout);
        config.problems().into_iter().for_each(|problem| mistakes.note("nats", problem));
        // Its files are no mistake of this one: like other certificates they are told with what cannot be reached.
        config.tls = NatsTls {
            required: self.require_tls,
            authorities: self.ca.clone(),
            certificate: self.cert.clone().zip(self.key.clone()),
        };
        Some(config)
    }
}

impl Gateway {
    /// What the gateway is to run with, for each tenant.
    pub fn build(&self, mistakes: &mut Mistakes) -> Vec<GatewayConfig> {
        let alone = self.tenants.is_empty();
        for (key, is_given) in [
            ("tenant", self.tenant.is_some()),
            ("token_digests", self.token_digests.is_some()),
            ("sources", self.sources.credentials.is_some() || self.sources.private_endpoints),
        ] {
            if is_given && !alone {
                mistakes.note(key, "expected it under [[tenants]], where there are any, found it above them");
            }
        }
        let mut configs: Vec<_> =
            self.tenants.iter().map(|one| one.build(&self.system_bucket, &self.limits, mistakes)).collect();
        if alone {
            let tokens = match &self.token_digests {
                Some(path) => tokens("token_digests", path, mistakes),
                None => {
                    mistakes.note(
                        "token_digests",
                        "expected a file, or [[tenants]] with one each, found neither",
                    );
                    return Vec::new();
                }
            };
            let mut config = GatewayConfig::new(self.tenant.clone().unwrap_or_default(), tokens);
            let tenant = Tenant::alone(config.tenant.name.clone(), &self.system_bucket);
            config.tenant = Arc::new(tenant);
            config.sources = self.sources.build("sources", mistakes);
            self.limits.apply(&mut config);
            configs.push(config);
        }
        for mistake in fanfold_gateway::tenants::mistakes(&configs) {
            let key = self.key_of(&mistake);
            match mistake.tenant {
                // What stands once in the file is wrong for all tenants alike.
                Some(_) => mistakes.note_first(&key, mistake.detail),
                None => mistakes.note(&key, mistake.detail),
            }
        }
        configs
    }

    /// The key of the file that a mistake of the gateway's is about.
    fn key_of(&self, mistake: &Mistake) -> String {
        let resident = self.tenants.iter().find(|one| Some(&one.name) == mistake.tenant.as_ref());
        let given = |is_given: fn(&Resident) -> bool| resident.filter(|one| is_given(one));
        let (key, own) = match mistake.setting {
            "tokens" => ("token_digests", resident),
            "weight" => ("tenants.weight", resident),
            "system_bucket" => ("system_bucket", given(|one| one.system_bucket.is_some())),
            "function_concurrency" => {
                ("limits.function_concurrency", given(|one| one.function_concurrency.is_some()))
            }
            "tenant_concurrency" => {
                ("limits.tenant_concurrency", given(|one| one.tenant_concurrency.is_some()))
            }
            "body_bytes_max" => ("limits.body", None),
            "component_bytes_max" => ("limits.component", None),
            "remembered_bytes_max" => ("limits.remembered", None),
            "requests_max" => ("limits.requests", None),
            "connections_max" => ("limits.connections", None),
            "job_retention" => ("limits.job_retention", None),
            other => (other, None),
        };
        match own {
            Some(one) => format!("tenants.{} of {}", key.rsplit('.').next().unwrap_or(key), one.name),
            None => key.to_owned(),
        }
    }
}

impl Resident {
    fn build(&self, system_bucket: &str, limits: &Limits, mistakes: &mut Mistakes) -> GatewayConfig {
        let key = |key: &str| format!("tenants.{key} of {}", self.name);
        let tokens = tokens(&key("token_digests"), &self.token_digests, mistakes);
        let mut config = GatewayConfig::new(self.name.clone(), tokens);
        let bucket = |text: &String| mistakes.take(&key("buckets"), text.parse::<BucketPattern>());
        let buckets = Some(self.buckets.iter().filter_map(bucket).collect());
        let own = self.system_bucket.clone().unwrap_or_else(|| format!("{system_bucket}-{}", self.name));
        // Whoever was alone before goes on where it was.
        let scope = if own == system_bucket { String::new() } else { keys::tenant_scope(&self.name) };
        let (name, weight) = (self.name.clone(), self.weight);
        config.tenant = Arc::new(Tenant { name, weight, system_bucket: own, scope, buckets });
        config.sources = self.sources.build(&key("sources"), mistakes);
        limits.apply(&mut config);
        config.function_concurrency = self.function_concurrency.unwrap_or(config.function_concurrency);
        config.tenant_concurrency = self.tenant_concurrency.unwrap_or(config.tenant_concurrency);
        config
    }
}

impl Limits {
    fn apply(&self, config: &mut GatewayConfig) {
        config.body_bytes_max = self.body.map_or(config.body_bytes_max, |size| size.0);
        config.component_bytes_max = self.component.map_or(config.component_bytes_max, |size| size.0);
        config.function_concurrency = self.function_concurrency.unwrap_or(config.function_concurrency);
        config.tenant_concurrency = self.tenant_concurrency.unwrap_or(config.tenant_concurrency);
        config.remembered_bytes_max = self.remembered.map_or(config.remembered_bytes_max, |size| size.0);
        config.requests_max = self.requests.unwrap_or(config.requests_max);
        config.connections_max = self.connections.unwrap_or(config.connections_max);
        config.drain_timeout = self.drain.map_or(config.drain_timeout, |span| span.as_duration());
        config.jobs.retention = self.job_retention.map_or(config.jobs.retention, |span| span.as_duration());
    }
}

/// The digests in a file.
fn tokens(key: &str, path: &Path, mistakes: &mut Mistakes) -> Vec<TokenDigest> {
    let text = mistakes.secret(key, path).unwrap_or_default();
    let mut tokens = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        match line.parse() {
            Ok(digest) => tokens.push(digest),
            Err(_) if line.is_empty() || line.starts_with('#') => {}
            Err(mistake) => mistakes.note(key, format!("on line {} {mistake}", at + 1)),
        }
    }
    tokens
}

impl Sources {
    fn build(&self, key: &str, mistakes: &mut Mistakes) -> SourcesConfig {
        let key = format!("{key}.credentials");
        let pair = self.credentials.as_ref().and_then(|path| mistakes.key_pair(&key, path));
        let aws = pair.map(|(access_key, secret_key)| AwsCredentials {
            access_key,
            secret_key,
            session_token: None,
        });
        SourcesConfig { aws, private_endpoints: self.private_endpoints }
    }
}

impl Worker {
    /// Its name.
    pub fn name(&self, mistakes: &mut Mistakes) -> Option<WorkerName> {
        if let Some(name) = &self.name {
            return Some(name.clone());
        }
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        let host = host.split('.').next().unwrap_or_default().to_owned();
        mistakes.take("name", host.parse::<WorkerName>())
    }

    /// Puts the worker's name where it stands for the user's.
    pub fn name_user(&mut self, name: Option<&WorkerName>) {
        if let (Some(user), Some(name)) = (&mut self.nats.user, name) {
            *user = user.replace("{name}", name.as_str());
        }
    }

    /// Where gateways reach it.
    pub fn address(&self, name: Option<&WorkerName>, mistakes: &mut Mistakes) -> String {
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            mistakes.note(
                "advertise",
                format!("expected host:port by which gateways reach {}, found none", self.listen),
            );
        }
        let Some(advertise) = &self.advertise else {
            // Where that could not be read, no certificate is looked at for it.
            let is_known = !mistakes.are_about("listen: ");
            return if is_known { self.listen.to_string() } else { String::new() };
        };
        let address = advertise.replace("{name}", name.map_or("", WorkerName::as_str));
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        // Without its name the host is not known; that is told by itself.
        let is_named = name.is_some() || !advertise.contains("{name}");
        if port.is_none_or(|port| port == 0) || is_named && tls::host_of(&address).is_none() {
            mistakes.note(
                "advertise",
                format!("expected host:port by which gateways reach this worker, found {advertise:?}"),
            );
        }
        address
    }

    /// Checks the rest.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let most = limits::TENANT_CONCURRENCY_MAX as u32;
        if self.slots == 0 || self.slots > most {
            mistakes.note("slots", format!("expected 1 to {most}, found {}", self.slots));
        }
        let most = limits::SANDBOXES_MAX;
        if let Some(threads) = self.threads.filter(|threads| !(1..=most).contains(threads)) {
            mistakes.note("threads", format!("expected 1 to {most}, found {threads}"));
        }
        if let Some(mistake) = self.memory.and_then(budget_mistake) {
            mistakes.note("memory", mistake);
        }
        if let Err(problem) = uri::check_bucket(&self.system_bucket) {
            mistakes.note("system_bucket", problem.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = include_str!("../../../deploy/gateway.toml");
    const WORKER: &str = include_str!("../../../deploy/worker.toml");
    const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

    #[test]
    fn the_examples_are_read_and_documented() {
        toml::from_str::<Gateway>(GATEWAY).unwrap();
        toml::from_str::<Worker>(WORKER).unwrap();
        for text in [GATEWAY, WORKER] {
            for (key, value) in toml::from_str::<toml::Table>(text).unwrap() {
                let keys = match value {
                    toml::Value::Table(members) => {
                        members.keys().map(|name| format!("{key}.{name}")).collect()
                    }
                    _ => vec![key],
                };
                for key in keys {
                    assert!(DOCUMENT.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
                }
            }
        }
    }

    /// One problem each, by the keys that stand in the file.
    #[test]
    fn bounds_are_told_by_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let digests = |token: &str| {
            let path = dir.path().join(token);
            std::fs::write(&path, TokenDigest::of(token).to_hex()).unwrap();
            path
        };
        let told = |config: &Gateway| {
            let mut mistakes = Mistakes::default();
            config.build(&mut mistakes);
            mistakes.all().to_vec()
        };
        let limits = |text: &str| toml::from_str::<Limits>(text).unwrap();
        let mut config: Gateway = toml::from_str(GATEWAY).unwrap();
        let found = told(&config).join("\n");
        assert!(
            found.starts_with("token_digests: expected the secret in ") && !found.contains('\n'),
            "{found}"
        );
        config.token_digests = Some(digests("default"));
        assert!(told(&config).is_empty(), "{:?}", told(&config));
        config.limits = limits("body = \"64MiB\"\nrequests = 0\njob_retention = \"1d\"");
        let found = told(&config);
        let bounds = [
            "limits.requests: expected 1 to 20000, found 0",
            "limits.body: expected 1B to 32MiB, found 64MiB",
            "limits.job_retention: expected at least 7d, since jobs are served from others for so long, found 1d",
        ];
        assert_eq!(found, bounds);
        (config.tenant, config.token_digests) = (None, None);
        config.limits = limits("requests = 0\ntenant_concurrency = 0");
        config.tenants = ["bank", "shop"]
            .map(|name| {
                let path = digests(name);
                let own = if name == "shop" { "tenant_concurrency = 5000\nweight = 0" } else { "" };
                let text = format!("name = {name:?}\nbuckets = [{name:?}]\ntoken_digests = {path:?}\n{own}");
                toml::from_str::<Resident>(&text).unwrap()
            })
            .into();
        let bounds = [
            "limits.tenant_concurrency: expected 1 to 1000, found 0",
            "limits.requests: expected 1 to 20000, found 0",
            "tenants.weight of shop: expected 1 to 1000, found 0",
            "tenants.tenant_concurrency of shop: expected 1 to 1000, found 5000",
        ];
        assert_eq!(told(&config), bounds);
    }

    #[test]
    fn how_long_an_operation_of_nats_may_take_is_checked() {
        let check = |timeout: Option<&str>, expected: Result<u64, &str>| {
            let mut nats: Nats = toml::from_str("urls = [\"nats://127.0.0.1:4222\"]").unwrap();
            nats.operation_timeout = timeout.map(|text| text.parse().unwrap());
            let mut mistakes = Mistakes::default();
            let ms = nats.build(&mut mistakes).unwrap().operation_timeout.as_millis();
            let found = match mistakes.all() {
                [] => Ok(u64::try_from(ms).unwrap()),
                mistakes => Err(mistakes.concat()),
            };
            assert_eq!(found, expected.map_err(str::to_owned), "{timeout:?}");
        };
        let bounds = "nats: expected operation_timeout between 100 ms and 60s, found ";
        check(None, Ok(5_000));
        check(Some("100ms"), Ok(100));
        check(Some("1m"), Ok(60_000));
        check(Some("99ms"), Err(&format!("{bounds}99ms; correct it")));
        check(Some("2m"), Err(&format!("{bounds}120s; correct it")));
    }

    #[test]
    fn what_is_wrong_with_a_store_s_keys_is_a_mistake_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        std::fs::write(&credentials, "key\nsecret\n").unwrap();
        let check = |keys: &str, expected: &[&str]| {
            let store: Store = toml::from_str(&format!("{keys}\ncredentials = {credentials:?}")).unwrap();
            let mut mistakes = Mistakes::default();
            assert_eq!(store.build(&mut mistakes).is_some(), expected.is_empty(), "{keys}");
            assert_eq!(mistakes.all(), expected, "{keys}");
        };
        check("", &[]);
        check("endpoint = \"http://127.0.0.1:7071\"", &[]);
        let form = "store: endpoint must be http://host:port or https://host, found \"127.0.0.1:7071\"";
        check("endpoint = \"127.0.0.1:7071\"", &[form]);
        let region = "store: region must be set, found none; `us-east-1` suits most stores of one's own";
        check("region = \"\"", &[region]);
        // Keys that cannot be read hide nothing.
        let store: Store = toml::from_str("endpoint = \"127.0.0.1:7071\"\ncredentials = \"/none\"").unwrap();
        let mut mistakes = Mistakes::default();
        assert!(store.build(&mut mistakes).is_none());
        let [credentials, endpoint] = mistakes.all() else { panic!("{:?}", mistakes.all()) };
        assert!(credentials.starts_with("store.credentials: "), "{credentials}");
        assert_eq!(endpoint, form);
    }

    #[test]
    fn the_bucket_of_a_worker_is_checked() {
        let check = |bucket: &str, expected: usize| {
            let mut config: Worker = toml::from_str(WORKER).unwrap();
            config.system_bucket = bucket.to_owned();
            let mut mistakes = Mistakes::default();
            config.check(&mut mistakes);
            assert_eq!(mistakes.all().len(), expected, "{bucket:?}: {:?}", mistakes.all());
            assert!(
                mistakes.all().iter().all(|mistake| mistake.starts_with("system_bucket: ")),
                "{bucket:?}"
            );
        };
        check("fanfold", 0);
        check("", 1);
        check("A", 1);
    }

    #[test]
    fn memory_is_checked() {
        let check = |memory: &str, expected: Option<&str>| {
            let mut config: Worker = toml::from_str(WORKER).unwrap();
            config.memory = Some(memory.parse().unwrap());
            let mut mistakes = Mistakes::default();
            config.check(&mut mistakes);
            let told = mistakes.all();
            let fits = told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected));
            assert!(fits && told.len() == usize::from(expected.is_some()), "{memory}: {told:?}");
        };
        check("64MiB", None);
        check("1MiB", Some("memory: expected at least 64MiB for all functions, found 1MiB"));
        check("100TiB", Some("memory: expected at most "));
    }

    #[test]
    fn where_gateways_reach_a_worker_is_checked() {
        let name: WorkerName = "w-1".parse().unwrap();
        let check = |advertise: &str, expected: Option<&str>| {
            let mut config: Worker = toml::from_str(WORKER).unwrap();
            config.advertise = Some(advertise.to_owned());
            let mut mistakes = Mistakes::default();
            let address = config.address(Some(&name), &mut mistakes);
            let found = mistakes.all().is_empty().then_some(address.as_str());
            assert_eq!(found, expected, "{advertise}: {:?}", mistakes.all());
        };
        check("{name}.example.org:7080", Some("w-1.example.org:7080"));
        check("[::1]:7080", Some("[::1]:7080"));
        for wrong in ["", "{name}", "host:", ":7080", "host:0", "host:70800", "https://host:7080"] {
            check(wrong, None);
        }
        // What nobody can reach: any address, and what is no name of a host.
        for wrong in ["0.0.0.0:7080", "[::]:7080", "my host:7080", "-host:7080", "a..b:7080"] {
            check(wrong, None);
        }
        let mut config: Worker = toml::from_str(WORKER).unwrap();
        config.advertise = Some("{name}.example.org:7080".to_owned());
        let mut mistakes = Mistakes::default();
        config.address(None, &mut mistakes);
        assert!(mistakes.all().is_empty(), "a name that is wrong is told by itself: {:?}", mistakes.all());
    }

    /// What serde names when a key is unknown is all that there is.
    #[test]
    fn every_key_is_documented_and_every_documented_key_is_there() {
        let known = |error: toml::de::Error| {
            let text = error.message().to_owned();
            let names: Vec<String> = text.split('`').skip(3).step_by(2).map(str::to_owned).collect();
            assert!(!names.is_empty(), "{text}");
            names
        };
        let mut keys = Vec::new();
        keys.extend(known(toml::from_str::<Gateway>("unknown = 1").unwrap_err()));
        keys.extend(known(toml::from_str::<Worker>("unknown = 1").unwrap_err()));
        let parts = [
            ("store", toml::from_str::<Store>("unknown = 1").map(drop)),
            ("nats", toml::from_str::<Nats>("unknown = 1").map(drop)),
            ("tls", toml::from_str::<Tls>("unknown = 1").map(drop)),
            ("sources", toml::from_str::<Sources>("unknown = 1").map(drop)),
            ("tenants", toml::from_str::<Resident>("unknown = 1").map(drop)),
            ("limits", toml::from_str::<Limits>("unknown = 1").map(drop)),
        ];
        for (part, read) in parts {
            keys.retain(|key| key != part);
            keys.extend(known(read.unwrap_err()).into_iter().map(|name| format!("{part}.{name}")));
        }
        let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
        let documented: Vec<&str> = rows
            .filter_map(|row| row.split(" | ").next())
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        for key in &keys {
            assert!(documented.contains(&key.as_str()), "{key} is not in docs/configuration.md");
        }
        for key in documented {
            assert!(
                keys.iter().any(|known| known == key),
                "docs/configuration.md names {key}, which is no key"
            );
        }
    }
}
