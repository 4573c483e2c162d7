// SPDX-License-Identifier: Apache-2.0
//! What becomes of a job that has nothing left to run.
//!
//! Its ending, which was decided by [`super::ending`], is carried out and written down; what was
//! staged in vain is swept, and what is old is forgotten. Reads the [`super::progress`] that it is
//! given, and gives to [`super::reuse`] what is worth keeping.

pub(super) mod expiry;
pub(super) mod finish;
pub(super) mod letters;
pub(super) mod sweep;
