// SPDX-License-Identifier: Apache-2.0
//! Which name was meant: the closest one, when it is close enough.
//!
//! Used where a person typed a name that is not there. Distances are
//! Damerau's in the restricted form: a swap of neighbours counts as one.

/// The known name nearest to `typed`, when at most a third of it differs or one
/// begins with the other.
pub fn closest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = typed.chars().count().div_ceil(3);
    let near = known.iter().map(|name| (distance(typed, name), *name)).min();
    let near = near.filter(|(edits, _)| *edits <= allowed).map(|(_, name)| name);
    near.or_else(|| {
        let begins =
            |name: &&&str| typed.len() >= 3 && (name.starts_with(typed) || typed.starts_with(**name));
        known.iter().find(begins).copied()
    })
}

fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found() {
        let known = ["credit-score", "credit-train", "hello", "normalize"];
        let check =
            |typed: &str, expected: Option<&str>| assert_eq!(closest(typed, &known), expected, "{typed}");
        check("helo", Some("hello"));
        check("hlelo", Some("hello"));
        check("credit-scroe", Some("credit-score"));
        check("normalise", Some("normalize"));
        check("norm", Some("normalize"));
        check("zzz", None);
        check("", None);
        assert_eq!(closest("x", &[]), None);
    }
}
