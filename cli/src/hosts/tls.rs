// SPDX-License-Identifier: Apache-2.0
//! Certificates between gateways and workers, from files to rustls.
//!
//! Both sides show one, and believe only those of their own authority: a public
//! one would let anybody in.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};

use super::config::{Nats, Tls};
use crate::input;

/// What passes between gateways and workers is HTTP/2.
const ALPN: &[u8] = b"h2";
/// Of one file; all the authorities that browsers know take a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files of `tls` as they were at one time; one has a secret, so nothing shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    cert: Pem,
    key: Pem,
    ca: Pem,
}

impl Files {
    /// As they are now.
    pub fn read(tls: &Tls) -> Self {
        Self { cert: Pem::read(&tls.cert), key: Pem::read(&tls.key), ca: Pem::read(&tls.ca) }
    }

    /// The same files as they are now.
    pub fn again(&self) -> Self {
        let [cert, key, ca] = [&self.cert, &self.key, &self.ca].map(|file| Pem::read(&file.path));
        Self { cert, key, ca }
    }
}

/// A gateway's side.
pub fn client(files: &Files) -> Result<fanfold_gateway::Identity, Vec<String>> {
    let Material { roots, chain, key, ends } = read(files, Purpose::Client, None)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![format!("tls: {error}")])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key);
    let mut config = config.map_err(|error| vec![unfit(files, &error)])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(fanfold_gateway::Identity { tls: Arc::new(config), ends })
}

/// A worker's side, which gateways reach at `address`, a `host:port`.
pub fn server(files: &Files, address: &str) -> Result<fanfold_runtime::remote::Identity, Vec<String>> {
    let Material { roots, chain, key, ends } = read(files, Purpose::Server, host_of(address).as_ref())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|error| vec![format!("tls.ca: {error}")])?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![format!("tls: {error}")])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| vec![unfit(files, &error)])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A session that is resumed asks for no certificate, for a day: one that has ended would be believed as long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(fanfold_runtime::remote::Identity { tls: Arc::new(config), ends })
}

/// What was `found` wrong with our files, and what is with those for TLS with NATS, which are read again at each
/// connection to it. Where the server asks for no TLS, nobody else would notice.
pub fn problems(found: Option<&Vec<String>>, nats: &Nats) -> Vec<String> {
    let mut problems = found.cloned().unwrap_or_default();
    if let Some(ca) = &nats.ca {
        Pem::read(ca).authorities("nats.ca", &mut problems);
    }
    if let Some(cert) = &nats.cert {
        Pem::read(cert).certificates("nats.cert", &mut problems);
    }
    problems.extend(nats.key.as_ref().and_then(|key| Pem::read(key).private_key("nats.key").err()));
    problems
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What is in the files, once all of it fits.
struct Material {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// When our certificate does, in Unix time.
    ends: u64,
}

/// What a certificate of ours is to be good for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// A gateway's.
    Client,
    /// A worker's.
    Server,
}

