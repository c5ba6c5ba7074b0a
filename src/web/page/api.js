// Talking to the gateway: one fetch with the house's headers, one event stream, and what is known, kept fresh.

import { clockIs } from "./dom.js";

export class Refused extends Error {
  constructor(status, body) {
    super(body?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.code = body?.code ?? "";
    this.hint = body?.hint ?? "";
    this.retryAfter = body?.retryAfter;
  }
}

const gone = () => new Refused(0, { code: "unreachable", message: "The gateway does not answer.", hint: "Check the network." });
let onLogin = () => {};
let onProof = async () => false;
export const whenLoginIsNeeded = (then) => { onLogin = then; };
export const whenProofIsNeeded = (then) => { onProof = then; };

/** call("GET", "/v1/status"), call("PATCH", path, body). `background`: not asked by the person. */
export async function call(method, path, body, { background = false, again = true } = {}) {
  const headers = { Headgate: "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (background) headers["Headgate-Background"] = "1";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" });
  } catch {
    throw gone();
  }
  const json = (response.headers.get("content-type") ?? "").includes("json");
  const answer = json ? await response.json().catch(() => null) : null;
  if (response.ok) return answer;
  const refused = new Refused(response.status, answer);
  if (refused.code === "login-first") onLogin();
  if (refused.code === "prove-again" && again && (await onProof())) return call(method, path, body, { again: false });
  throw refused;
}

export const get = (path, options) => call("GET", path, undefined, options);

/** Reads a stream of JSON lines (the tools); `each` gets every line. */
export async function lines(path, body, each, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { Headgate: "1", "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    throw gone();
  }
  if (!response.ok) throw new Refused(response.status, await response.json().catch(() => null));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) if (part) each(JSON.parse(part));
    }
  } catch (error) {
    if (error.name !== "AbortError") throw gone();
  }
}

// ---- what is known ----

export const known = {
  session: null,
  overview: null,
  devices: new Map(),
  rates: [],
  reachable: true,
};

const listeners = new Set();
/** listen((kind, detail) => …) returns the way to stop. Kinds: overview, devices, device, event, reachable. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
const tell = (kind, detail) => { for (const listener of [...listeners]) listener(kind, detail); };

function reachable(yes) {
  if (known.reachable === yes) return;
  known.reachable = yes;
  tell("reachable");
}

export async function refreshOverview() {
  try {
    const overview = await get("/v1/status", { background: true });
    clockIs(overview.now);
    known.overview = overview;
    known.rates.push([overview.now, overview.log.rateIn, overview.log.rateOut]);
    if (known.rates.length > 150) known.rates.shift();
    reachable(true);
    tell("overview");
  } catch (error) {
    if (error.status === 0) reachable(false);
  }
}

export async function refreshDevices() {
  try {
    const rows = await get("/v1/devices", { background: true });
    known.devices = new Map(rows.map((row) => [row.id, row]));
    tell("devices");
  } catch { /* told by the overview */ }
}

export const may = (role) => {
  const order = ["viewer", "technician", "admin"];
  return order.indexOf(known.session?.role ?? "") >= order.indexOf(role);
};

let stream;
let timer;
let asked;

/** Asks for the list again soon, once for many reasons. */
function soon() {
  asked ??= setTimeout(() => { asked = undefined; refreshDevices(); }, 400);
}

function apply(item) {
  const row = known.devices.get(item.device);
  switch (item.type) {
    case "hello":
      clockIs(item.now);
      break;
    case "lagged":
      soon();
      break;
    case "values": {
      if (!row) { soon(); break; }
      for (const live of item.values) {
        const at = row.values.findIndex((value) => value.name === live.name);
        if (at >= 0) row.values[at] = live;
        else row.values.push(live);
        if (live.quality !== "stale") row.lastSeen = Math.max(row.lastSeen ?? 0, live.ts);
      }
      tell("device", item.device);
      break;
    }
    case "presence":
      if (!row) { soon(); break; }
      Object.assign(row, { presence: item.presence, presenceSince: item.at, reason: item.reason });
      tell("device", item.device);
      break;
    case "lifecycle":
      soon();
      break;
    case "update":
      if (row) { row.update = item.update; tell("device", item.device); }
      break;
    case "link":
      if (known.overview) { Object.assign(known.overview.link, item.link); tell("overview"); }
      refreshOverview();
      break;
    case "config":
      refreshOverview();
      break;
  }
  tell("event", item);
}

export function start() {
  stop();
  refreshOverview();
  refreshDevices();
  timer = setInterval(() => { if (!document.hidden) refreshOverview(); }, 2000);
  stream = new EventSource("/v1/events");
  stream.onmessage = (message) => { reachable(true); for (const item of JSON.parse(message.data)) apply(item); };
  // The browser tries again by itself; after a gap the whole is asked for anew.
  stream.onopen = () => refreshDevices();
  stream.onerror = () => { if (stream?.readyState === EventSource.CLOSED) setTimeout(() => { if (known.session) start(); }, 3000); };
}

export function stop() {
  stream?.close();
  stream = undefined;
  clearInterval(timer);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && stream) { refreshOverview(); refreshDevices(); }
});
