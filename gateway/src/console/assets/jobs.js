// SPDX-License-Identifier: Apache-2.0
// Jobs: the list, and one of them with live progress, tasks, receipt and result.

import { bytes, count, el, link, moment, pairs, problem, section, span, state, table } from "./dom.js";
import { events, json, text } from "./service.js";

const STATES = ["", "queued", "running", "succeeded", "failed", "cancelled"];
let [only, page] = ["", null];

/** The newest jobs, fifty at a time. */
export async function jobs(signal, put) {
  const query = new URLSearchParams({ ...(only && { state: only }), ...(page && { page }) });
  const found = await json(`/v1/jobs?${query}`, signal);
  const choice = el("select", { "aria-label": "State" }, STATES.map((name) => el("option", { value: name, selected: name === only }, name || "all states")));
  const again = (then) => () => {
    then();
    jobs(signal, put).catch(() => {});
  };
  choice.addEventListener("change", again(() => {
    [only, page] = [choice.value, null];
    choice.blur();
  }));
  const newest = el("button", { type: "button", hidden: page === null }, "Newest");
  newest.addEventListener("click", again(() => (page = null)));
  const older = el("button", { type: "button", hidden: !found.next }, "Older");
  older.addEventListener("click", again(() => (page = found.next)));
  const rows = found.jobs.map((job) => [
    link(job.id, "jobs", job.id), job.function, state(job.state), bar(job.tasks), moment(job.submitted_at), span(job.receipt.elapsed_ms), count(job.receipt.rows_in),
  ]);
  const shown = table(["job", "function", "state", "tasks", "submitted (UTC)", ">took", ">rows in"], rows, "No job. Submit one with `fanfold job run`.");
  // A choice that may be open is not taken out of somebody's hand; who has chosen lets go of it.
  if (document.activeElement?.tagName !== "SELECT") put(el("h1", null, "Jobs"), section(null, el("div", { class: "tools" }, choice, newest, older), shown));
}

function bar(tasks) {
  const ended = tasks.done + tasks.failed;
  const words = `${count(ended)} of ${count(tasks.total)}${tasks.failed ? `, ${count(tasks.failed)} failed` : ""}`;
  return el("div", null, el("progress", { max: Math.max(tasks.total, 1), value: tasks.total ? ended : 1, "aria-label": words }), el("div", { class: "faint" }, words));
}

/** One job. Progress comes as it is made; tasks are listed again when it has moved. */
export async function jobOf(signal, put, id) {
  const at = `/v1/jobs/${encodeURIComponent(id)}`;
  const parts = { head: el("div"), tasks: el("div"), result: el("div") };
  let job = await json(at, signal);
  const fill = () => parts.head.replaceChildren(...head(job));
  fill();
  put(el("h1", null, job.function), parts.head, parts.result, parts.tasks);
  let listing = null;
  const list = () => (listing ??= tasks(at, signal, parts.tasks).finally(() => (listing = null)));
  await list();
  if (!["succeeded", "failed", "cancelled"].includes(job.state)) {
    await events(`${at}/events`, signal, (name, data) => {
      // What is not told any more, such as the time left, holds no more.
      const gone = name === "progress" ? { eta_ms: null, eta_range_ms: null, slowest: [] } : {};
      job = name === "done" ? data : { ...job, ...gone, ...(name === "progress" || name === "state" ? data : {}) };
      fill();
      if (name !== "state") list().catch(() => {});
      return name === "done" ? "enough" : null;
    });
    if (signal.aborted) return "once";
    // A listing that is on its way may be of before the end.
    await listing?.catch(() => {});
    await list();
  }
  if (job.state === "succeeded" && !job.estimate) await report(at, signal, parts.result);
  return "once";
}

function head(job) {
  const left = job.eta_ms ? `${span(job.eta_ms)}${job.eta_range_ms ? ` (${span(job.eta_range_ms[0])} to ${span(job.eta_range_ms[1])})` : ""}` : null;
  const facts = pairs([
    ["state", state(job.state)], ["job", job.id], ["version", link(String(job.version), "functions", job.function.split("@")[0])], ["shape", job.shape],
    ["submitted (UTC)", moment(job.submitted_at)], ["time left", left], ["input", bytes(job.input_bytes)], ["output", job.output], ["manifest", job.manifest],
    ["again of", job.retry ? link(job.retry.of, "jobs", job.retry.of) : null],
  ]);
  const r = job.receipt;
  const receipt = pairs([
    ["took", span(r.elapsed_ms)], ["CPU time", span(r.cpu_ms)], ["of it in the function", span(r.guest_ms)], ["peak memory of a task", bytes(r.memory_bytes_peak)],
    ["rows in", count(r.rows_in)], ["filtered out", r.rows_filtered ? count(r.rows_filtered) : null], ["rows out", count(r.rows_out)], ["read", bytes(r.bytes_in)], ["written", bytes(r.bytes_out)],
    ["requests to the store", count(r.store_requests)], ["attempts", count(r.attempts)], ["second attempts", r.second_attempts || null], ["served from earlier jobs", r.cache_hits || null],
  ]);
  const slow = (job.slowest ?? []).map((lease) => [`${lease.stage}/${lease.task}`, count(lease.tasks), lease.worker, span(lease.running_ms), lease.why]);
  return [
    section(null, facts, bar(job.tasks)),
    ...(job.problem ? [problem(job.problem)] : []),
    ...(job.warnings?.length ? [section("Warnings", job.warnings.map((warning) => el("p", null, warning)))] : []),
    section("Receipt", receipt),
    ...(slow.length && !job.ended_at ? [section("Slowest leases", table(["task", ">tasks", "worker", ">running", "why"], slow, ""))] : []),
    ...(job.estimate ? [section("Estimate", el("pre", null, JSON.stringify(job.estimate, null, 2)))] : []),
  ];
}

async function tasks(at, signal, into) {
  const found = await json(`${at}/tasks?limit=100`, signal);
  const rows = found.tasks.map((task) => [
    `${task.stage}/${task.task}`, state(task.state), count(task.attempts), task.input.join("\n") || "", count(task.rows_in), count(task.rows_out), span(task.running_ms ?? task.wall_ms), bytes(task.memory_bytes_peak),
    task.problem ? el("span", null, el("code", null, task.problem.code), ` ${task.problem.detail}`) : "",
  ]);
  const shown = table(["task", "state", ">attempts", "input", ">rows in", ">rows out", ">time", ">memory", "problem"], rows, "No task: the input held nothing.");
  into.replaceChildren(section("Tasks, failed ones first", shown, found.next ? el("p", { class: "faint" }, "The first hundred; `fanfold job tasks` lists all.") : ""));
}

/** The page that the service draws, in a frame in which nothing runs. */
async function report(at, signal, into) {
  const page = await text(`${at}/report`, signal).catch((refused) => refused.problem);
  if (typeof page !== "string") return page && into.replaceChildren(problem(page));
  const frame = el("iframe", { sandbox: "allow-same-origin", title: "Result" });
  // The one text that is read as markup. The policy of this page and the sandbox keep it from running anything.
  const trusted = window.trustedTypes?.createPolicy ? policy().createHTML(page) : page;
  frame.addEventListener("load", () => (frame.height = frame.contentDocument.documentElement.scrollHeight));
  frame.srcdoc = trusted;
  const save = el("a", { href: URL.createObjectURL(new Blob([page], { type: "text/html" })), download: "report.html" }, "Save this page");
  into.replaceChildren(el("div", { class: "tools" }, save), frame);
}

let made = null;
const policy = () => (made ??= window.trustedTypes.createPolicy("report", { createHTML: (page) => page }));
