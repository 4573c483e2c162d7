// SPDX-License-Identifier: Apache-2.0
//! The S3 server that comes with Fanfold, over a local folder.
//!
//! It is the store of `fanfold dev` and of the tests, and is reached like any
//! other store, over HTTP with signed requests; from within its process without a socket. s3s speaks the protocol; small
//! bodies and everything about objects are in one redb file, larger bodies are
//! one file each. An answered put is on disk, whole, whatever is killed when;
//! keys never become paths.
//!
//! Request → `serve` (chunks held small by `chunks`) → `s3` (by `detour` where s3s answers otherwise than S3) → `object`, `form`, `multipart`, `bucket` → bytes
//! by `ingest` into `blobs`, changes by `commit` and `apply` into
//! `index`; bytes come back by `output`.

mod apply;
mod attributes;
mod auth;
mod blobs;
mod bucket;
mod checksum;
mod chunks;
mod commit;
mod condition;
mod control;
mod dates;
mod detour;
mod direct;
mod events;
mod failure;
mod form;
mod host;
mod index;
mod ingest;
mod linger;
mod listing;
mod multipart;
mod object;
mod output;
mod range;
mod record;
mod s3;
mod scope;
mod serve;
mod subresource;
mod whole;
mod xml;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use s3s::{
    config::StaticConfigProvider,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    auth::{OneKey, Signed, SignedV4},
    blobs::Blobs,
    commit::Committer,
    detour::Detours,
    failure::Failure,
    host::OfLocalhost,
    index::Index,
};
pub use self::{
    events::{Event, Events},
    linger::Lingering,
};
use crate::Credentials;

/// The region that the server says it is in: the one that S3 clients assume.
pub const REGION: &str = "us-east-1";
/// Disk space, in bytes, that is left free so that the index never meets a full
/// disk: deleting goes on, writing is refused with 507.
pub const FREE_BYTES_MIN: u64 = 64 << 20;

/// Where a server keeps its data and whom it serves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The folder; made when it is not there. One server at a time uses it.
    pub root: PathBuf,
    /// What requests must be signed with.
    pub credentials: Credentials,
}

/// Why a server could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("expected a usable store in {root}, found: {detail}; {remedy}")]
pub struct OpenError {
    /// The folder.
    pub root: PathBuf,
    /// What happened.
    pub detail: String,
    /// What to do.
    pub remedy: &'static str,
}

/// An S3 server over a folder. Cheap to clone; clones are one server.
#[derive(Clone)]
pub struct Server {
    service: S3Service,
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the folder, or makes a new store in it. Files that a crash left
    /// over are swept in the background.
    pub fn open(config: ServerConfig) -> Result<Self, OpenError> {
        Self::open_reserving(config, FREE_BYTES_MIN)
    }

    /// Like [`Server::open`], with another reserve of disk space in bytes.
    pub fn open_reserving(config: ServerConfig, free_bytes_min: u64) -> Result<Self, OpenError> {
        let root = config.root.clone();
        let failed =
            |failure: Failure| OpenError { root, detail: failure.to_string(), remedy: failure.remedy() };
        let shared = Shared::open(&config, free_bytes_min).map_err(failed)?;
        let shared = Arc::new(shared);
        let mut unsigned = S3ServiceBuilder::new(Service(Arc::clone(&shared)));
        unsigned.set_host(OfLocalhost);
        // s3s asks about access only where there are keys.
        unsigned.set_auth(OneKey(config.credentials.clone()));
        unsigned.set_access(Signed(Arc::clone(&shared)));
        let mut builder = S3ServiceBuilder::new(Service(Arc::clone(&shared)));
        builder.set_host(OfLocalhost);
        builder.set_route(Detours(unsigned.build()));
        builder.set_auth(OneKey(config.credentials));
        builder.set_access(SignedV4(Arc::clone(&shared)));
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(auth::bounds()))));
        Ok(Self { service: builder.build(), shared })
    }

    /// Begins to tell of what happens to objects. None when somebody listens already.
    pub fn listen(&self) -> Option<Events> {
        self.shared.committer.observers().listen()
    }

    /// Serves the listener's connections until `shutdown`, then lets requests
    /// that are under way finish for up to ten seconds.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        serve::serve(self.service.clone(), listener, shutdown).await;
    }
}

/// What all requests share.
struct Shared {
    index: Arc<Index>,
    blobs: Arc<Blobs>,
    committer: Committer,
    sweeper: Option<thread::JoinHandle<()>>,
}

/// The folder can be opened again as soon as the last handle of a server is gone.
impl Drop for Shared {
    fn drop(&mut self) {
        if self.sweeper.take().is_some_and(|sweeper| sweeper.join().is_err()) {
            tracing::error!("the sweep of left-over files had panicked");
        }
    }
}

/// The protocol's side of [`Shared`].
struct Service(Arc<Shared>);

impl Shared {
    fn open(config: &ServerConfig, free_bytes_min: u64) -> Result<Self, Failure> {
        std::fs::create_dir_all(&config.root)?;
        let (path, blobs) = (config.root.join("index.redb"), config.root.join("blobs"));
        // A new index names none of the files, and the sweep would take them all.
        if is_new(&path)? && blobs::any_in(&blobs)? {
            return Err(Failure::Orphaned);
        }
        let (index, boot) = Index::open(&path)?;
        let index = Arc::new(index);
        let blobs = Blobs::open(blobs, boot, free_bytes_min)?;
        // The names of new files reach the disk with their directories; that of
        // the index and of the directories themselves is brought there here.
        std::fs::File::open(&config.root)?.sync_all()?;
        let committer = Committer::start(Arc::clone(&index), Arc::clone(&blobs))?;
        let sweeper = Some(sweep(Arc::clone(&index), Arc::clone(&blobs))?);
        Ok(Self { index, blobs, committer, sweeper })
    }
}

/// Whether the index is yet to be made.
fn is_new(index: &Path) -> io::Result<bool> {
    match std::fs::metadata(index) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        found => Ok(found?.len() == 0),
    }
}

/// Removes what earlier runs left over, while the server already serves.
fn sweep(index: Arc<Index>, blobs: Arc<Blobs>) -> io::Result<thread::JoinHandle<()>> {
    let work = move || -> Result<u64, Failure> { Ok(blobs.sweep(&index.named_blobs()?)?) };
    thread::Builder::new().name("s3-sweep".to_owned()).spawn(move || match work() {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "swept files that a crash left over"),
        Err(error) => {
            tracing::warn!(%error, "the sweep of left-over files stopped; the next start tries again");
        }
    })
}
