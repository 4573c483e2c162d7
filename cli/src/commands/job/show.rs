// SPDX-License-Identifier: Apache-2.0
//! Jobs and tasks as tables. Pure.

use fanfold_protocol::job::{Difference, Estimate};

use crate::{
    client::{ComparisonView, JobView, ReceiptView, RetryOf, SlowView, TaskView, Told},
    output::{self, Table},
};

/// Jobs, one a line.
pub fn list(jobs: &[JobView]) -> String {
    let mut table = Table::new(&["id", "function", "state", ">tasks", ">rows", ">time", "submitted"]);
    for job in jobs {
        table.row([
            job.id.to_string(),
            format!("{} (version {})", job.function, job.version),
            job.state.as_str().to_owned(),
            format!("{}/{}", job.tasks.done, job.tasks.total),
            output::count(job.receipt.rows_in),
            output::span_ms(job.receipt.elapsed_ms),
            output::moment(job.submitted_at),
        ]);
    }
    table.text()
}

/// What the filter left out, when there is something.
fn filtered(receipt: &ReceiptView) -> String {
    let some = |count: u64, of: &str| (count > 0).then(|| format!("{} {of}", output::count(count)));
    let pruned: Vec<_> = [some(receipt.row_groups_pruned, "row groups"), some(receipt.pages_pruned, "pages")]
        .into_iter()
        .flatten()
        .collect();
    let bytes = output::bytes(receipt.bytes_pruned);
    let pruned = (!pruned.is_empty()).then(|| format!("{} of {bytes}, not read", pruned.join(" and ")));
    let parts: Vec<_> = some(receipt.rows_filtered, "rows").into_iter().chain(pruned).collect();
    parts.join("; ")
}

/// CPU time and what took it.
fn processor(receipt: &ReceiptView) -> String {
    let ReceiptView { cpu_ms, attempts, second_attempts, .. } = *receipt;
    let took = format!("{} in {} attempts", output::span_ms(cpu_ms), output::count(attempts));
    match second_attempts {
        0 => took,
        seconds => format!("{took}; {} leases begun a second time", output::count(seconds)),
    }
}

/// A job with its receipt.
pub fn page(job: &JobView) -> String {
    let (tasks, receipt) = (&job.tasks, &job.receipt);
    let some = |number: u64, text: String| if number == 0 { String::new() } else { text };
    let problem = job.problem.as_ref().map(|p| format!("{}: {}", p.code, p.detail)).unwrap_or_default();
    output::pairs(&[
        ("job", job.id.to_string()),
        ("function", format!("{} (version {})", job.function, job.version)),
        ("state", job.state.as_str().to_owned()),
        ("problem", problem),
        ("warnings", job.warnings.join("; ")),
        ("submitted", output::moment(job.submitted_at)),
        ("retry of", job.retry.as_ref().map(retry_of).unwrap_or_default()),
        (
            "tasks",
            format!(
                "{} of {} done, {} running, {} failed",
                tasks.done, tasks.total, tasks.running, tasks.failed
            ),
        ),
        ("cached", some(receipt.cache_hits, format!("{} tasks", output::count(receipt.cache_hits)))),
        ("time left", job.eta_ms.map(|eta_ms| left(eta_ms, job.eta_range_ms)).unwrap_or_default()),
        ("slowest", job.slowest.iter().map(slow).collect::<Vec<_>>().join("; ")),
        ("elapsed", output::span_ms(receipt.elapsed_ms)),
        ("processor", some(receipt.attempts, processor(receipt))),
        (
            "memory",
            some(receipt.memory_bytes_peak, format!("{} at most", output::bytes(receipt.memory_bytes_peak))),
        ),
        ("rows", format!("{} in, {} out", output::count(receipt.rows_in), output::count(receipt.rows_out))),
        ("filtered", filtered(receipt)),
        (
            "bytes",
            format!("{} in, {} out", output::bytes(receipt.bytes_in), output::bytes(receipt.bytes_out)),
        ),
        (
            "requests",
            some(receipt.store_requests, format!("{} to the store", output::count(receipt.store_requests))),
        ),
        ("output", job.output.clone().unwrap_or_default()),
        ("manifest", job.manifest.clone().unwrap_or_default()),
        ("result", job.result_uri.clone().unwrap_or_default()),
    ])
}

