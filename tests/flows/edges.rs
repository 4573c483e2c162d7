// SPDX-License-Identifier: Apache-2.0
//! Which crate may depend on which: the table of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Each crate and those of the workspace that it may link. Crates that only
/// tests link count as well, but for the harness, which may link all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("fanfold-protocol", &[]),
    ("fanfold-storage", &["fanfold-protocol"]),
    ("fanfold-backbone", &["fanfold-protocol"]),
    ("fanfold-runtime", &["fanfold-protocol", "fanfold-storage", "fanfold-backbone"]),
    ("fanfold-gateway", &["fanfold-protocol", "fanfold-storage", "fanfold-backbone"]),
    (
        "fanfold",
        &["fanfold-protocol", "fanfold-storage", "fanfold-backbone", "fanfold-runtime", "fanfold-gateway"],
    ),
    ("fanfold-sdk", &["fanfold-protocol", "fanfold-sdk-macros"]),
    ("fanfold-sdk-macros", &[]),
    ("xtask", &[]),
];

/// The harness may link all.
const HARNESS: &str = "fanfold-tests";

#[test]
fn crates_depend_only_downwards() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let members: BTreeSet<String> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for package in metadata.packages.iter().filter(|p| p.name.as_str() != HARNESS) {
        let Some(edges) = allowed.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the table", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let own =
                dependency.name == package.name.as_str() && dependency.kind == DependencyKind::Development;
            if members.contains(&dependency.name) && !edges.contains(dependency.name.as_str()) && !own {
                wrong.push(format!("{} must not depend on {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
    for (name, _) in ALLOWED {
        assert!(members.contains(*name), "the table names {name}, which is no crate of the workspace");
    }
}

/// What is written by function authors links what function authors have.
#[test]
fn functions_link_the_sdk_and_each_other_alone() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let members: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    assert!(members.contains("hello"), "{members:?}");
    let wrong: Vec<_> = metadata
        .packages
        .iter()
        .flat_map(|package| package.dependencies.iter().map(move |dependency| (package, dependency)))
        .filter(|(_, dependency)| dependency.path.is_some() && dependency.name != "fanfold-sdk")
        .filter(|(_, dependency)| !members.contains(dependency.name.as_str()))
        .map(|(package, dependency)| format!("{} must not depend on {}", package.name, dependency.name))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}

/// The names of all crates that a crate of the workspace links, its own among them.
fn linked(metadata: &Metadata, from: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let name = |id: &PackageId| metadata[id].name.to_string();
    let mut reached = BTreeSet::new();
    let mut next: Vec<_> = resolve.nodes.iter().filter(|n| name(&n.id) == from).map(|n| &n.id).collect();
    while let Some(id) = next.pop() {
        if reached.insert(id.clone()) {
            let node = resolve.nodes.iter().find(|n| n.id == *id).unwrap();
            let linked =
                node.deps.iter().filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
            next.extend(linked.map(|d| &d.pkg));
        }
    }
    assert!(reached.len() > 10, "the walk from {from} did not start");
    reached.iter().map(name).collect()
}

#[test]
fn what_crates_must_not_link_they_do_not() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).exec().unwrap();
    let check = |from: &str, kept_out: &[&str]| {
        let all = linked(&metadata, from);
        let found: Vec<_> =
            all.iter().filter(|name| kept_out.iter().any(|begin| name.starts_with(begin))).collect();
        assert!(found.is_empty(), "{from} links {found:?}");
    };
    check("fanfold-gateway", &["wasmtime", "cranelift"]);
    // Neither input nor output, and no runtime for them.
    check("fanfold-protocol", &["tokio", "mio", "hyper", "aws", "reqwest", "redb"]);
}
