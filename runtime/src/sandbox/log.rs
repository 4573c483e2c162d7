// SPDX-License-Identifier: Apache-2.0
//! The log of an invocation: lines from `context.log` and from standard output
//! and error, cut and escaped.
//!
//! Guests write, the outcome carries it away. Invariant: it never holds more
//! than [`limits::LOG_BYTES_MAX`], whatever and however often a guest writes.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fanfold_protocol::{
    invocation::{Level, LogLine},
    limits, time,
};

/// What a line costs besides its text, so that empty ones are bounded too.
pub(crate) const LINE_BYTES: usize = 32;
/// Stands at the end of a line that was cut.
const LINE_MARKER: &str = " [line cut at 8 KiB]";
/// Stands at the end of a log that was cut.
const LOG_MARKER: &str = "[log cut at 256 KiB]";

/// A handle of an invocation's log. Clones write to the same log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<LogLine>,
    bytes: usize,
    cut: bool,
    stdout: Partial,
    stderr: Partial,
    panic: Option<String>,
    /// Whether the next line has what the panic said.
    panic_goes_on: bool,
}

/// A line of a stream that has not ended yet.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    cut: bool,
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard output: level `info`.
    Out,
    /// Standard error: level `warn`.
    Err,
}

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one line; newlines within it are escaped.
    pub(crate) fn line(&self, level: Level, message: &str) {
        let cut = message.len() > limits::LOG_LINE_BYTES_MAX;
        let end = message.floor_char_boundary(limits::LOG_LINE_BYTES_MAX);
        self.inner().push(level, &message[..end], cut);
    }

    /// Adds bytes of a stream; each newline ends a line.
    pub(crate) fn write(&self, source: Source, bytes: &[u8]) {
        self.inner().write(source, bytes);
    }

    /// Everything, unfinished lines included. The log is empty afterwards.
    pub(crate) fn take(&self) -> Vec<LogLine> {
        let mut inner = self.inner();
        inner.flush(Source::Out);
        inner.flush(Source::Err);
        std::mem::take(&mut inner.lines)
    }

    /// What the guest said when it panicked.
    pub(crate) fn panic(&self) -> Option<String> {
        let mut inner = self.inner();
        inner.flush(Source::Err);
        inner.panic.clone()
    }
}

impl Inner {
    fn partial(&mut self, source: Source) -> &mut Partial {
        match source {
            Source::Out => &mut self.stdout,
            Source::Err => &mut self.stderr,
        }
    }

    fn write(&mut self, source: Source, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            // What a panic says on standard error is kept all the same.
            if self.cut && source == Source::Out {
                return;
            }
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let partial = self.partial(source);
            let room = limits::LOG_LINE_BYTES_MAX - partial.bytes.len();
            partial.bytes.extend_from_slice(&text[..text.len().min(room)]);
            partial.cut |= text.len() > room;
            if ended {
                self.end_line(source);
            }
        }
    }

    fn flush(&mut self, source: Source) {
        if !self.partial(source).bytes.is_empty() {
            self.end_line(source);
        }
    }

    fn end_line(&mut self, source: Source) {
        let Partial { bytes, cut } = std::mem::take(self.partial(source));
        let text = String::from_utf8_lossy(&bytes);
        let level = if source == Source::Out { Level::Info } else { Level::Warn };
        self.push(level, text.strip_suffix('\r').unwrap_or(&text), cut);
    }

    fn push(&mut self, level: Level, text: &str, cut: bool) {
        self.note_panic(text);
        if self.cut {
            return;
        }
        let (mut message, escaped_cut) = escape(text);
        if cut || escaped_cut {
            message.push_str(LINE_MARKER);
        }
        let bytes = self.bytes + LINE_BYTES + message.len();
        if bytes > limits::LOG_BYTES_MAX - LINE_BYTES - LOG_MARKER.len() {
            self.cut = true;
            self.lines.push(LogLine { at: time::now(), level: Level::Warn, message: LOG_MARKER.to_owned() });
            return;
        }
        self.bytes = bytes;
        self.lines.push(LogLine { at: time::now(), level, message });
    }

    /// Keeps what a panic hook said, also when the log is full: the SDK's line
    /// `panicked at …`, or the standard library's `thread … panicked at …:` and
    /// the message on the next line. Never more than a line can hold.
    fn note_panic(&mut self, text: &str) {
        let started = text.starts_with("panicked at ")
            || (text.starts_with("thread '") && text.contains("' panicked at "))
            || (text.starts_with("thread '") && text.contains(") panicked at "));
        let goes_on = std::mem::replace(&mut self.panic_goes_on, started && text.ends_with(':'));
        if started {
            self.panic = Some(escape(text).0);
        } else if goes_on && let Some(panic) = &mut self.panic {
            panic.push(' ');
            panic.push_str(&escape(text).0);
            panic.truncate(panic.floor_char_boundary(limits::LOG_LINE_BYTES_MAX));
        }
    }
}

