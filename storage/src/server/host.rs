// SPDX-License-Identifier: Apache-2.0
//! Buckets in the names of hosts: `bucket.localhost` is this machine too (RFC 6761, 6.3).
//!
//! Clients that put the bucket there leave it out of the path, and a request whose host
//! were passed over would be one for another bucket, or make one of a key. Of other hosts
//! nobody can tell whether they begin with a bucket: those have it in the path. So does
//! `s3.localhost`, which is too short a name for a bucket and one that people give such a
//! server, as LocalStack has it; a bucket may stand before it as well.
//!
//! Which buckets there are decides nothing: the delete of a key from a bucket that is gone
//! would else be that of a bucket called like the key. Whoever means the server by another
//! name is told so by [`check`].
//! Invariant: each service that reads paths is given this.

use http::{HeaderMap, header::HOST};
use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
    s3_error,
};

use super::Shared;
use crate::encoding::percent_encode;

/// The name of the machine itself, with the dot before it.
const SUFFIX: &str = ".localhost";
/// The server's own, before that.
const SERVER: &str = "s3";

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

/// Refuses requests whose host names a bucket that is not there, in words for those who did not
/// mean to name one.
pub(super) fn check(shared: &Shared, headers: &HeaderMap) -> S3Result<()> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match host.and_then(bucket) {
        Some(bucket) if !shared.index.has_bucket(&bucket)? => Err(s3_error!(
            NoSuchBucket,
            "the host names the bucket {bucket}, which does not exist; with the bucket in the path this server is \
             reached at localhost or s3.localhost"
        )),
        _ => Ok(()),
    }
}

/// The URL of an object as whoever asks reaches this server, which speaks plain HTTP.
pub(super) fn location(headers: &HeaderMap, bucket: &str, key: &str) -> String {
    let key = percent_encode(key);
    match headers.get(HOST).and_then(|host| host.to_str().ok()) {
        Some(host) if self::bucket(host).is_some() => format!("http://{host}/{key}"),
        Some(host) => format!("http://{host}/{bucket}/{key}"),
        None => format!("/{bucket}/{key}"),
    }
}

/// The bucket in small letters, in which alone buckets are named.
fn bucket(host: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
    let before = name.strip_suffix('.').unwrap_or(&name).strip_suffix(SUFFIX)?;
    let bucket = match before.strip_suffix(SERVER) {
        Some("") => "",
        Some(more) => more.strip_suffix('.').unwrap_or(before),
        None => before,
    };
    (!bucket.is_empty()).then(|| bucket.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_where_it_was_put() {
        let check = |host: &'static str, expected: &str| {
            let headers = [(HOST, http::HeaderValue::from_static(host))].into_iter().collect();
            assert_eq!(location(&headers, "bank", "dir/k +"), expected, "{host}");
        };
        check("127.0.0.1:7071", "http://127.0.0.1:7071/bank/dir/k%20%2B");
        check("s3.localhost", "http://s3.localhost/bank/dir/k%20%2B");
        check("bank.localhost:7071", "http://bank.localhost:7071/dir/k%20%2B");
        assert_eq!(location(&HeaderMap::new(), "bank", "k"), "/bank/k");
    }

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
        check("bank.s3.localhost:7071", Some("bank"));
        check("a.b.S3.localhost", Some("a.b"));
        check("banks3.localhost", Some("banks3"));
        check("s3.bank.localhost", Some("s3.bank"));
        check("localhost:7071", None);
        check("s3.localhost:7071", None);
        check("S3.localhost.", None);
        check(".s3.localhost", None);
        check(".localhost", None);
        check("notlocalhost", None);
        check("bank.localhost.example.org", None);
        check("s3.example.org:443", None);
        check("127.0.0.1:7071", None);
        check("[::1]:7071", None);
        check("", None);
    }
}
