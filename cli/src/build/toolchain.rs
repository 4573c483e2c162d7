// SPDX-License-Identifier: Apache-2.0
//! Finds a Rust toolchain that compiles guests to WebAssembly, or makes one.
//!
//! Asked by `fanfold build` before cargo runs, and by `fanfold doctor`, which
//! prints the answer. Five routes are tried in a fixed order and the first that
//! works is taken; every other one leaves the reason why not. The installed
//! Rust is changed by route 4 only, which is rustup's own way.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::process;

/// The target whose output is a component already.
pub const WASIP2: &str = "wasm32-wasip2";
/// The target whose output is a core module, to be wrapped.
pub const WASIP1: &str = "wasm32-wasip1";

/// Makes the private toolchain of routes 3 and 5; see its head.
const DEBIAN_SCRIPT: &str = include_str!("debian-toolchain.sh");
/// First line of a private toolchain's stamp, as the script writes it.
const REVISION_LINE: &str = "REVISION=";
/// How long rustup may take to fetch a target of about 20 MB before another
/// route is taken: without a network it may hang instead of failing.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(30);

/// A way to a guest toolchain, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The active Rust has wasm32-wasip2.
    ActiveWasip2,
    /// The active Rust has wasm32-wasip1.
    ActiveWasip1,
    /// The private toolchain that route 5 made earlier.
    Private,
    /// rustup adds wasm32-wasip2.
    RustupAdd,
    /// A private toolchain made of Debian's or Ubuntu's packages.
    Debian,
}

impl Route {
    /// All of them, first choice first.
    pub const ALL: [Self; 5] =
        [Self::ActiveWasip2, Self::ActiveWasip1, Self::Private, Self::RustupAdd, Self::Debian];

    /// What the route is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::ActiveWasip2 => "active Rust with wasm32-wasip2",
            Self::ActiveWasip1 => "active Rust with wasm32-wasip1",
            Self::Private => "private toolchain",
            Self::RustupAdd => "rustup target add wasm32-wasip2",
            Self::Debian => "private toolchain from distribution packages",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// A toolchain that compiles guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// How it was found.
    pub route: Route,
    /// The cargo to run.
    pub cargo: PathBuf,
    /// The compiler, given to cargo as `RUSTC`; it needs no other variables.
    pub rustc: PathBuf,
    /// The target to compile for.
    pub target: &'static str,
}

/// A route that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Which.
    pub route: Route,
    /// Why not, and what would change that.
    pub why: String,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The first route that works.
    pub chosen: Option<Toolchain>,
    /// All others, in order.
    pub passed: Vec<Passed>,
}

impl fmt::Display for Search {
    /// One line for each route.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let passed = self.passed.iter().find(|passed| passed.route == route);
            match (&self.chosen, passed) {
                (_, Some(passed)) => write!(f, "{newline}{}. {route}: {}", index + 1, passed.why)?,
                (Some(chosen), None) => {
                    write!(f, "{newline}{}. {route}: used, {}", index + 1, chosen.rustc.display())?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }
}

/// Looks for a toolchain for the guest in `dir` (its folder decides which Rust
/// is active, as with rustup). Routes 4 and 5 change the machine and are tried
/// only when `install` allows it; they say what they do through `progress`.
pub fn find(dir: &Path, install: bool, progress: &mut dyn FnMut(&str)) -> Search {
    let active = Active::of(dir);
    let private = private_dir(|name| std::env::var_os(name));
    first_that_works(|route| match route {
        Route::ActiveWasip2 => active.as_ref().map_err(Clone::clone)?.toolchain(route, WASIP2),
        Route::ActiveWasip1 => active.as_ref().map_err(Clone::clone)?.toolchain(route, WASIP1),
        Route::Private => private_toolchain(route, dir, private.as_ref()),
        Route::RustupAdd | Route::Debian if !install => {
            Err("not tried, it would install something; `fanfold build` tries it when no earlier route works"
                .into())
        }
        Route::RustupAdd => rustup_add(route, dir, progress),
        Route::Debian => {
            make_private(private.as_ref(), progress)?;
            private_toolchain(route, dir, private.as_ref())
        }
    })
}

/// Tries the routes in order until one works; the rest is not needed then.
fn first_that_works(mut attempt: impl FnMut(Route) -> Result<Toolchain, String>) -> Search {
    let mut search = Search { chosen: None, passed: Vec::new() };
    for route in Route::ALL {
        if search.chosen.is_some() {
            search.passed.push(Passed { route, why: "not needed".to_owned() });
            continue;
        }
        match attempt(route) {
            Ok(toolchain) => search.chosen = Some(toolchain),
            Err(why) => search.passed.push(Passed { route, why }),
        }
    }
    search
}

/// The Rust that a plain `cargo build` would use.
struct Active {
    sysroot: PathBuf,
}

impl Active {
    fn of(dir: &Path) -> Result<Self, String> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
        // Looking must not install: a pinned toolchain that is not there is a
        // reason for another route, not for a download.
        let mut command = process::command(&rustc, dir);
        command.args(["--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0");
        let said = process::output(command).map_err(|why| format!("no active Rust: {why}"))?;
        Ok(Self { sysroot: PathBuf::from(said.trim()) })
    }

