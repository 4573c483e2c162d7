// SPDX-License-Identifier: Apache-2.0
//! Many hosts under trouble: processes are killed, stopped, halted and cut off
//! from each other at moments drawn from a seed, one thing after the other, while
//! clients submit jobs. What must hold is what must hold of one host.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;

use crate::{
    chaos::{self, Address, Calm, Chaos, Clients, FUNCTIONS, Report},
    hosts::{Deployment, Plan, Release, TOKEN},
    network,
};

const GATEWAYS: usize = 2;
const WORKERS: usize = 3;
const SERVERS: usize = 3;
/// How long something stays wrong, in milliseconds: up to longer than every lease.
const WRONG_MS: std::ops::Range<u64> = 500..12_000;
/// Between two things that go wrong, in milliseconds.
const QUIET_MS: std::ops::Range<u64> = 500..3_000;
/// Until a server of NATS that was away has caught up.
const CAUGHT_UP: Duration = Duration::from_secs(5);
/// From the end of what is wrong until a gateway answers.
const CONVERGED_MAX: Duration = Duration::from_secs(60);

/// What happens to a host.
#[derive(Clone, Debug)]
enum Wrong {
    Killed(String),
    Stopped(String),
    Halted(String),
    /// What the first sends to the others gets lost.
    Cut(String, Vec<String>),
}

/// Runs it all and checks what came of it.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: Chaos) -> Result<Report> {
    let plan = Plan {
        nats: (Release::Current, SERVERS),
        gateways: GATEWAYS,
        workers: WORKERS,
        troubles: (chaos.troubles, chaos.seed),
    };
    let mut deployment = Deployment::start(plan).await?;
    for function in FUNCTIONS {
        deployment.deploy("gateway-1", function).await?;
    }
    chaos::put_tables(&deployment.alone).await?;
    let address = Address::default();
    turn_to(&address, &deployment, "gateway-1")?;
    let calm = Calm::measure(&address, &deployment.store()?).await?;
    deployment.proxy.troubled();
    let clients = Clients::start(&chaos, &calm, &address);
    let mut draw = ChaCha8Rng::seed_from_u64(chaos.seed);
    let mut ready = Duration::ZERO;
    for _ in 0..chaos.kills {
        tokio::time::sleep(Duration::from_millis(draw.random_range(QUIET_MS))).await;
        let wrong = Wrong::draw(&mut draw, &deployment)?;
        let span = Duration::from_millis(draw.random_range(WRONG_MS));
        println!("  {wrong:?} for {span:?}");
        ready = ready.max(wrong.happen(&mut deployment, &address, span).await?);
    }
    let history = clients.history().await?;
    deployment.proxy.calm();
    chaos::check(&deployment.store()?, &history, &calm, &address).await?;
    Ok(Report { jobs: history.len(), requests: deployment.proxy.counts(), ready })
}

impl Wrong {
    fn draw(draw: &mut ChaCha8Rng, deployment: &Deployment) -> Result<Self> {
        let all = deployment.names("");
        let host = all.choose(draw).context("expected hosts")?.clone();
        let users: Vec<String> = all.iter().filter(|name| !name.starts_with("nats")).cloned().collect();
        let user = users.choose(draw).context("expected hosts")?.clone();
        let servers = deployment.names("nats");
        let kinds = if network::is_own() { 6 } else { 3 };
        Ok(match draw.random_range(0..kinds) {
            0 => Self::Killed(host),
            1 => Self::Stopped(host),
            2 => Self::Halted(host),
            3 => Self::Cut(user, vec!["store".to_owned()]),
            4 => Self::Cut(user, servers),
            _ => Self::Cut(host, users),
        })
    }

    /// Lets it happen, and gives how long it took from its end until users were answered.
    async fn happen(
        &self,
        deployment: &mut Deployment,
        address: &Address,
        span: Duration,
    ) -> Result<Duration> {
        let (Self::Killed(host) | Self::Stopped(host) | Self::Halted(host) | Self::Cut(host, _)) = self;
        match self {
            Self::Killed(host) => deployment.kill(host)?,
            Self::Stopped(host) => {
                let code = deployment.stop(host).await?;
                // NATS tells of a signal in its own way.
                ensure!(
                    host.starts_with("nats") || code == Some(0),
                    "expected {host} to end with 0, found {code:?}"
                );
            }
            Self::Halted(host) => deployment.signal(host, Signal::STOP)?,
            Self::Cut(host, others) => {
                others
                    .iter()
                    .filter(|other| *other != host)
                    .try_for_each(|other| deployment.cut(host, other))?;
            }
        }
        if host == "gateway-1" {
            turn_to(address, deployment, "gateway-2")?;
        }
        tokio::time::sleep(span).await;
        match self {
            Self::Killed(host) | Self::Stopped(host) => deployment.launch(host)?,
            Self::Halted(host) => deployment.signal(host, Signal::CONT)?,
            Self::Cut(host, others) => {
                others
                    .iter()
                    .filter(|other| *other != host)
                    .try_for_each(|other| deployment.heal(host, other))?;
            }
        }
        let begun = Instant::now();
        deployment.ready(host).await?;
        turn_to(address, deployment, "gateway-1")?;
        while chaos::ask(address, reqwest::Method::GET, "/v1/jobs", None, None).await.is_err() {
            ensure!(begun.elapsed() < CONVERGED_MAX, "expected gateway-1 to answer after {self:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let converged = begun.elapsed();
        if host.starts_with("nats") {
            tokio::time::sleep(CAUGHT_UP).await;
        }
        Ok(converged)
    }
}

/// Has clients ask another gateway.
fn turn_to(address: &Address, deployment: &Deployment, gateway: &str) -> Result<()> {
    let found = (deployment.endpoint(gateway)?, TOKEN.to_owned());
    *address.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
    Ok(())
}
