// SPDX-License-Identifier: Apache-2.0
//! F14: every process of a deployment is replaced under load, one after the other,
//! and nobody who calls, submits or waits notices.

use std::time::Duration;

use fanfold_tests::{
    hosts::{Deployment, Plan, Release, is_over},
    proxy::Troubles,
    upgrade::{self, Load},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);

fn job(name: &str) -> Value {
    json!({"function": "column-stats", "input": "s3://bank/in/", "output": format!("s3://bank/{name}/"), "cache": false,
        "split": {"target_bytes": "2KiB"}})
}

#[tokio::test]
async fn every_process_is_replaced_under_load_and_nobody_notices() {
    let plan =
        Plan { nats: (Release::Debian, 1), gateways: 2, workers: 3, troubles: (Troubles::default(), 0) };
    let mut deployment = Deployment::start(plan).await.unwrap();
    let rows: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    deployment.alone.put("s3://bank/in/a.csv", format!("x\n{rows}")).await.unwrap();
    for function in ["hello", "column-stats"] {
        deployment.deploy("gateway-1", function).await.unwrap();
    }
    let first = deployment.submit("gateway-1", &job("first")).await.unwrap();
    let expected = deployment.job("gateway-1", &first, PATIENCE, is_over).await.unwrap()["result"].clone();
    let endpoints = ["gateway-1", "gateway-2"].map(|name| deployment.endpoint(name).unwrap());
    let load = Load::start(&endpoints);
    load.goes_on().await.unwrap();
    let (mut jobs, mut foreign) = (Vec::new(), Vec::new());
    for name in ["worker-1", "worker-2", "worker-3", "gateway-1", "gateway-2"] {
        // Whoever is asked goes next, so the other one is asked.
        let asked = if name == "gateway-2" { "gateway-1" } else { "gateway-2" };
        jobs.push(deployment.submit(asked, &job(name)).await.unwrap());
        if upgrade::replace(&mut deployment, &load, name).await.unwrap() {
            foreign.push(name);
        }
    }
    for id in jobs {
        let done = deployment.job("gateway-1", &id, PATIENCE, is_over).await.unwrap();
        assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), &expected), "{done}");
    }
    // They work again by now, and what was foreign to them was refused and made anew.
    assert!(!foreign.is_empty(), "expected workers that had compiled what is called");
    for worker in foreign {
        upgrade::rebuilt(&deployment, &load, worker).await.unwrap();
    }
    println!("{} calls were answered meanwhile", load.end().await.unwrap());
}