fn read(files: &Files, purpose: Purpose, host: Option<&ServerName<'_>>) -> Result<Material, Vec<String>> {
    let mut problems = Vec::new();
    let roots = files.ca.authorities("tls.ca", &mut problems);
    let chain = files.cert.certificates("tls.cert", &mut problems);
    problems.extend(refusals(&roots, &chain, purpose, host).iter().map(|found| told(files, purpose, found)));
    match files.key.private_key("tls.key") {
        Ok(key) if problems.is_empty() => {
            // Whatever is taken ends some time; were none told, an alert would be better than its absence.
            let ends = purpose.end(&chain, &roots).unwrap_or_default();
            return Ok(Material { roots, chain, key, ends });
        }
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
    let now = UnixTime::now();
    let mut found: Vec<_> = purpose.refusal(leaf, between, roots, now).into_iter().collect();
    if found.iter().any(is_of_purpose) {
        // Its authority was not looked at yet.
        let beside = purpose.other().refusal(leaf, between, roots, now);
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

    /// When the first certificate of a chain that is taken now ends, in Unix time.
    fn end(self, chain: &[CertificateDer<'static>], roots: &RootCertStore) -> Option<u64> {
        let (leaf, between) = chain.split_first()?;
        match self.refusal(leaf, between, roots, UnixTime::since_unix_epoch(Duration::MAX)) {
            Some(CertificateError::ExpiredContext { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        }
    }

    /// Why a certificate is not taken for this at a time. Its own times are looked at first, then what it is for, then
    /// whose it is.
    fn refusal(
        self,
        leaf: &CertificateDer<'static>,
        between: &[CertificateDer<'static>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Option<CertificateError> {
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
fn told(files: &Files, purpose: Purpose, found: &CertificateError) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let (cert, ca) = (files.cert.path.display(), files.ca.path.display());
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

/// A file of certificates or of a key as it was at one time; where it could not be read, why.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    path: PathBuf,
    content: Result<Vec<u8>, String>,
}

impl Pem {
    fn read(path: &Path) -> Self {
        let content = input::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string());
        Self { path: path.to_owned(), content }
    }

    fn authorities(&self, key: &str, problems: &mut Vec<String>) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(key, problems) {
            if let Err(error) = roots.add(certificate) {
                problems
                    .push(format!("{key}: expected an authority in {}, found: {error}", self.path.display()));
            }
        }
        roots
    }

    fn certificates(&self, key: &str, problems: &mut Vec<String>) -> Vec<CertificateDer<'static>> {
        let read = |bytes: &[u8]| CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
        let found = match self.content.as_deref().map(read) {
            Ok(Ok(found)) if !found.is_empty() => return found,
            Ok(Ok(_)) => "none",
            Ok(Err(error)) => unread(&error),
            Err(error) => error.as_str(),
        };
        problems
            .push(format!("{key}: expected certificates as PEM in {}, found: {found}", self.path.display()));
        Vec::new()
    }

    fn private_key(&self, key: &str) -> Result<PrivateKeyDer<'static>, String> {
        let found = match self.content.as_deref().map(PrivateKeyDer::from_pem_slice) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => unread(&error),
            Err(error) => error.as_str(),
        };
        Err(format!("{key}: expected a private key in {}, found: {found}", self.path.display()))
    }
}

/// What is there instead of PEM, without a word of it: in a file of one line the library takes a whole key for the name
/// of a section, and shows it.
fn unread(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "none",
        pem::Error::MissingSectionEnd { .. } | pem::Error::IllegalSectionStart { .. } => {
            "one without BEGIN and END in lines of their own"
        }
        _ => "one that is damaged",
    }
}

fn unfit(files: &Files, error: &rustls::Error) -> String {
    format!("tls.key: expected the key of {}, found: {error}", files.cert.path.display())
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
            let files = Files::read(&Tls { cert: at("cert"), key: at("key"), ca: at(ca) });
            let told = [client(&files).err(), server(&files, "w:7080").err()].map(Option::unwrap_or_default);
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
        let files = Files::read(&Tls { cert: at("cert"), key: at("key"), ca: at("ours") });
        for (address, fits) in [("w.example.org:1", true), ("example.org:1", false), ("0.0.0.0:1", true)] {
            assert_eq!(server(&files, address).is_ok(), fits, "{address}");
        }
        // At the beginning of the year 4000.
        let ends = [client(&files).unwrap().ends, server(&files, "w.example.org:1").unwrap().ends];
        assert_eq!(ends, [64_060_588_800; 2]);
    }

    #[test]
    fn nothing_of_a_key_is_shown_where_it_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = KeyPair::generate().unwrap().serialize_pem();
        let middle = key.lines().nth(1).unwrap();
        let damaged = key.replace(middle, &format!("!{middle}"));
        for (text, found) in [
            (key.replace('\n', ""), "one without BEGIN and END in lines of their own"),
            (key.replace("KEY-----\n", "KEY----- "), "one without BEGIN and END in lines of their own"),
            (damaged, "one that is damaged"),
            (String::new(), "none"),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut told = vec![Pem::read(&path).private_key("tls.key").unwrap_err()];
            // Whoever takes one for the other is told no more.
            Pem::read(&path).certificates("tls.cert", &mut told);
            let expected = [("tls.key", "a private key"), ("tls.cert", "certificates as PEM")]
                .map(|(key, what)| format!("{key}: expected {what} in {}, found: {found}", path.display()));
            assert_eq!(told, expected);
        }
    }
}
