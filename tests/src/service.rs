// SPDX-License-Identifier: Apache-2.0
//! A `fanfold dev` of one's own: started on free ports with a scratch folder,
//! and what is needed to talk to it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fanfold_storage::{Credentials, Store, StoreConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

/// A running service. It is ended when this is dropped.
pub struct Service {
    child: Child,
    folder: PathBuf,
    /// Where that is its own, it is removed with it.
    _scratch: Option<TempDir>,
    /// The gateway's base URL.
    pub endpoint: String,
    /// The S3 server's base URL.
    pub s3_endpoint: String,
    /// The token for the gateway.
    pub token: String,
    /// The store's credentials.
    pub credentials: Credentials,
    /// How long it took to say that it is ready.
    pub started_in: Duration,
}

/// Open files that suit ten thousand connections and whatever else a test does.
const OPEN_FILES_WANTED: u64 = 65_536;

/// Raises the limit on open files of this process, and of those that it starts, as far as
/// the system lets it; gives what it is then.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES_WANTED, |hard| hard.min(OPEN_FILES_WANTED));
    if limit.current.is_some_and(|soft| soft < wanted) {
        // Where it fails, the limit is what it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(OPEN_FILES_WANTED)
}

/// The program under test.
pub fn program() -> PathBuf {
    let name = "fanfold";
    if let Some(path) = std::env::var_os("FANFOLD_PROGRAM") {
        return path.into();
    }
    // Test binaries lie in `deps`, one level below the programs.
    let mut folder =
        std::env::current_exe().map(|p| p.parent().map(Path::to_owned)).ok().flatten().unwrap_or_default();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join(name)
}

/// The component that `cargo xtask` built of an example function.
pub fn component(function: &str) -> Result<PathBuf> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../functions/target/fanfold/{function}.wasm"));
    ensure!(path.is_file(), "expected {}, found nothing; run `cargo xtask setup`", path.display());
    Ok(path)
}

