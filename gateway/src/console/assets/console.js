// SPDX-License-Identifier: Apache-2.0
// The console: asks for the token, shows the view that the address names, and looks again now and then.
// A view is a function that fills the page; what it began ends when another one comes.

import { el, problem, section } from "./dom.js";
import { forget, json, keep, Refused, takeFromAddress, token } from "./service.js";
import { functionOf, functions } from "./functions.js";
import { jobOf, jobs } from "./jobs.js";
import { invocationOf, invocations } from "./invocations.js";
import { triggers } from "./triggers.js";

const LOOK_EVERY = 3000;
const SECTIONS = { jobs: "Jobs", functions: "Functions", triggers: "Triggers", invocations: "Invocations" };
const LISTS = { jobs, functions, triggers, invocations };
const DETAILS = { jobs: jobOf, functions: functionOf, invocations: invocationOf };

const main = document.getElementById("main");
let leaving = new AbortController();

/** Puts a view onto the page, and again every few seconds while it asks for that. */
async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [name = "jobs", ...rest] = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decode);
  navigate(name);
  if (!token()) return signIn();
  const view = rest.length > 0 ? DETAILS[name] : LISTS[name];
  if (!view) return main.replaceChildren(section("There is nothing here", el("a", { href: "#/jobs" }, "Jobs")));
  for (;;) {
    let again = true;
    try {
      again = await view(signal, (...content) => signal.aborted || main.replaceChildren(...content), ...rest);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refused)) throw error;
      if (error.problem.code === "unauthorized") return signIn(error.problem);
      main.replaceChildren(problem(error.problem));
    }
    if (again === "once" || signal.aborted) return;
    await pause(signal);
    if (signal.aborted) return;
  }
}

/** A few seconds, and as long as nobody looks. */
async function pause(signal) {
  do await new Promise((next) => setTimeout(next, LOOK_EVERY));
  while (document.hidden && !signal.aborted);
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function navigate(current) {
  const links = Object.entries(SECTIONS).map(([name, title]) =>
    el("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title));
  document.getElementById("nav").replaceChildren(...links);
  document.getElementById("leave").hidden = !token();
}

function signIn(refusal) {
  // The view that is on the page looks no more: it would be refused, and take away what is typed.
  leaving.abort();
  forget();
  document.getElementById("leave").hidden = true;
  const input = el("input", { type: "password", autocomplete: "off", required: true, "aria-label": "Token", placeholder: "ff_…" });
  const form = el("form", null, input, el("button", { type: "submit" }, "Sign in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keep(input.value.trim());
    show();
  });
  const where = "The token is in the file `token` of the service's data; `fanfold dev` prints an address that brings it along. It is kept in this tab only.";
  main.replaceChildren(refusal ? problem(refusal) : "", section("Which token?", form, el("p", { class: "faint" }, where)));
  input.focus();
}

/** Store, backbone and workers, as the service sees them; needs no token. */
async function health() {
  const at = document.getElementById("health");
  try {
    const found = await (await fetch("/readyz", { cache: "no-store" })).json();
    const away = ["store", "backbone", "workers"].filter((part) => found[part] && !found[part].ready);
    at.textContent = found.ready ? "ready" : `not ready: ${away.join(", ") || found.title || "starting"}`;
  } catch {
    at.textContent = "no answer";
  }
  setTimeout(health, document.hidden ? 30_000 : 10_000);
}

document.getElementById("leave").addEventListener("click", () => signIn());
window.addEventListener("hashchange", () => {
  takeFromAddress();
  show();
});
takeFromAddress();
show();
health();
