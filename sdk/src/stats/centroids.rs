// SPDX-License-Identifier: Apache-2.0
//! Digests that are made at once of what is in order already, to be merged into others.

use datasketches::tdigest::TDigestMut;

/// The compression δ is twice this. A centroid in the middle then holds at most
/// (4·ln(n/δ) + 24) / 4δ of n values (Dunning and Ertl, scale function k₂):
/// 2.5 % of a billion, and half of that is the error.
pub(super) const K: u16 = 400;

/// So many values at each end of a part are centroids of their own, and between those
/// every [`GROUP`] are one.
///
/// At the r-th value from an end, a centroid may hold r·(4·ln(n/δ) + 24) / δ (see
/// [`K`]), which from here on is 7 at least and grows with n. So a digest would not have
/// kept them apart either, wherever the part's values lie among all.
const OUTER: usize = 256;
const GROUP: usize = 8;

/// The digest of these values; `None` without values.
pub(super) fn of_sorted(values: &[f64]) -> Option<TDigestMut> {
    let (low, rest) = values.split_at(OUTER.min(values.len()));
    let (inner, high) = rest.split_at(rest.len().saturating_sub(OUTER) / GROUP * GROUP);
    let (groups, _) = inner.as_chunks::<GROUP>();
    let mut centroids = Vec::with_capacity(low.len() + groups.len() + high.len());
    centroids.extend(low.iter().map(|value| (*value, 1)));
    centroids.extend(groups.iter().map(|group| (mean(group), GROUP as u64)));
    centroids.extend(high.iter().map(|value| (*value, 1)));
    of_centroids(&centroids)
}

/// One centroid holds at most this part of the values that are counted, since a digest
/// takes a centroid's values to lie to both of its sides.
const PARTS: u64 = 2_048;

/// The digest of counted values; `None` without values.
pub(super) fn of_counts(counts: &[(f64, u64)]) -> Option<TDigestMut> {
    let most = counts.iter().map(|(_, times)| times).sum::<u64>().div_ceil(PARTS).max(1);
    let parts = counts.iter().flat_map(|&(value, times)| {
        let whole = std::iter::repeat_n((value, most), (times / most) as usize);
        whole.chain((times % most > 0).then_some((value, times % most)))
    });
    of_centroids(&parts.collect::<Vec<_>>())
}

/// The digest of centroids in ascending order, whose first and last are the extremes.
///
/// It is made in the form in which digests travel, the one way to hand over many
/// at once. Source: Apache DataSketches, the double precision image of a t-digest.
fn of_centroids(centroids: &[(f64, u64)]) -> Option<TDigestMut> {
    let ((first, _), (last, _)) = (centroids.first()?, centroids.last()?);
    // Longs before the centroids, version, the family of t-digests; size, flags, unused.
    let mut image = vec![2, 1, 20];
    image.reserve(32 + 16 * centroids.len());
    image.extend(K.to_le_bytes());
    image.extend([0; 3]);
    // So many centroids, and no further values.
    image.extend((centroids.len() as u64).to_le_bytes());
    image.extend(first.to_le_bytes());
    image.extend(last.to_le_bytes());
    for (mean, weight) in centroids {
        image.extend(pair(*mean, *weight));
    }
    Some(TDigestMut::deserialize(&image).unwrap_or_else(|error| unreachable!("an image of its own: {error}")))
}

/// A value and a count in bytes.
pub(super) fn pair(value: f64, count: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    bytes[8..].copy_from_slice(&count.to_le_bytes());
    bytes
}

/// The mean of values in ascending order. Divided before they are added, so that no sum
/// overflows, and no further out than they are, however it is rounded.
fn mean(group: &[f64; GROUP]) -> f64 {
    group.iter().map(|value| value / GROUP as f64).sum::<f64>().clamp(group[0], group[GROUP - 1])
}
