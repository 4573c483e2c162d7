// SPDX-License-Identifier: Apache-2.0
//! Amounts as people read them, on terminals, pages and nowhere else.
//!
//! Pure. Not for documents that programs read: those have plain numbers with the
//! unit in their name.

use crate::time::Timestamp;

/// Bytes with a unit, three digits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    let digits = if amount < 9.995 {
        2
    } else if amount < 99.95 {
        1
    } else {
        0
    };
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// A number with its thousands set apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A length of time in the unit that suits it.
pub fn span_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => format!("{}m {:02}s", us / 60_000_000, us / 1_000_000 % 60),
    }
}

/// A length of time given in milliseconds.
pub fn span_ms(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { span_us(ms.saturating_mul(1_000)) }
}

/// A moment, to the second, in UTC.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {}", text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        let check = |amount, text: &str| assert_eq!(bytes(amount), text);
        check(0, "0 B");
        check(1_023, "1023 B");
        check(1_024, "1.00 KiB");
        check(10_240, "10.0 KiB");
        check(1_023 << 10, "1.00 MiB");
        check(3 << 40, "3.00 TiB");
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(span_us(950), "950 µs");
        assert_eq!(span_us(1_500), "1.5 ms");
        assert_eq!(span_ms(61_000), "1m 01s");
        assert_eq!((span_ms(0).as_str(), span_ms(999).as_str()), ("0 ms", "999 ms"));
        assert_eq!(moment(Timestamp(951_782_400_000)), "2000-02-29 00:00:00");
    }
}
