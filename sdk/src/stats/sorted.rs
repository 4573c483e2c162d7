// SPDX-License-Identifier: Apache-2.0
//! Values in order, without comparing them.

use super::{minmax::extremes, not_finite};

/// How many digits of eight bits are looked at.
const DIGITS: u32 = 4;

/// The finite ones of the values in ascending order.
///
/// By digits, of which no more than four are looked at: the highest in which the values differ. Those that
/// are alike in all of these are sorted by comparison.
/// Source: radix sort from the lowest digit, Knuth, "The Art of Computer
/// Programming" 3, 5.2.5; the order of a float's bits as IEEE 754, 5.10.
pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut keys = keys(values);
    let (low, high) = reach(values);
    let shift = u64::BITS.saturating_sub(high.abs_diff(low).leading_zeros() + 8 * DIGITS);
    let mut spare = vec![0; keys.len()];
    let mut counts = counted(&keys, low, shift);
    for (digit, counts) in (0..).zip(&mut counts) {
        if counts.iter().any(|&count| count as usize == keys.len()) {
            continue;
        }
        let mut next = 0;
        for count in counts.iter_mut() {
            (*count, next) = (next, next + *count);
        }
        dealt(&keys, &mut spare, counts, low, shift + 8 * digit);
        std::mem::swap(&mut keys, &mut spare);
    }
    if !ascend(&keys) {
        let digits = |key: &i64| above(*key, low, shift) as u32;
        keys.chunk_by_mut(|a, b| digits(a) == digits(b)).for_each(<[i64]>::sort_unstable);
    }
    numbers(keys)
}

/// A number's bits turned into an integer that grows as it does, or back.
///
/// A negative number's bits fall as it grows: all but the sign are turned.
fn turned(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

fn key(value: f64) -> i64 {
    turned(value.to_bits() as i64)
}

// Each loop by itself, not in line, and over integers with a sign: in a large function a guest's loop has its pointers
// in memory, and its SIMD has no comparison of those without.

/// The keys of the finite ones.
#[inline(never)]
fn keys(values: &[f64]) -> Vec<i64> {
    if not_finite(values) {
        return values.iter().copied().filter(|value| value.is_finite()).map(key).collect();
    }
    values.iter().copied().map(key).collect()
}

/// Between which keys those of the values lie.
fn reach(values: &[f64]) -> (i64, i64) {
    let (min, max) = extremes(values);
    // Below a zero without a sign there may be one with a sign.
    (key(if min == 0.0 { -0.0 } else { min }), key(max))
}

/// What of a key is above the lowest one, from some bit on.
#[inline(always)]
fn above(key: i64, low: i64, shift: u32) -> u64 {
    (key.wrapping_sub(low) as u64) >> shift
}

/// How many keys have which byte as which digit.
#[inline(never)]
fn counted(keys: &[i64], low: i64, shift: u32) -> [[u32; 256]; DIGITS as usize] {
    let mut counts = [[0; 256]; DIGITS as usize];
    for key in keys {
        let digits = (above(*key, low, shift) as u32).to_le_bytes();
        for (counts, digit) in counts.iter_mut().zip(digits) {
            counts[usize::from(digit)] += 1;
        }
    }
    counts
}

/// Puts each key where the next one with its digit belongs.
#[inline(never)]
fn dealt(keys: &[i64], to: &mut [i64], next: &mut [u32; 256], low: i64, shift: u32) {
    for key in keys {
        let place = &mut next[usize::from(above(*key, low, shift) as u8)];
        to[*place as usize] = *key;
        *place += 1;
    }
}

/// Whether no key is less than the one before, found without a branch for each.
#[inline(never)]
fn ascend(keys: &[i64]) -> bool {
    !keys.iter().zip(keys.iter().skip(1)).fold(false, |falls, (before, key)| falls | (before > key))
}

#[inline(never)]
fn numbers(keys: Vec<i64>) -> Vec<f64> {
    keys.into_iter().map(|key| f64::from_bits(turned(key) as u64)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sorting_sorts(mut values in prop_oneof![
            prop::collection::vec(prop::num::f64::ANY, 0..300),
            // Alike in every digit that is looked at, beside one that is far.
            prop::collection::vec(prop_oneof![9 => (0..1_000u64).prop_map(near_one), 1 => -9.0..9e9f64], 0..300),
            // Those between which others lie: both zeros, and what is left out.
            prop::collection::vec(
                prop::sample::select(vec![0.0, -0.0, 5e-324, 1.0, f64::MAX, f64::INFINITY, f64::NAN]), 0..300
            ),
        ]) {
            let found: Vec<u64> = sorted(&values).into_iter().map(f64::to_bits).collect();
            values.retain(|value| value.is_finite());
            values.sort_by(f64::total_cmp);
            prop_assert_eq!(found, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        }
    }

    fn near_one(steps: u64) -> f64 {
        f64::from_bits(1.0_f64.to_bits() + steps)
    }
}
