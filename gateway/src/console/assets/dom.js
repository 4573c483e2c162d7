// SPDX-License-Identifier: Apache-2.0
// Elements and amounts. Everything that is shown becomes text here and never markup:
// there is no other way in these files to put something onto the page.

/** An element; of `attributes` those that are null or false are left out. */
export function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** A section with a heading. */
export const section = (title, ...children) => el("section", null, title ? el("h2", null, title) : null, ...children);

/** Names and values; pairs without a value are left out. */
export function pairs(all) {
  const shown = all.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", null, shown.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))));
}

/** A table; a head that begins with `>` stands over numbers. */
export function table(heads, rows, empty) {
  if (rows.length === 0) return el("p", { class: "empty" }, empty);
  const number = heads.map((head) => (head.startsWith(">") ? "n" : null));
  const names = heads.map((head) => head.replace(/^>/, ""));
  const head = el("tr", null, names.map((name, at) => el("th", { scope: "col", class: number[at] }, name)));
  // On a narrow screen each row becomes a list, in which cells bring their names along.
  const body = rows.map((row) => el("tr", null, row.map((cell, at) => el("td", { class: number[at], "data-name": names[at] }, cell))));
  return el("div", { class: "wide" }, el("table", null, el("thead", null, head), el("tbody", null, body)));
}

/** A way to another view: `#/` and its parts, each escaped. */
export const link = (text, ...parts) => el("a", { href: "#/" + parts.map(encodeURIComponent).join("/") }, text);

/** The word for a state in its colour. Only words that are known become a class. */
export function state(word) {
  const known = ["queued", "running", "succeeded", "failed", "cancelled", "waiting", "done", "paused", "ready", "dead"];
  return el("span", { class: known.includes(word) ? `state ${word}` : "state" }, word);
}

/** A problem as a section. */
export function problem(found) {
  const at = el("section", { class: "problem" }, el("h2", null, found.title || "It failed"), el("p", null, found.detail));
  at.append(el("p", { class: "faint" }, el("code", null, found.code), found.request_id ? ` · request ${found.request_id}` : ""));
  return at;
}

export const count = (number) => Number(number ?? 0).toLocaleString("en-US");

/** As the command line writes them: three digits, and the next unit for what would have four. */
export function bytes(amount) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [size, unit] = [Number(amount ?? 0), 0];
  while (size >= (unit === 0 ? 1024 : 999.5) && unit + 1 < units.length) [size, unit] = [size / 1024, unit + 1];
  const digits = unit === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return `${size.toFixed(digits)} ${units[unit]}`;
}

export function span(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${Math.round(ms * 10) / 10} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)}m ${String(Math.floor(ms / 1000) % 60).padStart(2, "0")}s`;
}

/** A moment in UTC, to the second, from milliseconds or RFC 3339. */
export const moment = (at) => (at ? new Date(at).toISOString().slice(0, 19).replace("T", " ") : "");