impl Service {
    /// Starts a service in a new folder of its own.
    pub fn fresh() -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let mut service = Self::start(scratch.path())?;
        service._scratch = Some(scratch);
        Ok(service)
    }

    /// Starts a service that keeps everything in `folder`; with what an earlier
    /// one left there, if anything.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[])
    }

    /// The same with further arguments to `fanfold dev`.
    pub fn start_with(folder: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_among(folder, arguments, &[])
    }

    /// The same with further variables in its environment.
    pub fn start_among(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let data = folder.join("data");
        let announced = data.join("dev.json");
        let _ = std::fs::remove_file(&announced);
        let start = Instant::now();
        let mut child = Command::new(program())
            .args(["dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(if arguments.contains(&"--s3-listen") { &[][..] } else { &["--s3-listen", "127.0.0.1:0"] })
            .args(arguments)
            .env("FANFOLD_CONFIG_DIR", folder.join("config"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("dev.log"))?)
            .spawn()
            .with_context(|| format!("start {}", program().display()))?;
        let found = loop {
            if let Ok(text) = std::fs::read(&announced)
                && let Ok(found) = serde_json::from_slice::<Value>(&text)
            {
                break found;
            }
            if let Some(status) = child.try_wait()? {
                bail!(
                    "fanfold dev ended with {status}: {}",
                    std::fs::read_to_string(folder.join("dev.log"))?
                );
            }
            if start.elapsed() > Duration::from_secs(30) {
                let _ = child.kill();
                bail!(
                    "fanfold dev was not ready within 30 s: {}",
                    std::fs::read_to_string(folder.join("dev.log"))?
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let started_in = start.elapsed();
        let text =
            |name: &str| found[name].as_str().map(str::to_owned).with_context(|| format!("expected {name}"));
        let endpoint = text("endpoint")?;
        let profiles = std::fs::read(folder.join("config/profiles.json")).context("read the profile")?;
        let profiles: Value = serde_json::from_slice(&profiles)?;
        let profile = &profiles[&endpoint];
        let of = |value: &Value| value.as_str().map(str::to_owned).context("expected a complete profile");
        Ok(Self {
            child,
            folder: folder.to_owned(),
            _scratch: None,
            s3_endpoint: text("s3_endpoint")?,
            token: of(&profile["token"])?,
            credentials: Credentials::new(
                of(&profile["s3"]["access_key"])?,
                of(&profile["s3"]["secret_key"])?,
            ),
            endpoint,
            started_in,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as a fault of its own does.
    pub fn fault(mut self) -> Result<()> {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::SEGV,
        )?;
        self.child.wait()?;
        Ok(())
    }

    /// A client of its store.
    pub fn store(&self) -> Result<Store> {
        Ok(Store::connect(StoreConfig::at(self.s3_endpoint.clone(), self.credentials.clone()))?)
    }

    /// A command of the program, pointed at this service.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env("FANFOLD_CONFIG_DIR", self.folder.join("config"))
            .env("FANFOLD_ENDPOINT", &self.endpoint)
            .env_remove("FANFOLD_TOKEN")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the program and gives whatever came of it.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().with_context(|| format!("start fanfold {}", arguments.join(" ")))
    }

    /// Runs a command that has to succeed and gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "fanfold {} ended with {}: {error}",
            arguments.join(" "),
            output.status
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Deploys an example function under its own name.
    pub fn deploy(&self, function: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions").join(function);
        let component = component(function)?;
        let component = component.to_string_lossy();
        // Settings come from the function's folder, the bytes from its last build.
        ensure!(
            folder.join("function.toml").is_file(),
            "expected an example function in {}",
            folder.display()
        );
        self.ok(&["deploy", &component, "--name", function]).map(drop)
    }

    /// Puts objects into a bucket, which is made if need be.
    pub async fn put(&self, uri: &str, content: impl Into<bytes::Bytes>) -> Result<()> {
        let uri: fanfold_protocol::uri::ObjectUri = uri.parse()?;
        let store = self.store()?;
        store.ensure_bucket(uri.bucket()).await?;
        store.put(&uri, content.into(), Default::default()).await?;
        Ok(())
    }

    /// Most memory that was resident at one time, in bytes.
    pub fn resident_bytes_peak(&self) -> Result<u64> {
        status_kib(self.pid(), "VmHWM")
    }

    /// Resident memory now, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        status_kib(self.pid(), "VmRSS")
    }
}

/// CPU time used so far by a process, user and system.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    used(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

/// The same of its threads of one name, as far as they have not ended.
pub fn cpu_time_of_threads(pid: u32, name: &str) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = thread?.path();
        let read = |file: &str| std::fs::read_to_string(folder.join(file));
        // It may end while it is looked at.
        if let (Ok(found), Ok(stat)) = (read("comm"), read("stat"))
            && found.trim_end() == name
        {
            all += used(&stat)?;
        }
    }
    Ok(all)
}

/// What proc(5) says in the `stat` of a process or of a thread.
fn used(stat: &str) -> Result<Duration> {
    let after = stat.rsplit_once(')').map(|(_, rest)| rest).context("expected a process's name")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).context("expected CPU times");
    // Linux counts them in hundredths of a second (proc(5), USER_HZ).
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

fn status_kib(pid: u32, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        text.lines().find(|line| line.starts_with(name)).with_context(|| format!("expected {name}"))?;
    let kib: u64 = line.split_whitespace().nth(1).context("expected a number")?.parse()?;
    Ok(kib << 10)
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;

    #[test]
    fn threads_are_told_apart_by_their_names() {
        let (stop, stopped) = channel::<()>();
        let work = move || while stopped.try_recv() == Err(TryRecvError::Empty) {};
        let worker = std::thread::Builder::new().name("at-work".into()).spawn(work).unwrap();
        let (pid, begun) = (std::process::id(), Instant::now());
        while cpu_time_of_threads(pid, "at-work").unwrap() < Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_secs(60), "expected a thread that works to take time");
            std::thread::yield_now();
        }
        assert_eq!(cpu_time_of_threads(pid, "at-wor").unwrap(), Duration::ZERO);
        assert!(cpu_time(pid).unwrap() >= Duration::from_millis(50));
        drop(stop);
        worker.join().unwrap();
    }
}
