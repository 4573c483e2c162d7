// SPDX-License-Identifier: Apache-2.0
//! The checksums that S3 clients send along: which, where, and whether they agree.
//!
//! A value is kept as it is sent, in base 64; only algorithms that a request
//! names are worked out. Invariant: one that is not known here is refused wherever it is
//! named, as its value would be compared with nothing.

use base64::{Engine, prelude::BASE64_STANDARD};
use crc_fast::{CrcAlgorithm, checksum_combine};
use http::HeaderMap;
use s3s::{S3Result, dto, s3_error};

use super::record::Sums;

/// Header names begin so; the algorithm follows in lower case.
const PREFIX: &str = "x-amz-checksum-";
/// The algorithms that are known, as the headers have them.
pub(super) const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];
/// Headers that name an algorithm themselves: of copies and uploads in parts, and the SDKs' own.
const NAMING: [&str; 2] = ["x-amz-checksum-algorithm", "x-amz-sdk-checksum-algorithm"];
/// What else follows the prefix and is no algorithm.
const NO_VALUES: [&str; 3] = ["algorithm", "mode", "type"];

impl Sums {
    /// Those among headers or trailers.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let get = |name: &str| {
            headers.get(format!("{PREFIX}{name}")).and_then(|v| v.to_str().ok()).map(|v| v.trim().to_owned())
        };
        Self {
            crc32: get("crc32"),
            crc32c: get("crc32c"),
            crc64nvme: get("crc64nvme"),
            sha1: get("sha1"),
            sha256: get("sha256"),
        }
    }

    /// By the name of the algorithm.
    pub(super) fn get(&self, algorithm: &str) -> Option<&str> {
        match algorithm {
            "crc32" => self.crc32.as_deref(),
            "crc32c" => self.crc32c.as_deref(),
            "crc64nvme" => self.crc64nvme.as_deref(),
            "sha1" => self.sha1.as_deref(),
            "sha256" => self.sha256.as_deref(),
            _ => None,
        }
    }

    /// Sets one by the name of its algorithm.
    pub(super) fn set(&mut self, algorithm: &str, value: String) {
        let slot = match algorithm {
            "crc32" => &mut self.crc32,
            "crc32c" => &mut self.crc32c,
            "crc64nvme" => &mut self.crc64nvme,
            "sha1" => &mut self.sha1,
            "sha256" => &mut self.sha256,
            _ => return,
        };
        *slot = Some(value);
    }

    /// Whether every value that `claimed` has is the one here.
    pub(super) fn agrees(&self, claimed: &Sums) -> bool {
        ALGORITHMS.iter().all(|name| claimed.get(name).is_none_or(|value| self.get(name) == Some(value)))
    }
}

impl From<dto::Checksum> for Sums {
    fn from(sums: dto::Checksum) -> Self {
        Self {
            crc32: sums.checksum_crc32,
            crc32c: sums.checksum_crc32c,
            crc64nvme: sums.checksum_crc64nvme,
            sha1: sums.checksum_sha1,
            sha256: sums.checksum_sha256,
        }
    }
}

/// The algorithms that a request's headers name: by a value, by a trailer that
/// is announced, or outright.
pub(super) fn algorithms(headers: &HeaderMap) -> S3Result<Vec<String>> {
    let named = NAMING.iter().filter_map(|name| headers.get(*name)?.to_str().ok());
    let sent = headers.keys().filter_map(|name| of_header(name.as_str()));
    let mut found = named.chain(sent).map(known).collect::<S3Result<Vec<_>>>()?;
    found.extend(announced(headers)?);
    found.sort();
    found.dedup();
    Ok(found)
}

/// The algorithms whose values are to come in trailers.
pub(super) fn announced(headers: &HeaderMap) -> S3Result<Vec<String>> {
    let trailers = headers.get_all("x-amz-trailer").into_iter().filter_map(|v| v.to_str().ok());
    let names = trailers.flat_map(|v| v.split(',')).map(|v| v.trim().to_ascii_lowercase());
    names.filter_map(|name| of_header(&name).map(known)).collect()
}

/// The algorithm of a name, as the headers have it.
pub(super) fn known(name: &str) -> S3Result<String> {
    let name = name.trim().to_ascii_lowercase();
    if ALGORITHMS.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(s3_error!(
        NotImplemented,
        "a checksum must be a CRC32, CRC32C, CRC64NVME, SHA1 or SHA256, found {name:?}; have the client send one of \
         these"
    ))
}

