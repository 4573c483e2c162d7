// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: the credit-risk analysis as its user would type it, with
//! the programs that its user would type. Nothing here knows how Fanfold works.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    process::{self, Running, binary, root, say, step, target},
    setup,
};

const FUNCTIONS: &[&str] =
    &["column-stats", "normalize", "credit-train", "credit-score", "credit-report", "portfolio"];
/// Newton's method converges quadratically; more rounds than this mean that it does not.
const ROUNDS_MAX: u32 = 12;
/// Largest change of a coefficient, relative to its size, at which the fit stands.
const STEP_CONVERGED: f64 = 1e-8;
const CUSTOMER_OBJECTS: u32 = 32;
/// From a file's arrival to the report over all that have arrived.
const REPORTED_WITHIN: Duration = Duration::from_secs(60);

struct Options {
    rows: u64,
    keep: bool,
    /// Workers of many hosts; none for one process.
    hosts: Option<u32>,
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options { rows: 2_000_000, keep: false, hosts: None };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--keep" => options.keep = true,
            "--rows" => {
                let value = rest.next().map(String::as_str).unwrap_or_default();
                options.rows = value.parse().ok().filter(|n| *n > 0).with_context(|| {
                    format!("--rows must be followed by a number of customers, found {value:?}")
                })?;
            }
            "--hosts" => {
                let value = rest.next().map(String::as_str).unwrap_or_default();
                options.hosts =
                    Some(value.parse().ok().filter(|n| (1..=64).contains(n)).with_context(|| {
                        format!(
                            "--hosts must be followed by a number of workers from 1 to 64, found {value:?}"
                        )
                    })?);
            }
            other => bail!("expected --rows N, --hosts N or --keep, found {other:?}"),
        }
    }
    Ok(options)
}

/// The command line of `cargo xtask demo`.
pub fn run(arguments: &[String]) -> Result<()> {
    let options = options(arguments)?;
    setup::binaries()?;
    let folders: Vec<_> = FUNCTIONS.iter().map(|name| root().join("functions").join(name)).collect();
    setup::functions_in(&folders)?;
    let folder = target().join("demo");
    let customers = customers(&folder, options.rows)?;
    let Some(workers) = options.hosts else {
        let fanfold = Fanfold::start(&folder.join("service"))?;
        let (analysis, _) = fanfold.report_on(&customers, &folder.join("report.html"), options.rows)?;
        fanfold.react(&analysis, &customers.join("applicants"))?;
        return fanfold.end(options.keep);
    };
    setup::test_servers()?;
    let alone = Fanfold::start(&folder.join("service"))?;
    let (_, expected) = alone.report_on(&customers, &folder.join("report.html"), options.rows)?;
    alone.end(false)?;
    let fanfold = Fanfold::start_hosts(&folder.join("hosts"), workers)?;
    let (analysis, found) = fanfold.report_on(&customers, &folder.join("report-hosts.html"), options.rows)?;
    ensure!(found == expected, "expected the report of one process, found another one: {found}");
    say("the report is that of one process, byte for byte");
    fanfold.react(&analysis, &customers.join("applicants"))?;
    fanfold.end(options.keep)
}

/// The input: the real applicants as several CSV objects, and many customers
/// resampled from them.
fn customers(folder: &Path, rows: u64) -> Result<PathBuf> {
    let input = folder.join(format!("input-{rows}"));
    let mark = input.join("complete");
    if mark.is_file() {
        return Ok(input);
    }
    step(
        &format!("resample {rows} customers from the German credit data into {CUSTOMER_OBJECTS} objects"),
        || {
            let (rows, objects) = (rows.to_string(), CUSTOMER_OBJECTS.to_string());
            let mut data = Command::new(binary("fanfold-data"));
            process::run(data.arg(input.join("customers")).args([
                "--rows",
                &rows,
                "--objects",
                &objects,
                "--seed",
                "1",
            ]))
        },
    )?;
    applicants(&input.join("applicants"))?;
    fs::write(&mark, "")?;
    Ok(input)
}

/// Cuts the applicants' file into four, each with the header. No field of this
/// file holds a line break, so a line is a record.
fn applicants(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let text = fs::read_to_string(root().join("functions/data/german_credit.csv"))?;
    let (header, records) = text.split_once('\n').context("expected a header and records")?;
    let records: Vec<&str> = records.lines().collect();
    for (part, lines) in records.chunks(records.len().div_ceil(4)).enumerate() {
        fs::write(
            folder.join(format!("applicants-{part}.csv")),
            format!("{header}\n{}\n", lines.join("\n")),
        )?;
    }
    Ok(())
}

