// SPDX-License-Identifier: Apache-2.0
//! Certificates between gateways and workers, from files to rustls.
//!
//! Both sides show one, and believe only those of their own authority: a public
//! one would let anybody in.

use std::{net::IpAddr, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
};

use super::config::{Nats, Tls};

/// What passes between gateways and workers is HTTP/2.
const ALPN: &[u8] = b"h2";

/// A gateway's side.
pub fn client(tls: &Tls) -> Result<Arc<ClientConfig>, Vec<String>> {
    let (roots, chain, key) = read(tls, Purpose::Client, None)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![format!("tls: {error}")])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key);
    let mut config = config.map_err(|error| vec![unfit(tls, &error)])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// A worker's side, which gateways reach at `address`, a `host:port`.
pub fn server(tls: &Tls, address: &str) -> Result<Arc<ServerConfig>, Vec<String>> {
    let (roots, chain, key) = read(tls, Purpose::Server, host_of(address).as_ref())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|error| vec![format!("tls.ca: {error}")])?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![format!("tls: {error}")])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| vec![unfit(tls, &error)])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// What is wrong with the files for TLS with NATS, which are read again when it is reached. Where the server asks for
/// no TLS, nobody else would notice.
pub fn problems_with_nats(nats: &Nats) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(ca) = &nats.ca {
        authorities("nats.ca", ca, &mut problems);
    }
    if let Some(cert) = &nats.cert {
        certificates("nats.cert", cert, &mut problems);
    }
    problems.extend(nats.key.as_ref().and_then(|key| private_key("nats.key", key).err()));
    problems
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

type Material = (RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a certificate of ours is to be good for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// A gateway's.
    Client,
    /// A worker's.
    Server,
}

fn read(tls: &Tls, purpose: Purpose, host: Option<&ServerName<'_>>) -> Result<Material, Vec<String>> {
    let mut problems = Vec::new();
    let roots = authorities("tls.ca", &tls.ca, &mut problems);
    let chain = certificates("tls.cert", &tls.cert, &mut problems);
    problems.extend(refusals(&roots, &chain, purpose, host).iter().map(|found| told(tls, purpose, found)));
    match private_key("tls.key", &tls.key) {
        Ok(key) if problems.is_empty() => return Ok((roots, chain, key)),
        Ok(_) => {}
        Err(problem) => problems.push(problem),
    }
    Err(problems)
}

/// The host that gateways look for in a worker's certificate; nothing where it is none, or stands for any.
pub fn host_of(address: &str) -> Option<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_any = host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    if is_any { None } else { ServerName::try_from(host.to_owned()).ok() }
}

/// What the other side would have against our certificate, being of the same authority.
fn refusals(
    roots: &RootCertStore,
    chain: &[CertificateDer<'static>],
    purpose: Purpose,
    host: Option<&ServerName<'_>>,
) -> Vec<CertificateError> {
    // What cannot be read is told already.
    let Some((leaf, between)) = chain.split_first().filter(|_| !roots.is_empty()) else { return Vec::new() };
    let mut found: Vec<_> = purpose.refusal(leaf, between, roots).into_iter().collect();
    if found.iter().any(is_of_purpose) {
        // Its authority was not looked at yet.
        let beside = purpose.other().refusal(leaf, between, roots);
        found.extend(beside.filter(|error| !is_of_purpose(error)));
    }
    let named = |host| ParsedCertificate::try_from(leaf).and_then(|leaf| verify_server_name(&leaf, host));
    found.extend(host.and_then(|host| certificate_error(named(host))));
    found.dedup();
    found
}

impl Purpose {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Why a certificate is not taken for this. Times are looked at first, then what it is for, then whose it is.
    fn refusal(
        self,
        leaf: &CertificateDer<'static>,
        between: &[CertificateDer<'static>],
        roots: &RootCertStore,
    ) -> Option<CertificateError> {
        let now = UnixTime::now();
        certificate_error(match self {
            Self::Client => {
                let roots = Arc::new(roots.clone());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                verifier.ok()?.verify_client_cert(leaf, between, now).map(drop)
            }
            Self::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                let algorithms = provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&leaf, roots, between, now, algorithms)
            }),
        })
    }
}

