// SPDX-License-Identifier: Apache-2.0
//! How far a job is and what may be begun next, in memory alone.
//!
//! The state machine and all that decides beside it: which commits are taken in, which
//! rounds wait, which leases are stragglers, how long it will take yet. Invariant: no
//! I/O and no clock in here, so that `simulation` can run the very code in virtual time.
//! It knows the plan as the protocol has it, and no other folder; [`super::coordinate`] feeds it.

mod bits;
mod eta;
mod machine;
pub(super) mod outcomes;
mod overtaken;
pub(super) mod policy;
#[cfg(test)]
mod simulation;
pub(super) mod slots;
pub(super) mod stragglers;

pub(super) use self::machine::Progress;
