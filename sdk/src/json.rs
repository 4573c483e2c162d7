// SPDX-License-Identifier: Apache-2.0
//! Reading JSON so that a mistake can be found.
//!
//! Bodies and parameters come through here. Invariant: the text of a refusal
//! starts with the path of the member at fault, empty for the whole.

use serde::de::DeserializeOwned;

/// Reads `T` from JSON; on failure, `.path[0].to: what was wrong`.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "." => format!(": {}", error.inner()),
            path if path.starts_with('[') => format!("{path}: {}", error.inner()),
            path => format!(".{path}: {}", error.inner()),
        }
    })?;
    reader.end().map_err(|error| format!(": {error}"))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_read_to_their_last_bit() {
        for text in ["51.248178375505404", "-93.31137037688033", "52.314008204106244", "97.45365320034685"] {
            let exact: f64 = text.parse().unwrap();
            assert_eq!(read::<f64>(text.as_bytes()).map(f64::to_bits), Ok(exact.to_bits()), "{text}");
        }
    }
}
