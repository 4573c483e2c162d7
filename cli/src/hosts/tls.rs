// SPDX-License-Identifier: Apache-2.0
//! Certificates between gateways and workers, from files to rustls.
//!
//! Both sides show one, and believe only those of their own authority: a public
//! one would let anybody in.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::config::{Nats, Tls};

/// What passes between gateways and workers is HTTP/2.
const ALPN: &[u8] = b"h2";

/// A gateway's side.
pub fn client(tls: &Tls) -> Result<Arc<ClientConfig>, Vec<String>> {
    let (roots, chain, key) = read(tls)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![format!("tls: {error}")])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key);
    let mut config = config.map_err(|error| vec![unfit(tls, &error)])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// A worker's side.
pub fn server(tls: &Tls) -> Result<Arc<ServerConfig>, Vec<String>> {
    let (roots, chain, key) = read(tls)?;
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

fn read(tls: &Tls) -> Result<Material, Vec<String>> {
    let mut problems = Vec::new();
    let roots = authorities("tls.ca", &tls.ca, &mut problems);
    let chain = certificates("tls.cert", &tls.cert, &mut problems);
    problems.extend(out_of_time(&roots, &chain).map(|found| {
        format!("tls.cert: expected a certificate that is good now in {}, found: {found}", tls.cert.display())
    }));
    match private_key("tls.key", &tls.key) {
        Ok(key) if problems.is_empty() => return Ok((roots, chain, key)),
        Ok(_) => {}
        Err(problem) => problems.push(problem),
    }
    Err(problems)
}

/// Whether a certificate has expired or is not good yet, so that nobody would take it. Whether others take its
/// authority is theirs to say.
fn out_of_time(roots: &RootCertStore, chain: &[CertificateDer<'static>]) -> Option<CertificateError> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let (leaf, between) = chain.split_first()?;
    // Times are looked at first, whatever a certificate is for.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider()).build();
    match verifier.ok()?.verify_client_cert(leaf, between, UnixTime::now()) {
        Err(rustls::Error::InvalidCertificate(
            error @ (Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }),
        )) => Some(error),
        _ => None,
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
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn what_has_expired_or_is_not_good_yet_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let check = |(from, until): (i32, i32), expected: Option<&str>| {
            let mut params = CertificateParams::new(vec!["w".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
            let key = KeyPair::generate().unwrap();
            std::fs::write(at("cert"), params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(at("key"), key.serialize_pem()).unwrap();
            let tls = Tls { cert: at("cert"), key: at("key"), ca: at("cert") };
            for problems in [client(&tls).err(), server(&tls).err()] {
                let told = problems.unwrap_or_default().concat();
                let fits = expected.map_or(told.is_empty(), |expected| told.contains(expected));
                assert!(fits, "{from} to {until}: {told}");
            }
        };
        check((2000, 4000), None);
        check((2000, 2020), Some("expired"));
        check((3000, 4000), Some("not valid yet"));
    }
}
