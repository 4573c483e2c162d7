// SPDX-License-Identifier: Apache-2.0
//! Partitions, slices and objects of other plans, known by their fingerprints.
//!
//! Pure. Whoever compares two plans needs to know what is the same and not what it
//! is: a million partitions are 20 MB here, and many times that as they are written.

use fanfold_protocol::{
    digest::Digest,
    plan::{Partition, Slice},
    uri::ObjectUri,
};
use serde::Serialize;

use super::error::{Error, Result};

/// The first 16 bytes of a SHA-256 digest (FIPS 180-4): what has the same is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&Digest::of(bytes).as_bytes()[..16]);
        Self(first)
    }

    /// Of a partition, its pins included.
    pub fn of_partition(partition: &Partition) -> Result<Self> {
        Self::of_json(partition)
    }

    /// Of a part of an object, its pin included.
    pub fn of_slice(slice: &Slice) -> Result<Self> {
        Self::of_json(slice)
    }

    /// Of an object, in whichever state.
    pub fn of_object(uri: &ObjectUri) -> Self {
        Self::of(uri.to_string().as_bytes())
    }

    fn of_json(value: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_vec(value).map_err(|e| Error::damaged("a partition", e))?;
        Ok(Self::of(&text))
    }
}

/// What is known of things by their fingerprints, which are in order.
#[derive(Debug)]
pub struct Prints<T>(Vec<(Fingerprint, T)>);

impl<T: Ord> FromIterator<(Fingerprint, T)> for Prints<T> {
    fn from_iter<I: IntoIterator<Item = (Fingerprint, T)>>(all: I) -> Self {
        Self::new(all.into_iter().collect())
    }
}

impl<T: Ord> Prints<T> {
    /// What is known, in any order; the same twice is there once.
    pub fn new(mut all: Vec<(Fingerprint, T)>) -> Self {
        all.sort_unstable();
        all.dedup();
        all.shrink_to_fit();
        Self(all)
    }

    /// The number of what has this fingerprint, of several the first.
    pub fn place(&self, print: &Fingerprint) -> Option<usize> {
        let place = self.0.partition_point(|(found, _)| found < print);
        self.0.get(place).is_some_and(|(found, _)| found == print).then_some(place)
    }

    /// What is known of everything that has this fingerprint.
    pub fn find(&self, print: &Fingerprint) -> impl Iterator<Item = &T> {
        let first = self.place(print).unwrap_or(self.0.len());
        self.0[first..].iter().take_while(move |(found, _)| found == print).map(|(_, known)| known)
    }

    /// How much is known.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The bytes that it takes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<(Fingerprint, T)>()
    }
}

impl<T> Default for Prints<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_with_a_fingerprint_is_found() {
        let print = |text: &str| Fingerprint::of(text.as_bytes());
        let all = [("b", 3), ("a", 1), ("b", 2), ("c", 9), ("b", 3)];
        let prints: Prints<u32> = all.into_iter().map(|(text, known)| (print(text), known)).collect();
        assert_eq!(prints.count(), 4, "the same twice is there once");
        let found = |text: &str| prints.find(&print(text)).copied().collect::<Vec<_>>();
        assert_eq!((found("a"), found("b"), found("c")), (vec![1], vec![2, 3], vec![9]));
        assert_eq!((found("d"), prints.place(&print("d"))), (vec![], None));
        let places: Vec<_> = ["a", "b", "c"].iter().filter_map(|text| prints.place(&print(text))).collect();
        assert_eq!(places.len(), 3);
        assert_eq!(Prints::<()>::default().place(&print("a")), None);
    }

    #[test]
    fn what_differs_has_another_fingerprint() {
        let slice = |key: &str, etag: &str, row_groups| Slice {
            object: fanfold_protocol::uri::PinnedObject {
                uri: ObjectUri::new("bank", key).unwrap(),
                pin: fanfold_protocol::uri::Pin { etag: etag.into(), size: 9, version_id: None },
            },
            bytes: None,
            row_groups,
        };
        let all = [
            slice("a", "1", None),
            slice("a", "2", None),
            slice("b", "1", None),
            slice("a", "1", Some(vec![])),
            slice("a", "1", Some(vec![1, 2])),
            slice("a", "1", Some(vec![12])),
        ];
        let prints: Prints<()> =
            all.iter().map(|slice| (Fingerprint::of_slice(slice).unwrap(), ())).collect();
        assert_eq!(prints.count(), all.len());
        let partition = |slices: &[&Slice]| {
            let slices = slices.iter().map(|slice| (*slice).clone()).collect();
            Fingerprint::of_partition(&Partition { slices }).unwrap()
        };
        assert_ne!(partition(&[&all[0], &all[1]]), partition(&[&all[1], &all[0]]));
        assert_eq!(partition(&[&all[0]]), partition(&[&all[0].clone()]));
        assert_eq!(Fingerprint::of_object(&all[0].object.uri), Fingerprint::of_object(&all[1].object.uri));
    }
}
