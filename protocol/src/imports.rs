// SPDX-License-Identifier: Apache-2.0
//! What a component may import: the one list for build, deployment and sandbox.
//!
//! The sandbox's linker provides exactly this; the check of a component's bytes
//! refuses everything else, so that what builds can be prepared. Versions are
//! for those two to compare: the list knows none.

/// Interfaces that are offered, by package.
const OFFERED: &[(&str, &[&str])] = &[
    ("fanfold:function", &["types", "context", "tables", "objects"]),
    ("wasi:io", &["error", "poll", "streams"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:filesystem", &["types", "preopens"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:sockets",
        &[
            "network",
            "instance-network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
            "ip-name-lookup",
        ],
    ),
];

/// Whether a component may import this interface of this package.
pub fn is_offered(package: &str, interface: &str) -> bool {
    OFFERED.iter().any(|(offered, interfaces)| *offered == package && interfaces.contains(&interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_offered() {
        assert!(is_offered("wasi:cli", "stdout") && is_offered("fanfold:function", "context"));
        assert!(is_offered("wasi:sockets", "tcp") && is_offered("wasi:sockets", "ip-name-lookup"));
        for (package, interface) in
            [("wasi:cli", "run"), ("wasi:http", "types"), ("fanfold:function", "handler"), ("wasi:io", "")]
        {
            assert!(!is_offered(package, interface), "{package}/{interface}");
        }
    }
}