fn certificate_error(checked: Result<(), rustls::Error>) -> Option<CertificateError> {
    match checked {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn is_of_purpose(error: &CertificateError) -> bool {
    matches!(error, CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. })
}

/// In words, with the key to change.
fn told(tls: &Tls, purpose: Purpose, found: &CertificateError) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let (cert, ca) = (tls.cert.display(), tls.ca.display());
    let (whose, part) = match purpose {
        Purpose::Client => ("clients", "gateway"),
        Purpose::Server => ("servers", "worker"),
    };
    match found {
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
            format!("tls.cert: expected a certificate that is good now in {cert}, found: {found}")
        }
        NotValidForName | NotValidForNameContext { .. } => format!(
            "tls.cert: expected the host by which gateways reach this worker to be named in {cert}, found: {found}; make \
             one with its name, or correct advertise"
        ),
        UnknownIssuer | BadSignature => format!(
            "tls.ca: expected the authority of {cert} among those in {ca}, found others; gateways and workers have \
             certificates of one authority"
        ),
        _ if is_of_purpose(found) => format!(
            "tls.cert: expected a certificate for {whose} in {cert}, found: {found}; take one of those for a {part}"
        ),
        _ => format!("tls.cert: expected a certificate that others take in {cert}, found: {found}"),
    }
}

fn authorities(key: &str, path: &Path, problems: &mut Vec<String>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path, problems) {
        if let Err(error) = roots.add(certificate) {
            problems.push(format!("{key}: expected an authority in {}, found: {error}", path.display()));
        }
    }
    roots
}

fn private_key(key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("{key}: expected a private key in {}, found: {error}", path.display()))
}

fn certificates(key: &str, path: &Path, problems: &mut Vec<String>) -> Vec<CertificateDer<'static>> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    let found = match read {
        Ok(found) if !found.is_empty() => return found,
        Ok(_) => "none".to_owned(),
        Err(error) => error.to_string(),
    };
    problems.push(format!("{key}: expected certificates as PEM in {}, found: {found}", path.display()));
    Vec::new()
}

fn unfit(tls: &Tls, error: &rustls::Error) -> String {
    format!("tls.key: expected the key of {}, found: {error}", tls.cert.display())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams,
        ExtendedKeyUsagePurpose::{self, ClientAuth, ServerAuth},
        IsCa, Issuer, KeyPair, date_time_ymd,
    };

    use super::*;

    /// Its certificate, and what signs.
    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        (certificate, Issuer::new(params, key))
    }

    #[test]
    fn what_the_other_side_would_refuse_is_told_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let [(ours, issuer), (others, _)] = [authority(), authority()];
        let both = format!("{ours}{others}");
        for (name, text) in [("ours", ours), ("others", others), ("both", both)] {
            std::fs::write(at(name), text).unwrap();
        }
        let make = |(from, until): (i32, i32), purposes: &[ExtendedKeyUsagePurpose], name: &str| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
            params.extended_key_usages = purposes.to_vec();
            let key = KeyPair::generate().unwrap();
            std::fs::write(at("cert"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            std::fs::write(at("key"), key.serialize_pem()).unwrap();
        };
        // Of a gateway, and of a worker that is reached as `w`.
        let check = |ca: &str, expected: [&[&str]; 2]| {
            let tls = Tls { cert: at("cert"), key: at("key"), ca: at(ca) };
            let told = [client(&tls).err(), server(&tls, "w:7080").err()].map(Option::unwrap_or_default);
            for (told, expected) in told.iter().zip(expected) {
                let fits = told.iter().zip(expected).all(|(told, expected)| told.contains(expected));
                assert!(fits && told.len() == expected.len(), "{ca}: expected {expected:?}, found {told:#?}");
            }
        };
        let good = (2000, 4000);
        let (clients, servers) =
            ("tls.cert: expected a certificate for clients", "tls.cert: expected a certificate for servers");
        let (authority, host) = ("tls.ca: expected the authority of", "tls.cert: expected the host by which");
        for purposes in [&[][..], &[ClientAuth, ServerAuth]] {
            make(good, purposes, "w");
            check("ours", [&[], &[]]);
            check("both", [&[], &[]]);
            check("others", [&[authority], &[authority]]);
        }
        make((2000, 2020), &[], "w");
        check("ours", [&["expired"], &["expired"]]);
        make((3000, 4000), &[], "w");
        check("ours", [&["not valid yet"], &["not valid yet"]]);
        make(good, &[ClientAuth], "w");
        check("ours", [&[], &[servers]]);
        make(good, &[ServerAuth], "w");
        check("ours", [&[clients], &[]]);
        make(good, &[ServerAuth], "v");
        check("ours", [&[clients], &[host]]);
        check("others", [&[clients, authority], &[authority, host]]);
        make(good, &[], "*.example.org");
        let tls = Tls { cert: at("cert"), key: at("key"), ca: at("ours") };
        for (address, fits) in [("w.example.org:1", true), ("example.org:1", false), ("0.0.0.0:1", true)] {
            assert_eq!(server(&tls, address).is_ok(), fits, "{address}");
        }
    }
}
