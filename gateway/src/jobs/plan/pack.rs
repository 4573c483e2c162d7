// SPDX-License-Identifier: Apache-2.0
//! Slices gathered into partitions: neighbours, in order, up to the target.
//!
//! Pure; last step of planning before the plan is written. A partition's rows
//! are those of its slices one after the other, so packing changes how many
//! tasks there are and never the order of rows.

use fanfold_protocol::plan::{PARTITION_DOCUMENT_BYTES_MAX, Partition, Slice, Weight};

use crate::jobs::prints::{Fingerprint, Prints};

/// Gathers slices that come one by one.
pub struct Packer<'a> {
    target: u64,
    /// What partitions of an earlier plan began with. Those of this one begin there,
    /// too, so that an object that was added does not move all that follow.
    starts: Option<&'a Prints<()>>,
    open: Vec<Slice>,
    weight: Weight,
    /// Whether nothing may be added to the open partition.
    closed: bool,
}

impl<'a> Packer<'a> {
    /// A packer of partitions of about `target` stored bytes.
    pub fn new(target: u64, starts: Option<&'a Prints<()>>) -> Self {
        Self { target, starts, open: Vec::new(), weight: Weight::default(), closed: false }
    }

    /// Takes the next slice with its stored bytes; `alone` when it shares its
    /// partition with no other. Answers the partition that is full without it.
    ///
    /// # Errors
    /// When the slice does not become JSON.
    pub fn add(
        &mut self,
        slice: Slice,
        bytes: u64,
        alone: bool,
    ) -> serde_json::Result<Option<(Partition, Weight)>> {
        let text = serde_json::to_vec(&slice)?;
        let document = text.len() as u64 + 1;
        let fits = self.weight.bytes.saturating_add(bytes) <= self.target
            && self.weight.document + document <= PARTITION_DOCUMENT_BYTES_MAX;
        let begins = || self.starts.is_some_and(|starts| starts.place(&Fingerprint::of(&text)).is_some());
        let joins = fits && !alone && !self.closed && !begins();
        let full = if joins { None } else { self.finish() };
        self.weight.bytes = self.weight.bytes.saturating_add(bytes);
        self.weight.document += document;
        self.closed = alone;
        self.open.push(slice);
        Ok(full)
    }

    /// The partition that is left.
    pub fn finish(&mut self) -> Option<(Partition, Weight)> {
        self.closed = false;
        let (slices, weight) = (std::mem::take(&mut self.open), std::mem::take(&mut self.weight));
        (!slices.is_empty()).then_some((Partition { slices }, weight))
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::uri::{ObjectUri, Pin, PinnedObject};

    use super::*;

    fn slice(number: usize, size: u64, key_bytes: usize) -> Slice {
        let uri = ObjectUri::new("bank", format!("{number:0key_bytes$}")).unwrap();
        Slice::whole(PinnedObject { uri, pin: Pin { etag: "e".into(), size, version_id: None } })
    }

    fn pack(target: u64, slices: &[(u64, bool)], key_bytes: usize) -> Vec<(Partition, Weight)> {
        let (mut packer, mut all) = (Packer::new(target, None), Vec::new());
        for (number, (size, alone)) in slices.iter().enumerate() {
            all.extend(packer.add(slice(number, *size, key_bytes), *size, *alone).unwrap());
        }
        all.extend(packer.finish());
        all
    }

    fn check(target: u64, slices: &[(u64, bool)], expected: &[&[usize]]) {
        let number = |slice: &Slice| slice.object.uri.key().parse::<usize>().unwrap();
        let found: Vec<Vec<usize>> =
            pack(target, slices, 4).iter().map(|(p, _)| p.slices.iter().map(number).collect()).collect();
        assert_eq!(found, expected, "{slices:?} by {target}");
    }

    #[test]
    fn neighbours_share_a_partition_up_to_the_target() {
        let small = |size| (size, false);
        check(10, &[], &[]);
        check(10, &[small(5), small(5), small(1)], &[&[0, 1], &[2]]);
        check(10, &[small(1), small(30), small(1), small(1)], &[&[0], &[1], &[2, 3]]);
        check(10, &[small(0), small(0)], &[&[0, 1]]);
        check(10, &[small(1), (1, true), small(1), small(1)], &[&[0], &[1], &[2, 3]]);
        check(10, &[(1, true), (1, true)], &[&[0], &[1]]);
    }

    #[test]
    fn objects_that_come_or_go_move_their_neighbours_only() {
        let pack = |numbers: &[usize], before: &[Partition]| {
            let starts = before.iter().filter_map(|partition| partition.slices.first());
            let starts: Prints<()> =
                starts.map(|slice| (Fingerprint::of_slice(slice).unwrap(), ())).collect();
            let (mut packer, mut all) = (Packer::new(10, Some(&starts)), Vec::new());
            for number in numbers {
                all.extend(packer.add(slice(*number, 3, 4), 3, false).unwrap());
            }
            all.extend(packer.finish());
            all.into_iter().map(|(partition, _)| partition).collect::<Vec<_>>()
        };
        let numbers: Vec<usize> = (0..60).map(|n| 10 * n).collect();
        let before = pack(&numbers, &[]);
        assert_eq!(before.len(), 20);
        let same = |numbers: &[usize]| {
            let now = pack(numbers, &before);
            assert!(now.iter().all(|partition| partition.slices.len() <= 3));
            now.iter().filter(|partition| before.contains(partition)).count()
        };
        assert_eq!(same(&numbers), 20);
        assert_eq!(same(&[&numbers[..31], &[305], &numbers[31..]].concat()), 19);
        assert_eq!(same(&[&numbers[..30], &numbers[31..]].concat()), 19);
        assert_eq!(same(&[&[5], &numbers[..], &[999]].concat()), 20);
    }

    #[test]
    fn a_partition_stays_a_small_document() {
        let all = pack(u64::MAX, &[(1, false); 1_000], 1_000);
        assert!(all.len() > 10, "{}", all.len());
        for (partition, weight) in all {
            let document = serde_json::to_vec(&partition).unwrap().len() as u64;
            assert!(document <= PARTITION_DOCUMENT_BYTES_MAX + 20, "{document}");
            assert!(document.abs_diff(weight.document) < 20);
            assert_eq!(weight.bytes, partition.slices.len() as u64);
        }
    }
}
