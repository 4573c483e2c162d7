// SPDX-License-Identifier: Apache-2.0
//! Patterns of `like` and `ilike`, and whether a text is like one.
//!
//! A pattern is taken apart at its `%`. Its first part begins a text and its last one ends it; each
//! part between them is looked for behind the one before, and the first place where it is found
//! leaves most to those that follow. So a text is walked once, whatever the pattern is: a regular
//! expression of thousands of characters would be tried at each character of a text instead.

use std::{borrow::Cow, collections::BTreeMap};

use memchr::memmem;

use crate::limits::FILTER_PATTERN_CHARS_MAX;

/// What a text must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    any_case: bool,
    /// The characters with which all texts begin that are like it.
    beginning: String,
    first: Part,
    between: Vec<Sought>,
    /// None without a `%`: then the first part is all.
    last: Option<Part>,
}

/// Characters that stand together; `None` is any.
type Part = Vec<Option<char>>;

/// A part whose place is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sought {
    /// Without any `_`: found in linear time by memchr.
    Text(String),
    /// Found by shift-and (Baeza-Yates and Gonnet 1992): bit n of a character says that it may be
    /// number n of the part.
    Masks {
        /// Of the characters that the part has.
        of: BTreeMap<char, u64>,
        /// Of all others.
        others: u64,
        /// The bit of the last character of the part.
        whole: u64,
    },
}

impl Pattern {
    /// The pattern that a text holds. When a part between two `%` cannot be looked for, because it
    /// has a `_` and is too long for that, the number of its characters.
    pub(super) fn new(pattern: &str, any_case: bool) -> Result<Self, usize> {
        let (mut parts, mut part) = (Vec::new(), Part::new());
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            let wanted = match c {
                '%' => {
                    parts.push(std::mem::take(&mut part));
                    continue;
                }
                '_' => None,
                // One at the end takes the meaning of nothing.
                '\\' => Some(chars.next().unwrap_or(c)),
                c => Some(c),
            };
            part.push(if any_case { wanted.map(fold) } else { wanted });
        }
        let mut parts = parts.into_iter();
        let (first, last) = match parts.next() {
            Some(first) => (first, Some(part)),
            None => (part, None),
        };
        let between = parts.map(Sought::new).collect::<Result<_, _>>()?;
        let beginning = first.iter().map_while(|wanted| wanted.filter(|_| !any_case)).collect();
        Ok(Self { any_case, beginning, first, between, last })
    }

    /// What all texts begin with that are like it, as far as that is known.
    pub(super) fn beginning(&self) -> &str {
        &self.beginning
    }

    /// Whether a text is like it, in time that is linear in the text.
    pub fn matches(&self, text: &str) -> bool {
        let text: Cow<'_, str> = match self.any_case {
            true => Cow::Owned(text.chars().map(fold).collect()),
            false => Cow::Borrowed(text),
        };
        let Some(rest) = behind(&self.first, &text) else { return false };
        let Some(last) = &self.last else { return rest.is_empty() };
        let Some(rest) = before(last, rest) else { return false };
        self.between.iter().try_fold(rest, |rest, sought| sought.behind(rest)).is_some()
    }
}

impl Sought {
    fn new(part: Part) -> Result<Self, usize> {
        if let Some(text) = part.iter().copied().collect::<Option<String>>() {
            return Ok(Self::Text(text));
        }
        if part.len() > FILTER_PATTERN_CHARS_MAX {
            return Err(part.len());
        }
        let (mut of, mut others, mut whole) = (BTreeMap::<char, u64>::new(), 0_u64, 0_u64);
        for (at, wanted) in part.iter().enumerate() {
            whole = 1_u64 << at;
            match wanted {
                Some(c) => *of.entry(*c).or_default() |= whole,
                None => others |= whole,
            }
        }
        of.values_mut().for_each(|mask| *mask |= others);
        Ok(Self::Masks { of, others, whole })
    }

    /// What follows on the first place in a text where it is found.
    fn behind<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            // What is longer than the text is not prepared for a search either.
            Self::Text(sought) if sought.len() > text.len() => None,
            Self::Text(sought) => {
                let at = memmem::find(text.as_bytes(), sought.as_bytes())?;
                text.get(at + sought.len()..)
            }
            Self::Masks { of, others, whole } => {
                let (mut chars, mut found) = (text.chars(), 0_u64);
                // Bit n: the part as far as its number n ends here.
                while let Some(c) = chars.next() {
                    found = ((found << 1) | 1) & of.get(&c).unwrap_or(others);
                    if found & whole != 0 {
                        return Some(chars.as_str());
                    }
                }
                None
            }
        }
    }
}

/// What follows on a part that a text begins with.
fn behind<'t>(part: &[Option<char>], text: &'t str) -> Option<&'t str> {
    let mut chars = text.chars();
    let begins = part.iter().all(|wanted| chars.next().is_some_and(|c| wanted.is_none_or(|w| w == c)));
    begins.then_some(chars.as_str())
}

