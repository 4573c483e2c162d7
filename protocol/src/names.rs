// SPDX-License-Identifier: Apache-2.0
//! Identifiers that people choose, validated when they are made.
//!
//! A name that exists as a value of its type is allowed everywhere: in URLs,
//! object keys, subjects and labels, without escaping.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Problem};

/// The qualifier of the newest version.
const LATEST: &str = "latest";

/// The conversions by which serde takes a type for the text that it is parsed from and printed as.
macro_rules! as_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = crate::Problem;
            fn try_from(text: String) -> Result<Self, crate::Problem> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use as_text;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal $(, $also:path)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Problem;
            fn from_str(text: &str) -> Result<Self, Problem> {
                check($what, text, $max)?;
                $($also(text)?;)?
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Problem;
            fn try_from(text: String) -> Result<Self, Problem> {
                check($what, &text, $max)?;
                $($also(&text)?;)?
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a function within its tenant.
    FunctionName, "a function name", 63
}
name! {
    /// The name of an alias of a function, such as `prod`.
    AliasName, "an alias", 63, not_latest
}
name! {
    /// The name of a trigger within its tenant.
    TriggerName, "a trigger name", 63
}
name! {
    /// Who owns functions, jobs and data.
    TenantName, "a tenant name", 63
}

name! {
    /// The name of a worker among those of one deployment.
    WorkerName, "a worker name", 63
}

impl Default for TenantName {
    /// Whoever has a deployment for itself and was given no name.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

fn check(what: &str, text: &str, length_max: usize) -> Result<(), Problem> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first && rest && text.len() <= length_max && !text.ends_with('-') {
        return Ok(());
    }
    let found: String = text.chars().take(80).collect();
    Err(Problem::new(
        ErrorKind::InvalidName,
        format!(
            "{what} must be 1 to {length_max} lower-case letters, digits and '-', start with a letter \
             and not end with '-', found {found:?}"
        ),
    ))
}

/// What means something else as a [`Qualifier`] is no alias.
fn not_latest(text: &str) -> Result<(), Problem> {
    if text != LATEST {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::InvalidName,
        format!(
            "an alias must have a name of its own, found {text:?}, which always means the newest version"
        ),
    ))
}

/// Which version of a function is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Qualifier {
    /// The newest version.
    Latest,
    /// A version by its number, from 1.
    Version(u32),
    /// An alias.
    Alias(AliasName),
}

impl FromStr for Qualifier {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        match text {
            LATEST => Ok(Self::Latest),
            "" => Err(Problem::new(
                ErrorKind::InvalidName,
                "expected a version or alias after @, found none; leave out the @, or in a URL the \
                 qualifier, for the newest version",
            )),
            _ if text.bytes().all(|b| b.is_ascii_digit()) => match text.parse() {
                Ok(version) if version > 0 => Ok(Self::Version(version)),
                _ => Err(Problem::new(
                    ErrorKind::InvalidName,
                    format!("a version must be a number from 1 to {}, found {text:?}", u32::MAX),
                )),
            },
            _ => Ok(Self::Alias(text.parse()?)),
        }
    }
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str(LATEST),
            Self::Version(version) => write!(f, "{version}"),
            Self::Alias(alias) => write!(f, "{alias}"),
        }
    }
}

/// A function as callers name it: `name` or `name@qualifier`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionRef {
    /// The function.
    pub name: FunctionName,
    /// The version meant.
    pub qualifier: Qualifier,
}

impl FromStr for FunctionRef {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        match text.split_once('@') {
            Some((name, qualifier)) => Ok(Self { name: name.parse()?, qualifier: qualifier.parse()? }),
            None => Ok(Self { name: text.parse()?, qualifier: Qualifier::Latest }),
        }
    }
}

as_text!(FunctionRef);

impl fmt::Display for FunctionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.qualifier {
            Qualifier::Latest => write!(f, "{}", self.name),
            qualifier => write!(f, "{}@{qualifier}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "credit-score", "x9", &"a".repeat(63)] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "9a", "-a", "a-", "a_b", "a/b", "a.b", "ä", "..", &"a".repeat(64)] {
            let problem = bad.parse::<FunctionName>().unwrap_err();
            assert_eq!(problem.code, ErrorKind::InvalidName, "{bad}");
        }
    }

    #[test]
    fn latest_is_no_alias() {
        for bad in ["latest", "", "3"] {
            let problem = bad.parse::<AliasName>().unwrap_err();
            assert_eq!(problem.code, ErrorKind::InvalidName, "{bad}");
            assert!(serde_json::from_value::<AliasName>(bad.into()).is_err(), "{bad}");
        }
        assert!("prod".parse::<AliasName>().is_ok());
        assert!("latest".parse::<FunctionName>().is_ok());
    }

    #[test]
    fn references_name_a_qualifier() {
        let parse = |text: &str| text.parse::<FunctionRef>().map(|r| r.qualifier);
        assert_eq!(parse("f"), Ok(Qualifier::Latest));
        assert_eq!(parse("f@latest"), Ok(Qualifier::Latest));
        assert_eq!(parse("f@12"), Ok(Qualifier::Version(12)));
        assert_eq!(parse("f@prod"), Ok(Qualifier::Alias("prod".parse().unwrap())));
        let problem = parse("f@").unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidName);
        assert!(problem.detail.contains("expected a version or alias after @, found none"), "{problem:?}");
        assert!(parse("f@0").is_err());
        assert!(parse("f@99999999999").is_err());
        assert!(parse("f@Prod").is_err());
    }
}
