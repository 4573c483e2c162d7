// SPDX-License-Identifier: Apache-2.0
//! The edge between Fanfold and decoders that may panic on hostile bytes.
//!
//! A panic inside [`guard`] becomes the given problem; what the closure was
//! working on must not be used again, which every caller ensures by ending.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fanfold_protocol::{ErrorKind, Problem};

/// Runs `work`; a panic becomes a problem of `kind`, in the words of `place`.
pub(super) fn guard<T>(
    kind: ErrorKind,
    place: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<T, Problem>,
) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no more is known");
        let said: String = said.chars().take(200).collect();
        let place = place();
        let detail = format!(
            "{place}: expected sound data, found some at which the decoder gave up: {said}; write it again from its \
             source"
        );
        Err(Problem::new(kind, detail))
    })
}

/// Text from outside, made fit for one line of a message.
pub(super) fn quote(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_problem() {
        let problem =
            guard::<()>(ErrorKind::ArrowCorrupt, || "here".into(), || panic!("no {}", 1)).unwrap_err();
        assert_eq!(
            problem.detail,
            "here: expected sound data, found some at which the decoder gave up: no 1; write it again from its source"
        );
    }
}
