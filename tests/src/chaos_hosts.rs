// SPDX-License-Identifier: Apache-2.0
//! Many hosts under trouble: processes are killed, stopped, halted and cut off
//! from each other, NATS loses all it has, leases are delivered again and again,
//! clients come in crowds, clocks move, every process is replaced, at moments drawn from
//! a seed, one thing after the other, while clients submit jobs and call asynchronously.
//! What must hold is what must hold of one host.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fanfold_backbone::{Backbone, Message};
use fanfold_protocol::keys;
use rand::{
    RngExt, SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    chaos::{self, Address, Calm, Chaos, Clients, FUNCTIONS, Report},
    hosts::{Deployment, Plan, Release, TOKEN},
    network,
    promises::Caller,
    upgrade::{self, Load},
};

const GATEWAYS: usize = 2;
const WORKERS: usize = 3;
const SERVERS: usize = 3;
/// How long something stays wrong, in milliseconds: up to longer than a host counts as there
/// without a word.
const WRONG_MS: Range<u64> = 500..12_000;
/// The same of a gateway or a worker that halts: up to longer than every lease, so that others
/// have done its work when it wakes.
const HALTED_MS: Range<u64> = 500..40_000;
/// Between two things that go wrong, in milliseconds.
const QUIET_MS: Range<u64> = 500..3_000;
/// Until a server of NATS that was away has caught up.
const CAUGHT_UP: Duration = Duration::from_secs(5);
/// From the end of what is wrong until a gateway answers.
const CONVERGED_MAX: Duration = Duration::from_secs(60);
/// For how long no call fails before an upgrade: longer than a worker is silent before it is
/// known to be gone.
const CALM: Duration = Duration::from_secs(6);

/// Calls at once when there are ten times too many.
const CROWD: usize = 400;

/// How many kinds of what goes wrong can happen anywhere, where hosts have networks of
/// their own, and where the kernel can delay what they send.
const KINDS: [u32; 3] = [8, 12, 13];

/// What goes wrong: with a host, or with all of them.
#[derive(Clone, Debug)]
enum Wrong {
    Killed(String),
    Stopped(String),
    Halted(String),
    /// What the first sends to the others gets lost.
    Cut(String, Vec<String>),
    /// One in a hundred of the packets that it is sent gets lost.
    Lossy(String),
    /// What it sends arrives late.
    Far(String),
    /// All servers of NATS lose all that they have, and everything starts anew.
    Forgotten,
    /// Leases and calls are delivered up to five times, in another order.
    Repeated(u64),
    /// More calls than there are places.
    Crowded,
    /// The wall clock is so far from ours from now on.
    Moved(String, &'static str),
    /// Gateways and workers are replaced, in this order.
    Upgraded(Vec<String>),
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
    for host in users(&deployment.names("")) {
        deployment.give_clock(&host).await?;
    }
    for function in FUNCTIONS.into_iter().chain(["hello"]) {
        deployment.deploy("gateway-1", function).await?;
    }
    chaos::put_tables(&deployment.alone).await?;
    let address = Address::default();
    turn_to(&address, &deployment, "gateway-1")?;
    let calm = Calm::measure(&address, &deployment.store()?).await?;
    deployment.proxy.troubled();
    let clients = Clients::start(&chaos, &calm, &address);
    let mut caller = Caller::start(&address, &chaos.seed.to_string());
    let (mut draw, kinds) = (ChaCha8Rng::seed_from_u64(chaos.seed), kinds());
    let (mut ready, mut forgotten) = (Duration::ZERO, false);
    for _ in 0..chaos.kills {
        tokio::time::sleep(Duration::from_millis(draw.random_range(QUIET_MS))).await;
        let mut wrong = Wrong::draw(&mut draw, &deployment.names(""), kinds)?;
        let span = Duration::from_millis(draw.random_range(wrong.lasts_ms()));
        if matches!(wrong, Wrong::Forgotten) && !clients.are_done() {
            // With the backbone goes what idempotency keys meant, so nobody may be asking.
            wrong = Wrong::Crowded;
        }
        let is_forgotten = matches!(wrong, Wrong::Forgotten);
        forgotten |= is_forgotten;
        println!("  {wrong:?} for {span:?}");
        if is_forgotten {
            // Calls that have not ended are nowhere else.
            caller.rest().await?;
        }
        ready = ready.max(wrong.happen(&mut deployment, &address, span).await?);
        if is_forgotten {
            caller.go_on();
        }
    }
    let history = clients.history().await?;
    deployment.proxy.calm();
    let calls = caller.check(&deployment.store()?, !forgotten).await?;
    println!("  {calls} asynchronous calls have come to an end each");
    chaos::check(&deployment.store()?, &history, &calm, &address, !forgotten).await?;
    Ok(Report { jobs: history.len(), requests: deployment.proxy.counts(), ready })
}

/// How many of the [`KINDS`] can happen here.
fn kinds() -> u32 {
    let [anywhere, with_networks, with_delays] = KINDS;
    if !network::is_own() {
        return anywhere;
    }
    if network::can_delay() {
        return with_delays;
    }
    println!("delays are left out: this kernel has no netem");
    with_networks
}

impl Wrong {
    /// What goes wrong next with some of `all` hosts, of the first `kinds`.
    fn draw(draw: &mut ChaCha8Rng, all: &[String], kinds: u32) -> Result<Self> {
        let host = all.choose(draw).context("expected hosts")?.clone();
        let mut users = users(all);
        let user = users.choose(draw).context("expected hosts")?.clone();
        let servers = all.iter().filter(|name| is_server(name)).cloned().collect();
        Ok(match draw.random_range(0..kinds) {
            0 => Self::Killed(host),
            1 => Self::Stopped(host),
            2 => Self::Halted(host),
            3 => Self::Forgotten,
            4 => Self::Repeated(draw.random()),
            5 => Self::Crowded,
            6 => Self::Moved(user, if draw.random() { "+1h" } else { "-1h" }),
            7 => {
                users.shuffle(draw);
                Self::Upgraded(users)
            }
            8 => Self::Cut(user, vec!["store".to_owned()]),
            9 => Self::Cut(user, servers),
            10 => Self::Lossy(host),
            11 => Self::Cut(host, users),
            _ => Self::Far(host),
        })
    }

