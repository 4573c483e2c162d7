// SPDX-License-Identifier: Apache-2.0
//! Listing: which keys, in which order, rolled together how, cut where.
//!
//! Pure over any ordered source. Keys are bytes and so are prefixes and
//! delimiters; a rolled-up prefix is skipped by seeking, never by reading what
//! lies under it, so a page costs what it shows.

use std::ops::Bound;

use super::failure::Failure;

/// What is asked of a listing.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// Only names after this one; a rolled-up prefix is passed over as a whole.
    pub(super) after: Option<String>,
    pub(super) max: usize,
}

/// One page.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) entries: Vec<(String, T)>,
    pub(super) prefixes: Vec<String>,
    /// The last name on this page, when there are more.
    pub(super) next: Option<String>,
}

/// Keys with their values from a bound on, in the order of their bytes.
pub(super) type Entries<'a, T> = Box<dyn Iterator<Item = Result<(Vec<u8>, T), Failure>> + 'a>;

impl Query {
    /// The page of `source`, which opens a walk from a bound on.
    pub(super) fn page<'a, T>(
        &self,
        source: impl Fn(Bound<Vec<u8>>) -> Result<Entries<'a, T>, Failure>,
    ) -> Result<Page<T>, Failure> {
        let mut page = Page { entries: Vec::new(), prefixes: Vec::new(), next: None };
        if self.max == 0 {
            return Ok(page);
        }
        let mut last = String::new();
        let mut from = self.start();
        while let Some(bound) = from.take() {
            for entry in source(bound)? {
                let (key, value) = entry?;
                if !key.starts_with(self.prefix.as_bytes()) {
                    return Ok(page);
                }
                if page.entries.len() + page.prefixes.len() == self.max {
                    page.next = Some(last);
                    return Ok(page);
                }
                let rolled = self.rolled(&key).map(text);
                last = rolled.clone().unwrap_or_else(|| text(&key));
                match rolled {
                    Some(prefix) => {
                        from = successor(prefix.as_bytes()).map(Bound::Included);
                        page.prefixes.push(prefix);
                        break;
                    }
                    None => page.entries.push((last.clone(), value)),
                }
            }
        }
        Ok(page)
    }

    /// Where to begin; none when nothing can follow.
    fn start(&self) -> Option<Bound<Vec<u8>>> {
        let prefix = self.prefix.as_bytes();
        let Some(after) = self.after.as_deref().map(str::as_bytes).filter(|a| *a >= prefix) else {
            return Some(Bound::Included(prefix.to_vec()));
        };
        if self.rolled(after) == Some(after) {
            return successor(after).map(Bound::Included);
        }
        Some(Bound::Excluded(after.to_vec()))
    }

    /// The part of a key up to the first delimiter behind the prefix.
    fn rolled<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let delimiter = self.delimiter.as_deref().filter(|d| !d.is_empty())?.as_bytes();
        let rest = key.strip_prefix(self.prefix.as_bytes())?;
        let at = rest.windows(delimiter.len()).position(|w| w == delimiter)?;
        key.get(..self.prefix.len() + at + delimiter.len())
    }
}

/// The first bytes after all that begin with `prefix`.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut next = prefix.get(..=keep)?.to_vec();
    if let Some(last) = next.last_mut() {
        *last += 1;
    }
    Some(next)
}

/// Keys come in as UTF-8; a delimiter could cut a character, which S3 shows so too.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn page(keys: &BTreeMap<Vec<u8>, usize>, query: &Query) -> Page<usize> {
        query
            .page(|bound| {
                let range = keys.range((bound, Bound::Unbounded));
                Ok(Box::new(range.map(|(k, v)| Ok((k.clone(), *v)))))
            })
            .unwrap()
    }

    /// All names by small pages, and how many were on each.
    fn walk(keys: &BTreeMap<Vec<u8>, usize>, mut query: Query) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut entries, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let page = page(keys, &query);
            let shown = page.entries.len() + page.prefixes.len();
            assert!(shown <= query.max);
            for (key, _) in page.entries {
                assert!(entries.insert(key), "a key twice");
            }
            for prefix in page.prefixes {
                assert!(prefixes.insert(prefix), "a prefix twice");
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return (entries, prefixes),
            }
        }
    }

    fn model(keys: &BTreeMap<Vec<u8>, usize>, query: &Query) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut entries, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
        for key in keys.keys().map(|k| text(k)) {
            let Some(rest) = key.strip_prefix(&query.prefix) else { continue };
            let cut = query.delimiter.as_ref().and_then(|d| rest.find(d.as_str()).map(|at| at + d.len()));
            match cut {
                Some(at) => drop(prefixes.insert(format!("{}{}", query.prefix, &rest[..at]))),
                None => drop(entries.insert(key)),
            }
        }
        (entries, prefixes)
    }

    proptest! {
        #[test]
        fn pages_add_up_to_the_plain_listing(
            keys in prop::collection::btree_set("[ab/.é]{0,6}", 0..40),
            prefix in "[ab/]{0,3}",
            delimiter in prop::option::of("/|a|//"),
            max in 1_usize..5,
        ) {
            let keys: BTreeMap<_, _> = keys.into_iter().enumerate().map(|(n, k)| (k.into_bytes(), n)).collect();
            let query = Query { prefix, delimiter, after: None, max };
            prop_assert_eq!(walk(&keys, query.clone()), model(&keys, &query));
        }
    }

    #[test]
    fn successors_end_a_prefix() {
        assert_eq!(successor(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(successor(&[b'a', 255]), Some(b"b".to_vec()));
        assert_eq!(successor(&[255]), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn a_marker_inside_a_group_shows_the_rest_of_the_group() {
        let keys = ["a/1", "a/2", "b"].map(|k| (k.as_bytes().to_vec(), 0)).into();
        let query = |after: &str| Query {
            delimiter: Some("/".into()),
            after: Some(after.into()),
            max: 10,
            ..Query::default()
        };
        assert_eq!(page(&keys, &query("a/1")).prefixes, ["a/"]);
        assert_eq!(page(&keys, &query("a/")).prefixes, Vec::<String>::new());
        assert_eq!(page(&keys, &query("a/")).entries.len(), 1);
    }
}