/// What a job will take.
pub fn estimate(estimate: &Estimate) -> String {
    let Estimate { sampled, of, elapsed_ms, cpu_ms, bytes_in, bytes_out, memory_bytes_peak } = estimate;
    let mut table = Table::new(&["", ">expected", ">from", ">to"]);
    for (name, range, unit) in [
        ("elapsed", elapsed_ms, output::span_ms as fn(u64) -> String),
        ("processor", cpu_ms, output::span_ms),
        ("bytes read", bytes_in, output::bytes),
        ("bytes written", bytes_out, output::bytes),
        ("memory of a task", memory_bytes_peak, output::bytes),
    ] {
        table.row([name.to_owned(), unit(range.expected), unit(range.low), unit(range.high)]);
    }
    let (partitions, bytes) = (output::count(u64::from(of.partitions)), output::bytes(of.bytes));
    format!("{}\n\ntold from {sampled} of {partitions} partitions ({bytes})", table.text().trim_end())
}

/// The time that is left, with its range.
pub fn left(eta_ms: u64, range: Option<(u64, u64)>) -> String {
    let eta = output::span_ms(eta_ms);
    match range {
        Some((low, high)) => format!("{eta} ({} to {})", output::span_ms(low), output::span_ms(high)),
        None => eta,
    }
}

fn slow(slow: &SlowView) -> String {
    let SlowView { stage, task, worker, running_ms, progress, why } = slow;
    let progress = progress.map(|told| format!(", {}", output::progress(told))).unwrap_or_default();
    format!("task {stage}/{task} on {worker} for {}{progress}: {why}", output::span_ms(*running_ms))
}

fn retry_of(retry: &RetryOf) -> String {
    let Difference { unchanged, vanished, .. } = retry.difference;
    let run = retry.difference.run();
    format!("{}: {unchanged} partitions taken over, {run} run, {vanished} objects vanished", retry.of)
}

/// Tasks, one a line, with what they failed of under it.
pub fn tasks(tasks: &[TaskView]) -> String {
    let mut table = Table::new(&[
        "task",
        "state",
        ">attempts",
        ">time",
        ">rows in",
        ">rows out",
        ">requests",
        "input",
        "problem",
    ]);
    for task in tasks {
        table.row([
            format!("{}/{}", task.stage, task.task),
            if task.cache_hit { format!("{}, cached", task.state) } else { task.state.clone() },
            task.attempts.to_string(),
            output::span_ms(task.wall_ms),
            output::count(task.rows_in),
            output::count(task.rows_out),
            output::count(task.store_requests),
            input(&task.input, task.input_slices),
            task.problem.as_ref().map(|p| format!("{}: {}", p.code, p.detail)).unwrap_or_default(),
        ]);
    }
    table.text()
}

