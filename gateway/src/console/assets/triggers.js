// SPDX-License-Identifier: Apache-2.0
// Triggers: what they act on, where their events are, and what became of them.

import { count, el, section, state, table } from "./dom.js";
import { json, text } from "./service.js";

/** Events of each trigger by what became of them, from the metrics of the gateway that answers. */
async function fates(signal) {
  const found = new Map();
  for (const line of (await text("/metrics", signal)).split("\n")) {
    const [, labels, value] = /^fanfold_trigger_events_total\{(.*)\} (\d+)/.exec(line) ?? [];
    const [trigger, fate] = ["trigger", "fate"].map((name) => new RegExp(`(?:^|,)${name}="([^"]*)"`).exec(labels ?? "")?.[1]);
    if (trigger && value !== "0") found.set(trigger, [...(found.get(trigger) ?? []), `${fate} ${count(value)}`]);
  }
  return found;
}

function filter(document) {
  const parts = [`${document.bucket}/${document.prefix ?? ""}`, document.glob && `glob ${document.glob}`, document.suffix && `ending in ${document.suffix}`];
  return parts.filter(Boolean).join(", ");
}

/** Every trigger. */
export async function triggers(signal, put) {
  const [found, became] = await Promise.all([json("/v1/triggers", signal), fates(signal)]);
  const rows = found.triggers.map((t) => [
    t.name, state(t.paused ? "paused" : "ready"), filter(t.document), t.document.function ?? `job ${t.document.job?.function ?? ""}`,
    count(t.events.waiting), count(t.events.running), count(t.events.delayed), el("span", { class: t.events.dead ? "dead" : null }, count(t.events.dead)),
    (became.get(t.name) ?? []).join(", "), t.paused_because ?? t.warning ?? "",
  ]);
  const heads = ["trigger", "state", "objects", "starts", ">waiting", ">running", ">delayed", ">dead", "became of events", "note"];
  put(el("h1", null, "Triggers"), section(null, table(heads, rows, "No trigger. Make one with `fanfold trigger add`.")));
}
