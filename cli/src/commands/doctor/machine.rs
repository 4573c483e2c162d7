// SPDX-License-Identifier: Apache-2.0
//! What of this machine the author's commands and the service need.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::build::toolchain;

/// Open files below this do not last for the connections of a busy service.
const OPEN_FILES_WANTED: u64 = 4_096;
/// Sandboxes reserve address space far beyond the memory that they use.
const ADDRESS_SPACE_WANTED: u64 = 64 << 30;

/// Looks at the machine. Runs compilers, so it may take a second.
pub fn look() -> Vec<Finding> {
    vec![guest_toolchain(), linker(), open_files(), address_space()]
}

fn guest_toolchain() -> Finding {
    const WHAT: &str = "guest toolchain";
    let here = std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
    let search = toolchain::find(&here, false, &mut |_| {});
    match &search.chosen {
        Some(chosen) => {
            Finding::good(WHAT, format!("{}: {}\n{search}", chosen.route, chosen.rustc.display()))
        }
        None => Finding::bad(
            WHAT,
            format!("no Rust that compiles to WebAssembly\n{search}"),
            "with Rust installed (https://rustup.rs), run `rustup target add wasm32-wasip2`, or `fanfold build` in a \
             function's folder, which finds a way",
        ),
    }
}

/// Rust links build scripts and macros of guests with the system's C compiler.
fn linker() -> Finding {
    const WHAT: &str = "C compiler";
    let program = "cc";
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    match said {
        Ok(said) if said.status.success() => {
            let text = String::from_utf8_lossy(&said.stdout);
            Finding::good(WHAT, text.lines().next().unwrap_or(program))
        }
        Ok(said) => Finding::bad(
            WHAT,
            format!("{program} --version ended with {}", said.status),
            "install gcc or clang anew",
        ),
        Err(error) => Finding::bad(
            WHAT,
            format!("{program}: {error}"),
            "install gcc or clang, such as by `apt-get install gcc`",
        ),
    }
}

fn open_files() -> Finding {
    const WHAT: &str = "open files";
    let limit = getrlimit(Resource::Nofile);
    let said = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |n| n.to_string());
    let found = format!("{} now, up to {}", said(limit.current), said(limit.maximum));
    match limit.maximum {
        Some(hard) if hard < OPEN_FILES_WANTED => Finding::warning(
            WHAT,
            found,
            format!("raise it: ulimit -Hn {OPEN_FILES_WANTED} as root, or in limits.conf"),
        ),
        // The service raises the limit of now by itself.
        _ => Finding::good(WHAT, found),
    }
}

fn address_space() -> Finding {
    const WHAT: &str = "address space";
    match getrlimit(Resource::As).current {
        None => Finding::good(WHAT, "no limit"),
        Some(bytes) if bytes >= ADDRESS_SPACE_WANTED => Finding::good(WHAT, crate::output::bytes(bytes)),
        Some(bytes) => Finding::bad(
            WHAT,
            format!("limited to {}", crate::output::bytes(bytes)),
            "sandboxes reserve more; lift it: ulimit -v unlimited",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::State;

    #[test]
    fn the_machine_is_looked_at_without_a_change() {
        let found = [linker(), open_files(), address_space()];
        assert!(
            found.iter().all(|finding| finding.state == State::Good || !finding.mend.is_empty()),
            "{found:?}"
        );
    }
}