/// The algorithm that a header's name says it has a value of, known or not.
fn of_header(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|rest| !NO_VALUES.contains(rest))
}

/// The CRC of stretches of bytes, one behind the other, from the CRC and the length of each.
/// None for what is no CRC.
pub(super) fn joined(algorithm: &str, stretches: &[(String, u64)]) -> Option<String> {
    let (kind, bytes) = match algorithm {
        "crc32" => (CrcAlgorithm::Crc32IsoHdlc, 4),
        "crc32c" => (CrcAlgorithm::Crc32Iscsi, 4),
        "crc64nvme" => (CrcAlgorithm::Crc64Nvme, 8),
        _ => return None,
    };
    // That of nothing.
    let mut whole = 0;
    for (sum, length) in stretches {
        let sum = BASE64_STANDARD.decode(sum).ok().filter(|sum| sum.len() == bytes)?;
        let sum = sum.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        whole = checksum_combine(kind, whole, sum, *length);
    }
    Some(BASE64_STANDARD.encode(&whole.to_be_bytes()[8 - bytes..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_found_wherever_a_client_names_them() {
        let headers = [
            ("x-amz-trailer", "x-amz-checksum-crc32"),
            ("x-amz-sdk-checksum-algorithm", "SHA256"),
            ("x-amz-checksum-crc64nvme", "AAAA"),
            ("x-amz-checksum-type", "COMPOSITE"),
        ];
        let headers = headers
            .into_iter()
            .map(|(k, v)| (http::HeaderName::from_static(k), http::HeaderValue::from_static(v)))
            .collect();
        assert_eq!(algorithms(&headers).unwrap(), ["crc32", "crc64nvme", "sha256"]);
        assert_eq!(announced(&headers).unwrap(), ["crc32"]);
    }

    #[test]
    fn algorithms_that_are_not_known_are_refused() {
        let check = |name: &'static str, value: &'static str, expected: Option<&str>| {
            let header = (http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
            let found = algorithms(&HeaderMap::from_iter([header])).ok().map(|names| names.join(" "));
            assert_eq!(found.as_deref(), expected, "{name}: {value}");
        };
        for name in ["x-amz-checksum-sha512", "x-amz-checksum-md5", "x-amz-checksum-xxhash3"] {
            check(name, "AAAA", None);
            check("x-amz-trailer", name, None);
        }
        for name in NAMING {
            check(name, "XXHASH128", None);
            check(name, "SHA1", Some("sha1"));
        }
        check("x-amz-trailer", "x-amz-trailer-signature, x-amz-checksum-crc32", Some("crc32"));
        check("x-amz-checksum-mode", "ENABLED", Some(""));
        check("x-amz-checksum-type", "FULL_OBJECT", Some(""));
        check("x-amz-meta-a", "x-amz-checksum-sha512", Some(""));
    }

    #[test]
    fn crcs_of_stretches_make_that_of_all() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let sum = |bytes: &[u8], name: &str| {
            let mut hasher = crate::server::ingest::hasher(&[name.to_owned()]);
            hasher.update(bytes);
            Sums::from(hasher.finalize()).get(name).unwrap().to_owned()
        };
        for name in ["crc32", "crc32c", "crc64nvme"] {
            for cuts in [&[][..], &[0], &[1, 70_000], &[100_000, 100_000, 399_999]] {
                let ends = cuts.iter().copied().chain([bytes.len()]);
                let stretches = ends.scan(0, |start, end| Some(&bytes[std::mem::replace(start, end)..end]));
                let known: Vec<_> = stretches.map(|s| (sum(s, name), s.len() as u64)).collect();
                assert_eq!(joined(name, &known).unwrap(), sum(&bytes, name), "{name} {cuts:?}");
            }
        }
        assert_eq!(joined("sha256", &[(sum(&bytes, "sha256"), 1)]), None);
        assert_eq!(joined("crc32", &[("AAAA".to_owned(), 1)]), None);
    }

    #[test]
    fn only_what_was_claimed_is_compared() {
        let mut here = Sums::default();
        here.set("crc32", "x".into());
        let mut claimed = Sums::default();
        assert!(here.agrees(&claimed));
        claimed.set("crc32", "x".into());
        assert!(here.agrees(&claimed));
        claimed.set("sha1", "y".into());
        assert!(!here.agrees(&claimed));
    }
}
