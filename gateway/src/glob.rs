// SPDX-License-Identifier: Apache-2.0
//! Globs over the keys of objects: `*`, `**`, `?`, `[..]` and `{a,b}`.
//!
//! Used for the inputs of jobs and for the filters of triggers. A key is a text, so `?`
//! is one character however many bytes it has; `/` is matched by itself and by `**`, and
//! by nothing else. A pattern becomes an automaton all of whose states are followed at
//! once (K. Thompson, "Regular expression search algorithm", 1968), so that no pattern
//! takes longer than its length times that of the key.

use std::{iter::Peekable, str::Chars};

/// Braces within each other.
const NESTING_MAX: usize = 16;

/// A compiled pattern.
#[derive(Debug)]
pub struct Glob {
    /// Behind the last of them the pattern has matched.
    steps: Vec<Step>,
}

/// What may stand in one place of a text that is not all known yet.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// This character.
    Is(char),
    /// Any hexadecimal digit in lower case.
    Hex,
    /// This character, where only a pattern that has itself is meant: what stands for
    /// several characters does not take it.
    Asked(char),
}

#[derive(Debug)]
enum Step {
    /// Takes one of these characters and goes on behind itself.
    One(Set),
    /// Goes on in both places.
    Fork(usize, usize),
    /// Goes on there.
    Go(usize),
}

#[derive(Debug)]
enum Set {
    Is(char),
    /// All but `/`.
    Within,
    /// All.
    Any,
    /// All but `/` that lie within one of these, or within none.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Self::Is(own) => *own == c,
            Self::Within => c != '/',
            Self::Any => true,
            Self::Class { ranges, negated } => {
                c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }

    fn meets(&self, place: Place) -> bool {
        match place {
            Place::Is(c) => self.has(c),
            Place::Hex => "0123456789abcdef".chars().any(|c| self.has(c)),
            Place::Asked(c) => matches!(self, Self::Is(own) if *own == c),
        }
    }
}

impl Glob {
    /// Compiles a pattern. `\` takes away what the next character means; `[!..]` and
    /// `[^..]` are every other character; one of several texts in braces may be empty.
    ///
    /// # Errors
    /// What was found in it, in words.
    pub fn new(pattern: &str) -> Result<Self, &'static str> {
        // Its beginning is a place where a step of the key begins.
        let mut compiler =
            Compiler { rest: pattern.chars().peekable(), steps: Vec::new(), depth: 0, before: '/' };
        compiler.sequence()?;
        Ok(Self { steps: compiler.steps })
    }

    /// Whether a key fits, from its first character to its last.
    pub fn is_match(&self, key: &str) -> bool {
        self.meets(key.chars().map(Place::Is))
    }

    /// Whether any text fits that has in each place what may stand there.
    pub fn meets(&self, text: impl Iterator<Item = Place>) -> bool {
        self.follow(text).contains(&self.steps.len())
    }

    /// Whether what fits may begin so.
    pub fn may_begin(&self, text: impl Iterator<Item = Place>) -> bool {
        !self.follow(text).is_empty()
    }

    /// The states behind a text; none where nothing that fits begins so.
    fn follow(&self, text: impl Iterator<Item = Place>) -> Vec<usize> {
        let (mut now, mut next) = (States::of(self), States::of(self));
        self.enter(0, &mut now);
        for place in text {
            for state in now.reached.drain(..) {
                if let Some(Step::One(set)) = self.steps.get(state)
                    && set.meets(place)
                {
                    self.enter(state + 1, &mut next);
                }
            }
            now.seen.fill(false);
            std::mem::swap(&mut now, &mut next);
            if now.reached.is_empty() {
                break;
            }
        }
        now.reached
    }

    /// Reaches a state, and those that it goes on in without taking a character.
    fn enter(&self, mut state: usize, states: &mut States) {
        while !std::mem::replace(&mut states.seen[state], true) {
            match self.steps.get(state) {
                Some(Step::Fork(one, other)) => {
                    self.enter(*one, states);
                    state = *other;
                }
                Some(Step::Go(there)) => state = *there,
                Some(Step::One(_)) | None => states.reached.push(state),
            }
        }
    }
}

/// States of an automaton, each once.
struct States {
    /// Those that take a character, and the end.
    reached: Vec<usize>,
    seen: Vec<bool>,
}

impl States {
    fn of(glob: &Glob) -> Self {
        Self { reached: Vec::new(), seen: vec![false; glob.steps.len() + 1] }
    }
}

struct Compiler<'a> {
    rest: Peekable<Chars<'a>>,
    steps: Vec<Step>,
    /// Braces that are open.
    depth: usize,
    /// What was read last; `\` after a character that was escaped.
    before: char,
}