/// Control characters and what reverses or breaks lines in terminals become
/// `\u{…}` (newline, return and tab their short forms). What is longer than a line by
/// that is cut, before the first character that does not fit.
fn escape(text: &str) -> (String, bool) {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        let begun = escaped.len();
        match c {
            '\n' | '\r' => escaped.extend(c.escape_default()),
            '\t' => escaped.push(c),
            _ if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c));
            }
            _ => escaped.push(c),
        }
        if escaped.len() > limits::LOG_LINE_BYTES_MAX {
            escaped.truncate(begun);
            return (escaped, true);
        }
    }
    (escaped, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(log: &Log) -> Vec<String> {
        log.take().into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn streams_are_cut_into_lines() {
        let log = Log::default();
        log.write(Source::Out, b"one\r\ntw");
        log.write(Source::Err, b"bad");
        log.write(Source::Out, b"");
        log.write(Source::Out, b"o\n\nthree");
        assert_eq!(messages(&log), ["one", "two", "", "three", "bad"]);
    }

    #[test]
    fn lines_are_escaped() {
        let log = Log::default();
        log.line(Level::Info, "a\x1b[31mb\nc\u{202e}d\te\0");
        log.write(Source::Out, b"\xff\x07\n");
        assert_eq!(messages(&log), ["a\\u{1b}[31mb\\nc\\u{202e}d\te\\u{0}", "\u{fffd}\\u{7}"]);
    }

    #[test]
    fn long_lines_are_cut_with_a_marker() {
        let log = Log::default();
        log.line(Level::Info, &"ä".repeat(8_000));
        log.write(Source::Out, &[b'x'; 20_000]);
        log.write(Source::Out, b"\nnext\n");
        let lines = messages(&log);
        assert_eq!(lines[0], format!("{}{LINE_MARKER}", "ä".repeat(4_096)));
        assert_eq!(lines[1], format!("{}{LINE_MARKER}", "x".repeat(8_192)));
        assert_eq!(lines[2], "next");
    }

    #[test]
    fn lines_that_grow_by_escaping_are_cut_as_well() {
        let log = Log::default();
        log.line(Level::Info, &"\u{2028}".repeat(2_000));
        log.write(Source::Out, &[b"\x07".repeat(8_000), b"\n".to_vec()].concat());
        let escaped =
            |text: &str| format!("{}{LINE_MARKER}", text.repeat(limits::LOG_LINE_BYTES_MAX / text.len()));
        assert_eq!(messages(&log), [escaped("\\u{2028}"), escaped("\\u{7}")]);
    }

    #[test]
    fn long_logs_are_cut_with_a_marker() {
        let log = Log::default();
        for _ in 0..1_000_000 {
            log.write(Source::Out, b"\n");
            log.line(Level::Info, "");
        }
        let lines = messages(&log);
        assert!(lines.len() <= limits::LOG_BYTES_MAX / LINE_BYTES, "{}", lines.len());
        assert_eq!(lines.last().map(String::as_str), Some(LOG_MARKER));
        let log = Log::default();
        for _ in 0..100 {
            log.line(Level::Info, &"x".repeat(9_000));
        }
        let bytes: usize = messages(&log).iter().map(String::len).sum();
        assert!((200 << 10..=limits::LOG_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn panics_are_noted() {
        let check = |text: &str, expected: Option<&str>| {
            let log = Log::default();
            log.write(Source::Err, text.as_bytes());
            assert_eq!(log.panic().as_deref(), expected, "{text}");
        };
        check("panicked at src/lib.rs:1:2: no", Some("panicked at src/lib.rs:1:2: no"));
        check(
            "thread '<unnamed>' (1) panicked at src/lib.rs:3:4:\nindex out of bounds\nnote: run",
            Some("thread '<unnamed>' (1) panicked at src/lib.rs:3:4: index out of bounds"),
        );
        check("all is well\n", None);
        // Also behind more than a log holds.
        let log = Log::default();
        log.write(Source::Out, &b"x\n".repeat(limits::LOG_BYTES_MAX));
        log.write(Source::Err, b"thread 'main' panicked at a:1:2:\nno\n");
        assert_eq!(log.panic().as_deref(), Some("thread 'main' panicked at a:1:2: no"));
        assert_eq!(messages(&log).pop().as_deref(), Some(LOG_MARKER));
    }

    #[test]
    fn no_more_is_noted_of_a_panic_than_a_line_holds() {
        let log = Log::default();
        log.line(Level::Error, "thread 'main' panicked at src/lib.rs:1:2:");
        let line = format!("{}:", "x".repeat(limits::LOG_LINE_BYTES_MAX - 1));
        for _ in 0..10_000 {
            log.line(Level::Error, &line);
        }
        let panic = log.panic().unwrap();
        assert_eq!(panic.len(), limits::LOG_LINE_BYTES_MAX);
        assert!(panic.starts_with("thread 'main' panicked at src/lib.rs:1:2: xxx"), "{panic}");
        // One line belongs to it, whatever that ends with.
        let log = Log::default();
        log.write(Source::Err, b"thread 'main' panicked at src/lib.rs:1:2:\nexpected:\n5\n");
        assert_eq!(log.panic().as_deref(), Some("thread 'main' panicked at src/lib.rs:1:2: expected:"));
    }
}
