// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: the figures that the project promises, measured on real
//! processes in one run, so that ratios hold on a shared and noisy machine.
//!
//! Each part gives measurements under names that stay. What is compared is
//! measured in turns, not one after the other.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

mod bank;
mod columns;
mod csv_object;
mod fairness;
mod groups;
mod hosts;
mod http;
mod instance;
mod jobs;
mod load;
mod nats;
mod neighbours;
mod overload;
mod recovery;
mod resume;
mod service;
mod triggers;

type Part = fn(bool) -> Result<Vec<Measurement>>;

/// Each by its name, in the order in which they are measured.
const PARTS: [(&str, Part); 17] = [
    ("service", |_| service::measure()),
    ("instance", |_| instance::measure()),
    ("http", |_| http::measure()),
    ("overload", |_| overload::measure()),
    ("neighbours", |_| neighbours::measure()),
    ("hosts", |_| hosts::measure()),
    ("nats", |_| nats::measure()),
    ("recovery", |_| recovery::measure()),
    ("triggers", |_| triggers::measure()),
    ("jobs", |_| jobs::measure()),
    ("million", |_| jobs::measure_many()),
    ("resume", |_| resume::measure()),
    ("columns", |_| columns::measure()),
    ("bank", bank::measure),
    ("csv", |_| csv_object::measure()),
    ("groups", |_| groups::measure()),
    ("fairness", |_| fairness::measure()),
];

/// Measures Fanfold on this machine.
#[derive(Parser)]
struct Arguments {
    /// Parts to measure; all when none is named
    #[arg(value_name = "PART", value_parser = PARTS.map(|(name, _)| name))]
    parts: Vec<String>,
    /// Write the measurements as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Have Polars and Ray do the jobs of `bank` as well (`cargo xtask bench --compare` installs them)
    #[arg(long)]
    compare: bool,
    /// Serve the bare axum answer that `http` compares with (used by the bench itself)
    #[arg(long, hide = true)]
    serve_bare: bool,
}

/// One figure, with the spread of the runs that it is the median of.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Stays the same from release to release.
    pub name: String,
    /// The median of the runs.
    pub value: f64,
    /// `us`, `ms`, `s`, `1/s`, `MB/s`, `MiB`, `requests` or `ratio`.
    pub unit: &'static str,
    /// How many runs.
    pub runs: usize,
    /// The least of them.
    pub min: f64,
    /// The most of them.
    pub max: f64,
    /// What it should be, when the project promises something.
    #[serde(skip)]
    pub goal: Option<Goal>,
}

/// A promise.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Measurement {
    /// The median of some runs.
    pub fn of(name: impl Into<String>, unit: &'static str, mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        let at = |n: usize| runs.get(n).copied().unwrap_or(f64::NAN);
        let last = runs.len().saturating_sub(1);
        Self {
            name: name.into(),
            value: at(last / 2),
            unit,
            runs: runs.len(),
            min: at(0),
            max: at(last),
            goal: None,
        }
    }

    /// The same with a promise.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    fn holds(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::AtMost(bound) => self.value <= bound,
            Goal::AtLeast(bound) => self.value >= bound,
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.serve_bare {
        return match http::serve_bare() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let wanted = |part: &str| arguments.parts.is_empty() || arguments.parts.iter().any(|p| p == part);
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for (name, measure) in PARTS.into_iter().filter(|(name, _)| wanted(name)) {
        eprintln!("==> measure {name}");
        match measure(arguments.compare) {
            Ok(found) => all.extend(found),
            // The others stand by themselves, and took long.
            Err(error) => {
                eprintln!("bench: measure {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    all.extend(against_instance(&all));
    print(&all);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(failed.is_empty(), "could not measure {}", failed.join(", "));
    Ok(())
}

/// The ratio that needs two parts: CPU time on both sides, since what else the machine does makes only
/// elapsed time longer.
fn against_instance(all: &[Measurement]) -> Option<Measurement> {
    let value = |name: &str| all.iter().find(|m| m.name == name).map(|m| m.value);
    let ratio = value("http_hello_server_cpu_16")? / value("instance_call_cpu")?;
    Some(Measurement::of("http_hello_cpu_over_instance_call", "ratio", vec![ratio]).goal(Goal::AtMost(2.5)))
}

fn print(all: &[Measurement]) {
    println!("{:<44} {:>12} {:<6} {:>25} {:>5}  goal", "name", "median", "unit", "least … most", "runs");
    for m in all {
        let goal = match (m.goal, m.holds()) {
            (Some(Goal::AtMost(bound)), Some(holds)) => {
                format!("at most {bound}: {}", if holds { "holds" } else { "MISSED" })
            }
            (Some(Goal::AtLeast(bound)), Some(holds)) => {
                format!("at least {bound}: {}", if holds { "holds" } else { "MISSED" })
            }
            _ => String::new(),
        };
        let spread = format!("{:.2} … {:.2}", m.min, m.max);
        println!("{:<44} {:>12.2} {:<6} {:>25} {:>5}  {goal}", m.name, m.value, m.unit, spread, m.runs);
    }
}