    fn lasts_ms(&self) -> Range<u64> {
        match self {
            Self::Halted(host) if !is_server(host) => HALTED_MS,
            _ => WRONG_MS,
        }
    }

    /// The hosts that are not themselves meanwhile.
    fn hosts(&self, deployment: &Deployment) -> Vec<String> {
        match self {
            Self::Killed(host)
            | Self::Stopped(host)
            | Self::Halted(host)
            | Self::Cut(host, _)
            | Self::Lossy(host)
            | Self::Far(host) => vec![host.clone()],
            Self::Forgotten => deployment.names(""),
            Self::Repeated(_) | Self::Crowded | Self::Moved(..) | Self::Upgraded(_) => Vec::new(),
        }
    }

    /// Lets it happen, and gives how long it took from its end until users were answered.
    async fn happen(
        &self,
        deployment: &mut Deployment,
        address: &Address,
        span: Duration,
    ) -> Result<Duration> {
        let hosts = self.hosts(deployment);
        self.begin(deployment, address).await?;
        if hosts.iter().any(|host| host == "gateway-1") {
            turn_to(address, deployment, "gateway-2")?;
        }
        match self {
            Self::Repeated(seed) => repeat(deployment, *seed, span).await?,
            Self::Crowded => crowd(address, span).await?,
            Self::Upgraded(order) => replace(deployment, address, order, span).await?,
            _ => tokio::time::sleep(span).await,
        }
        self.end(deployment).await?;
        let begun = Instant::now();
        if let Self::Moved(host, _) = self {
            // It goes on with the clock that it has.
            deployment.ready(host).await?;
        }
        for host in &hosts {
            deployment.ready(host).await?;
        }
        turn_to(address, deployment, "gateway-1")?;
        while chaos::ask(address, reqwest::Method::GET, "/v1/jobs", None, None).await.is_err() {
            ensure!(begun.elapsed() < CONVERGED_MAX, "expected gateway-1 to answer after {self:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let converged = begun.elapsed();
        if hosts.iter().any(|host| host.starts_with("nats")) {
            tokio::time::sleep(CAUGHT_UP).await;
        }
        Ok(converged)
    }

    async fn begin(&self, deployment: &mut Deployment, address: &Address) -> Result<()> {
        match self {
            Self::Killed(host) => deployment.kill(host)?,
            Self::Stopped(host) => {
                if host == "gateway-1" {
                    turn_to(address, deployment, "gateway-2")?;
                }
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
            Self::Lossy(host) => network::lose(host)?,
            Self::Far(host) => network::delay(host)?,
            Self::Forgotten => {
                for host in deployment.names("") {
                    deployment.kill(&host)?;
                }
                for server in deployment.names("nats") {
                    std::fs::remove_dir_all(deployment.path(&format!("{server}-store")))?;
                }
            }
            Self::Moved(host, by) => deployment.move_clock(host, by)?,
            Self::Repeated(_) | Self::Crowded | Self::Upgraded(_) => {}
        }
        Ok(())
    }

    async fn end(&self, deployment: &mut Deployment) -> Result<()> {
        match self {
            Self::Killed(host) | Self::Stopped(host) => deployment.launch(host),
            Self::Halted(host) => deployment.signal(host, Signal::CONT),
            Self::Cut(host, others) => others
                .iter()
                .filter(|other| *other != host)
                .try_for_each(|other| deployment.heal(host, other)),
            Self::Lossy(host) => network::lose_nothing(host),
            Self::Far(host) => network::delay_nothing(host),
            Self::Forgotten => {
                for host in deployment.names("") {
                    deployment.launch(&host)?;
                    // Whoever finds no server at all ends, and is started again by what supervises it; here is nobody
                    // who does. That the servers have no leader yet is waited for.
                    if is_server(&host) {
                        deployment.ready(&host).await?;
                    }
                }
                Ok(())
            }
            Self::Repeated(_) | Self::Crowded | Self::Moved(..) | Self::Upgraded(_) => Ok(()),
        }
    }
}

/// F13: takes leases and calls out of their queues and puts back one to five copies of
/// each, in another order.
async fn repeat(deployment: &Deployment, seed: u64, span: Duration) -> Result<()> {
    let (mut draw, end) = (ChaCha8Rng::seed_from_u64(seed), Instant::now() + span);
    let backbone = deployment.backbone("gateway-1").await?;
    while Instant::now() < end {
        for queue in [keys::TASK_QUEUE, keys::INVOCATION_QUEUE] {
            repeat_some(&backbone, queue, &mut draw).await?;
        }
    }
    backbone.close().await;
    Ok(())
}

async fn repeat_some(backbone: &Backbone, queue: &str, draw: &mut ChaCha8Rng) -> Result<()> {
    const COPY: &str = "copy ";
    let pulled = backbone.pull(queue, 8, Duration::from_millis(200), Duration::from_secs(30)).await;
    for delivery in pulled.unwrap_or_default() {
        if delivery.id.starts_with(COPY) {
            delivery.nak(Duration::ZERO).await?;
            continue;
        }
        let copies = (0..draw.random_range(1..=5)).map(|copy| {
            let id = format!("{COPY}{copy} {}", delivery.id);
            let delay = Duration::from_millis(draw.random_range(0..500));
            Message::new(id, delivery.payload.clone()).delayed(delay)
        });
        let copies: Vec<_> = copies.collect();
        backbone.enqueue(queue, copies).await?;
        delivery.ack().await?;
    }
    Ok(())
}

/// F16: calls all the time, by many more clients than there are places. Each is
/// answered or refused for now, and afterwards whoever calls is answered again.
async fn crowd(address: &Address, span: Duration) -> Result<()> {
    let end = Instant::now() + span;
    let call = async || {
        let (mut answered, mut refused) = (0_u32, 0_u32);
        while Instant::now() < end {
            match greet(address).await {
                Ok((200, _)) => answered += 1,
                Ok((429 | 503, problem)) if problem["retryable"] == true => refused += 1,
                Ok((status, found)) => {
                    anyhow::bail!("expected 200, or 429 or 503 for now, found {status}: {found}")
                }
                Err(_) => {}
            }
        }
        Ok((answered, refused))
    };
    let counts = futures::future::try_join_all((0..CROWD).map(|_| call())).await?;
    let answered: u32 = counts.iter().map(|(answered, _)| answered).sum();
    let refused: u32 = counts.iter().map(|(_, refused)| refused).sum();
    println!("    of a crowd {answered} calls were answered, {refused} refused");
    ensure!(answered > 0, "expected some calls of the crowd to be answered");
    let begun = Instant::now();
    while !matches!(greet(address).await, Ok((200, _))) {
        ensure!(begun.elapsed() < CONVERGED_MAX, "expected a call to be answered after the crowd");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn greet(address: &Address) -> Result<(u16, Value)> {
    let path = "/v1/functions/hello/invoke";
    chaos::ask(address, reqwest::Method::POST, path, Some(&json!("Ada")), None).await
}

/// F14: replaces processes by such with another engine, and has both work side by side for a
/// while. They end what they do, no call fails, and no code of the other engine runs.
async fn replace(
    deployment: &mut Deployment,
    address: &Address,
    order: &[String],
    span: Duration,
) -> Result<()> {
    // Calls that fail are the upgrade's only where nothing else is wrong.
    deployment.proxy.calm();
    let gateways = deployment.names("gateway");
    let endpoints = gateways.iter().map(|gateway| deployment.endpoint(gateway));
    let load = settled(&endpoints.collect::<Result<Vec<_>>>()?).await?;
    let (mut foreign, pause) = (Vec::new(), span / u32::try_from(order.len())?);
    for name in order {
        if let Some(other) = gateways.iter().find(|other| gateways.contains(name) && *other != name) {
            turn_to(address, deployment, other)?;
        }
        if upgrade::replace(deployment, &load, name).await? {
            foreign.push(name);
        }
        tokio::time::sleep(pause).await;
    }
    for worker in foreign {
        upgrade::rebuilt(deployment, &load, worker).await?;
    }
    println!("    {} calls were answered meanwhile", load.end().await?);
    deployment.proxy.troubled();
    Ok(())
}

/// Clients whose calls do not fail any more.
async fn settled(gateways: &[String]) -> Result<Load> {
    let begun = Instant::now();
    loop {
        let load = Load::start(gateways);
        tokio::time::sleep(CALM).await;
        load.goes_on().await?;
        match load.end().await {
            Ok(_) => return Ok(Load::start(gateways)),
            Err(error) if begun.elapsed() > CONVERGED_MAX => return Err(error),
            Err(_) => {}
        }
    }
}

/// Of the hosts those that are not NATS itself.
fn users(all: &[String]) -> Vec<String> {
    all.iter().filter(|name| !is_server(name)).cloned().collect()
}

fn is_server(name: &str) -> bool {
    name.starts_with("nats")
}

/// Has clients ask another gateway.
fn turn_to(address: &Address, deployment: &Deployment, gateway: &str) -> Result<()> {
    let found = (deployment.endpoint(gateway)?, TOKEN.to_owned());
    *address.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, mem::discriminant};

    use super::*;

    fn drawn(seed: u64, kinds: u32) -> Vec<Wrong> {
        let names = ["nats-1", "nats-2", "gateway-1", "gateway-2", "worker-1"].map(str::to_owned);
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        (0..500).map(|_| Wrong::draw(&mut draw, &names, kinds).unwrap()).collect()
    }

    #[test]
    fn a_seed_replays() {
        let told = |seed| format!("{:?}", drawn(seed, KINDS[2]));
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn everything_is_drawn_and_of_hosts_that_it_can_happen_to() {
        // Three of them are cuts.
        for (kinds, expected) in KINDS.into_iter().zip([8, 10, 11]) {
            let drawn = drawn(7, kinds);
            let found: HashSet<_> = drawn.iter().map(discriminant).collect();
            assert_eq!(found.len(), expected, "{drawn:?}");
            for wrong in drawn {
                match wrong {
                    Wrong::Moved(host, _) => assert!(!is_server(&host), "{host}"),
                    Wrong::Upgraded(mut order) => {
                        order.sort();
                        assert_eq!(order, ["gateway-1", "gateway-2", "worker-1"]);
                    }
                    _ => {}
                }
            }
        }
    }
}
