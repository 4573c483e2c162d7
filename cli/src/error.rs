// SPDX-License-Identifier: Apache-2.0
//! How a command fails: a message, help, and an exit code that says whose move
//! it is. Printed in one place, on standard error.

use std::{borrow::Cow, fmt, process::ExitCode};

use fanfold_protocol::error::{ErrorKind, Fault, Problem};

use crate::output;

/// Bytes that are shown of a line. A document without line breaks is one of megabytes.
const LINE_BYTES_MAX: usize = 400;

/// A command's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    code: Option<String>,
    message: String,
    help: Option<String>,
    excerpt: Option<Box<Excerpt>>,
    unanswered: Option<Unanswered>,
}

/// How a service left a question without an answer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody took it.
    NoConnection,
    /// It did not come in time, was lost on the way, or a proxy has nobody to ask.
    Lost,
}

/// The place in a text that a message is about.
#[derive(Clone, Debug)]
pub struct Excerpt {
    /// The file, or the flag that the text came from.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// Byte offset of the place.
    pub offset: usize,
    /// What is there, in a few words.
    pub label: String,
}

/// Exit codes, as the contract has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// The function or the job failed.
    Failed = 1,
    /// Wrong use, and what fails on this machine.
    Usage = 2,
    /// The service refused, could not be reached or could not be started.
    Service = 3,
    /// It was told to stop: as shells have it of Ctrl-C.
    Interrupted = 130,
}

impl Error {
    /// The function or the job failed. What fails on this machine is for who uses it: see [`Self::usage`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            code: None,
            message: message.into(),
            help: None,
            excerpt: None,
            unanswered: None,
        }
    }

    /// The command was used wrongly, or where it cannot do what it is for.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::failed(message) }
    }

    /// The service refused, could not be reached or could not be started.
    pub fn service(message: impl Into<String>) -> Self {
        Self { exit: Exit::Service, ..Self::failed(message) }
    }

    /// Whoever's move it is.
    pub fn of(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, ..Self::failed(message) }
    }

    /// The same error, of a service that cannot start for it.
    #[must_use]
    pub fn of_service(self) -> Self {
        Self { exit: Exit::Service, ..self }
    }

    /// The same error with a sentence on what to do, put before others.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        let help = help.into();
        self.help = Some(match self.help {
            Some(earlier) => format!("{help}\n{earlier}"),
            None => help,
        });
        self
    }

    /// The same error with a stable code.
    #[must_use]
    pub fn with_code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// The same error beside the text that it is about.
    #[must_use]
    pub fn excerpt(mut self, excerpt: Excerpt) -> Self {
        self.excerpt = Some(Box::new(excerpt));
        self
    }

    /// The same error, of a question that the service did not answer.
    #[must_use]
    pub fn without_answer(self, how: Unanswered) -> Self {
        Self { unanswered: Some(how), ..self }
    }

    /// How the service did not answer, where it did not.
    pub fn unanswered(&self) -> Option<Unanswered> {
        self.unanswered
    }

    /// The stable code of what the service answered.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What to do, in one line.
    pub fn advice(&self) -> String {
        self.help.as_deref().and_then(|help| help.lines().next()).unwrap_or("see the message").to_owned()
    }

    /// Whose move it is.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What the service answered; what a function did is the function's failure.
    pub fn from_answer(code: &str, detail: &str, request_id: Option<&str>) -> Self {
        let kind = ErrorKind::ALL.iter().find(|kind| kind.code() == code);
        let exit = match kind {
            Some(kind) if kind.fault() == Fault::Guest => Exit::Failed,
            Some(ErrorKind::DeadlineExceeded | ErrorKind::MemoryExceeded | ErrorKind::ResponseTooLarge) => {
                Exit::Failed
            }
            // Only a function says that what it was given does not fit it.
            Some(ErrorKind::InvalidParams | ErrorKind::InvalidBody | ErrorKind::InvalidQuery) => Exit::Failed,
            Some(ErrorKind::TaskFailed | ErrorKind::Cancelled) => Exit::Failed,
            _ => Exit::Service,
        };
        let help = request_id.map(|id| format!("request {id}; docs/errors/{code}.md explains {code}"));
        Self { code: Some(code.to_owned()), help, ..Self::of(exit, detail) }
    }

    /// The same answer of a call that was run: what the function passes on, such as an object that is not
    /// there, is its failure, and what the platform is to blame for stays the service's.
    #[must_use]
    pub fn of_run(self) -> Self {
        let is_code = |kind: &&ErrorKind| self.code.as_deref() == Some(kind.code());
        let fault = ErrorKind::ALL.iter().find(is_code).map(|kind| kind.fault());
        match fault {
            Some(Fault::Caller | Fault::Limit) => Self { exit: Exit::Failed, ..self },
            _ => self,
        }
    }

    /// Prints the error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // Lines are not folded: what they name is to be searched for and pasted.
        let hook = || miette::MietteHandlerOpts::new().wrap_lines(false).break_words(false).build();
        // Fails only when a hook is set already, and then that one prints.
        let _ = miette::set_hook(Box::new(move |_| Box::new(hook())));
        let report = miette::Report::new_boxed(Box::new(Diagnostic::from(self)));
        // Not `eprintln!`, which panics when nobody reads, and so changes the exit code.
        output::drawn(format_args!("{report:?}"));
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Problem> for Error {
    /// A problem found before the service was asked: wrong use.
    fn from(problem: Problem) -> Self {
        Self::usage(problem.detail).with_code(problem.code.code())
    }
}

