// SPDX-License-Identifier: Apache-2.0
//! Buckets in the names of hosts: `bucket.localhost` is this machine too (RFC 6761, 6.3).
//!
//! Clients that put the bucket there leave it out of the path, and a request whose host
//! were passed over would be one for another bucket, or make one of a key. Of other hosts
//! nobody can tell whether they begin with a bucket: those have it in the path.
//! Invariant: each service that reads paths is given this.

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// The name of the machine itself, with the dot before it.
const SUFFIX: &str = ".localhost";

/// Reads the bucket off a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfLocalhost;

impl S3Host for OfLocalhost {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match bucket(host) {
            Some(bucket) => parsed.with_bucket(bucket),
            None => parsed,
        })
    }
}

/// The bucket in small letters, in which alone buckets are named.
fn bucket(host: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
    let bucket = name.strip_suffix('.').unwrap_or(&name).strip_suffix(SUFFIX)?;
    (!bucket.is_empty()).then(|| bucket.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_have_buckets() {
        let check = |host: &str, expected: Option<&str>| {
            let parsed = OfLocalhost.parse_host_header(host).unwrap();
            assert_eq!(parsed.bucket(), expected, "{host}");
        };
        check("bank.localhost:7071", Some("bank"));
        check("bank.localhost", Some("bank"));
        check("a.b.LocalHost.:80", Some("a.b"));
        check("Bank.localhost", Some("bank"));
        check("localhost:7071", None);
        check(".localhost", None);
        check("notlocalhost", None);
        check("bank.localhost.example.org", None);
        check("s3.example.org:443", None);
        check("127.0.0.1:7071", None);
        check("[::1]:7071", None);
        check("", None);
    }
}