    fn toolchain(&self, route: Route, target: &'static str) -> Result<Toolchain, String> {
        let rustlib = self.sysroot.join("lib/rustlib");
        if !has_std(&rustlib, target) {
            return Err(format!("expected std for {target} in {}, found none", rustlib.display()));
        }
        if target == WASIP2 && !has_component_linker(&rustlib) {
            return Err(format!(
                "expected wasm-component-ld in {} or on PATH, found none",
                rustlib.display()
            ));
        }
        Ok(Toolchain { route, cargo: self.cargo(), rustc: self.sysroot.join("bin/rustc"), target })
    }

    /// The toolchain's own cargo: rustup's proxy could choose another compiler.
    fn cargo(&self) -> PathBuf {
        let own = self.sysroot.join("bin/cargo");
        if own.is_file() { own } else { PathBuf::from("cargo") }
    }
}

/// Whether std for the target is there, whole: where an installer keeps a list
/// of components, an interrupted installation has files but no entry.
fn has_std(rustlib: &Path, target: &str) -> bool {
    let is_std = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    };
    let files = std::fs::read_dir(rustlib.join(target).join("lib"))
        .is_ok_and(|entries| entries.flatten().any(|entry| is_std(&entry.file_name())));
    let listed = std::fs::read_to_string(rustlib.join("components"))
        .map_or(true, |list| list.lines().any(|line| line == format!("rust-std-{target}")));
    files && listed
}

fn has_component_linker(rustlib: &Path) -> bool {
    let program = format!("wasm-component-ld{}", std::env::consts::EXE_SUFFIX);
    let beside = std::fs::read_dir(rustlib).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.path().join("bin").join(&program).is_file())
    });
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(&program).is_file())
    };
    beside || on_path()
}

