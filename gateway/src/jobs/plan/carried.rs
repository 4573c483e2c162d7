// SPDX-License-Identifier: Apache-2.0
//! What every lease of a job carries of its document.
//!
//! Pure, and bounded before anything is planned: a lease is one message, and beside this
//! has room for the partitions of a group.

use fanfold_protocol::{ErrorKind, Problem, job::JobDocument, limits};
use serde::Serialize;

/// Checks what every lease carries of a document.
///
/// # Errors
/// `invalid-job`: it does not fit into a message beside partitions.
pub fn check_carried(document: &JobDocument) -> Result<(), Problem> {
    let params = document.params.as_ref().map(ToString::to_string).unwrap_or_default();
    let carried = json_bytes(&params) + json_bytes(&document.columns) + json_bytes(&document.filter);
    let detail = if params.len() > limits::JOB_PARAMS_BYTES_MAX {
        format!(
            "params must be at most {} bytes of JSON, since every lease carries them, found {}; put large values into \
             an object and pass its URI",
            limits::JOB_PARAMS_BYTES_MAX,
            params.len()
        )
    } else if carried > limits::JOB_CARRIED_BYTES_MAX {
        format!(
            "params, columns and filter must be at most {} bytes together in a lease, where each quote and backslash \
             of their JSON takes two, found {carried}; put large values into an object and pass its URI",
            limits::JOB_CARRIED_BYTES_MAX
        )
    } else {
        return Ok(());
    };
    Err(Problem::new(ErrorKind::InvalidJob, detail))
}

fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_lease_carries_has_a_bound() {
        let check = |params: &str, columns: usize, said: &str| {
            let columns: Vec<String> = (0..columns).map(|n| format!("{n:0>100}")).collect();
            let params = serde_json::json!({ "text": params });
            let document = serde_json::json!({
                "function": "f", "input": "s3://bank/a", "params": params, "columns": columns,
            });
            let found = check_carried(&serde_json::from_value(document).unwrap());
            let detail = found.err().map_or_else(String::new, |problem| problem.detail);
            assert!(detail.contains(said) && detail.is_empty() == said.is_empty(), "{detail:?}");
        };
        check(&"x".repeat(250_000), 1_000, "");
        check(&"x".repeat(600 << 10), 0, "params must be at most 262144 bytes of JSON");
        check(&"\u{1}".repeat(100 << 10), 0, "params must be at most 262144 bytes of JSON");
        // As JSON it has two bytes for each, in a lease four.
        check(&"\"".repeat(90_000), 0, "");
        check(&"\"".repeat(120_000), 0, "at most 393216 bytes together in a lease");
        check("x", 5_000, "at most 393216 bytes together in a lease");
    }
}
