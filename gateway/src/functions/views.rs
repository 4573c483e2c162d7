// SPDX-License-Identifier: Apache-2.0
//! Functions as the API shows them: the shapes of the answers.
//!
//! Made from the vocabulary of `fanfold_protocol`; nothing else here.

use std::collections::BTreeMap;

use fanfold_protocol::{
    by_name,
    function::{AliasTarget, Canary, FunctionRecord, Version},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One version of a function.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// The function.
    #[schema(example = "credit-score")]
    pub name: String,
    /// From 1, without gaps.
    #[schema(example = 3)]
    pub version: u32,
    /// SHA-256 of the component.
    #[schema(example = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")]
    pub digest: String,
    /// Of the component.
    pub size_bytes: u64,
    /// What the component exports: `handler`, `mapper`, `aggregator`, `grouper`.
    pub exports: Vec<&'static str>,
    /// Settings, every value filled in.
    #[schema(value_type = Object)]
    pub settings: Value,
    /// What mapper, aggregator and grouper say of the columns they read and write.
    #[schema(value_type = Object)]
    pub describes: Value,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// The same in RFC 3339.
    pub created: String,
}

impl From<&Version> for VersionView {
    fn from(version: &Version) -> Self {
        Self {
            name: version.name.to_string(),
            version: version.version,
            digest: version.digest.to_string(),
            size_bytes: version.size_bytes,
            exports: version.exports.iter().map(|export| export.as_str()).collect(),
            settings: serde_json::to_value(&version.settings).unwrap_or_default(),
            describes: serde_json::to_value(&version.describes).unwrap_or_default(),
            created_at: version.created_at.0,
            created: version.created_at.to_string(),
        }
    }
}

/// Where an alias points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasView {
    /// The version that gets what the canary does not.
    #[schema(example = 3)]
    pub version: u32,
    /// A second version, tried on a part of the calls.
    #[serde(default, deserialize_with = "by_name::optional", skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryView>,
}

/// A second version behind an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryView {
    /// The version.
    #[schema(example = 4)]
    pub version: u32,
    /// Its share of the calls, in hundredths.
    #[schema(example = 10, minimum = 1, maximum = 99)]
    #[serde(deserialize_with = "percent")]
    pub percent: u8,
}

/// What is no share at all is refused here, what none can be by the registry.
fn percent<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<u8, D::Error> {
    let found = u64::deserialize(reader)?;
    u8::try_from(found).map_err(|_| {
        let found = serde::de::Unexpected::Unsigned(found);
        serde::de::Error::invalid_value(found, &"1 to 99 percent of the calls")
    })
}

impl From<&AliasTarget> for AliasView {
    fn from(target: &AliasTarget) -> Self {
        let canary = target.canary.as_ref();
        Self {
            version: target.version,
            canary: canary.map(|canary| CanaryView { version: canary.version, percent: canary.percent }),
        }
    }
}

impl From<AliasView> for AliasTarget {
    fn from(view: AliasView) -> Self {
        Self::new(view.version, view.canary.map(|canary| Canary::new(canary.version, canary.percent)))
    }
}

/// A function in a list: its newest version, and its aliases.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionView {
    /// The function.
    pub name: String,
    /// The newest version.
    pub latest: u32,
    /// What the newest version exports.
    pub exports: Vec<&'static str>,
    /// Its component.
    pub digest: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// What a person should know of the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When the newest version was deployed: milliseconds since 1970.
    pub updated_at: u64,
    /// Every alias.
    pub aliases: BTreeMap<String, AliasView>,
}

impl FunctionView {
    /// The view of a function whose newest version this is.
    pub fn new(record: &FunctionRecord, newest: &Version) -> Self {
        Self {
            name: record.name.to_string(),
            latest: record.latest,
            exports: newest.exports.iter().map(|export| export.as_str()).collect(),
            digest: newest.digest.to_string(),
            size_bytes: newest.size_bytes,
            description: newest.settings.description.clone(),
            updated_at: newest.created_at.0,
            aliases: aliases(record),
        }
    }
}

/// A page of functions.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionList {
    /// By name.
    pub functions: Vec<FunctionView>,
    /// For `page`, to get the next ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A function with all its versions.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionDetail {
    /// The function.
    #[serde(flatten)]
    pub function: FunctionView,
    /// The newest versions, newest first.
    pub versions: Vec<VersionView>,
}

fn aliases(record: &FunctionRecord) -> BTreeMap<String, AliasView> {
    record.aliases.iter().map(|(name, target)| (name.to_string(), target.into())).collect()
}