/// Where the private toolchain lies or would lie. Relative folders in
/// `XDG_CACHE_HOME` do not count (XDG Base Directory Specification).
fn private_dir(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("FANFOLD_TOOLCHAIN") {
        return std::path::absolute(&dir).map_err(|error| format!("{}: {error}", dir.display()));
    }
    set("XDG_CACHE_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("fanfold/wasm-toolchain"))
        .ok_or_else(|| {
            "expected FANFOLD_TOOLCHAIN, XDG_CACHE_HOME or HOME to be set, found none of them".to_owned()
        })
}

fn private_toolchain(
    route: Route,
    dir: &Path,
    private: Result<&PathBuf, &String>,
) -> Result<Toolchain, String> {
    let private = private.map_err(Clone::clone)?;
    let stamp = std::fs::read_to_string(private.join("stamp"))
        .map_err(|_| format!("expected a toolchain in {}, found none", private.display()))?;
    if stamp.trim() != wanted_stamp() {
        return Err(format!(
            "expected {} in {}, found {:?}: another version of fanfold made it",
            wanted_stamp(),
            private.display(),
            stamp.trim()
        ));
    }
    // Its packages hold no cargo: the active Rust's drives it, or any other when
    // the guest pins a Rust that is not installed.
    let active = Active::of(dir).or_else(|_| Active::of(private))?;
    Ok(Toolchain { route, cargo: active.cargo(), rustc: private.join("bin/rustc"), target: WASIP1 })
}

/// The stamp that this program's script would write.
fn wanted_stamp() -> String {
    let revision =
        DEBIAN_SCRIPT.lines().find_map(|line| line.strip_prefix(REVISION_LINE)).unwrap_or_default();
    format!("revision {revision}")
}

fn rustup_add(route: Route, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<Toolchain, String> {
    progress("asking rustup for wasm32-wasip2");
    let mut command = process::command("rustup", dir);
    command.args(["target", "add", WASIP2]).env("RUSTUP_AUTO_INSTALL", "0");
    process::bounded(command, RUSTUP_PATIENCE)?;
    Active::of(dir)?.toolchain(route, WASIP2)
}

fn make_private(private: Result<&PathBuf, &String>, progress: &mut dyn FnMut(&str)) -> Result<(), String> {
    let private = private.map_err(Clone::clone)?;
    progress(
        "making a private toolchain from distribution packages; this is done once and takes a few minutes",
    );
    let mut command = process::command("sh", Path::new("."));
    command.args(["-s", "--"]).arg(private);
    process::script(command, DEBIAN_SCRIPT, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(route: Route) -> Toolchain {
        Toolchain { route, cargo: "cargo".into(), rustc: "rustc".into(), target: WASIP1 }
    }

    #[test]
    fn the_first_route_that_works_is_taken_and_the_rest_is_not_tried() {
        let mut tried = Vec::new();
        let search = first_that_works(|route| {
            tried.push(route);
            if route == Route::Private { Ok(toolchain(route)) } else { Err("no".to_owned()) }
        });
        assert_eq!(tried, [Route::ActiveWasip2, Route::ActiveWasip1, Route::Private]);
        assert_eq!(search.chosen, Some(toolchain(Route::Private)));
        let why: Vec<_> = search.passed.iter().map(|passed| passed.why.as_str()).collect();
        assert_eq!(why, ["no", "no", "not needed", "not needed"]);
        assert_eq!(search.to_string().lines().nth(2), Some("3. private toolchain: used, rustc"));
        assert_eq!(search.to_string().lines().count(), 5);
    }

    #[test]
    fn when_nothing_works_every_route_says_why() {
        let search = first_that_works(|route| Err(format!("no {route}")));
        assert_eq!(search.chosen, None);
        assert_eq!(search.passed.len(), 5);
        assert_eq!(search.to_string().lines().count(), 5);
    }

    #[test]
    fn the_private_folder_follows_the_environment() {
        let dir = |set: &[(&str, &str)]| {
            private_dir(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
        };
        let all = [("FANFOLD_TOOLCHAIN", "/t"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(dir(&all), Ok("/t".into()));
        assert_eq!(dir(&all[1..]), Ok("/x/fanfold/wasm-toolchain".into()));
        assert_eq!(dir(&all[2..]), Ok("/h/.cache/fanfold/wasm-toolchain".into()));
        assert_eq!(
            dir(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]),
            Ok("/h/.cache/fanfold/wasm-toolchain".into())
        );
        assert_eq!(
            dir(&[("FANFOLD_TOOLCHAIN", ""), ("HOME", "/h")]),
            Ok("/h/.cache/fanfold/wasm-toolchain".into())
        );
        assert!(dir(&[]).is_err());
    }

    #[test]
    fn std_counts_when_it_is_whole() {
        let rustlib = tempfile::tempdir().unwrap();
        let lib = rustlib.path().join(WASIP1).join("lib");
        std::fs::create_dir_all(&lib).unwrap();
        assert!(!has_std(rustlib.path(), WASIP1));
        std::fs::write(lib.join("libstd-0.rlib"), "").unwrap();
        assert!(has_std(rustlib.path(), WASIP1));
        std::fs::write(rustlib.path().join("components"), "rust-std-wasm32-wasip1-threads\n").unwrap();
        assert!(!has_std(rustlib.path(), WASIP1));
        std::fs::write(rustlib.path().join("components"), "cargo\nrust-std-wasm32-wasip1\n").unwrap();
        assert!(has_std(rustlib.path(), WASIP1));
        assert!(!has_std(rustlib.path(), WASIP2));
    }

    #[test]
    fn a_private_toolchain_counts_when_its_stamp_is_this_version_s() {
        let dir = tempfile::tempdir().unwrap();
        let private = dir.path().to_path_buf();
        let found = || private_toolchain(Route::Private, dir.path(), Ok(&private));
        assert!(found().unwrap_err().contains("found none"));
        std::fs::write(private.join("stamp"), "revision 0\n").unwrap();
        assert!(found().unwrap_err().contains("another version"));
        std::fs::write(private.join("stamp"), format!("{}\n", wanted_stamp())).unwrap();
        assert_eq!(found().unwrap().rustc, private.join("bin/rustc"));
        assert_ne!(wanted_stamp(), "revision ");
    }
}
