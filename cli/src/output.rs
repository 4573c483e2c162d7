// SPDX-License-Identifier: Apache-2.0
//! What commands print: data on standard output, news on standard error.
//!
//! Used by every command. Tables are plain columns that also `awk` can read,
//! numbers have their units, and progress is drawn on terminals only.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};
use fanfold_protocol::invocation::Progress;
pub use fanfold_protocol::shown::{bytes, count, moment, span_ms, span_us};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    args::View,
    error::{Error, Result},
    indent::indented,
};

/// Writes data and a newline to standard output.
pub fn data(text: &str) -> Result<()> {
    data_taken(text).map(drop)
}

/// The same of data that more follows, and whether anybody reads on.
pub fn data_taken(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    let written =
        out.write_all(text.as_bytes()).and_then(|()| match text.ends_with('\n') || text.is_empty() {
            true => out.flush(),
            false => out.write_all(b"\n").and_then(|()| out.flush()),
        });
    taken(written).map_err(|cause| unwritable(&cause))
}

/// Writes bytes to standard output as they are.
pub fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    taken(written).map(drop).map_err(|cause| unwritable(&cause))
}

/// Whether what was written was taken: a reader that has seen enough, such as `head`, is no error.
pub fn taken(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// Standard output that takes no more, on a full disk for one.
pub fn unwritable(cause: &io::Error) -> Error {
    Error::usage(format!("expected to write all data to the standard output, found: {cause}"))
        .help("make room where it goes, or send it elsewhere")
}

/// Tells the person at the terminal something, which may hold what others named.
pub fn note(text: impl std::fmt::Display) {
    drawn(harmless_lines(&text.to_string()));
}

/// Tells what is made for a terminal, such as an error with its colours.
pub fn drawn(text: impl std::fmt::Display) {
    // There is nobody to tell when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A text that may hold what others named, without what a terminal would obey.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match commands(letter) {
            true => shown.extend(letter.escape_debug()),
            false => shown.push(letter),
        }
    }
    shown
}

/// Whether a letter moves the cursor, or turns the direction of others. Wide and joining ones, such as those
/// of Japanese, Persian and emoji, only look like something.
fn commands(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same of a text whose lines stay lines.
pub fn harmless_lines(text: &str) -> String {
    text.split('\n').map(harmless).collect::<Vec<_>>().join("\n")
}

/// How far a function says that it is.
pub fn progress(told: Progress) -> String {
    let total = told.total.map(|total| format!(" of {}", count(total))).unwrap_or_default();
    format!("{}{total} done", count(told.done))
}

/// Prints a value as JSON, or what `table` makes of it.
pub fn shown<T: Serialize>(view: View, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
    match view {
        View::Json => json(value),
        View::Table => data(&table(value)),
    }
}

/// Prints JSON, indented for people when they look.
pub fn json(value: &impl Serialize) -> Result<()> {
    json_text(&serde_json::to_string(value)?)
}

/// The same of JSON that others wrote, of which no digit is changed.
pub fn json_text(text: &str) -> Result<()> {
    if io::stdout().is_terminal() { data(&harmless_json(&indented(text))) } else { data(text) }
}

/// JSON that others wrote, without what a terminal would obey: the same JSON, in which that is escaped.
fn harmless_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push(letter),
            letter if commands(letter) => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => shown.push(letter),
        }
    }
    shown
}

/// Columns with a head.
pub struct Table {
    inner: comfy_table::Table,
    columns: Vec<Column>,
}

/// A column of a table as far as it is filled.
struct Column {
    number: bool,
    /// Letters of its longest number, or of its longest word.
    unbroken: usize,
    /// Letters of its longest cell.
    widest: usize,
}

/// On a terminal longer words are broken, so that others have room; the id of a job is none of them.
const WORD_MAX: u16 = 40;
/// Columns with longer cells take what room there is.
const CELL_MAX: usize = 10_000;
/// Blanks between two columns.
const GAP: u16 = 2;

impl Table {
    /// An empty table; a head that begins with `>` stands over numbers, which
    /// are set flush right.
    pub fn new(heads: &[&str]) -> Self {
        Self::under(heads.iter().map(|head| match head.strip_prefix('>') {
            Some(head) => (head.to_uppercase(), true),
            None => (head.to_uppercase(), false),
        }))
    }

    /// An empty table under names of others, which stay as they are, each with whether it stands
    /// over numbers.
    pub fn under(heads: impl IntoIterator<Item = (String, bool)>) -> Self {
        let (heads, numbers): (Vec<String>, Vec<bool>) = heads.into_iter().unzip();
        let mut table = Self::plain(&numbers);
        let heads = table.taken_in(heads);
        table.inner.set_header(heads);
        table
    }

