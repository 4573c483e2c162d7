// SPDX-License-Identifier: Apache-2.0
//! How a store is reached: endpoint, credentials, and the bounds on waiting.
//!
//! A configuration is checked as a whole when a client is built from it; no
//! credentials are looked for anywhere else.

use std::time::Duration;

use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_smithy_http_client::tls;

use super::{Error, Result, region::SignedFor};
use crate::{Credentials, server::Server};

/// The SDK waits a random share of this before its first retry, and of twice as
/// much before each further one, up to the second bound.
const BACK_OFF_FIRST: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// How to reach a store. [`StoreConfig::new`] fills in the bounds.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Base URL of the store, `http://` or `https://`; none means AWS.
    pub endpoint: Option<String>,
    /// The server at the endpoint, where that is in this process: requests are handed to it.
    pub server: Option<Server>,
    /// The region that requests are signed for.
    pub region: String,
    /// What requests are signed with. None is an error: there is no ambient search.
    pub credentials: Option<Credentials>,
    /// Whether the bucket goes into the path instead of the host name.
    pub path_style: bool,
    /// Bound on opening a connection.
    pub connect_timeout: Duration,
    /// Bound on the time from a request's start to its answer's first byte. Copies and
    /// completions of uploads in parts have all of `operation_timeout` for it.
    pub read_timeout: Duration,
    /// Bound on one call with all its retries, bodies of answers excluded.
    pub operation_timeout: Duration,
    /// How long a body may stand still, or only trickle, before the transfer is given up and resumed: of a read's
    /// first try a quarter of it, of the second half. A read without an answer after a quarter is sent once more beside it.
    pub stall_timeout: Duration,
    /// How often one call is tried.
    pub attempts_max: u32,
    /// The largest object that [`Store::get`](super::Store::get) returns whole, in bytes.
    pub get_bytes_max: u64,
}

impl StoreConfig {
    /// AWS in `region`, or with `endpoint` set later any other store.
    pub fn new(region: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            endpoint: None,
            server: None,
            region: region.into(),
            credentials: Some(credentials),
            path_style: false,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(20),
            operation_timeout: Duration::from_secs(90),
            stall_timeout: Duration::from_secs(10),
            attempts_max: 6,
            get_bytes_max: 64 << 20,
        }
    }

    /// A store of one's own at `endpoint`: path-style, any region.
    pub fn at(endpoint: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            endpoint: Some(endpoint.into()),
            path_style: true,
            ..Self::new(crate::server::REGION, credentials)
        }
    }

    /// What is wrong with it by itself, whatever the store is like.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.region.is_empty() {
            mistakes.push(
                "region must be set, found none; `us-east-1` suits most stores of one's own".to_owned(),
            );
        }
        if self.credentials.is_none() {
            mistakes
                .push("credentials must be set, found none; give an access key and its secret".to_owned());
        }
        if self.attempts_max == 0 {
            mistakes.push("attempts_max must be at least 1, found 0".to_owned());
        }
        mistakes.extend(self.endpoint.as_deref().and_then(endpoint_mistake));
        mistakes
    }

    /// The SDK's configuration, all mistakes reported together.
    pub(super) fn build(&self) -> Result<Builder> {
        let mistakes = self.mistakes();
        let (Some(credentials), true) = (&self.credentials, mistakes.is_empty()) else {
            return Err(Error::Config(mistakes.join("; ")));
        };
        let scheme = self.endpoint.as_deref().map_or("https", |e| e.split("://").next().unwrap_or(e));
        let http = self.server.as_ref().map_or_else(|| http_client(scheme), Server::http_client);
        Ok(self.builder(credentials, http))
    }

    /// What is otherwise for a request that a store may work on for long before it answers:
    /// a copy of some GiB, an object of many parts.
    pub(super) fn patient(&self) -> Builder {
        Builder::new().timeout_config(self.timeouts(self.operation_timeout))
    }

    fn timeouts(&self, read_timeout: Duration) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .read_timeout(read_timeout)
            .operation_timeout(self.operation_timeout)
            .build()
    }

    fn builder(&self, credentials: &Credentials, http: SharedHttpClient) -> Builder {
        let stalls = StalledStreamProtectionConfig::enabled().grace_period(self.stall_timeout).build();
        let keys = aws_sdk_s3::config::Credentials::new(
            &credentials.access_key,
            &credentials.secret_key,
            credentials.session_token.clone(),
            None,
            "fanfold",
        );
        let retries = RetryConfig::standard()
            .with_max_attempts(self.attempts_max)
            .with_initial_backoff(BACK_OFF_FIRST)
            .with_max_backoff(BACK_OFF_MAX);
        let mut builder = Builder::new();
        builder.set_endpoint_url(self.endpoint.clone());
        builder
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(self.region.clone()))
            .credentials_provider(keys)
            .force_path_style(self.path_style)
            .timeout_config(self.timeouts(self.read_timeout))
            .stalled_stream_protection(stalls)
            .retry_config(retries)
            // Stores other than AWS often refuse or ignore the newer checksum
            // headers; bodies are covered by the signature's SHA-256 and by length.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .interceptor(SignedFor::new(&self.region))
    }
}

fn endpoint_mistake(endpoint: &str) -> Option<String> {
    // Behind a user there may be a password, which is not shown. Requests would be signed for another host.
    if endpoint.contains('@') {
        return Some("endpoint must be without a user, found one; give keys as credentials".to_owned());
    }
    let is_valid = endpoint.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    });
    (!is_valid).then(|| format!("endpoint must be http://host:port or https://host, found {endpoint:?}"))
}

/// Root certificates are read only when TLS is needed: that takes tens of
/// milliseconds and a store on loopback never uses them.
fn http_client(scheme: &str) -> SharedHttpClient {
    let builder = aws_smithy_http_client::Builder::new();
    if scheme.eq_ignore_ascii_case("http") {
        return builder.build_http();
    }
    builder.tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn a_session_s_token_is_sent_and_signed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let keys = Credentials::new("key", "secret").with_session(Some("temporary".to_owned()));
        let config = StoreConfig { attempts_max: 1, ..StoreConfig::at(endpoint, keys) };
        let store = Store::connect(config).unwrap();
        let answering = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::<u8>::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0);
            }
            let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            connection.write_all(refusal).await.unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        };
        let (answered, head) = tokio::join!(store.list_buckets(), answering);
        assert!(answered.is_err());
        assert!(head.contains("x-amz-security-token: temporary\r\n"), "{head}");
        let (_, signed) = head.split_once("signedheaders=").unwrap();
        assert!(signed.split(',').next().unwrap().contains("x-amz-security-token"), "{head}");
    }

    #[test]
    fn mistakes_are_reported_together() {
        let mut config = StoreConfig::at("nowhere", Credentials::new("a", "b"));
        config.credentials = None;
        config.region = String::new();
        let text = config.build().unwrap_err().to_string();
        for word in ["region", "credentials", "endpoint"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn endpoints_are_urls_with_a_host() {
        let check = |text, valid| assert_eq!(endpoint_mistake(text).is_none(), valid, "{text}");
        check("http://127.0.0.1:7071", true);
        check("https://s3.example.org", true);
        check("127.0.0.1:7071", false);
        check("ftp://example.org", false);
        check("", false);
        check("https://example.org/s3", true);
        check("https://example.org?x=1", false);
        check("https://me:hush@example.org", false);
        let told = endpoint_mistake("https://me:hush@example.org").unwrap_or_default();
        assert!(!told.contains("hush"), "{told}");
    }
}