impl From<crate::build::Error> for Error {
    fn from(error: crate::build::Error) -> Self {
        let message = error.to_string();
        if error.is_of_function() { Self::failed(message) } else { Self::usage(message) }
    }
}

impl From<fanfold_storage::Error> for Error {
    fn from(error: fanfold_storage::Error) -> Self {
        let told = Self::service(error.to_string()).with_code(error.kind().code());
        match error {
            fanfold_storage::Error::OtherRegion { .. } => {
                told.help("`fanfold s3` asks in the region of its profile, or that of AWS_REGION")
            }
            fanfold_storage::Error::TooManyParts { .. } => {
                told.help("say how large it becomes at most: fanfold s3 cp --expected-size 200GiB - s3://…")
            }
            _ => told,
        }
    }
}

impl From<std::io::Error> for Error {
    /// What this machine refuses.
    fn from(error: std::io::Error) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::service(format!("expected JSON of the documented shape from the service: {error}"))
    }
}

/// The printed form.
#[derive(Debug)]
struct Diagnostic {
    code: Option<String>,
    message: String,
    help: Option<String>,
    source: Option<(miette::NamedSource<String>, miette::LabeledSpan)>,
}

impl From<&Error> for Diagnostic {
    fn from(error: &Error) -> Self {
        let source = error.excerpt.as_deref().map(|Excerpt { name, text, offset, label }| {
            let (text, offset) = shortened(text, text.floor_char_boundary(*offset));
            let (before, rest) = text.split_at(offset);
            let before = source_lines(before);
            let span = miette::LabeledSpan::at_offset(before.len(), output::harmless_lines(label));
            (miette::NamedSource::new(output::harmless(name), before + &source_lines(rest)), span)
        });
        let code = error.code.as_deref().map(output::harmless);
        let help = error.help.as_deref().map(output::harmless_lines);
        Self { code, message: output::harmless_lines(&error.message), help, source }
    }
}

/// The text with what can be shown of its lines, and the place in that.
fn shortened(text: &str, offset: usize) -> (String, usize) {
    let (mut shown, mut place, mut start) = (String::new(), 0, 0);
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            shown.push('\n');
        }
        let at = offset.checked_sub(start).filter(|at| *at <= line.len());
        let (part, before) = around(line, at.unwrap_or(0));
        if at.is_some() {
            place = shown.len() + before;
        }
        shown.push_str(&part);
        start += line.len() + 1;
    }
    (shown, place)
}

/// What is shown of a line around a place, and where in that the place is.
fn around(line: &str, at: usize) -> (Cow<'_, str>, usize) {
    if line.len() <= LINE_BYTES_MAX {
        return (line.into(), at);
    }
    let from = line.floor_char_boundary(at.saturating_sub(LINE_BYTES_MAX / 2));
    let to = line.ceil_char_boundary((from + LINE_BYTES_MAX).min(line.len()));
    let before = if from > 0 { "…" } else { "" };
    let behind = if to < line.len() { "…" } else { "" };
    (format!("{before}{}{behind}", &line[from..to]).into(), before.len() + at - from)
}

