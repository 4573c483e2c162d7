// SPDX-License-Identifier: Apache-2.0
//! What a call costs more when its sandbox is on another host: the same request
//! through a gateway and a worker over HTTP/2, and through one process, in turns.

use std::time::Duration;

use anyhow::{Result, ensure};
use fanfold_tests::{
    hosts::{Deployment, Plan, Release, TOKEN},
    proxy::Troubles,
};

use crate::{
    Goal, Measurement,
    load::{self, Load},
};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Measures both at one connection and at sixteen.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let plan =
        Plan { nats: (Release::Debian, 1), gateways: 1, workers: 1, troubles: (Troubles::default(), 0) };
    let deployment = threads.block_on(Deployment::start(plan))?;
    deployment.alone.deploy("hello")?;
    threads.block_on(deployment.deploy("gateway-1", "hello"))?;
    let remote = target(&deployment.endpoint("gateway-1")?, TOKEN);
    let alone = target(&deployment.alone.endpoint, &deployment.alone.token);
    let run = |(address, request): &(String, String), connections: usize| -> Result<Load> {
        let load = threads.block_on(load::run(address, request, connections, ROUND))?;
        ensure!(load.failures == 0, "expected answers with status 200, found {} others", load.failures);
        Ok(load)
    };
    let p50 = |load: &Load| load.latency_us.value_at_quantile(0.5) as f64 / 1e3;
    let rate = |load: &Load| load.answers as f64 / load.elapsed.as_secs_f64();
    run(&remote, 16)?;
    run(&alone, 16)?;
    let (mut added, mut ratio) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        added.push(p50(&run(&remote, 1)?) - p50(&run(&alone, 1)?));
        ratio.push(rate(&run(&remote, 16)?) / rate(&run(&alone, 16)?));
    }
    Ok(vec![
        Measurement::of("remote_call_added_p50", "ms", added).goal(Goal::AtMost(1.0)),
        Measurement::of("remote_call_rate_over_local_16", "ratio", ratio).goal(Goal::AtLeast(0.6)),
    ])
}

/// Where to send, and what.
fn target(endpoint: &str, token: &str) -> (String, String) {
    let address = endpoint.trim_start_matches("http://").to_owned();
    let body = "\"world\"";
    let request = format!(
        "POST /v1/functions/hello/invoke HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         authorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    (address, request)
}