/// What running a job again would do: the numbers, then what they are made of.
pub fn comparison(comparison: &ComparisonView) -> String {
    let difference = &comparison.difference;
    let mut text = output::pairs(&[
        ("unchanged", format!("{} partitions, taken over", output::count(difference.unchanged))),
        ("failed", output::count(difference.failed)),
        ("unfinished", output::count(difference.unfinished)),
        ("changed", output::count(difference.changed)),
        ("added", output::count(difference.added)),
        ("vanished", output::count(difference.vanished)),
        ("to run", format!("{} partitions", output::count(difference.run()))),
        ("refused", comparison.problem.as_ref().map(told).unwrap_or_default()),
    ]);
    if comparison.differences.is_empty() {
        return text;
    }
    let mut table = Table::new(&["change", "input", "problem"]);
    for differing in &comparison.differences {
        let problem = differing.problem.as_ref();
        table.row([
            differing.change.clone(),
            input(&differing.input, differing.input.len()),
            problem.map(told).unwrap_or_default(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.text());
    let all = difference.run() + difference.vanished;
    let more = all.saturating_sub(comparison.differences.len() as u64);
    if more > 0 {
        text.push_str(&format!("\n{} more are not listed", output::count(more)));
    }
    text
}

fn told(problem: &Told) -> String {
    format!("{}: {}", problem.code, problem.detail)
}

fn input(objects: &[String], count: usize) -> String {
    match (objects.first(), count.max(objects.len())) {
        (None, _) => String::new(),
        (Some(one), 1) => one.clone(),
        (Some(first), count) => format!("{first} and {} more", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_refused_says_so() {
        let mut compared = serde_json::json!({
            "of": "7", "unchanged": 3, "failed": 1, "unfinished": 0, "changed": 0, "added": 0, "vanished": 0,
            "run": 1, "differences": [],
        });
        let shown = |compared: &serde_json::Value| {
            comparison(&serde_json::from_value::<ComparisonView>(compared.clone()).unwrap())
        };
        assert!(!shown(&compared).contains("refused"));
        compared["problem"] = serde_json::json!({"code": "output-exists", "detail": "expected none"});
        assert!(
            shown(&compared).contains("refused     output-exists: expected none\n"),
            "{}",
            shown(&compared)
        );
    }

    #[test]
    fn differences_that_are_not_listed_are_counted() {
        let shown = |failed: u64, vanished: u64| {
            let compared = serde_json::json!({
                "of": "7", "unchanged": 3, "failed": failed, "unfinished": 0, "changed": 0, "added": 0,
                "vanished": vanished, "run": failed,
                "differences": [{"change": "failed", "input": ["s3://bank/in/1.csv"]}],
            });
            comparison(&serde_json::from_value::<ComparisonView>(compared).unwrap())
        };
        assert!(!shown(1, 0).contains("not listed"), "{}", shown(1, 0));
        assert!(shown(1_200, 300).ends_with("\n1,499 more are not listed"), "{}", shown(1_200, 300));
    }

    #[test]
    fn an_estimate_is_shown_with_its_ranges() {
        let range = serde_json::json!({"low": 900, "expected": 61_000, "high": 120_000});
        let told = serde_json::json!({
            "sampled": 8, "of": {"partitions": 10_000, "bytes": 1 << 30}, "elapsed_ms": range, "cpu_ms": range,
            "bytes_in": range, "bytes_out": range, "memory_bytes_peak": range
        });
        let text = estimate(&serde_json::from_value(told).unwrap());
        for part in ["EXPECTED", "1m 01s", "900 ms", "told from 8 of 10,000 partitions (1.00 GiB)"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_task_is_shown_with_its_receipt() {
        let task = |attempts: u32, cache_hit: bool| {
            let task = serde_json::json!({
                "stage": 0, "task": 7, "state": "done", "attempts": attempts, "rows_in": 10_000, "store_requests": 1_234,
                "cache_hit": cache_hit
            });
            serde_json::from_value(task).unwrap()
        };
        let text = tasks(&[task(1, false), task(0, true)]);
        let lines: Vec<_> = text.lines().collect();
        for part in ["0/7", "done", "10,000", "1,234"] {
            assert!(lines[1].contains(part), "{part}: {text}");
        }
        assert!(lines[2].contains("done, cached") && !lines[1].contains("cached"), "{text}");
    }

    #[test]
    fn a_job_is_shown_with_its_receipt() {
        let job = serde_json::json!({
            "id": "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10", "function": "score@prod", "version": 3, "digest": "sha256:x",
            "shape": "map", "state": "failed", "submitted_at": 0, "submitted": "…",
            "tasks": {"total": 4, "waiting": 0, "running": 0, "done": 3, "failed": 1}, "partitions": 4,
            "input_bytes": 5, "output": "s3://bank/out/", "warnings": [], "failures": 3,
            "receipt": {"attempts": 6, "second_attempts": 2, "elapsed_ms": 1500, "wall_ms": 1, "cpu_ms": 1200, "memory_bytes_peak": 1048576,
                "rows_in": 10_000, "rows_out": 9, "bytes_in": 1, "bytes_out": 2, "store_requests": 3_000},
            "problem": {"code": "task-failed", "title": "t", "detail": "tasks failed", "type": "/x", "retryable": false}
        });
        let job: JobView = serde_json::from_value(job).unwrap();
        let page = page(&job);
        for part in [
            "score@prod (version 3)",
            "task-failed: tasks failed",
            "3 of 4 done",
            "10,000 in, 9 out",
            "1.50 s",
            "1.20 s in 6 attempts; 2 leases begun a second time",
            "3,000 to the store",
        ] {
            assert!(page.contains(part), "{page}");
        }
        assert!(!page.contains("manifest"), "{page}");
        assert!(list(&[job]).lines().nth(1).unwrap().contains("failed"));
    }
}
