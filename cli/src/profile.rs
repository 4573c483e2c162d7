// SPDX-License-Identifier: Apache-2.0
//! What this user may reach: endpoints with their tokens and stores.
//!
//! `fanfold dev` writes its own entry, so that commands in other folders find
//! the token and the store; flags and environment go over it. The file is
//! readable by its owner only and is replaced atomically.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fanfold_storage::Credentials;
use reqwest::Url;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where the gateway is when nothing else is said.
pub const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:7070";

/// One service that this user may reach.
#[derive(Clone, Serialize, Deserialize)]
pub struct Profile {
    /// Token for the gateway.
    pub token: String,
    /// Its store.
    pub s3: StoreProfile,
    /// Where `fanfold dev` keeps it; one folder has one entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
}

/// A store and how to reach it.
#[derive(Clone, Serialize, Deserialize)]
pub struct StoreProfile {
    /// Base URL.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Of temporary keys; none of those that are kept has one.
    #[serde(skip)]
    pub session_token: Option<String>,
}

impl StoreProfile {
    /// What the storage client takes.
    pub fn config(&self) -> fanfold_storage::StoreConfig {
        let credentials = Credentials::new(self.access_key.clone(), self.secret_key.clone())
            .with_session(self.session_token.clone());
        let mut config = fanfold_storage::StoreConfig::at(self.endpoint.clone(), credentials);
        config.region.clone_from(&self.region);
        config
    }
}

type Profiles = BTreeMap<String, Profile>;

/// The entry for an endpoint, if there is one, and where it says that the service is. Who has no
/// home has no entries.
pub fn find(endpoint: &str) -> Result<Option<(String, Profile)>> {
    match path() {
        Some(path) => Ok(entry(load(&path)?, endpoint)),
        None => Ok(None),
    }
}

/// The entry for an endpoint, however it is written; `fanfold dev` writes 127.0.0.1 where people
/// write localhost.
fn entry(mut profiles: Profiles, endpoint: &str) -> Option<(String, Profile)> {
    let exact = profiles.remove_entry(endpoint.trim_end_matches('/'));
    let wanted = place(endpoint);
    exact.or_else(|| profiles.into_iter().find(|(at, _)| wanted.is_some() && place(at) == wanted))
}

/// An endpoint in one way of writing it.
fn place(endpoint: &str) -> Option<Url> {
    let mut url = Url::parse(endpoint).ok()?;
    if url.host_str() == Some("localhost") {
        url.set_host(Some("127.0.0.1")).ok()?;
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Some(url)
}

/// Writes the entry for an endpoint. One for the same folder at another
/// address, which an earlier start left, goes.
pub fn save(endpoint: &str, profile: &Profile) -> Result<()> {
    let path = path().ok_or_else(|| {
        Error::usage("expected HOME or FANFOLD_CONFIG_DIR in the environment, found neither")
    })?;
    save_in(&path, endpoint, profile)
}

fn save_in(path: &Path, endpoint: &str, profile: &Profile) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let unwritable = |cause: std::io::Error| {
        Error::usage(format!("the profiles in {} could not be written: {cause}", path.display()))
            .help("set FANFOLD_CONFIG_DIR to a folder that you can write to")
    };
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    // Two services that start together keep both entries.
    let lock = File::create(folder.join("profiles.lock")).map_err(unwritable)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| unwritable(e.into()))?;
    let mut profiles = load(path)?;
    profiles.retain(|_, known| profile.data.is_none() || known.data != profile.data);
    profiles.insert(endpoint.trim_end_matches('/').to_owned(), profile.clone());
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(unwritable)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(unwritable)?;
    let text = serde_json::to_string_pretty(&profiles).map_err(|e| unwritable(e.into()))?;
    file.write_all(text.as_bytes()).map_err(unwritable)?;
    file.persist(path).map_err(|e| unwritable(e.error))?;
    Ok(())
}

fn path() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = from("FANFOLD_CONFIG_DIR")
        .or_else(|| from("XDG_CONFIG_HOME").map(|d| d.join("fanfold")))
        .or_else(|| from("HOME").map(|d| d.join(".config/fanfold")))?;
    Some(folder.join("profiles.json"))
}

fn load(path: &Path) -> Result<Profiles> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|cause| {
            Error::usage(format!("expected profiles as JSON in {}, found: {cause}", path.display()))
                .help("remove the file; `fanfold dev` writes it anew")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Profiles::new()),
        Err(error) => {
            Err(Error::usage(format!("expected to read the profiles in {}, found: {error}", path.display()))
                .help("set FANFOLD_CONFIG_DIR to a folder that you can read"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn profile(token: &str, data: &str) -> Profile {
        let s3 = StoreProfile {
            endpoint: "http://127.0.0.1:7071".into(),
            region: "us-east-1".into(),
            access_key: "a".into(),
            secret_key: "b".into(),
            session_token: None,
        };
        Profile { token: token.into(), s3, data: Some(data.into()) }
    }

    #[test]
    fn one_folder_has_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/profiles.json");
        save_in(&path, "http://127.0.0.1:1/", &profile("one", "/a")).unwrap();
        save_in(&path, "http://127.0.0.1:2", &profile("two", "/b")).unwrap();
        save_in(&path, "http://127.0.0.1:3", &profile("three", "/a")).unwrap();
        let found: Vec<_> = load(&path).unwrap().into_iter().map(|(at, p)| (at, p.token)).collect();
        let expected = [("http://127.0.0.1:2", "two"), ("http://127.0.0.1:3", "three")];
        assert_eq!(found, expected.map(|(at, token)| (at.to_owned(), token.to_owned())));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_endpoint_is_found_however_it_is_written() {
        let known = ["http://127.0.0.1:7070", "https://fanfold.example.org"];
        let profiles =
            || -> Profiles { known.map(|at| (at.to_owned(), profile(at, "/a"))).into_iter().collect() };
        let check = |endpoint: &str, expected: Option<&str>| {
            let found = entry(profiles(), endpoint);
            assert!(found.iter().all(|(at, profile)| *at == profile.token), "{endpoint}");
            assert_eq!(found.map(|(at, _)| at).as_deref(), expected, "{endpoint}");
        };
        check(known[0], Some(known[0]));
        check("http://localhost:7070/", Some(known[0]));
        check("https://Fanfold.example.org:443", Some(known[1]));
        check("http://fanfold.example.org", None);
        check("http://127.0.0.1:7071", None);
        check("http://10.0.0.1:7070", None);
        check("localhost:7070", None);
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profiles.json");
        std::fs::write(&path, "{").unwrap();
        let damaged = load(&path).err().unwrap();
        assert_eq!(damaged.exit(), Exit::Usage);
        assert!(
            damaged.to_string().contains("profiles.json") && damaged.advice().contains("remove the file")
        );
        // A folder where the file should be, and a file where the folder should be.
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        for wrong in [dir.path().join("deep"), path.join("profiles.json")] {
            assert_eq!(load(&wrong).err().unwrap().exit(), Exit::Usage, "{}", wrong.display());
            let saved = save_in(&wrong, "http://127.0.0.1:1", &profile("t", "/a"));
            assert_eq!(saved.unwrap_err().exit(), Exit::Usage, "{}", wrong.display());
        }
    }
}
