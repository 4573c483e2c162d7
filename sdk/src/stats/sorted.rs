// SPDX-License-Identifier: Apache-2.0
//! Values in order, without comparing them.

/// The finite ones of the values in ascending order.
///
/// By digits, of which no more than four are looked at: the highest in which the values differ. Those that
/// are alike in all of these are sorted by comparison.
/// Source: radix sort from the lowest digit, Knuth, "The Art of Computer
/// Programming" 3, 5.2.5; the order of a float's bits as IEEE 754, 5.10.
pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    const DIGITS: u32 = 4;
    // A negative number's bits fall as it grows: turn all of them, or else only
    // the sign, so that they grow with it.
    let key = |value: &f64| {
        let bits = value.to_bits();
        bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
    };
    let value = |key: u64| f64::from_bits(key ^ (((!key as i64 >> 63) as u64) | 1 << 63));
    let mut keys: Vec<u64> = values.iter().filter(|value| value.is_finite()).map(key).collect();
    let (low, high) = keys.iter().fold((u64::MAX, 0), |(low, high), key| (low.min(*key), high.max(*key)));
    let shift = u64::BITS.saturating_sub(high.saturating_sub(low).leading_zeros() + 8 * DIGITS);
    let digits = |key: u64| (((key - low) >> shift) as u32).to_le_bytes();
    let mut spare = vec![0; keys.len()];
    let mut counts = [[0u32; 256]; DIGITS as usize];
    for key in &keys {
        for (digit, byte) in digits(*key).into_iter().enumerate() {
            counts[digit][usize::from(byte)] += 1;
        }
    }
    for (digit, counts) in counts.iter_mut().enumerate() {
        if counts.iter().any(|&count| count as usize == keys.len()) {
            continue;
        }
        let mut next = 0;
        for count in counts.iter_mut() {
            (*count, next) = (next, next + *count);
        }
        for key in &keys {
            let place = &mut counts[usize::from(digits(*key)[digit])];
            spare[*place as usize] = *key;
            *place += 1;
        }
        std::mem::swap(&mut keys, &mut spare);
    }
    if !keys.is_sorted() {
        keys.chunk_by_mut(|a, b| digits(*a) == digits(*b)).for_each(<[u64]>::sort_unstable);
    }
    keys.into_iter().map(value).collect()
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