impl Compiler<'_> {
    /// Compiles up to the end, or up to what ends a text within braces.
    fn sequence(&mut self) -> Result<(), &'static str> {
        while let Some(c) = self.rest.next_if(|c| self.depth == 0 || !matches!(c, ',' | '}')) {
            let before = std::mem::replace(&mut self.before, c);
            match c {
                '*' => self.star(before),
                '?' => self.steps.push(Step::One(Set::Within)),
                '[' => self.class()?,
                '{' => self.braces()?,
                '}' => return Err("a } without its {"),
                '\\' => {
                    let escaped = self.rest.next().ok_or("a \\ with nothing behind it")?;
                    self.steps.push(Step::One(Set::Is(escaped)));
                }
                c => self.steps.push(Step::One(Set::Is(c))),
            }
        }
        Ok(())
    }

    /// `*`, or `**`, which means more where it is a step of the key by itself.
    fn star(&mut self, before: char) {
        let within = self.depth > 0;
        let twice = self.rest.next_if_eq(&'*').is_some();
        let begins = before == '/' || (within && matches!(before, '{' | ','));
        let ends = self.rest.peek().is_none_or(|c| *c == '/' || (within && matches!(c, ',' | '}')));
        if !(twice && begins && ends) {
            return self.many(Set::Within);
        }
        if self.rest.next_if_eq(&'/').is_none() {
            return self.many(Set::Any);
        }
        // Any number of steps, and none as well.
        let fork = self.steps.len();
        self.steps.push(Step::Go(fork + 1));
        self.many(Set::Any);
        self.steps.push(Step::One(Set::Is('/')));
        self.steps[fork] = Step::Fork(fork + 1, self.steps.len());
        self.before = '/';
    }

    /// Any number of these characters.
    fn many(&mut self, set: Set) {
        let fork = self.steps.len();
        self.steps.extend([Step::Fork(fork + 1, fork + 3), Step::One(set), Step::Go(fork)]);
    }

    /// What follows `[`. A `]` in the first place and a `-` in the first or last are what
    /// they are.
    fn class(&mut self) -> Result<(), &'static str> {
        let negated = self.rest.next_if(|c| matches!(c, '!' | '^')).is_some();
        let mut ranges = Vec::new();
        loop {
            let low = match self.rest.next() {
                None => return Err("a [ that is not closed"),
                Some(']') if !ranges.is_empty() => break,
                Some(c) => c,
            };
            let mut ahead = self.rest.clone();
            let high = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(high)) if high != ']' => {
                    self.rest = ahead;
                    high
                }
                _ => low,
            };
            if high < low {
                return Err("a range within [] whose end comes before its beginning");
            }
            ranges.push((low, high));
        }
        self.before = ']';
        self.steps.push(Step::One(Set::Class { ranges, negated }));
        Ok(())
    }

    /// What follows `{`: texts of which one fits.
    fn braces(&mut self) -> Result<(), &'static str> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err("more than 16 braces within each other");
        }
        let mut exits = Vec::new();
        loop {
            let fork = self.steps.len();
            self.steps.push(Step::Go(fork + 1));
            self.sequence()?;
            exits.push(self.steps.len());
            self.steps.push(Step::Go(0));
            match self.rest.next() {
                None => return Err("a { that is not closed"),
                Some('}') => break,
                Some(comma) => self.before = comma,
            }
            self.steps[fork] = Step::Fork(fork + 1, self.steps.len());
        }
        for exit in exits {
            self.steps[exit] = Step::Go(self.steps.len());
        }
        self.depth -= 1;
        self.before = '}';
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, fits: &[&str], fits_not: &[&str]) {
        let glob = Glob::new(pattern).unwrap();
        for (keys, expected) in [(fits, true), (fits_not, false)] {
            for key in keys {
                assert_eq!(glob.is_match(key), expected, "{pattern} {key}");
            }
        }
    }

    #[test]
    fn stars_stay_within_a_step() {
        check("", &[""], &["a"]);
        check("a", &["a"], &["", "aa", "A"]);
        check("*", &["", "a", ".a", "ä"], &["a/b", "/"]);
        check("a*b*c", &["abc", "axbxbc"], &["abcd", "a/bc", "ab"]);
        check("a/*", &["a/", "a/b"], &["a", "a/b/c"]);
        check("a**b", &["ab", "axxb"], &["a/b"]);
        check("***", &["abc"], &["a/b"]);
    }

    #[test]
    fn two_stars_are_any_number_of_steps() {
        check("**", &["", "a", "a/b", "a//x"], &[]);
        check("a/**", &["a/", "a/b", "a/b/c"], &["a", "ab/c"]);
        check("**/x", &["x", "a/x", "a/b/x", "/x"], &["ax", "a/xb"]);
        check("a/**/x", &["a/x", "a/b/x", "a/b/c/x"], &["ax", "a/bx"]);
        check("a/**/**/x", &["a/x", "a/b/x"], &["ax"]);
        check("{a/**,b}/x", &["a/b/x", "a//x", "b/x"], &["a/x", "x"]);
        check("{**/a,b}", &["a", "x/a", "b"], &["x/b"]);
    }

    #[test]
    fn a_character_is_one_however_long() {
        check("?", &["a", "ä", "€", "🦀"], &["", "/", "aa"]);
        check("a?c", &["abc", "aäc"], &["ac", "a/c"]);
        check("[ä]", &["ä"], &["a", "ö", "ã"]);
        check("[à-ü]x", &["äx"], &["ax", "xx"]);
        check("[!a]", &["b", "ä"], &["a", "/", ""]);
    }

    #[test]
    fn classes_never_match_a_slash() {
        check("a[!x]b", &["ayb"], &["a/b", "axb"]);
        check("a[^x]b", &["ayb"], &["a/b"]);
        check("a[+-9]b", &["a0b", "a+b"], &["a/b"]);
        check("a[/]b", &[], &["a/b"]);
        check("[]a]", &["]", "a"], &["b"]);
        check("[!]a]", &["b"], &["]", "a"]);
        check("[a-]", &["a", "-"], &["b"]);
        check("[-a]", &["a", "-"], &["b"]);
        check(r"[\]", &["\\"], &["a"]);
    }

    #[test]
    fn texts_in_braces_may_be_empty() {
        check("*.csv{,.gz}", &["a.csv", "a.csv.gz"], &["a.gz", "a.csv.", "a"]);
        check("{,a}{,b}", &["", "a", "b", "ab"], &["ba"]);
        check("{a}", &["a"], &["", "{a}"]);
        check("{}", &[""], &["a"]);
        check("{a,b{c,d}e}f", &["af", "bcef", "bdef"], &["f", "bf", "bcf"]);
        check("a,b", &["a,b"], &["a"]);
        check("{*.csv,?.txt}", &["abc.csv", "a.txt"], &["ab.txt"]);
        check(r"{\,,\}}", &[",", "}"], &["", "\\"]);
    }

    #[test]
    fn escaped_characters_are_what_they_are() {
        check(r"\*\?\[\{\\", &[r"*?[{\"], &["ab[{\\"]);
        check("]", &["]"], &[]);
    }

    #[test]
    fn what_must_be_asked_for_is_taken_by_itself_alone() {
        let check = |pattern: &str, fits: bool, begins: bool| {
            let glob = Glob::new(pattern).unwrap();
            let text = || [Place::Is('a'), Place::Is('/'), Place::Asked('_'), Place::Is('b')].into_iter();
            assert_eq!((glob.meets(text()), glob.may_begin(text())), (fits, begins), "{pattern}");
        };
        check("a/_b", true, true);
        check("a/_*", true, true);
        check(r"a/\_b", true, true);
        check("*/{b,_b}", true, true);
        check("**/_b/**", false, true);
        check("a/_b*/x", false, true);
        check("a/*", false, false);
        check("a/?b", false, false);
        check("a/[_]b", false, false);
        check("a/[!x]b", false, false);
        check("**", false, false);
        check("a/**/_x", false, false);
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        let check = |pattern: &str, word: &str| {
            let found = Glob::new(pattern).unwrap_err();
            assert!(found.contains(word), "{pattern}: {found}");
        };
        check("[a", "[ that is not closed");
        check("[]", "[ that is not closed");
        check("[!]", "[ that is not closed");
        check("{a,b", "{ that is not closed");
        check("a}", "} without");
        check("a\\", "nothing behind");
        check("[b-a]", "range");
        check(&"{".repeat(17), "16 braces");
    }

    #[test]
    fn no_pattern_takes_long() {
        let (pattern, key) = (format!("{}b", "*a".repeat(400)), "a".repeat(1_000));
        assert!(!Glob::new(&pattern).unwrap().is_match(&key));
        let pattern = "{,a}".repeat(250);
        assert!(Glob::new(&pattern).unwrap().is_match(&"a".repeat(250)));
    }

    proptest! {
        #[test]
        fn braces_are_either(a in "[ab/*?]{0,4}", b in "[ab/?]{0,4}", key in "[abä/]{0,6}") {
            let fits = |pattern: &str| Glob::new(pattern).unwrap().is_match(&key);
            prop_assert_eq!(fits(&format!("{{{a},{b}}}")), fits(&a) || fits(&b));
        }

        /// A text of which some places are open is met when any way to fill them fits.
        #[test]
        fn open_places_are_any_digit(pattern in "[0-9a-fx*?/-]{0,6}", text in "[0ax/]{0,3}") {
            let glob = Glob::new(&pattern).unwrap();
            let mut filled = vec![String::new()];
            for c in text.chars() {
                let digits = if c == '0' { "0123456789abcdef".to_owned() } else { c.to_string() };
                filled = filled.iter().flat_map(|t| digits.chars().map(move |d| format!("{t}{d}"))).collect();
            }
            let places = text.chars().map(|c| if c == '0' { Place::Hex } else { Place::Is(c) });
            prop_assert_eq!(glob.meets(places), filled.iter().any(|text| glob.is_match(text)));
        }
    }
}
