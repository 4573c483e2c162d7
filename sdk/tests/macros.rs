// SPDX-License-Identifier: Apache-2.0
//! What the macros accept, and what they say when they do not.
//!
//! It owns the pairs of a mistake and its message under `fail/`; what they accept
//! is under `pass/`. Invariant: each message says what to write.

#[test]
fn mistakes_are_told_where_they_are() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/fail/*.rs");
}
