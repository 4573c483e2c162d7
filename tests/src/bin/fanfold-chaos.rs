// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask chaos`: the service under trouble, again and again, each time by
//! the next seed. It ends with the first history in which something does not hold,
//! and prints the seed by which it can be had again.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use fanfold_tests::{
    chaos::{self, Chaos},
    chaos_hosts, network,
    proxy::Troubles,
};

/// Looks for what does not survive.
#[derive(Parser)]
struct Arguments {
    /// For how long
    #[arg(long, value_name = "N", default_value = "30")]
    minutes: u64,
    /// The first seed; drawn when absent
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Jobs of one round
    #[arg(long, value_name = "N", default_value = "24")]
    jobs: usize,
    /// Kills of one round; of many hosts, all that goes wrong
    #[arg(long, value_name = "N", default_value = "8")]
    kills: usize,
    /// Many hosts, each with a network of its own where namespaces can be made
    #[arg(long)]
    hosts: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.hosts && !network::is_own() && network::can_be_made() {
        return match network::run_again(std::env::args_os().skip(1)) {
            Ok(ended) if ended.success() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    look(arguments)
}

#[tokio::main]
async fn look(Arguments { minutes, seed, jobs, kills, hosts }: Arguments) -> ExitCode {
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut seed = seed.unwrap_or_else(|| rand::random_range(0..u64::from(u32::MAX)));
    let mut rounds = 0;
    while Instant::now() < end || rounds == 0 {
        let start = Instant::now();
        // Rounds differ in what is wrong, so that each kind of trouble is met alone and together.
        let troubles = match seed % 4 {
            0 => Troubles { busy: 30, ..Troubles::default() },
            1 => Troubles { slow: 10, stalled: 1, ..Troubles::default() },
            2 => Troubles { lost: 10, cut: 5, ..Troubles::default() },
            _ => Troubles { busy: 10, slow: 5, cut: 3, stalled: 1, lost: 5 },
        };
        let chaos = Chaos { seed, jobs, kills, troubles };
        match if hosts { chaos_hosts::run(chaos).await } else { chaos::run(chaos).await } {
            Ok(report) => println!("seed {seed}: {report:?} in {:.1} s", start.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("seed {seed} with {troubles:?}: {error:?}");
                eprintln!(
                    "again: cargo xtask chaos --seed {seed} --minutes 0 --jobs {jobs} --kills {kills}{}",
                    if hosts { " --hosts" } else { "" }
                );
                return ExitCode::FAILURE;
            }
        }
        (seed, rounds) = (seed + 1, rounds + 1);
    }
    println!("{rounds} rounds, all of which hold");
    ExitCode::SUCCESS
}
