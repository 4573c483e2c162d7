// SPDX-License-Identifier: Apache-2.0
//! Triggers.

pub mod envelope;
