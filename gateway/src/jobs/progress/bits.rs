// SPDX-License-Identifier: Apache-2.0
//! Sets of a stage's tasks, a bit for each task.
//!
//! Pure. A job may have a million tasks, and those that stand somewhere are found
//! without a look at the others: a set of them is 125 KB.

/// Bits in a word.
const WORD: u32 = u64::BITS;

/// A set of numbers below a bound.
#[derive(Debug)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// The empty set, for numbers below `bound`.
    pub fn none(bound: u32) -> Self {
        Self(vec![0; bound.div_ceil(WORD) as usize])
    }

    /// The set of all numbers below `bound`.
    pub fn all(bound: u32) -> Self {
        let mut all = Self::none(bound);
        (0..bound).for_each(|number| all.put(number, true));
        all
    }

    /// Puts a number into the set, or takes it out.
    pub fn put(&mut self, number: u32, within: bool) {
        let Some(word) = self.0.get_mut((number / WORD) as usize) else { return };
        let bit = 1_u64 << (number % WORD);
        if within {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// How many numbers are in it.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// The numbers from `first` on that are in any of these sets, in order.
pub fn union(sets: Vec<&Bits>, first: u32) -> impl Iterator<Item = u32> {
    let (begun, end) = ((first / WORD) as usize, sets.iter().map(|set| set.0.len()).max().unwrap_or(0));
    (begun..end).flat_map(move |at| {
        let of = |set: &&Bits| set.0.get(at).copied().unwrap_or(0);
        let mut word = sets.iter().map(of).fold(0_u64, |all, word| all | word);
        if at == begun {
            word &= u64::MAX << (first % WORD);
        }
        std::iter::from_fn(move || {
            if word == 0 {
                return None;
            }
            let number = at as u32 * WORD + word.trailing_zeros();
            word &= word - 1;
            Some(number)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(bound: u32, numbers: &[u32]) -> Bits {
        let mut set = Bits::none(bound);
        numbers.iter().for_each(|number| set.put(*number, true));
        set
    }

    #[test]
    fn sets_are_read_in_order_from_any_place() {
        let (low, high) = (set(200, &[0, 63, 64, 130]), set(200, &[5, 64, 199]));
        let read = |sets: Vec<&Bits>, first| union(sets, first).collect::<Vec<_>>();
        assert_eq!(read(vec![&low], 0), [0, 63, 64, 130]);
        assert_eq!(read(vec![&low, &high], 0), [0, 5, 63, 64, 130, 199]);
        assert_eq!(read(vec![&low, &high], 64), [64, 130, 199]);
        assert_eq!(read(vec![&low, &high], 65), [130, 199]);
        for nowhere in [200, 1 << 20, u32::MAX] {
            assert_eq!(read(vec![&low, &high], nowhere), [0; 0]);
        }
        assert_eq!(read(Vec::new(), 0), [0; 0]);
    }

    #[test]
    fn numbers_come_and_go() {
        let mut all = Bits::all(70);
        assert_eq!(all.count(), 70);
        all.put(3, false);
        all.put(3, false);
        // Beyond the bound there is nothing.
        all.put(1_000, true);
        assert_eq!((all.count(), union(vec![&all], 2).nth(1)), (69, Some(4)));
        assert_eq!((Bits::none(0).count(), Bits::all(0).count()), (0, 0));
    }
}
