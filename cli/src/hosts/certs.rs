// SPDX-License-Identifier: Apache-2.0
//! `fanfold certs`: an authority of one's own, and a certificate for each gateway
//! and worker, for those who have none.
//!
//! A gateway's certificate is for clients only and a worker's for servers only, so
//! that none can play the other's part. Nothing that is there is written over.

use std::{
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

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
/// What files of a gateway begin with, and those of a worker.
const GATEWAY: &str = "gateway";
const WORKER: &str = "worker";

/// Makes what is asked for and is not there.
pub fn run(args: &Certs) -> Result<()> {
    // All names before anything is made: a mistake must leave nothing behind.
    args.gateway.iter().chain(&args.worker).try_for_each(|name| check(name))?;
    check_places(args)?;
    std::fs::create_dir_all(&args.out).map_err(|cause| {
        let out = args.out.display();
        let found = match cause.kind() {
            ErrorKind::AlreadyExists => "a file of that name".to_owned(),
            _ => cause.to_string(),
        };
        Error::usage(format!("expected to make the folder {out}, found: {found}"))
            .help("choose another folder with --out")
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

/// Some of the names may have certificates from an earlier run; none is made beside them, so that all is told at once.
fn check_places(args: &Certs) -> Result<()> {
    let gateways = args.gateway.iter().map(|name| (GATEWAY, name));
    let names = gateways.chain(args.worker.iter().map(|name| (WORKER, name)));
    let files =
        names.flat_map(|(part, name)| ["key", "pem"].map(|ending| file(&args.out, part, name, ending)));
    let taken: Vec<_> = files.filter(|path| path.symlink_metadata().is_ok()).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let taken: Vec<_> = taken.iter().map(|path| path.display().to_string()).collect();
    Err(Error::usage(format!("expected to make files that are not there, found {}", taken.join(", "))).help(
        "nothing was made, and what is there is never written over: leave these names out to keep their \
         certificates, or move the files away to make them anew",
    ))
}

/// Where a certificate or its key goes.
fn file(out: &Path, part: &str, name: &str, ending: &str) -> PathBuf {
    out.join(format!("{part}-{name}.{ending}"))
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
    let part = if purpose == ExtendedKeyUsagePurpose::ClientAuth { GATEWAY } else { WORKER };
    params.extended_key_usages = vec![purpose];
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = params.signed_by(&pair, authority).map_err(failed)?;
    let certificate = file(out, part, name, "pem");
    write(&file(out, part, name, "key"), &pair.serialize_pem(), 0o600)?;
    write(&certificate, &signed.pem(), 0o644)?;
    output::note(format!("made {}", certificate.display()));
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
        let path = path.display();
        match cause.kind() {
            ErrorKind::AlreadyExists => {
                Error::usage(format!("expected to make {path}, found something there already"))
                    .help("what is there is never written over; move it away, or choose another folder")
            }
            _ => Error::usage(format!("expected to make {path}, found: {cause}")),
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
        let certify = |out: &Path, workers: &[&str]| {
            let worker = workers.iter().map(|&name| name.to_owned()).collect();
            run(&Certs { out: out.to_owned(), gateway: vec!["g".to_owned()], worker })
        };
        certify(folder.path(), &[]).unwrap();
        let before = std::fs::read(folder.path().join("gateway-g.pem")).unwrap();
        let refused = certify(folder.path(), &["w"]).unwrap_err();
        let said = refused.to_string();
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(said.contains("gateway-g.key, ") && said.contains("gateway-g.pem"), "{said}");
        assert!(!said.contains("os error") && !said.contains("worker-w"), "{said}");
        assert!(!folder.path().join("worker-w.pem").exists(), "the others are left to the next run");
        assert_eq!(std::fs::read(folder.path().join("gateway-g.pem")).unwrap(), before);
        let a_file = certify(&folder.path().join("ca.pem"), &[]).unwrap_err();
        assert!(a_file.to_string().ends_with("found: a file of that name"), "{a_file}");
        let below_a_file = certify(&folder.path().join("ca.pem/x"), &[]);
        assert_eq!(below_a_file.unwrap_err().exit(), Exit::Usage);
    }
}
