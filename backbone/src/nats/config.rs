// SPDX-License-Identifier: Apache-2.0
//! How to reach NATS and what to keep there: the settings, their check, and the options of the connection.
//!
//! Every mistake is reported, not the first alone. Invariant: no secret is ever shown, neither by `Debug` nor in
//! an error; that is why URLs with credentials in them are refused.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

/// Most shards of the work queue.
const SHARDS_MAX: usize = 64;
/// Words behind which the client shows what it found in a file of a key or of certificates.
const SHOWN_BEHIND: [&str; 2] = ["missing section end marker", "illegal section start"];
/// Longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 32;

/// How to open the backbone over NATS JetStream, server 2.9.10 or newer.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// Servers to try, such as `nats://10.0.0.1:4222`; further members of the cluster are learnt from them.
    pub urls: Vec<String>,
    /// How to prove who we are.
    pub credentials: NatsCredentials,
    /// Transport security.
    pub tls: NatsTls,
    /// The credentials are a worker's, which may do only what
    /// [`NatsConfig::worker_permissions`] says, in an account of its own: streams are neither made nor checked, nothing is swept, and keys are
    /// read from any copy, which may lag a moment behind.
    pub restricted: bool,
    /// Begins every stream's name and every subject, so that deployments can share a cluster.
    pub prefix: String,
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: usize,
    /// Streams over which the queues are spread. Stays as it is for the life of a deployment.
    pub shards: usize,
    /// Bound on the key-value half, in bytes.
    pub keys_bytes_max: u64,
    /// Bound on each shard of the work queue, in bytes.
    pub shard_bytes_max: u64,
    /// Bound on the dead letters, in bytes.
    pub dead_bytes_max: u64,
    /// How long a message id is remembered.
    pub dedupe_window: Duration,
    /// Lease of the consumers. A pull may ask for another one, at the price of one more message each.
    pub lease: Duration,
    /// Times to live of at least so long go on by the servers' clock while no process counts them; shorter ones are
    /// leases, of which nobody's wall clock decides.
    pub long_ttl: Duration,
    /// How long an operation may take before it is reported as unavailable.
    pub operation_timeout: Duration,
}

impl NatsConfig {
    /// The defaults: prefix `fanfold`, one copy, four shards of 1 GiB, 1 GiB of keys, 256 MiB of dead letters, ids
    /// remembered for two minutes, leases of 30 s, times to live that are long from ten minutes on, 5 s for an operation.
    pub fn new(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        NatsConfig {
            urls: urls.into_iter().map(Into::into).collect(),
            credentials: NatsCredentials::None,
            tls: NatsTls::default(),
            restricted: false,
            prefix: "fanfold".to_owned(),
            replicas: 1,
            shards: 4,
            keys_bytes_max: 1 << 30,
            shard_bytes_max: 1 << 30,
            dead_bytes_max: 256 << 20,
            dedupe_window: Duration::from_secs(120),
            lease: Duration::from_secs(30),
            long_ttl: Duration::from_secs(600),
            operation_timeout: Duration::from_secs(5),
        }
    }

    /// Everything that is wrong with it, each as expected, found and what to do; empty where it is sound.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |sound: bool, problem: String| {
            if !sound {
                problems.push(problem);
            }
        };
        check(!self.urls.is_empty(), "expected at least one NATS URL, found none; set `urls`".to_owned());
        for (at, url) in self.urls.iter().enumerate() {
            if let Err(problem) = check_url(at, url) {
                check(false, problem);
            }
        }
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        check(
            (1..=PREFIX_BYTES_MAX).contains(&self.prefix.len()) && self.prefix.bytes().all(is_plain),
            format!(
                "expected a prefix of 1 to {PREFIX_BYTES_MAX} letters, digits, `-` and `_`, found {:?}; choose \
                 another",
                self.prefix
            ),
        );
        check(
            matches!(self.replicas, 1 | 3 | 5),
            format!("expected 1, 3 or 5 replicas, found {}; correct `replicas`", self.replicas),
        );
        check(
            (1..=SHARDS_MAX).contains(&self.shards),
            format!("expected 1 to {SHARDS_MAX} shards, found {}; correct `shards`", self.shards),
        );
        for (name, bytes) in [
            ("keys_bytes", self.keys_bytes_max),
            ("shard_bytes", self.shard_bytes_max),
            ("dead_bytes", self.dead_bytes_max),
        ] {
            check(
                (4 << 20..1 << 50).contains(&bytes),
                format!("expected {name} between 4 MiB and 1 PiB, found {bytes} bytes; correct it"),
            );
        }
        for (name, time, max) in [
            ("dedupe_window", self.dedupe_window, Duration::from_secs(24 * 3_600)),
            ("lease", self.lease, Duration::from_secs(3_600)),
            ("operation_timeout", self.operation_timeout, Duration::from_secs(60)),
        ] {
            check(
                (Duration::from_millis(100)..=max).contains(&time),
                format!("expected {name} between 100 ms and {max:?}, found {time:?}; correct it"),
            );
        }
        check(
            !self.restricted || matches!(self.credentials, NatsCredentials::Password { .. }),
            "expected a user and a password where the credentials are restricted, found another way or none; set \
             `user` and `password`"
                .to_owned(),
        );
        for path in self.files() {
            check(
                path.is_file(),
                format!(
                    "expected the file {}, found none; correct the path or make the file",
                    path.display()
                ),
            );
        }
        problems
    }

    /// What the connection is made with.
    pub(super) async fn options(&self) -> std::io::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(format!("fanfold {}", self.prefix))
            .connection_timeout(self.operation_timeout)
            .request_timeout(Some(self.operation_timeout))
            .ping_interval(Duration::from_secs(5))
            // A server that is away is asked again soon, so that a failover takes no longer than it must.
            .reconnect_delay_callback(|attempt| {
                Duration::from_millis(50)
                    .saturating_mul(u32::try_from(attempt).unwrap_or(u32::MAX))
                    .min(Duration::from_secs(1))
            });
        options = match &self.credentials {
            NatsCredentials::None => options,
            NatsCredentials::Token(token) => options.token(token.0.clone()),
            NatsCredentials::Password { user, password } => {
                let options =
                    if self.restricted { options.custom_inbox_prefix(Self::inbox(user)) } else { options };
                options.user_and_password(user.clone(), password.0.clone())
            }
            NatsCredentials::Nkey(seed) => options.nkey(seed.0.clone()),
            NatsCredentials::File(path) => options.credentials_file(path).await?,
        };
        if let Some(path) = &self.tls.authorities {
            options = options.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options.require_tls(self.tls.required))
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let credentials = match &self.credentials {
            NatsCredentials::File(path) => Some(path),
            _ => None,
        };
        let pair = self.tls.certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        credentials.into_iter().chain(&self.tls.authorities).chain(pair)
    }
}

