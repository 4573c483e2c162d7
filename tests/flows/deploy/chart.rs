// SPDX-License-Identifier: Apache-2.0
//! The chart: what helm makes of it is held against the programs, and the guide's
//! commands against what it wants.

use super::*;

/// What helm makes of the chart: whether it is sound, and what is said of it.
pub(super) fn helm(arguments: &[&str]) -> (bool, String, String) {
    let chart = root().join("deploy/helm/fanfold");
    let output = Command::new(test_environment("helm")).args(arguments).arg(chart).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn each_pod_has_a_way_to_nats_of_its_own() {
    let (sound, text, said) = helm(&["template", "release"]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    let ways = ["Deployment", "StatefulSet"].map(|kind| {
        let pod = &documents.iter().find(|one| one["kind"] == kind).unwrap()["spec"]["template"]["spec"];
        let nats = |list: &Value| list.as_array().unwrap().iter().find(|one| one["name"] == "nats").cloned();
        let secret = nats(&pod["volumes"]).unwrap()["secret"]["secretName"].clone();
        (secret, nats(&pod["containers"][0]["volumeMounts"]).unwrap()["subPathExpr"].clone())
    });
    let [(of_gateways, _), (of_workers, password)] = ways;
    assert_ne!(of_gateways, of_workers);
    // A pod's name is its worker's, and so the user's.
    assert_eq!(password, "$(POD_NAME).password");
    assert_eq!(text.matches("restricted = true").count(), 1);
    let (sound, text, said) = helm(&["template", "release", "--set", "nats.users=false"]);
    assert!(sound, "{said}");
    assert_eq!(text.matches("credentials = \"/etc/fanfold/nats/nats.creds\"").count(), 2);
    assert!(!text.contains("restricted"));
    let none = "secrets.gatewayNats=,secrets.workerNats=";
    let (sound, text, said) = helm(&["template", "release", "--set", none]);
    assert!(sound && !text.contains("/etc/fanfold/nats"), "{said}");
}

#[test]
fn the_autoscaler_counts_what_all_gateways_say_once() {
    let rule = &yaml(ADAPTER)[0]["rules"]["external"][0];
    let series = rule["seriesQuery"].as_str().unwrap();
    assert_eq!(unknown(series, &documented()), Vec::<String>::new());
    assert!(rule["metricsQuery"].as_str().unwrap().starts_with("max by (tenant, queue, state) "));
    let (sound, text, said) = helm(&["template", "release", "--set", "worker.autoscaling.enabled=true"]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    let scaler = documents.iter().find(|one| one["kind"] == "HorizontalPodAutoscaler").unwrap();
    let metric = &scaler["spec"]["metrics"][0]["external"]["metric"];
    assert_eq!(metric["name"], series);
    assert!(metric["selector"]["matchLabels"]["release"].is_null(), "nobody writes that label: {metric}");

    // Two releases of a namespace have a queue each.
    let both = "worker.autoscaling.enabled=true,monitoring.enabled=true";
    let (sound, text, said) = helm(&["template", "release", "--set", both]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    let of_workers = |one: &&Value| {
        one["kind"] == "HorizontalPodAutoscaler" && one["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"
    };
    let scaler = documents.iter().find(of_workers).unwrap();
    let metric = &scaler["spec"]["metrics"][0]["external"]["metric"];
    assert_eq!(metric["selector"]["matchLabels"]["release"], "release");
    for monitor in documents.iter().filter(|one| one["kind"] == "PodMonitor") {
        let labels = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"].as_array().unwrap();
        let label = labels.iter().find(|label| label["targetLabel"] == "release").unwrap();
        assert_eq!(label["replacement"], "release");
    }
}

#[test]
fn the_chart_renders_to_what_the_programs_take() {
    let (sound, said, _) = helm(&["lint", "--strict"]);
    assert!(sound, "{said}");
    let all = "gateway.autoscaling.enabled=true,worker.autoscaling.enabled=true,monitoring.enabled=true";
    let (sound, text, said) = helm(&["template", "release", "--namespace", "space", "--set", all]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    let of = |kind: &str| documents.iter().filter(|one| one["kind"] == kind).collect::<Vec<_>>();
    for (kind, count) in [
        ("Deployment", 1),
        ("StatefulSet", 1),
        ("Service", 2),
        ("ConfigMap", 2),
        ("PodDisruptionBudget", 2),
        ("HorizontalPodAutoscaler", 2),
        ("NetworkPolicy", 2),
        ("ServiceAccount", 1),
        ("PodMonitor", 2),
    ] {
        assert_eq!(of(kind).len(), count, "{kind}");
    }
    for workload in of("Deployment").into_iter().chain(of("StatefulSet")) {
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let probes = [&container["livenessProbe"], &container["readinessProbe"]]
            .map(|probe| &probe["httpGet"]["path"]);
        // Gateways stay in their Service while what they share is away.
        let ready = if workload["kind"] == "Deployment" { "/readyz?serving=true" } else { "/readyz" };
        assert_eq!(probes, [&Value::from("/healthz"), &Value::from(ready)]);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(
            workload["spec"]["selector"]["matchLabels"],
            workload["spec"]["template"]["metadata"]["labels"]
        );
        let volumes: BTreeSet<_> =
            pod["volumes"].as_array().unwrap().iter().map(|one| one["name"].as_str()).collect();
        let mounts: BTreeSet<_> =
            container["volumeMounts"].as_array().unwrap().iter().map(|one| one["name"].as_str()).collect();
        assert_eq!(volumes, mounts);
    }
    files_are_taken(&documents);
    let worker = of("StatefulSet")[0];
    assert_eq!(worker["spec"]["serviceName"], "release-worker");
    assert!(text.contains("advertise = \"{name}.release-worker.space.svc:7080\""));
    let (sound, _, said) = helm(&["template", "release", "--set", "nats.replicas=2"]);
    assert!(!sound && said.contains("nats.replicas"), "{said}");
}

/// Who balances goes on sending to a pod for moments after it is told to stop.
#[test]
fn a_gateway_serves_on_until_services_know_that_it_goes() {
    let (sound, text, said) = helm(&["template", "release"]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    let pod = |kind: &str| {
        documents.iter().find(|one| one["kind"] == kind).unwrap()["spec"]["template"]["spec"].clone()
    };
    let gateway = pod("Deployment");
    let waits = gateway["containers"][0]["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    assert_eq!(waits[0], "sleep");
    let seconds: u64 = waits[1].as_str().unwrap().parse().unwrap();
    let grace = gateway["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(seconds >= 5 && seconds + DRAIN_TIMEOUT.as_secs() < grace, "{waits:?} of {grace}");
    // A worker tells the gateways itself.
    assert!(pod("StatefulSet")["containers"][0]["lifecycle"].is_null());
}

/// A release may have 53 letters, and what is made of it no more than 63 with a revision of a StatefulSet behind.
#[test]
fn long_names_of_releases_keep_them_apart() {
    // These differ behind what is kept of them, or in how much that is; two would end with a hyphen.
    let long = [("r", 53), ("s", 53), ("r", 44)].map(|(last, letters)| "r".repeat(letters - 1) + last);
    let hyphen = ["a", "b"].map(|last| format!("{}-{}{last}", "r".repeat(33), "r".repeat(12)));
    let (short, mut all) = ("r".repeat(43), BTreeSet::new());
    for release in long.iter().chain(&hyphen).chain([&short]) {
        let (sound, text, said) = helm(&["template", release]);
        assert!(sound, "{said}");
        let documents = yaml(&text);
        let named = |kind: &str, part: &str| {
            let names = documents.iter().filter(|one| one["kind"] == kind);
            let names = names.filter_map(|one| one["metadata"]["name"].as_str());
            let found: Vec<_> = names.filter(|name| name.ends_with(part)).collect();
            let [name] = found[..] else { panic!("{release}: {kind} {found:?}") };
            name.trim_end_matches(part).to_owned()
        };
        let begins = named("Service", "-worker");
        for (kind, part) in [("Service", "-gateway"), ("StatefulSet", "-worker"), ("Deployment", "-gateway")]
        {
            assert_eq!(named(kind, part), begins, "{release}: {kind}");
        }
        assert!(begins.len() <= 43 && !begins.contains("--") && begins.starts_with("rrr"), "{begins}");
        assert!(text.contains(&format!("{{name}}.{begins}-worker.")), "{begins}");
        assert!(release.len() > 43 || begins == *release, "{begins}");
        all.insert(begins);
    }
    assert_eq!(all.len(), long.len() + hyphen.len() + 1, "{all:?}");
}

/// Has the programs check the files that a rendered chart gives them.
fn files_are_taken(documents: &[Value]) {
    let maps: Vec<_> = documents.iter().filter(|one| one["kind"] == "ConfigMap").collect();
    assert_eq!(maps.len(), 2);
    for map in maps {
        for (name, text) in map["data"].as_object().unwrap() {
            let scratch = tempfile::tempdir().unwrap();
            is_taken(name.trim_end_matches(".toml"), text.as_str().unwrap(), scratch.path());
        }
    }
}

#[test]
fn the_chart_serves_several_tenants_and_has_a_place_for_every_key() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("values.yaml");
    let values = r#"
gateway:
  tenants:
    - { name: bank, weight: 2, buckets: [bank, "bank-*"], sources: { private_endpoints: true } }
    - { name: shop, buckets: [shop-data], tenant_concurrency: 20 }
  config: |
    [limits]
    drain = "30s"
worker: { config: memory = "1GiB" }
store: { extra: path_style = false }
nats:
  extra: |
    prefix = "ours"
    shards = 8
    shard_bytes = "2GiB"
    ca = "/etc/fanfold/store/nats-ca.pem"
monitoring: { enabled: true }
"#;
    std::fs::write(&path, values).unwrap();
    let (sound, text, said) = helm(&["template", "release", "--values", path.to_str().unwrap()]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    files_are_taken(&documents);
    let map = |name: &str| documents.iter().find_map(|one| one["data"][name].as_str()).unwrap();
    let gateway: toml::Table = toml::from_str(map("gateway.toml")).unwrap();
    let worker: toml::Table = toml::from_str(map("worker.toml")).unwrap();
    assert!(!gateway.contains_key("tenant") && !gateway.contains_key("token_digests"), "{gateway:?}");
    let tenants = gateway["tenants"].as_array().unwrap();
    assert_eq!(tenants[0]["token_digests"].as_str(), Some("/etc/fanfold/tokens/bank"));
    assert_eq!(tenants[0]["sources"]["private_endpoints"].as_bool(), Some(true));
    assert_eq!(tenants[1]["tenant_concurrency"].as_integer(), Some(20));
    for file in [&gateway, &worker] {
        assert_eq!(file["nats"]["prefix"].as_str(), Some("ours"), "{file:?}");
        assert_eq!(file["nats"]["shards"].as_integer(), Some(8), "{file:?}");
        assert_eq!(file["store"]["path_style"].as_bool(), Some(false), "{file:?}");
    }
    // Each tenant's token sees its metrics alone.
    let monitors = documents.iter().filter(|one| one["kind"] == "PodMonitor");
    let endpoints = monitors.flat_map(|one| one["spec"]["podMetricsEndpoints"].as_array().unwrap());
    let keys: Vec<_> =
        endpoints.filter_map(|one| one["authorization"]["credentials"]["key"].as_str()).collect();
    assert_eq!(keys, ["bank", "shop"]);

    let (sound, text, said) = helm(&["template", "release", "--set", "gateway.tenant=bank"]);
    assert!(sound && text.contains("tenant = \"bank\""), "{said}");
    let own = "gateway.tenants[0].name=bank,gateway.tenants[0].token_digests=x";
    let (sound, _, said) = helm(&["template", "release", "--set", own]);
    assert!(!sound && said.contains("gateway.tenants"), "{said}");
}

#[test]
fn the_guide_makes_the_secrets_that_the_chart_wants() {
    let guide = GUIDE.replace("\\\n", "");
    let commands = guide.lines().filter_map(|line| line.strip_prefix("kubectl create secret generic "));
    let made: BTreeMap<&str, BTreeSet<&str>> = commands
        .map(|command| {
            let mut words = command.split_whitespace();
            let name = words.next().unwrap();
            // `KEY=FILE`, or a file whose name is the key.
            let files = words.filter_map(|word| word.strip_prefix("--from-file="));
            let keys = files.map(|file| file.split_once('=').map_or(file, |(key, _)| key));
            (name, keys.map(|key| key.rsplit('/').next().unwrap_or(key)).collect())
        })
        .collect();
    let (sound, text, said) = helm(&["template", "release"]);
    assert!(sound, "{said}");
    let documents = yaml(&text);
    for (kind, file) in [("Deployment", "gateway.toml"), ("StatefulSet", "worker.toml")] {
        let workload = documents.iter().find(|one| one["kind"] == kind).unwrap();
        let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let secrets: BTreeMap<&str, &str> = volumes
            .iter()
            .filter_map(|one| Some((one["name"].as_str()?, one["secret"]["secretName"].as_str()?)))
            .collect();
        assert!(secrets.len() > 2, "{kind}: {volumes:?}");
        for secret in secrets.values() {
            assert!(made.contains_key(secret), "docs/guide-operations.md does not make {secret}");
        }
        let config = documents.iter().find_map(|one| one["data"][file].as_str()).unwrap();
        // Of the workers' passwords each has its own, whose key is the pod's name.
        for path in files(config).into_iter().filter(|path| !path.ends_with("/nats/password")) {
            let (volume, key) = path.strip_prefix("/etc/fanfold/").unwrap().split_once('/').unwrap();
            let secret = secrets[volume];
            assert!(made[secret].contains(key), "docs/guide-operations.md makes {secret} without {key}");
        }
    }
}