/// What a terminal is shown of a file, in which lines may be indented by tabs and end as on Windows.
fn source_lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(output::harmless).collect::<Vec<_>>().join("\t");
    text.split('\n').map(|text| line(text.strip_suffix('\r').unwrap_or(text))).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.code.as_ref().map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|(text, _)| text as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        self.source
            .as_ref()
            .map(|(_, label)| Box::new(std::iter::once(label.clone())) as Box<dyn Iterator<Item = _>>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whose_move_it_is() {
        let check = |code: &str, exit| assert_eq!(Error::from_answer(code, "", None).exit(), exit, "{code}");
        check("function-error", Exit::Failed);
        check("guest-panicked", Exit::Failed);
        check("deadline-exceeded", Exit::Failed);
        check("invalid-params", Exit::Failed);
        check("invalid-body", Exit::Failed);
        check("invalid-query", Exit::Failed);
        check("task-failed", Exit::Failed);
        check("function-not-found", Exit::Service);
        check("unauthorized", Exit::Service);
        check("a-code-of-a-later-version", Exit::Service);
        assert_eq!(Error::from(Problem::new(ErrorKind::InvalidName, "x")).exit(), Exit::Usage);
        assert_eq!(Error::usage("x").of_service().exit(), Exit::Service);
        let check = |code: &str, exit| {
            assert_eq!(Error::from_answer(code, "", None).of_run().exit(), exit, "{code}");
        };
        check("access-denied", Exit::Failed);
        check("object-not-found", Exit::Failed);
        check("function-error", Exit::Failed);
        check("worker-lost", Exit::Service);
        check("store-unavailable", Exit::Service);
    }

    #[test]
    fn what_fails_on_this_machine_is_no_failure_of_a_function() {
        use crate::build::{self, toolchain::Search};
        assert_eq!(Error::from(std::io::Error::other("x")).exit(), Exit::Usage);
        let check = |error: build::Error, exit| assert_eq!(Error::from(error).exit(), exit);
        check(build::Error::NoToolchain(Search { chosen: None, passed: Vec::new() }), Exit::Usage);
        check(build::Error::Cargo("x".to_owned()), Exit::Usage);
        let (path, cause) = ("x".into(), std::io::Error::other("x"));
        check(build::Error::File { action: "write", path, cause }, Exit::Usage);
        check(build::Error::Compile { package: "x".to_owned() }, Exit::Failed);
        check(build::Error::NotAFunction { cause: "x".to_owned() }, Exit::Failed);
    }

    #[test]
    fn what_is_printed_commands_no_terminal() {
        let error = Error::service("expected \"s3://bank/a\u{1b}[2J\", found none").help("one\u{7}\ntwo");
        let printed = Diagnostic::from(&error.with_code("a\u{1b}[2J"));
        assert_eq!(printed.code.as_deref(), Some("a\\u{1b}[2J"));
        assert_eq!(printed.message, "expected \"s3://bank/a\\u{1b}[2J\", found none");
        assert_eq!(printed.help.as_deref(), Some("one\\u{7}\ntwo"));
    }

    #[test]
    fn what_is_printed_of_a_file_commands_no_terminal() {
        let check = |text: &str, offset, shown: &str, rest: &str| {
            let (name, label) = ("a\u{1b}.toml".to_owned(), "no key \u{7}".to_owned());
            let error = Error::usage("x").excerpt(Excerpt { name, text: text.to_owned(), offset, label });
            let (source, span) = Diagnostic::from(&error).source.unwrap();
            assert_eq!((source.name(), source.inner().as_str()), ("a\\u{1b}.toml", shown));
            assert_eq!((&shown[span.offset()..], span.label()), (rest, Some("no key \\u{7}")));
        };
        check("{\r\n\t\"ä\": x,\r\n}", 10, "{\n\t\"ä\": x,\n}", "x,\n}");
        check("a\u{1b}[2J\rb\u{9b}\n= 'c'\n", 10, "a\\u{1b}[2J\\rb\\u{9b}\n= 'c'\n", "= 'c'\n");
        // Places within a letter and behind the end.
        check("é", 1, "é", "é");
        check("\u{7}", 9, "\\u{7}", "");
    }

    #[test]
    fn of_a_long_line_only_what_is_around_the_place_is_shown() {
        let check = |text: &str, offset: usize| {
            let (shown, place) = shortened(text, offset);
            assert!(shown.lines().all(|line| line.len() <= LINE_BYTES_MAX + 10), "{}", shown.len());
            assert_eq!(shown.lines().count(), text.lines().count());
            let wanted: String = text[offset..].chars().take(20).collect();
            assert!(shown[place..].starts_with(&wanted), "expected {wanted:?} at {place} in {shown}");
        };
        let long = format!("{}here{}", "ä".repeat(5_000), "b".repeat(5_000));
        check(&long, 10_000);
        check(&long, 0);
        check(&long, 20);
        check(&long, long.len());
        check(&format!("one\n{long}\nthree"), 4 + 10_000);
        check(&format!("one\n{long}\nthree"), 1);
        assert_eq!(shortened("one\ntwo\n", 8), ("one\ntwo\n".to_owned(), 8));
        assert_eq!(shortened("one\ntwo", 3), ("one\ntwo".to_owned(), 3));
    }
}