/// What comes before a part that a text ends in.
fn before<'t>(part: &[Option<char>], text: &'t str) -> Option<&'t str> {
    let mut chars = text.chars();
    let ends =
        part.iter().rev().all(|wanted| chars.next_back().is_some_and(|c| wanted.is_none_or(|w| w == c)));
    ends.then_some(chars.as_str())
}

/// A character without its case: the small letter of its capital, so that `ς` is like `Σ`. Those
/// whose capital is more than one character, such as `ß`, are their own.
fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut capitals = c.to_uppercase();
    let capital = if capitals.len() == 1 { capitals.next().unwrap_or(c) } else { c };
    capital.to_lowercase().next().unwrap_or(capital)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_like(text: &str, pattern: &str) -> bool {
        Pattern::new(pattern, false).unwrap().matches(text)
    }

    #[test]
    fn patterns_mean_what_they_do_in_sql() {
        let check = |pattern: &str, like: &[&str], unlike: &[&str]| {
            for text in like {
                assert!(is_like(text, pattern), "{text:?} like {pattern:?}");
            }
            for text in unlike {
                assert!(!is_like(text, pattern), "{text:?} like {pattern:?}");
            }
        };
        check("", &[""], &["a", "\n"]);
        check("%", &["", "a", "a\nb"], &[]);
        check("%%", &["", "a"], &[]);
        check("_", &["a", "ü", "\n", "%"], &["", "ab"]);
        check("%_%", &["a", "ab"], &[""]);
        check("a%", &["a", "ab", "a\n"], &["", "ba"]);
        check("%a", &["a", "ba", "\na"], &["ab"]);
        check("a%a", &["aa", "aba"], &["a"]);
        check("%ab%ba%", &["abba", "xabxbax"], &["aba", "baab"]);
        check("%a_c%d", &["abcd", "aacabcd", "aücxd"], &["acd", "abc", "abdd"]);
        check("a.c", &["a.c"], &["abc"]);
        check("a\\%", &["a%"], &["ab", "a\\"]);
        check("%\\_\\\\_", &["_\\x", "a_\\ü"], &["ab\\x", "_\\"]);
        check("\\a\\", &["a\\"], &["\\a\\", "a"]);
    }

    #[test]
    fn capitals_do_not_matter_where_they_are_said_not_to() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(Pattern::new(pattern, true).unwrap().matches(text), expected, "{text} {pattern}");
        };
        check("No_TH%", "nORthern", true);
        check("%SÜD%", "Im süden", true);
        check("%ΟΔΟΣ", "οδος", true);
        check("%ж_К%", "ажЮк", true);
        check("İs%", "istanbul", true);
        check("straße", "STRASSE", false);
        check("straße", "STRAẞE", true);
        check("a\\_", "A_", true);
        check("a\\_", "Ab", false);
    }

    #[test]
    fn beginnings_are_those_of_all_that_is_like_it() {
        let check = |pattern: &str, any_case: bool, expected: &str| {
            assert_eq!(Pattern::new(pattern, any_case).unwrap().beginning(), expected, "{pattern}");
        };
        check("no%th", false, "no");
        check("no\\%t_h", false, "no%t");
        check("%north", false, "");
        check("north", false, "north");
        check("no%", true, "");
    }

    #[test]
    fn what_cannot_be_looked_for_is_refused() {
        let holes = "_".repeat(65);
        assert_eq!(Pattern::new(&format!("%{holes}%"), false), Err(65));
        for pattern in [format!("{holes}%"), format!("%{holes}"), format!("%{}%", "a".repeat(9_000))] {
            assert!(Pattern::new(&pattern, true).is_ok(), "{pattern}");
        }
        let pattern = Pattern::new(&format!("%{}b%", "_".repeat(63)), false).unwrap();
        assert!(pattern.matches(&format!("{}b", "a".repeat(70))));
        assert!(!pattern.matches(&format!("{}ba", "a".repeat(62))));
    }

    /// What tries each place by itself, or many states at each character, takes minutes.
    #[test]
    fn a_text_is_walked_once() {
        let text = "a".repeat(4 << 20);
        let long = "a".repeat(30_000);
        for pattern in [
            format!("%{long}b%"),
            format!("%b{long}%"),
            format!("%{long}b{long}%"),
            format!("%{}_b%", &long[..62]),
            format!("{}b%", "%a_".repeat(20_000)),
            format!("{}b%", "%a".repeat(30_000)),
        ] {
            for any_case in [false, true] {
                assert!(!Pattern::new(&pattern, any_case).unwrap().matches(&text), "{}", &pattern[..9]);
            }
        }
    }

    /// By the definition, in exponential time.
    fn by_definition(text: &[char], pattern: &[char]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            (['%', rest @ ..], _) => (0..=text.len()).any(|at| by_definition(&text[at..], rest)),
            (['_', rest @ ..], [_, text @ ..]) => by_definition(text, rest),
            (['\\', c, rest @ ..] | [c, rest @ ..], [first, text @ ..]) => {
                c == first && by_definition(text, rest)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn all_patterns_mean_what_they_are_defined_to(pattern in "[abü%_\\\\]{0,9}", text in "[abü%_\\\\\n]{0,12}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(is_like(&text, &pattern), by_definition(&chars(&text), &chars(&pattern)));
        }
    }
}
