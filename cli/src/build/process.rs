// SPDX-License-Identifier: Apache-2.0
//! The programs that a build runs: rustc, rustup, the toolchain's script.
//!
//! Beneath `toolchain` and `cargo`. No program outlives the call that started
//! it, and each failure says the program's name and its own last words.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often a program under a time limit is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Words of a program that are kept for a message.
const LAST_WORDS_BYTES: usize = 600;

/// A program to be run in `dir`, with nothing to read.
pub(super) fn command(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs a short program and gives what it wrote on stdout.
pub(super) fn output(mut command: Command) -> Result<String, String> {
    let name = name(&command);
    let output = command.output().map_err(|error| not_started(&name, &error))?;
    if !output.status.success() {
        return Err(failed(&name, output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that may hang, and ends it when its time is over.
pub(super) fn bounded(mut command: Command, limit: Duration) -> Result<(), String> {
    let name = name(&command);
    // A file rather than a pipe: nobody needs to read it while the program runs.
    let mut said =
        tempfile::tempfile().map_err(|error| format!("could not make a temporary file: {error}"))?;
    let stderr = said.try_clone().map_err(|error| format!("could not use a temporary file: {error}"))?;
    let mut child =
        command.stdout(Stdio::null()).stderr(stderr).spawn().map_err(|error| not_started(&name, &error))?;
    let status = wait(&mut child, limit).map_err(|error| format!("{name}: {error}"))?;
    let mut words = String::new();
    // The reason is told even when the words cannot be read.
    let _ = said.seek(SeekFrom::Start(0)).and_then(|_| said.read_to_string(&mut words));
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(&name, status, &words)),
        None => Err(format!(
            "`{name}` did not end within {} s and was stopped{}",
            limit.as_secs(),
            quoted(&words)
        )),
    }
}

/// The exit status, or `None` when the limit passed and the program was ended.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Feeds a shell its script and hands on each line that it writes on stderr.
pub(super) fn script(mut command: Command, text: &str, progress: &mut dyn FnMut(&str)) -> Result<(), String> {
    let name = name(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(&name, &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A shell that stopped early explains itself below.
        let _ = stdin.write_all(text.as_bytes());
    }
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            progress(&line);
            words.push_str(&line);
            words.push('\n');
            let from = words.ceil_char_boundary(words.len().saturating_sub(LAST_WORDS_BYTES));
            words.drain(..from);
        }
    }
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(last_line(&words).unwrap_or_else(|| failed(&name, status, "")))
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn not_started(name: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("expected the program `{name}`, found none"),
        _ => format!("could not start `{name}`: {error}"),
    }
}

fn failed(name: &str, status: ExitStatus, words: &str) -> String {
    format!("`{name}` failed ({status}){}", quoted(words))
}

/// The program's words for the end of a message, on one line: from what it first calls an
/// error, without its advice, or else its last ones.
fn quoted(words: &str) -> String {
    let is_advice = |line: &&str| ["info:", "note:", "help:", "warning:"].iter().any(|p| line.starts_with(p));
    let lines = words.lines().map(str::trim);
    let errors: Vec<&str> =
        lines.skip_while(|line| !line.starts_with("error")).filter(|line| !is_advice(line)).collect();
    let on_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = if errors.is_empty() {
        let mut said = on_one_line(words);
        let from = said.ceil_char_boundary(said.len().saturating_sub(LAST_WORDS_BYTES));
        said.split_off(from)
    } else {
        let mut said = on_one_line(&errors.join(" "));
        said.truncate(said.floor_char_boundary(LAST_WORDS_BYTES));
        said
    };
    if said.is_empty() { said } else { format!(", saying: {said}") }
}

fn last_line(words: &str) -> Option<String> {
    let line = words.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.strip_prefix("toolchain: error: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command("sh", Path::new("/"));
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_stdout_or_the_last_words() {
        assert_eq!(output(shell("echo yes; echo no >&2")).as_deref(), Ok("yes\n"));
        let why = output(shell("echo yes; echo so it is >&2; exit 3")).unwrap_err();
        assert!(why.contains("exit status: 3") && why.ends_with("saying: so it is"), "{why}");
        let why = output(command("no-such-program-here", Path::new("/"))).unwrap_err();
        assert_eq!(why, "expected the program `no-such-program-here`, found none");
    }

    #[test]
    fn what_is_an_error_is_told_before_what_comes_last() {
        let help = "note: more of this\n".repeat(100);
        let words = format!(
            "info: syncing\nerror: failed to parse manifest at `/x/Cargo.toml`\n\nCaused by:\n  no targets specified in the manifest\n{help}"
        );
        assert_eq!(
            quoted(&words),
            ", saying: error: failed to parse manifest at `/x/Cargo.toml` Caused by: no targets specified in the manifest"
        );
        assert!(quoted(&help).ends_with("note: more of this") && quoted(&help).len() < 700);
        assert_eq!(quoted(&format!("error: {}", "ä".repeat(600))).len(), 599 + ", saying: ".len());
        assert_eq!(quoted(" \n"), "");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let mut hanging = command("sleep", Path::new("/"));
        hanging.arg("600");
        let started = Instant::now();
        let why = bounded(hanging, Duration::from_millis(100)).unwrap_err();
        assert!(why.contains("was stopped"), "{why}");
        assert!(started.elapsed() < Duration::from_secs(60));
        assert_eq!(bounded(shell("exit 0"), Duration::from_secs(60)), Ok(()));
        assert!(
            bounded(shell("echo why >&2; exit 1"), Duration::from_secs(60))
                .unwrap_err()
                .ends_with("saying: why")
        );
    }

    #[test]
    fn a_script_s_lines_are_handed_on() {
        let mut lines = Vec::new();
        let mut run = |text: &str| {
            let mut command = command("sh", Path::new("/"));
            command.args(["-s", "--", "argument"]);
            script(command, text, &mut |line| lines.push(line.to_owned()))
        };
        assert_eq!(run("echo one >&2; echo \"$1\" >&2"), Ok(()));
        assert_eq!(run("echo 'toolchain: error: it is so' >&2; exit 1"), Err("it is so".to_owned()));
        assert_eq!(lines, ["one", "argument", "toolchain: error: it is so"]);
    }
}
