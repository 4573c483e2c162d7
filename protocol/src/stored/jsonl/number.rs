// SPDX-License-Identifier: Apache-2.0
//! The numbers of a line of JSON, as they stand in it.
//!
//! Whoever reads JSON by serde is given doubles for whole numbers of more than 64 bits, and
//! for `-0`. The few values of which that may be so are looked up in their text: numbers are
//! counted as they are read, and found again by their count.

/// The largest of the whole numbers all of which doubles keep.
pub(super) const KEPT_MAX: u64 = 1 << 53;
/// Whole numbers of 64 bits come as doubles from here on, -2^63 aside.
const DOUBTFUL_MIN: f64 = (1_u64 << 63) as f64;

/// The numbers of a line, of which some were read.
pub(super) struct Numbers<'a> {
    /// What follows on the last one that was looked up.
    rest: &'a [u8],
    /// How many were read since.
    passed: usize,
}

impl<'a> Numbers<'a> {
    /// Those of a line, as far as that is JSON.
    pub(super) fn of(line: &'a [u8]) -> Self {
        Self { rest: line, passed: 0 }
    }

    /// Counts one that is known well enough.
    pub(super) fn pass(&mut self) {
        self.passed += 1;
    }

    /// Whether the next one, which was read as this double, stands as a whole number.
    pub(super) fn is_whole(&mut self, value: f64) -> bool {
        if value.abs() < DOUBTFUL_MIN && !(value == 0.0 && value.is_sign_negative()) {
            self.pass();
            return false;
        }
        let passed = std::mem::take(&mut self.passed);
        self.nth(passed)
            .is_some_and(|number| number.strip_prefix(b"-").unwrap_or(number).iter().all(u8::is_ascii_digit))
    }
}

impl<'a> Iterator for Numbers<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut in_text = false;
        loop {
            self.rest = match self.rest {
                [] => return None,
                [b'\\', _, rest @ ..] if in_text => rest,
                [b'"', rest @ ..] => {
                    in_text = !in_text;
                    rest
                }
                [b'-' | b'0'..=b'9', ..] if !in_text => break,
                [_, rest @ ..] => rest,
            };
        }
        let is_of_number = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let end = self.rest.iter().position(|b| !is_of_number(b)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Names and texts that look like them are none.
        #[test]
        fn numbers_are_found_in_order(values in proptest::collection::vec(
            ("-?(0|[1-9][0-9]{0,20})([.][0-9]{1,3})?([eE][-+]?[0-9]{1,2})?", r#"[-0-9a\\" ]{0,6}"#), 0..6
        )) {
            let quoted = |text: &str| serde_json::to_string(text).unwrap();
            let member = |(number, text): &(String, String)| format!("{0}:[{number}, {0}]", quoted(text));
            let members: Vec<String> = values.iter().map(member).collect();
            let line = format!("{{{}}}\n", members.join(","));
            let found: Vec<&[u8]> = Numbers::of(line.as_bytes()).collect();
            let expected: Vec<&[u8]> = values.iter().map(|(number, _)| number.as_bytes()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
