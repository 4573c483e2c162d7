// SPDX-License-Identifier: Apache-2.0
//! What an operator decides about triggers that fetch: with what, and where.
//!
//! A trigger's author names an address, and this host would send requests to
//! it. So only public addresses are reached, unless the operator says
//! otherwise: names are looked up here and every answer is checked before it is
//! connected to, addresses are checked as they stand.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::{
    dns::{DnsFuture, ResolveDns, ResolveDnsError},
    http::SharedHttpClient,
};
use fanfold_protocol::{ErrorKind, Problem, trigger::TriggerDocument};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How triggers fetch.
#[derive(Clone, Debug, Default)]
pub struct SourcesConfig {
    /// What requests to queues are signed with; none means that there are none.
    pub aws: Option<AwsCredentials>,
    /// Whether addresses of this host and of private networks may be reached, which
    /// a trigger's author then can make this host talk to.
    pub private_endpoints: bool,
}

/// Credentials of AWS. Never shown.
#[derive(Clone)]
pub struct AwsCredentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
    /// For credentials that end.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AwsCredentials(…)")
    }
}

impl SourcesConfig {
    /// Refuses a trigger that could not fetch.
    ///
    /// # Errors
    /// `invalid-trigger`.
    pub fn check(&self, document: &TriggerDocument) -> Result<(), Problem> {
        let Some(sqs) = &document.sqs else { return Ok(()) };
        let refused = |detail: String| Err(Problem::new(ErrorKind::InvalidTrigger, detail));
        if self.aws.is_none() {
            return refused(
                "sqs needs credentials for queues, found none; start `fanfold dev` with AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, configure sources.credentials of `fanfold gateway`, or leave sqs out"
                    .to_owned(),
            );
        }
        let origin = sqs.origin().unwrap_or_default();
        match self.reach().check(&origin) {
            Ok(()) => Ok(()),
            Err(found) => refused(format!(
                "sqs must name a queue at a public address over https, found {found}; correct it, or let the operator \
                 allow private endpoints"
            )),
        }
    }

    /// What may be reached.
    pub(super) fn reach(&self) -> Reach {
        Reach { private: self.private_endpoints }
    }
}

/// Which addresses may be reached; looks up names, and drops the others.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    private: bool,
}

impl Reach {
    /// The internet at large.
    #[cfg(test)]
    pub(super) const PUBLIC: Self = Self { private: false };
    /// This host and its networks as well.
    #[cfg(test)]
    pub(super) const ANY: Self = Self { private: true };

    /// Checks an address as it is written, `scheme://host`. What a name stands for
    /// is checked when it is connected to.
    ///
    /// # Errors
    /// What was found.
    pub fn check(self, origin: &str) -> Result<(), String> {
        let uri: http::Uri = origin.parse().map_err(|_| "what is no address".to_owned())?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if self.private {
            return Ok(());
        }
        if uri.scheme_str() != Some("https") {
            return Err("another scheme".to_owned());
        }
        match host.parse::<IpAddr>() {
            Ok(address) if !is_public(address) => Err(format!("{address}")),
            _ => Ok(()),
        }
    }

    /// A client for pages that reaches nothing else and follows nobody elsewhere.
    ///
    /// # Errors
    /// There is no way to check certificates.
    pub fn web_client(self) -> reqwest::Result<reqwest::Client> {
        // Whoever installed one before is right as well.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().dns_resolver(Arc::new(self)).https_only(!self.private);
        client.redirect(reqwest::redirect::Policy::none()).no_proxy().build()
    }

    /// A client of AWS's that reaches nothing else.
    pub fn client(self, origin: &str) -> SharedHttpClient {
        if origin.starts_with("http://") {
            // Only where private addresses may be reached: see `check`.
            return Builder::new().build_http();
        }
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        Builder::new().tls_provider(provider).build_with_resolver(self)
    }

    async fn look_up(self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip());
        let allowed: Vec<IpAddr> = found.filter(|address| self.private || is_public(*address)).collect();
        if allowed.is_empty() {
            return Err(std::io::Error::other(format!("{name} has no public address")));
        }
        Ok(allowed)
    }
}

impl ResolveDns for Reach {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move { self.look_up(name).await.map_err(ResolveDnsError::new) })
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = *self;
        Box::pin(async move {
            let found = reach.look_up(name.as_str()).await?;
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(found) as Addrs)
        })
    }
}

/// Whether an address is one of the internet at large (the registries of special
/// addresses, RFC 6890 and what came after).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || (a, b & 0xC0) == (100, 64)
        || (a, b & 0xFE) == (198, 18)
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99);
    !special
}

/// Only global unicast, and of what carries an address of version 4, the one it
/// carries.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let carried = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xFFFF, high, low] => carried(high, low),
        [0x64, 0xFF9B, 0, 0, 0, 0, high, low] => carried(high, low),
        [0x2002, high, low, ..] => carried(high, low),
        // Teredo, benchmarks, documentation and the rest of this registry.
        [0x2001, second, ..] if second < 0x200 || second == 0xDB8 => false,
        [first, ..] => (0x2000..0x3FFE).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_at_large_is_public() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for text in ["8.8.8.8", "54.239.1.1", "100.63.0.1", "100.128.0.1", "2600:1f00::1", "::ffff:8.8.8.8"] {
            assert!(public(text), "{text}");
        }
        let others = [
            "127.0.0.1",
            "169.254.169.254",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "0.0.0.0",
            "100.64.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "::1",
            "::",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "::7f00:1",
        ];
        for text in others {
            assert!(!public(text), "{text}");
        }
    }

    #[test]
    fn addresses_are_checked_as_they_stand() {
        let (closed, open) = (Reach { private: false }, Reach { private: true });
        assert_eq!(closed.check("https://sqs.eu-central-1.amazonaws.com"), Ok(()));
        for origin in
            ["http://sqs.example.org", "https://127.0.0.1", "https://[::1]:443", "https://169.254.169.254"]
        {
            assert!(closed.check(origin).is_err(), "{origin}");
            assert_eq!(open.check(origin), Ok(()));
        }
    }

    #[tokio::test]
    async fn names_of_this_host_are_not_reached() {
        assert!(Reach { private: false }.resolve_dns("localhost").await.is_err());
        assert!(Reach { private: true }.resolve_dns("localhost").await.is_ok());
        // A short way to write 127.0.0.1 that resolvers know.
        assert!(Reach { private: false }.resolve_dns("127.1").await.is_err());
    }
}
