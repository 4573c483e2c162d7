// SPDX-License-Identifier: Apache-2.0
//! Bounds that every implementation keeps, and the check of a size.

use std::time::Duration;

use crate::error::{Error, Result};

/// Longest reason that a dead letter keeps, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 4 << 10;
/// Longest lease, wait, delay or time to live; beyond it, a duration is cut to this.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

pub(crate) fn check_size(what: &'static str, bytes_max: usize, bytes_found: usize) -> Result<()> {
    if bytes_found > bytes_max { Err(Error::TooLarge { what, bytes_max, bytes_found }) } else { Ok(()) }
}
