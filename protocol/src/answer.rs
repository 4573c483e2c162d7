// SPDX-License-Identifier: Apache-2.0
//! The answer of an aggregate: JSON that stays as its function wrote it.
//!
//! It travels as text, within the records of commits and jobs, from the task to the
//! result and to whoever looks at the job. Invariant: no digit, and no order of
//! members, is another at the end than at the beginning; only the white space around
//! the whole is left out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// JSON as it was written, which stands in a document as the value that it is. It is read
/// and written by `serde_json` alone, and not below a `flatten`, `untagged` or `tag` of
/// serde, which take values apart before they know what these are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answer(Box<RawValue>);

impl Answer {
    /// The JSON.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The JSON as bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        Box::<str>::from(self.0).into_string().into_bytes()
    }
}

impl TryFrom<String> for Answer {
    type Error = serde_json::Error;

    /// Takes what others can read as JSON.
    fn try_from(text: String) -> Result<Self, serde_json::Error> {
        // Text that is only carried may hold what no reader takes: a number that no double is
        // near, half a letter of two escapes, lists nested without end.
        serde_json::from_str::<Value>(&text)?;
        RawValue::from_string(text).map(Self)
    }
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Answer {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What values of JSON would make something else of: the order of members, digits, integers
    /// beyond 64 bits, doubles to their last bit, one name twice.
    const ODD: &str = r#"{"b": 1.10, "a": 340282366920938463463374607431768211455, "b": [51.248178375505404,
        "\u00e4\/"]}"#;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Record {
        Inline(Answer),
    }

    #[test]
    fn a_text_comes_out_as_it_went_in() {
        let answer = Answer::try_from(ODD.to_owned()).unwrap();
        let record = serde_json::to_vec(&Record::Inline(answer)).unwrap();
        assert_eq!(record, format!("{{\"inline\":{ODD}}}").into_bytes());
        let Record::Inline(answer) = serde_json::from_slice(&record).unwrap();
        assert_eq!(answer.as_str(), ODD);
        assert_eq!(answer.into_bytes(), ODD.as_bytes());
    }

    #[test]
    fn white_space_around_it_is_none_of_it() {
        assert_eq!(Answer::try_from(" [1, 2]\r\n".to_owned()).unwrap().as_str(), "[1, 2]");
    }

    #[test]
    fn what_nobody_could_read_is_refused() {
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for text in ["", "{a}", "1 2", "1e400", r#""\ud800""#, &deep] {
            assert!(Answer::try_from(text.to_owned()).is_err(), "{}", &text[..text.len().min(20)]);
        }
    }
}
