// SPDX-License-Identifier: Apache-2.0
// Invocations: asynchronous ones that wait or run, those that were given up, and any of them by id.

import { bytes, count, el, link, moment, pairs, problem, section, span, state, table } from "./dom.js";
import { json } from "./service.js";

/** The field for an id that is on the page. */
let field = null;

/** What waits or runs, and what was given up. */
export async function invocations(signal, put) {
  const [live, dead] = await Promise.all([json("/v1/invocations", signal), json("/v1/invocations/dead-letters", signal)]);
  const input = el("input", { "aria-label": "Id of an invocation", placeholder: "id, as in X-Fanfold-Invocation-Id", required: true });
  const form = el("form", null, input, el("button", { type: "submit" }, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#/invocations/${encodeURIComponent(input.value.trim())}`;
  });
  const running = live.invocations.map((i) => [link(i.id, "invocations", i.id), i.function, i.version, state(i.state), moment(i.accepted_at), count(i.attempts)]);
  const given = dead.dead_letters.map((letter) => [link(letter.id, "invocations", letter.id), letter.function ?? "", letter.version ?? "", moment(letter.accepted_at), letter.reason]);
  // What somebody types is not taken away.
  if (field !== null && document.activeElement === field) return;
  field = input;
  put(
    el("h1", null, "Invocations"),
    section("One of them", form, el("p", { class: "faint" }, "Synchronous calls are known here for a while, by the gateway that answered them.")),
    section("Asynchronous, waiting or running", table(["invocation", "function", ">version", "state", "accepted (UTC)", ">attempts"], running, "None.")),
    section("Dead letters", table(["invocation", "function", ">version", "accepted (UTC)", "reason"], given, "None.")),
  );
}

/** One invocation, until it has ended. */
export async function invocationOf(signal, put, id) {
  const at = `/v1/invocations/${encodeURIComponent(id)}`;
  const i = await json(at, signal);
  const ended = !["queued", "running"].includes(i.state);
  const log = ended ? await json(`${at}/logs`, signal) : { lines: [] };
  const u = i.usage ?? {};
  // What was cut off tells nobody what it took.
  const told = (value, shown) => (value !== undefined ? shown(value) : ended && i.started_at ? "unknown" : null);
  const lines = log.lines.map((line) => `${line.time}  ${line.level.toUpperCase().padEnd(5)}  ${line.message}`).join("\n");
  put(
    el("h1", null, i.function),
    section(null, pairs([
      ["state", state(i.state)], ["invocation", i.id], ["version", link(String(i.version), "functions", i.function.split("@")[0])], ["attempts", count(i.attempts)], ["accepted (UTC)", moment(i.accepted_at)], ["started (UTC)", moment(i.started_at)],
      ["waited", i.queue_us === undefined ? null : span(i.queue_us / 1000)], ["ran", told(u.wall_us, (us) => span(us / 1000))], ["peak memory", told(u.memory_bytes_peak, bytes)],
      ["answer", i.response ? `HTTP ${i.response.status}, ${i.response.content_type ?? "no type"}, ${bytes(i.response.bytes)}` : null],
    ])),
    i.problem ? problem({ title: "Its problem", ...i.problem }) : "",
    section("Log", lines ? el("pre", null, lines) : el("p", { class: "empty" }, ended ? "No line was logged." : "The log comes when it has ended.")),
  );
  return ended ? "once" : null;
}
