// SPDX-License-Identifier: Apache-2.0
//! Two numbers side by side: one register of a guest's SIMD.
//!
//! It owns the operations that sums and extremes are made of. Loops over arrays of
//! lanes become SIMD natively; in a guest they came out number by number, with what
//! they add up to in memory. Invariant: each number is computed by operations of
//! IEEE 754 and nothing else, so guests and native programs get the same bits.

use std::ops::{Add, Mul, Sub};

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod register {
    use std::arch::wasm32::{f64x2, f64x2_extract_lane, v128};

    pub(super) type Register = v128;

    pub(super) fn of([first, second]: [f64; 2]) -> Register {
        f64x2(first, second)
    }

    pub(super) fn numbers(register: Register) -> [f64; 2] {
        [f64x2_extract_lane::<0>(register), f64x2_extract_lane::<1>(register)]
    }

    pub(super) use std::arch::wasm32::{
        f64x2_add as add, f64x2_mul as mul, f64x2_pmax as larger, f64x2_pmin as smaller, f64x2_sub as sub,
    };
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod register {
    pub(super) type Register = [f64; 2];

    pub(super) fn of(numbers: [f64; 2]) -> Register {
        numbers
    }

    pub(super) fn numbers(register: Register) -> [f64; 2] {
        register
    }

    pub(super) fn add(a: Register, b: Register) -> Register {
        [a[0] + b[0], a[1] + b[1]]
    }

    pub(super) fn sub(a: Register, b: Register) -> Register {
        [a[0] - b[0], a[1] - b[1]]
    }

    pub(super) fn mul(a: Register, b: Register) -> Register {
        [a[0] * b[0], a[1] * b[1]]
    }

    pub(super) fn smaller(a: Register, b: Register) -> Register {
        let of = |a: f64, b: f64| if b < a { b } else { a };
        [of(a[0], b[0]), of(a[1], b[1])]
    }

    pub(super) fn larger(a: Register, b: Register) -> Register {
        let of = |a: f64, b: f64| if a < b { b } else { a };
        [of(a[0], b[0]), of(a[1], b[1])]
    }
}

/// Two numbers, each computed with by itself.
#[derive(Clone, Copy)]
pub(super) struct Pair(register::Register);

impl Pair {
    pub(super) fn of(numbers: [f64; 2]) -> Self {
        Self(register::of(numbers))
    }

    /// The same number twice.
    pub(super) fn twice(number: f64) -> Self {
        Self::of([number; 2])
    }

    pub(super) fn numbers(self) -> [f64; 2] {
        register::numbers(self.0)
    }

    /// The smaller of each; the one of `self` unless the other is.
    pub(super) fn smaller(self, other: Self) -> Self {
        Self(register::smaller(self.0, other.0))
    }

    /// The larger of each; the one of `self` unless the other is.
    pub(super) fn larger(self, other: Self) -> Self {
        Self(register::larger(self.0, other.0))
    }
}

/// Pairs of a block: a loop of a guest asks at each turn whether its time is over, and that costs.
const BLOCK: usize = 8;

/// Gives `take` each pair of whole blocks with its number in the block, in order, and returns what is left, fewer
/// values than a block has.
#[inline(always)]
pub(super) fn in_blocks(values: &[f64], mut take: impl FnMut(usize, Pair)) -> &[f64] {
    let (blocks, rest) = values.as_chunks::<{ 2 * BLOCK }>();
    for block in blocks {
        for (n, pair) in block.as_chunks::<2>().0.iter().enumerate() {
            take(n, Pair::of(*pair));
        }
    }
    rest
}

impl Add for Pair {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(register::add(self.0, other.0))
    }
}

impl Sub for Pair {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(register::sub(self.0, other.0))
    }
}

impl Mul for Pair {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self(register::mul(self.0, other.0))
    }
}
