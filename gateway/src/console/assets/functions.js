// SPDX-License-Identifier: Apache-2.0
// Functions: the list, and one of them with versions, aliases and its last log lines.

import { bytes, el, link, moment, pairs, section, table } from "./dom.js";
import { json } from "./service.js";

const target = (alias) => `version ${alias.version}${alias.canary ? `, ${alias.canary.percent} % to version ${alias.canary.version}` : ""}`;

/** Every function; the service tells a thousand at once. */
export async function functions(signal, put) {
  const found = await json("/v1/functions", signal);
  for (let { next } = found; next; ) {
    const more = await json(`/v1/functions?page=${encodeURIComponent(next)}`, signal);
    found.functions.push(...more.functions);
    next = more.next;
  }
  const rows = found.functions.map((f) => [
    link(f.name, "functions", f.name), f.exports.join(", "), f.latest, Object.entries(f.aliases).map(([name, to]) => el("div", null, `${name}: ${target(to)}`)),
    bytes(f.size_bytes), moment(f.updated_at), f.description ?? "",
  ]);
  put(el("h1", null, "Functions"), section(null, table(["function", "exports", ">newest", "aliases", ">size", "deployed (UTC)", "description"], rows, "No function. Deploy one with `fanfold deploy`.")));
}

/** One function. */
export async function functionOf(signal, put, name) {
  const at = `/v1/functions/${encodeURIComponent(name)}`;
  const [f, log] = await Promise.all([json(at, signal), json(`${at}/logs?limit=100`, signal)]);
  const versions = f.versions.map((v) => [
    v.version, v.exports.join(", "), moment(v.created_at), bytes(v.size_bytes), el("code", null, v.digest), el("pre", null, JSON.stringify(v.settings, null, 1)),
  ]);
  const aliases = Object.entries(f.aliases).map(([alias, to]) => [alias, target(to)]);
  const lines = log.lines.map((line) => `${line.time}  ${line.level.toUpperCase().padEnd(5)}  ${line.message}`).join("\n");
  put(
    el("h1", null, f.name),
    section(null, pairs([["newest", f.latest], ["description", f.description], ["deployed (UTC)", moment(f.updated_at)]])),
    section("Aliases", table(["alias", "points at"], aliases, "No alias. Point one with `fanfold functions alias`.")),
    section("Versions", table([">version", "exports", "deployed (UTC)", ">size", "digest", "settings"], versions, "")),
    section("Last log lines", lines ? el("pre", null, lines) : el("p", { class: "empty" }, "No line of the last calls is kept here.")),
  );
}
