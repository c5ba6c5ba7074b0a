// Building elements from values. Text only ever becomes text: nothing here, or anywhere in this page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Marks that turn the direction of writing around could make one text look like another. */
const straight = (value) => (typeof value === "string" ? value.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd") : value);

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else if (name in node && node.namespaceURI !== SVG && name !== "list") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false).map(straight));
  return node;
}

/** h("p", {class: "soft"}, "text", child, …) */
export const h = (name, props, ...children) => fill(document.createElement(name), props, children);
export const svg = (name, props, ...children) => fill(document.createElementNS(SVG, name), props, children);

/** Sets a text without touching the tree where it is the same. */
export function text(node, value) {
  const words = straight(value);
  if (node.textContent !== words) node.textContent = words;
}

const paths = {
  home: "M4 11l8-7 8 7v9h-5v-6H9v6H4z",
  devices: "M4 5h16v6H4zM4 13h16v6H4zM8 8h.01M8 16h.01",
  updates: "M12 4v11m0 0l-4-4m4 4l4-4M4 19h16",
  jobs: "M4 6h4v4H4zM4 14h4v4H4zM11 8h9M11 16h9",
  tools: "M14.500 6.500a4 4 0 0 0-5 5L4 17l3 3 5.500-5.500a4 4 0 0 0 5-5L15 12l-3-3z",
  more: "M4.5 12a.7.7 0 1 0 1.400 0 .7.7 0 0 0-1.400 0zM11.300 12a.7.7 0 1 0 1.400 0 .7.7 0 0 0-1.400 0zM18.100 12a.7.7 0 1 0 1.400 0 .7.7 0 0 0-1.400 0z",
  config: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4.500v5M6 14.500v5",
  access: "M8 14a4 4 0 1 1 3.500-2H20v4h-3v-4M8 10h.01",
  log: "M5 5h14M5 10h14M5 15h9M5 20h6",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.500 4.500",
  alert: "M12 4l9 16H3zM12 10v5M12 17.500h.01",
  check: "M5 13l4.500 4.500L19 7",
  back: "M15 5l-7 7 7 7",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.500 20c1.500-4 13.500-4 15 0",
};

export const icon = (name) =>
  svg("svg", { viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" },
    svg("path", { d: paths[name] }));

export const chip = (word, tone) => h("span", { class: `chip ${tone ?? ""}` }, word);

export const card = (title, ...children) =>
  h("section", { class: "card" }, h("header", {}, h("h2", {}, title)), ...children);

export const note = (tone, ...children) =>
  h("div", { class: `note ${tone}`, role: "status" }, icon(tone === "good" ? "check" : "alert"), h("div", {}, ...children));

export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

/** A passing message; stays for a screen reader's "status". */
export function toast(message, tone) {
  let place = document.getElementById("toasts");
  if (!place) document.body.append((place = h("div", { id: "toasts", role: "status" })));
  const node = h("div", { class: `toast ${tone ?? ""}` }, message);
  place.append(node);
  setTimeout(() => node.remove(), tone === "bad" ? 8000 : 4000);
}

/** A dialog; resolves with what `done(value)` was given, or undefined where it was closed. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    const box = h("dialog", { "aria-label": title });
    let outcome;
    const done = (value) => { outcome = value; box.close(); };
    box.append(h("h2", {}, title), ...[build(done)].flat());
    box.addEventListener("close", () => { box.remove(); resolve(outcome); });
    document.body.append(box);
    box.showModal();
  });
}

export const confirm = (title, explanation, verb, tone) =>
  dialog(title, (done) => [
    h("p", { class: "soft" }, explanation),
    h("div", { class: "row" },
      h("button", { onclick: () => done(false) }, "Cancel"),
      h("button", { class: tone ?? "main", onclick: () => done(true) }, verb)),
  ]);

// ---- numbers and times for people ----

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (n) => whole.format(n ?? 0);

/** A measured value with no more digits than anybody could have measured; `digits` that count, whole ones always. */
export function shown(value, digits = 5) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  if (Number.isInteger(value)) return Math.abs(value) >= 1e15 ? String(value) : number.format(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e12)) return value.toExponential(3);
  return number.format(Number(value.toFixed(Math.min(6, Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1)))))));
}

export function bytes(n) {
  if (n === null || n === undefined) return null;
  let unit = 0;
  while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

export const rate = (n) => (n >= 100 ? whole.format(n) : n >= 10 ? n.toFixed(1) : (n ?? 0).toFixed(2));

/** Two units at most: "9 d 4 h", "3 min 20 s". */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return null;
  const s = Math.max(0, Math.round(seconds));
  if (s > 3650 * 86400) return "more than 10 years";
  if (s >= 730 * 86400) return `${(s / 31557600).toFixed(1)} years`;
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(" ");
}

/** The gateway's clock as this page knows it: phones in the field are often wrong. */
let ahead = 0;
export const clockIs = (gatewayNow) => { ahead = gatewayNow - Date.now(); };
export const now = () => Date.now() + ahead;

export function ago(ts) {
  if (ts === null || ts === undefined) return "never";
  const seconds = (now() - ts) / 1000;
  return seconds < 1.5 ? "just now" : `${span(seconds)} ago`;
}

export function clock(ts) {
  if (ts === null || ts === undefined) return "–";
  const date = new Date(ts);
  const two = (n) => String(n).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return new Date(now()).toDateString() === date.toDateString() ? time : `${day} ${time}`;
}

const tones = { online: "good", late: "warn", offline: "bad", "never-seen": "hollow" };
export const presenceTone = (device) => (mayTalk(device) ? tones[device.presence] ?? "" : "hollow");
export const mayTalk = (device) => device.lifecycle === "active" || device.lifecycle === "maintenance";
export const presenceWord = (device) => (mayTalk(device) ? device.presence.replace("-", " ") : device.lifecycle);

export const door = (who) => {
  if (typeof who === "string") return { cloud: "cloud", device: "device", rule: "rule", gateway: "gateway" }[who] ?? who;
  if (who?.technician !== undefined) return who.technician;
  if (who?.local !== undefined) return `device ${who.local}`;
  return "–";
};