/// What the analysis left for those who come later.
struct Analysis {
    /// The job whose answer is the report.
    report: String,
    /// Params of `normalize`.
    normalise: Value,
    model: Value,
}

/// A service of the demo's own, and its command line.
struct Fanfold {
    /// Its end is that of many hosts.
    held: Option<ChildStdin>,
    process: Running,
    folder: PathBuf,
    endpoint: String,
    /// A program and arguments that lead into its network, where that is not this one.
    entrance: Vec<String>,
}

impl Fanfold {
    fn start(folder: &Path) -> Result<Self> {
        say("start `fanfold dev` on free ports");
        let data = folder.join("data");
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        }
        fs::create_dir_all(folder)?;
        let log = fs::File::create(folder.join("dev.log"))?;
        let child = Command::new(binary("fanfold"))
            .args(["dev", "--listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .env("FANFOLD_CONFIG_DIR", folder.join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start fanfold dev")?;
        let mut process = Running(child);
        let found = announced(&mut process, &data.join("dev.json"), &folder.join("dev.log"))?;
        let endpoint = found["endpoint"].as_str().context("expected the gateway's endpoint")?.to_owned();
        Ok(Self { held: None, process, folder: folder.to_owned(), endpoint, entrance: Vec::new() })
    }

    /// Starts NATS, a store, two gateways and some workers.
    fn start_hosts(folder: &Path, workers: u32) -> Result<Self> {
        say(&format!("start NATS, a store, 2 gateways and {workers} workers as hosts of their own"));
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder)?;
        let log = fs::File::create(folder.join("hosts.log"))?;
        let mut child = Command::new(binary("fanfold-hosts"))
            .arg(folder)
            .args(["--workers", &workers.to_string()])
            .env("FANFOLD_TEST_VENV", setup::python_home())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start fanfold-hosts")?;
        let held = child.stdin.take();
        let mut process = Running(child);
        let found = announced(&mut process, &folder.join("hosts.json"), &folder.join("hosts.log"))?;
        let endpoint = found["endpoint"].as_str().context("expected the gateway's endpoint")?.to_owned();
        let entrance = found["entrance"].as_array().into_iter().flatten();
        let entrance = entrance.filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { held, process, folder: folder.to_owned(), endpoint, entrance })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program = binary("fanfold");
        let mut command = match &self.entrance[..] {
            [] => Command::new(program),
            [enter, rest @ ..] => {
                let mut command = Command::new(enter);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(arguments)
            .env("FANFOLD_CONFIG_DIR", self.folder.join("config"))
            .env("FANFOLD_ENDPOINT", &self.endpoint)
            .env_remove("FANFOLD_TOKEN");
        command
    }

    /// Does the whole analysis and shows its report, which comes back as JSON too.
    fn report_on(&self, customers: &Path, page: &Path, rows: u64) -> Result<(Analysis, String)> {
        self.upload(customers)?;
        self.deploy()?;
        let started = Instant::now();
        let analysis = self.analyse()?;
        self.show(&analysis.report, page, rows, started.elapsed())?;
        let report = process::read(&mut self.command(&["result", &analysis.report, "--output", "json"]))?;
        Ok((analysis, report))
    }

    fn upload(&self, input: &Path) -> Result<()> {
        step("upload the applicants (CSV) and the customers (Parquet) to s3://bank/", || {
            process::run(&mut self.command(&["s3", "mb", "s3://bank"]))?;
            for kind in ["applicants", "customers"] {
                let mut files: Vec<_> = fs::read_dir(input.join(kind))?.collect::<Result<_, _>>()?;
                files.sort_by_key(fs::DirEntry::file_name);
                for file in files {
                    let to = format!("s3://bank/{kind}/{}", file.file_name().to_string_lossy());
                    process::run(
                        self.command(&["s3", "cp", &file.path().to_string_lossy(), &to])
                            .stderr(Stdio::null()),
                    )?;
                }
            }
            Ok(())
        })
    }

    fn deploy(&self) -> Result<()> {
        step("deploy the functions", || {
            for function in FUNCTIONS {
                let component = root().join("functions/target/fanfold").join(format!("{function}.wasm"));
                process::run(
                    self.command(&["deploy", &component.to_string_lossy(), "--name", function])
                        .stdout(std::io::stderr()),
                )?;
            }
            Ok(())
        })
    }

    /// Runs a job to its end and gives its id.
    fn job(&self, function: &str, input: &str, output: Option<&str>, params: &Value) -> Result<String> {
        let file = self.folder.join("params.json");
        fs::write(&file, params.to_string())?;
        let file = format!("@{}", file.display());
        let mut arguments = vec![
            "job",
            "run",
            "--function",
            function,
            "--input",
            input,
            "--params",
            &file,
            "--wait",
            "--json",
        ];
        if let Some(output) = output {
            arguments.extend(["--output", output]);
        }
        let printed = process::read(&mut self.command(&arguments))?;
        let job: Value = serde_json::from_str(&printed).with_context(|| format!("read {printed:?}"))?;
        Ok(job["id"].as_str().context("expected the job's id")?.to_owned())
    }

    /// Runs a job to its end and gives its answer.
    fn answer(&self, function: &str, input: &str, params: &Value) -> Result<Value> {
        let id = self.job(function, input, None, params)?;
        Ok(serde_json::from_str(&process::read(&mut self.command(&["result", &id, "--output", "json"]))?)?)
    }

    /// Statistics, normalised tables, a model, scores, a report.
    fn analyse(&self) -> Result<Analysis> {
        let stats = step("column-stats: what the customers look like", || {
            self.answer("column-stats", "s3://bank/customers/*.parquet", &json!({}))
        })?;
        let normalise =
            json!({ "method": "zscore", "stats": stats, "keep": ["customer_id", "credit_amount"] });
        step("normalize: the numeric columns of customers and applicants to z-scores", || {
            let customers = "s3://bank/normalised/customers/";
            self.job("normalize", "s3://bank/customers/*.parquet", Some(customers), &normalise)?;
            self.job(
                "normalize",
                "s3://bank/applicants/*.csv",
                Some("s3://bank/normalised/applicants/"),
                &normalise,
            )
        })?;
        let model =
            step("credit-train: logistic regression on the applicants, a round a job", || self.train())?;
        step("credit-score: each customer's probability of default and grade", || {
            let params = json!({ "model": model, "keep": ["customer_id", "purpose", "credit_amount", "creditability"] });
            self.job("credit-score", "s3://bank/normalised/customers/", Some("s3://bank/scores/"), &params)
        })?;
        let report = step("credit-report: expected loss, ranking power and calibration", || self.report())?;
        Ok(Analysis { report, normalise, model })
    }

    /// Makes what arrives under `arrivals/` be normalised, scored and reported on by
    /// itself, and lets files arrive.
    fn react(&self, analysis: &Analysis, applicants: &Path) -> Result<()> {
        let Analysis { normalise, model, .. } = analysis;
        step(
            "trigger add: normalise what arrives, then score it and report on all that has arrived",
            || {
                let arrivals = json!({
                    "bucket": "bank", "prefix": "arrivals/", "suffix": ".csv",
                    "job": { "function": "normalize", "input": "s3://{bucket}/{key}",
                        "output": "s3://bank/arrived/{etag}/", "params": normalise }
                });
                self.trigger("arrivals", arrivals)?;
                let params = json!({
                    "model": model, "keep": ["purpose", "credit_amount"], "by": "purpose", "exposure": "credit_amount",
                    "loss_given_default": 0.45
                });
                let arrived = json!({
                    "bucket": "bank", "glob": "arrived/*/_SUCCESS",
                    "job": { "function": "portfolio", "input": "s3://bank/arrived/", "params": params }
                });
                self.trigger("arrived", arrived)
            },
        )?;
        for (earlier, part) in ["applicants-0.csv", "applicants-1.csv"].into_iter().enumerate() {
            let from = applicants.join(part);
            let to = format!("s3://bank/arrivals/{part}");
            say(&format!(
                "drop {part} into s3://bank/arrivals/ and wait for the report that comes by itself"
            ));
            let start = Instant::now();
            process::run(self.command(&["s3", "cp", &from.to_string_lossy(), &to]).stderr(Stdio::null()))?;
            let report = self.report_after(earlier)?;
            eprintln!("    {} ms after the file", start.elapsed().as_millis());
            process::run(&mut self.command(&["result", &report]))?;
        }
        Ok(())
    }

    fn trigger(&self, name: &str, mut document: Value) -> Result<()> {
        if self.held.is_some() {
            // The store of many hosts sends nothing: it is looked at.
            document["reconcile"] = json!("10s");
        }
        leave_out_nulls(&mut document);
        let file = self.folder.join(format!("{name}.toml"));
        fs::write(&file, toml::to_string(&document)?)?;
        let file = file.to_string_lossy();
        process::run(self.command(&["trigger", "add", name, &file]).stdout(Stdio::null()))
    }

    /// Waits for one more job of `portfolio` than `earlier` to succeed and gives its id.
    fn report_after(&self, earlier: usize) -> Result<String> {
        let reports = || -> Result<Vec<Value>> {
            let jobs = ["job", "ls", "--function", "portfolio", "--output", "json"];
            let printed: Value = serde_json::from_str(&process::read(&mut self.command(&jobs))?)?;
            printed["jobs"].as_array().cloned().context("expected jobs")
        };
        let deadline = Instant::now() + REPORTED_WITHIN;
        loop {
            let found = reports()?;
            if let Some(failed) = found.iter().find(|job| job["state"] == "failed") {
                bail!("expected a report, found a job that failed: {failed}");
            }
            let succeeded = found.iter().filter(|job| job["state"] == "succeeded");
            if let Some(newest) = found.first().filter(|job| job["state"] == "succeeded")
                && succeeded.count() > earlier
            {
                return Ok(newest["id"].as_str().context("expected the job's id")?.to_owned());
            }
            ensure!(Instant::now() < deadline, "expected a report within {REPORTED_WITHIN:?}, found none");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn train(&self) -> Result<Value> {
        let mut params = json!({ "target": "creditability", "positive": "bad", "exclude": ["customer_id"] });
        for round in 0..ROUNDS_MAX {
            let fit = self.answer("credit-train", "s3://bank/normalised/applicants/", &params)?;
            let step = fit["step"].as_f64();
            if let Some(step) = step {
                eprintln!("    round {round}: largest relative step {step:.1e}");
            }
            params["model"] = fit["model"].clone();
            if step.is_some_and(|step| step < STEP_CONVERGED) {
                return Ok(fit["model"].clone());
            }
        }
        bail!("expected the fit to converge within {ROUNDS_MAX} rounds, it did not")
    }

    /// Gives the id of the job whose answer is the report.
    fn report(&self) -> Result<String> {
        let params = json!({ "outcome": "creditability", "positive": "bad", "amount": "credit_amount", "by": "purpose" });
        self.job("credit-report", "s3://bank/scores/", Some("s3://bank/report/"), &params)
    }

    fn show(&self, report: &str, page: &Path, rows: u64, elapsed: Duration) -> Result<()> {
        say("the report");
        process::run(&mut self.command(&["result", report]))?;
        let page = page.to_string_lossy();
        process::run(self.command(&["result", report, "--html", "--out", &page]).stdout(std::io::stderr()))?;
        eprintln!();
        eprint!("{rows} customers analysed in {:.1} s", elapsed.as_secs_f64());
        if self.held.is_none() {
            let resident = resident_peak(self.process.0.id())?;
            ensure!(resident > 0, "expected the service to hold memory");
            eprint!("; the service held at most {} MiB", resident >> 20);
        }
        eprintln!();
        eprintln!("  report as a page   {page}");
        eprintln!("  report as JSON     s3://bank/report/result.json");
        eprintln!("  scores             s3://bank/scores/ (Parquet, listed in _manifest.json)");
        eprintln!("  service's folder   {}", self.folder.display());
        Ok(())
    }

    /// Stops it, or leaves it running until somebody else does.
    fn end(mut self, keep: bool) -> Result<()> {
        if !keep {
            say("stop the service; `cargo xtask demo --keep` leaves it running");
            return Ok(());
        }
        eprintln!();
        eprintln!(
            "the service goes on at {} until Ctrl-C; to reach it from another terminal:",
            self.endpoint
        );
        eprintln!(
            "  export FANFOLD_ENDPOINT={} FANFOLD_CONFIG_DIR={}",
            self.endpoint,
            self.folder.join("config").display()
        );
        let enter: String = self.entrance.iter().map(|word| format!("{word} ")).collect();
        eprintln!("  {enter}{} functions ls", binary("fanfold").display());
        let status = self.process.0.wait()?;
        ensure!(status.success(), "fanfold dev ended with {status}");
        Ok(())
    }
}

/// TOML has no null: what is not there is left out.
fn leave_out_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(leave_out_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_nulls),
        _ => {}
    }
}

/// Waits for the file in which a service says how it is reached.
fn announced(process: &mut Running, file: &Path, log: &Path) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Ok(found);
        }
        let ended = process.0.try_wait()?.is_some();
        if ended || Instant::now() > deadline {
            bail!("the service did not get ready: {}", fs::read_to_string(log)?);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn resident_peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .context("expected the peak of resident memory")?;
    let kib: u64 = line.split_whitespace().nth(1).context("expected a number")?.parse()?;
    Ok(kib << 10)
}
