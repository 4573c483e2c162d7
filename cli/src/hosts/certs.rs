// SPDX-License-Identifier: Apache-2.0
//! `fanfold certs`: an authority of one's own, and a certificate for each gateway
//! and worker, for those who have none.
//!
//! A gateway's certificate is for clients only and a worker's for servers only, so
//! that none can play the other's part. Nothing that is there is written over.

use std::{io::ErrorKind, net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use crate::{
    args::Certs,
    error::{Error, Result},
    output, whole,
};

/// Longest name of a host that DNS takes.
const HOST_NAME_MAX: usize = 253;

/// Makes what is asked for and is not there.
pub fn run(args: &Certs) -> Result<()> {
    // All names before anything is made: a mistake must leave nothing behind.
    args.gateway.iter().chain(&args.worker).try_for_each(|name| check(name))?;
    std::fs::create_dir_all(&args.out).map_err(|cause| {
        Error::usage(format!("expected to make the folder {}, found: {cause}", args.out.display()))
    })?;
    let authority = authority(&args.out)?;
    for name in &args.gateway {
        leaf(&args.out, &authority, name, ExtendedKeyUsagePurpose::ClientAuth)?;
    }
    for name in &args.worker {
        leaf(&args.out, &authority, name, ExtendedKeyUsagePurpose::ServerAuth)?;
    }
    Ok(())
}

/// A name becomes part of a certificate and of files' names.
fn check(name: &str) -> Result<()> {
    let label = |label: &str| {
        let letters = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        letters && matches!(label.len(), 1..=63) && !label.starts_with('-') && !label.ends_with('-')
    };
    // The first label of a certificate's name may stand for any.
    let host = name.strip_prefix("*.").unwrap_or(name);
    if name.parse::<IpAddr>().is_ok() || (name.len() <= HOST_NAME_MAX && host.split('.').all(label)) {
        return Ok(());
    }
    Err(Error::usage(format!("expected a host name or an IP address, found {name:?}"))
        .help("such as fanfold.example.org, gateway-1 or 10.0.0.7, without a port"))
}

fn authority(out: &Path) -> Result<Issuer<'static, KeyPair>> {
    let (certificate, key) = (out.join("ca.pem"), out.join("ca.key"));
    if let (Ok(certificate), Ok(key)) = (std::fs::read_to_string(&certificate), std::fs::read_to_string(&key))
    {
        let key = KeyPair::from_pem(&key).map_err(failed)?;
        return Issuer::from_ca_cert_pem(&certificate, key).map_err(failed);
    }
    // A new key beside an old certificate would sign what nobody believes.
    for (found, missing) in [(&certificate, &key), (&key, &certificate)] {
        if found.exists() && !missing.exists() {
            let found = found.display();
            let error = format!("expected {} beside {found}, found none", missing.display());
            return Err(
                Error::usage(error).help("bring it back, or choose another folder for another authority")
            );
        }
    }
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = named("Fanfold");
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = params.self_signed(&pair).map_err(failed)?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&certificate, &signed.pem(), 0o644)?;
    output::note(format!("made the authority {}; keep its key to yourself", certificate.display()));
    Ok(Issuer::new(params, pair))
}

fn leaf(
    out: &Path,
    authority: &Issuer<'static, KeyPair>,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<()> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let part = if purpose == ExtendedKeyUsagePurpose::ClientAuth { "gateway" } else { "worker" };
    params.extended_key_usages = vec![purpose];
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = params.signed_by(&pair, authority).map_err(failed)?;
    let file = |ending: &str| out.join(format!("{part}-{name}.{ending}"));
    write(&file("key"), &pair.serialize_pem(), 0o600)?;
    write(&file("pem"), &signed.pem(), 0o644)?;
    output::note(format!("made {}", file("pem").display()));
    Ok(())
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Makes a file that is not there.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    whole::make(path, text.as_bytes(), mode).map_err(|cause| {
        let error = format!("expected to make {}, found: {cause}", path.display());
        match cause.kind() {
            ErrorKind::AlreadyExists => Error::usage(error)
                .help("what is there is never written over; move it away, or choose another folder"),
            _ => Error::usage(error),
        }
    })
}

fn failed(error: rcgen::Error) -> Error {
    Error::usage(format!("expected to make a certificate, found: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_wrong_name_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("certs");
        for wrong in ["../x", "a b", "", "a..b", "a/b", "a:7070", "-a", "a-", "ä", &"a".repeat(64)] {
            let args =
                Certs { out: out.clone(), gateway: vec!["g".to_owned()], worker: vec![wrong.to_owned()] };
            assert_eq!(run(&args).unwrap_err().exit(), Exit::Usage, "{wrong:?}");
            assert!(!out.exists(), "{wrong:?}");
        }
        for right in ["g", "a.example.org", "worker-1", "10.0.0.7", "::1", "*.fanfold", "my_host"] {
            assert!(check(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn half_an_authority_is_none_and_gets_no_other_half() {
        let args = |folder: &Path, gateway: &str| Certs {
            out: folder.to_owned(),
            gateway: vec![gateway.to_owned()],
            worker: Vec::new(),
        };
        for (kept, lost) in [("ca.pem", "ca.key"), ("ca.key", "ca.pem")] {
            let folder = tempfile::tempdir().unwrap();
            run(&args(folder.path(), "g")).unwrap();
            std::fs::remove_file(folder.path().join(lost)).unwrap();
            let before = std::fs::read(folder.path().join(kept)).unwrap();
            assert_eq!(run(&args(folder.path(), "h")).unwrap_err().exit(), Exit::Usage, "{lost}");
            assert_eq!(std::fs::read(folder.path().join(kept)).unwrap(), before);
            assert!(!folder.path().join(lost).exists() && !folder.path().join("gateway-h.pem").exists());
        }
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let args = Certs { out: folder.path().to_owned(), gateway: vec!["g".to_owned()], worker: Vec::new() };
        run(&args).unwrap();
        let before = std::fs::read(folder.path().join("gateway-g.pem")).unwrap();
        assert_eq!(run(&args).unwrap_err().exit(), Exit::Usage);
        assert_eq!(std::fs::read(folder.path().join("gateway-g.pem")).unwrap(), before);
        let below_a_file = Certs { out: folder.path().join("ca.pem/x"), ..args };
        assert_eq!(run(&below_a_file).unwrap_err().exit(), Exit::Usage);
    }
}