/// How to prove who we are to NATS.
#[derive(Debug, Clone)]
pub enum NatsCredentials {
    /// The server asks for nothing.
    None,
    /// A token.
    Token(Secret),
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// The seed of an nkey.
    Nkey(Secret),
    /// A `.creds` file with a JWT and a seed.
    File(PathBuf),
}

impl NatsCredentials {
    /// What was found and what to do where a server does not take them.
    pub(super) fn refused(&self) -> &'static str {
        match self {
            Self::None => "found none; set `user` and `password`, `credentials`, `nkey` or `token`",
            Self::Token(_) => "found them refused; correct `token`",
            Self::Password { .. } => "found them refused; correct `user` or `password`",
            Self::Nkey(_) => "found them refused; correct `nkey`",
            Self::File(_) => "found them refused; correct `credentials`",
        }
    }
}

/// Transport security.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// Refuse servers without TLS. A `tls://` URL or a server that requires it has the same effect.
    pub required: bool,
    /// Certificates of authorities to trust beside the system's, as PEM.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its key, as PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What the client tells of a failure without what it shows of a file: of a key in a single line that is all of it.
pub(super) fn without_key(told: &str) -> &str {
    let ends = SHOWN_BEHIND.iter().filter_map(|words| Some(told.find(words)? + words.len()));
    ends.min().and_then(|end| told.get(..end)).unwrap_or(told)
}

/// A text that is not shown.
#[derive(Clone)]
pub struct Secret(pub(super) String);

impl Secret {
    /// Keeps `text` to itself.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The text itself may hold a password, so it is named by its place.
fn check_url(at: usize, url: &str) -> Result<(), String> {
    // The client takes those for WebSockets too, and without that part of it speaks NATS there, and no TLS.
    let is_ours = |address: &ServerAddr| !address.is_websocket() && !address.host().is_empty();
    let Some(address) = url.parse::<ServerAddr>().ok().filter(is_ours) else {
        return Err(format!(
            "expected NATS URL {} as nats://HOST:PORT or tls://HOST:PORT, found another form; correct it",
            at + 1
        ));
    };
    if address.username().is_some() || address.password().is_some() {
        return Err(format!(
            "expected NATS URL {} without credentials, found some; use `credentials`",
            at + 1
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_key_is_told() {
        let check = |told: &str, expected: &str| assert_eq!(without_key(told), expected);
        let unread = "TLS error: could not load private key: missing section end marker";
        check(&format!("{unread}: [104, 117]"), unread);
        let unread = "TLS error: could not load certificates: illegal section start";
        check(&format!("{unread}: [104, 117]"), unread);
        check("TLS error: could not load certificates: none", "TLS error: could not load certificates: none");
    }

    #[test]
    fn servers_are_reached_by_their_own_protocol_alone() {
        let check = |url: &str, is_taken: bool| assert_eq!(check_url(0, url).is_ok(), is_taken, "{url}");
        for url in ["nats://127.0.0.1:4222", "tls://nats.example.org", "127.0.0.1:4222", "nats://[::1]:4222"]
        {
            check(url, true);
        }
        for url in
            ["ws://127.0.0.1:4222", "wss://nats.example.org:443", "http://127.0.0.1:4222", "", "nats://"]
        {
            check(url, false);
        }
    }

    #[test]
    fn tells_every_mistake_and_no_secret() {
        let mut config = NatsConfig::new(["nats://127.0.0.1:4222"]);
        assert_eq!(config.problems(), Vec::<String>::new());
        config.urls = vec!["nats://me:hush@127.0.0.1".into(), "http://me:hush@x".into()];
        config.credentials = NatsCredentials::Token(Secret::new("hush"));
        config.tls.authorities = Some("/nonexistent/ca.pem".into());
        config.prefix = "a.b".into();
        (config.replicas, config.shards) = (2, 0);
        (config.keys_bytes_max, config.lease) = (1, Duration::ZERO);
        let problems = config.problems();
        assert_eq!(problems.len(), 8, "{problems:#?}");
        for problem in &problems {
            assert!(problem.starts_with("expected") && problem.contains("found"), "{problem}");
            assert!(!problem.contains("hush"), "{problem}");
        }
        // As the file has it.
        assert!(
            problems.iter().any(|problem| problem.contains("expected keys_bytes between")),
            "{problems:#?}"
        );
        config.urls.clear();
        assert!(!format!("{config:?}").contains("hush"));
    }
}
