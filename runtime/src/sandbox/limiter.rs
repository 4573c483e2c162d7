// SPDX-License-Identifier: Apache-2.0
//! What an invocation holds in memory, all memories and tables together.
//!
//! wasmtime asks before each creation and growth. Invariant: the sum never
//! passes the bound, however many memories and tables share it, and the process's
//! budget knows of it.

use fanfold_protocol::limits;
use wasmtime::ResourceLimiter;

use crate::memory::Reservation;

/// Bytes of a table's element in the host.
const ELEMENT_BYTES: u64 = 8;

/// Sums up memories and tables of one invocation.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_max: u64,
    bytes: u64,
    elements: u64,
    peak_bytes: u64,
    /// Most that the host held for it besides.
    beside_bytes_peak: u64,
    /// The largest sum that was asked for and refused.
    refused_bytes: Option<u64>,
    /// The largest number of table elements that was asked for and refused.
    refused_elements: Option<u64>,
    /// What the process keeps for it.
    reservation: Reservation,
}

impl Limiter {
    /// Nothing held yet, `bytes_max` allowed.
    pub(crate) fn new(bytes_max: u64, reservation: Reservation) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            elements: 0,
            peak_bytes: 0,
            beside_bytes_peak: 0,
            refused_bytes: None,
            refused_elements: None,
            reservation,
        }
    }

    /// The bound.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Most held at one time.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// The largest sum of bytes that was refused.
    pub(crate) fn refused_bytes(&self) -> Option<u64> {
        self.refused_bytes
    }

    /// The largest number of table elements that was refused.
    pub(crate) fn refused_elements(&self) -> Option<u64> {
        self.refused_elements
    }

    fn take(&mut self, more: u64) -> bool {
        let wanted = self.bytes.saturating_add(more);
        if wanted > self.bytes_max {
            self.refused_bytes = self.refused_bytes.max(Some(wanted));
            return false;
        }
        self.bytes = wanted;
        self.peak_bytes = self.peak_bytes.max(wanted);
        self.cover();
        true
    }

    /// Counts what the host holds for the guest. Its own bound does not know of it, and the process's
    /// budget does.
    pub(crate) fn beside(&mut self, bytes: u64) {
        self.beside_bytes_peak = self.beside_bytes_peak.max(bytes);
        self.cover();
    }

    fn cover(&mut self) {
        self.reservation.cover(self.peak_bytes + self.beside_bytes_peak);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond the memory's own maximum it fails anyway and is not held.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.take(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let elements = self.elements.saturating_add(more);
        // The pool's own bound shows as the table's maximum, so ours comes first.
        if elements > limits::TABLE_ELEMENTS_MAX as u64 {
            self.refused_elements = self.refused_elements.max(Some(elements));
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let taken = self.take(more.saturating_mul(ELEMENT_BYTES));
        if taken {
            self.elements = elements;
        }
        Ok(taken)
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        limits::TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Budget, Use};

    fn within(budget: &Arc<Budget>, bytes_max: u64) -> Limiter {
        Limiter::new(bytes_max, budget.try_take(Use::Call, &Arc::default(), 0).unwrap())
    }

    fn bounded(bytes_max: u64) -> Limiter {
        within(&Arc::new(Budget::new(1 << 30)), bytes_max)
    }

    #[test]
    fn what_is_held_is_told_to_the_budget() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut limiter = within(&budget, 4 << 20);
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        // Beyond the budget, and within its own bound.
        assert!(limiter.memory_growing(1 << 20, 3 << 20, None).unwrap());
        assert!(!limiter.memory_growing(3 << 20, 5 << 20, None).unwrap());
        assert_eq!(budget.memory().reserved_bytes, 3 << 20);
        drop(limiter);
        assert_eq!(budget.memory().reserved_bytes, 0);
    }

    #[test]
    fn what_the_host_holds_is_told_too_and_bounds_no_guest() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut limiter = within(&budget, 2 << 20);
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        limiter.beside(8 << 20);
        limiter.beside(3 << 20);
        assert_eq!(budget.memory().reserved_bytes, 9 << 20);
        assert!(limiter.memory_growing(1 << 20, 2 << 20, None).unwrap());
        assert_eq!((budget.memory().reserved_bytes, limiter.peak_bytes()), (10 << 20, 2 << 20));
        drop(limiter);
        assert_eq!(budget.memory().reserved_bytes, 0);
    }

    #[test]
    fn memories_share_one_bound() {
        let mut limiter = bounded(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        assert!(!limiter.memory_growing(100, 101, None).unwrap());
        assert_eq!((limiter.peak_bytes(), limiter.refused_bytes()), (100, Some(120)));
    }

    #[test]
    fn tables_count_as_memory_and_by_elements() {
        let mut limiter = bounded(1 << 20);
        assert!(limiter.table_growing(0, 10_000, None).unwrap());
        assert_eq!(limiter.peak_bytes(), 80_000);
        assert!(!limiter.table_growing(0, 10_001, None).unwrap());
        assert_eq!(limiter.refused_elements(), Some(20_001));
        assert!(!bounded(79).table_growing(0, 10, None).unwrap());
    }

    #[test]
    fn a_memory_of_its_own_maximum_is_not_charged() {
        let mut limiter = bounded(100);
        assert!(!limiter.memory_growing(0, 60, Some(50)).unwrap());
        assert_eq!((limiter.peak_bytes(), limiter.refused_bytes()), (0, None));
    }
}