    /// An empty table without a head, of columns of which each holds numbers or not.
    pub fn plain(numbers: &[bool]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING);
        let column = |number: &bool| Column { number: *number, unbroken: 0, widest: 0 };
        Self { inner, columns: numbers.iter().map(column).collect() }
    }

    /// Adds a row; cells may hold what others named.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = self.taken_in(cells.into_iter().map(Into::into));
        self.inner.add_row(cells.into_iter().map(Cell::new));
    }

    /// The cells without what a terminal would obey, by which the columns know how wide they are.
    fn taken_in(&mut self, cells: impl IntoIterator<Item = String>) -> Vec<String> {
        let cells: Vec<_> = cells.into_iter().map(|cell| harmless(&cell)).collect();
        for (cell, column) in cells.iter().zip(&mut self.columns) {
            let letters = cell.chars().count();
            let longest = match column.number {
                true => letters,
                false => cell.split_whitespace().map(|word| word.chars().count()).max().unwrap_or_default(),
            };
            column.unbroken = column.unbroken.max(longest);
            column.widest = column.widest.max(letters);
        }
        cells
    }

    /// The table as text, without blanks at the ends of lines.
    pub fn text(self) -> String {
        let width = if io::stdout().is_terminal() { self.inner.width() } else { None };
        self.within(width)
    }

    /// The same within so many letters of a terminal, where that is possible without breaking numbers and words.
    fn within(mut self, width: Option<u16>) -> String {
        match width {
            Some(width) => {
                self.inner.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                self.inner.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for (index, column) in self.columns.iter().enumerate() {
            let Some(shown) = self.inner.column_mut(index) else { continue };
            shown.set_padding((0, GAP));
            if column.number {
                shown.set_cell_alignment(CellAlignment::Right);
            }
            if width.is_some() && column.widest <= CELL_MAX {
                let unbroken = u16::try_from(column.unbroken).unwrap_or(WORD_MAX).min(WORD_MAX);
                shown.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(unbroken + GAP)));
            }
        }
        self.inner.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// Names and values, one pair a line; pairs without a value are left out. They may hold what
/// others named.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let shown: Vec<_> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (harmless(name), harmless(value)))
        .collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    shown.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A bar that counts bytes; it shows on terminals only.
pub fn bytes_bar(what: &str, total: u64) -> ProgressBar {
    bar(total, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}").with_message(what.to_owned())
}

/// A bar that counts things; it shows on terminals only.
pub fn bar(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("━╸ "))
}

/// A sign of life for work whose length is not known; on terminals only.
pub fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_columns() {
        let mut table = Table::new(&["name", ">rows"]);
        table.row(["a", "1"]);
        table.row(["bcd", "1,000"]);
        assert_eq!(table.text(), "NAME   ROWS\na         1\nbcd   1,000");
        let mut named = Table::under([(">50k".to_owned(), false), ("\u{1b}Über".to_owned(), true)]);
        named.row(["yes", "1"]);
        assert_eq!(named.text(), ">50k  \\u{1b}Über\nyes            1");
        assert_eq!(pairs(&[("id", "7".into()), ("problem", String::new())]), "id  7\n");
    }

    #[test]
    fn narrow_terminals_break_no_number_and_no_id() {
        let id = "01a22f3a-5eeb-7273-97f1-6658ad00cf35";
        let mut table = Table::new(&["id", "function", ">rows"]);
        table.row([id, "a function (version 1)", "1,000,000"]);
        let text = table.within(Some(50));
        assert!(text.contains(id) && text.contains("1,000,000"), "{text}");
        assert!(
            text.lines().count() > 2 && text.lines().all(|line| line.len() <= 36 + 2 + 8 + 2 + 9),
            "{text}"
        );
        // What is longer than any id is broken all the same, and so is a text without an end.
        for letters in [300, 100_000] {
            let mut table = Table::plain(&[false, true]);
            table.row(["x".repeat(letters), "7".to_owned()]);
            let text = table.within(Some(50));
            assert!(text.lines().all(|line| line.len() <= 50), "{text}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_letters_look() {
        let mut table = Table::plain(&[false, false]);
        table.row(["名前", "1"]);
        table.row(["e\u{301}tat", ""]);
        table.row(["etat", "2"]);
        assert_eq!(table.text(), "名前  1\ne\u{301}tat\netat  2");
    }

    #[test]
    fn json_commands_no_terminal_and_stays_the_same() {
        let written = "{\n  \"\u{9b}2J\": \"a\u{7f}\u{202e}ä\"\n}";
        let shown = harmless_json(written);
        assert_eq!(shown, "{\n  \"\\u009b2J\": \"a\\u007f\\u202eä\"\n}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(written));
    }

    #[test]
    fn what_others_named_commands_no_terminal() {
        let check = |text: &str, expected: &str| assert_eq!(harmless(text), expected);
        check("s3://bank/a b/ä", "s3://bank/a b/ä");
        check("a\u{1b}[2J\n", "a\\u{1b}[2J\\n");
        check("expected \"a\", found 'b\u{7}'\\", "expected \"a\", found 'b\\u{7}'\\");
        check("\u{202e}gpj.exe\u{2028}", "\\u{202e}gpj.exe\\u{2028}");
        // Spaces and joiners of other scripts are text.
        for kept in ["東京\u{3000}太郎", "5\u{a0}€", "می\u{200c}خواهم", "👩\u{200d}💻", "\"e\u{301}"]
        {
            check(kept, kept);
        }
        assert_eq!(harmless_lines("a\u{1b}\nb"), "a\\u{1b}\nb");
        let mut table = Table::new(&["name", "said"]);
        table.row(["a\u{1b}[2J", "one\ntwo"]);
        assert_eq!(table.text(), "NAME        SAID\na\\u{1b}[2J  one\\ntwo");
        assert_eq!(pairs(&[("n\u{7}", "\u{9b}2J".to_owned())]), "n\\u{7}  \\u{9b}2J\n");
    }
}
