// SPDX-License-Identifier: Apache-2.0
// The service as the views see it: every request carries the token, every refusal is thrown.
// The token lies in this tab's session storage and nowhere else.

const KEPT = "fanfold.token";

/** The token of this tab, or null. */
export const token = () => sessionStorage.getItem(KEPT);
export const keep = (text) => sessionStorage.setItem(KEPT, text);
export const forget = () => sessionStorage.removeItem(KEPT);

/** Takes the token out of an address such as `/console#token=ff_…`, and out of the history. */
export function takeFromAddress() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  keep(found[1]);
  history.replaceState(null, "", location.pathname + "#/jobs");
}

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

async function ask(path, signal) {
  let response;
  try {
    response = await fetch(path, { headers: { authorization: `Bearer ${token()}` }, cache: "no-store", signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused({ code: "unreachable", title: "The service does not answer", detail: "expected an answer from the service, found none; see whether it runs" });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused({ code: String(response.status), title: "The service refused", detail: "", ...body });
}

/** A document. */
export const json = async (path, signal) => (await ask(path, signal)).json();
/** A text. */
export const text = async (path, signal) => (await ask(path, signal)).text();

/** Server-sent events with the token, which EventSource cannot carry; begun anew after what came last when the connection breaks or there was no place for it. */
export async function events(path, signal, told) {
  let last = null;
  for (;;) {
    const headers = { authorization: `Bearer ${token()}`, ...(last ? { "last-event-id": last } : {}) };
    try {
      const response = await fetch(path, { headers, cache: "no-store", signal });
      if (response.ok && response.status !== 204) {
        let rest = "";
        for await (const piece of pieces(response.body)) {
          const blocks = (rest + piece).split("\n\n");
          rest = blocks.pop();
          for (const block of blocks) {
            const event = read(block);
            last = event.id || last;
            if (event.data && told(event.event, JSON.parse(event.data)) === "enough") return;
          }
        }
      } else if (response.status < 500 && response.status !== 429) return;
    } catch (error) {
      if (signal.aborted) return;
    }
    await new Promise((next) => setTimeout(next, 1000));
    if (signal.aborted) return;
  }
}

async function* pieces(body) {
  const [reader, decoder] = [body.getReader(), new TextDecoder()];
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield decoder.decode(value, { stream: true });
}

function read(block) {
  const event = { event: "message", data: "", id: "" };
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const name = line.slice(0, at);
    if (at > 0 && name in event) event[name] = name === "data" && event.data ? `${event.data}\n${line.slice(at + 1).trimStart()}` : line.slice(at + 1).trimStart();
  }
  return event;
}
