// SPDX-License-Identifier: Apache-2.0
//! Times as people and configurations write them.

use fanfold_protocol::time::Timestamp;

/// A time of RFC 3339 from 1970 on; where it names no offset, it is in UTC.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    let read = |text: &str| chrono::DateTime::parse_from_rfc3339(text).ok();
    let parsed = read(text).or_else(|| read(&format!("{text}Z")))?;
    u64::try_from(parsed.timestamp_millis()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_an_offset_or_in_utc() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(time(text), expected.map(Timestamp), "{text}");
        };
        let midnight = 1_795_305_600_000;
        check("2026-11-22T00:00:00Z", Some(midnight));
        check("2026-11-22T00:00:00.250Z", Some(midnight + 250));
        check("2026-11-22 00:00:00", Some(midnight));
        check("2026-11-22T05:00:00+05:00", Some(midnight));
        check("2026-11-21T20:30:00-03:30", Some(midnight));
        check("2026-11-22T05:00:00.250+05:00", Some(midnight + 250));
        check("2026-11-21T20:30:00.250-03:30", Some(midnight + 250));
        check("2026-11-22T00:00:00.250", Some(midnight + 250));
        for wrong in [
            "yesterday",
            "",
            "2026-11-22",
            "2026-13-22T00:00:00+05:00",
            "2026-11-22T00:00:00.5+99:00",
            "2026-11-22T00:00:00ZZ",
            "1970-01-01T00:00:00+05:00",
        ] {
            check(wrong, None);
        }
    }
}
