// Commissioning on the bus, beside the polling: find units, read and write registers, learn how a number is stored.

import { known, lines } from "./api.js";
import { h, shown, toast } from "./dom.js";

const TYPES = ["", "u16", "i16", "u32", "i32", "f32", "u64", "i64", "f64"];
const TABLES = ["holding", "input", "coil", "discrete"];

const field = (name, props = {}) => h("input", { name, autocomplete: "off", autocapitalize: "none", spellcheck: false, ...props });
const choice = (name, values, words = (value) => value) => h("select", { name }, values.map((value) => h("option", { value }, words(value))));
const target = () => h("label", {}, "Unit or device", field("target", { placeholder: "3, or meter-1", list: "tool-devices", required: true }));
const whole = { inputMode: "numeric", required: true };

/** Each tool: its words, its fields, and how what was typed becomes a request. */
const TOOLS = {
  scan: {
    title: "Find units", explain: "Asks each unit id whether somebody answers, and what it is. Reads only; polling goes on.",
    fields: () => [h("label", {}, "Unit ids", field("units", { value: "1-247" })), h("label", {}, "Wait per unit (ms)", field("timeoutMs", { value: "200", inputMode: "numeric" }))],
    request: (form) => ({ units: form.units, timeoutMs: Number(form.timeoutMs) }),
  },
  identify: { title: "Identify", explain: "What a unit says of itself, and which profiles fit.", fields: () => [target()], request: () => ({}) },
  read: {
    title: "Read", explain: "Registers as they are, and as a value where a type is given.",
    fields: () => [target(), h("label", {}, "Table", choice("table", TABLES)), h("label", {}, "Address (from 0)", field("address", whole)), h("label", {}, "Count", field("count", { value: "2", inputMode: "numeric" })),
      h("label", {}, "Type", choice("type", TYPES, (type) => type || "raw")), h("label", {}, "Order", choice("order", ["", "ABCD", "CDAB", "BADC", "DCBA"], (order) => order || "default"))],
    request: place,
  },
  write: {
    title: "Write", explain: "Writes, reads back and shows both. With a time it puts the earlier value back by itself: safe to try.", careful: true,
    fields: () => [target(), h("label", {}, "Table", choice("table", ["holding", "coil"])), h("label", {}, "Address (from 0)", field("address", whole)), h("label", {}, "Type", choice("type", TYPES.slice(1))),
      h("label", {}, "Value", field("value", { required: true })), h("label", {}, "Put back after (s)", field("revert", { value: "10", inputMode: "numeric" }))],
    request: (form) => ({ ...place(form), value: number(form.value), ...(Number(form.revert) > 0 ? { revertAfterMs: Number(form.revert) * 1000 } : {}) }),
  },
  solve: {
    title: "Solve", explain: "Type the number on the device's display: every type, order, scale and neighbouring address is tried.",
    fields: () => [target(), h("label", {}, "Table", choice("table", ["holding", "input"])), h("label", {}, "Near address", field("address", whole)), h("label", {}, "Number on the display", field("display", { inputMode: "decimal", required: true }))],
    request: (form) => ({ table: form.table, address: Number(form.address), display: number(form.display) }),
  },
  budget: { title: "Bus budget", explain: "How long a polling round should take, and how long it takes.", fields: () => [], request: () => ({}) },
  scope: {
    title: "Scope", explain: "Shows the frames on the wire as they pass.",
    fields: () => [h("label", {}, "Seconds", field("seconds", { value: "10", inputMode: "decimal" }))], request: (form) => ({ seconds: Number(form.seconds) }),
  },
  status: { title: "Bus state", explain: "Counters of the bus and of each unit.", fields: () => [], request: () => ({}) },
};

function number(text) {
  const value = Number(text.trim().replace(",", "."));
  return text.trim() !== "" && Number.isFinite(value) ? value : text;
}

function place(form) {
  const request = { table: form.table, address: Number(form.address) };
  if (form.count && !form.type) request.count = Number(form.count);
  if (form.type) request.type = form.type;
  if (form.order) request.order = form.order;
  return request;
}

function whom(text) {
  if (!text) return {};
  const unit = Number(text.trim());
  return Number.isInteger(unit) && unit >= 0 && unit <= 255 ? { unit } : { device: text.trim() };
}

let chosen = "scan";
let bus = "";

export function toolsPage(body) {
  const chips = h("div", { class: "chips" });
  const form = h("div", {});
  const output = h("div", { class: "stack" });
  let stop;

  function draw() {
    const tool = TOOLS[chosen];
    chips.replaceChildren(...Object.entries(TOOLS).map(([key, { title }]) =>
      h("button", { "aria-pressed": String(key === chosen), onclick: () => { chosen = key; output.replaceChildren(); draw(); } }, title)));
    const where = field("bus", { value: bus, placeholder: "the only one" });
    const press = h("button", { class: tool.careful ? "risky" : "main" }, tool.careful ? "Write" : "Start");
    form.replaceChildren(h("form", { class: "card stack", onsubmit: (event) => { event.preventDefault(); run(tool, event.currentTarget, press); } },
      h("p", { class: "soft" }, tool.explain), h("div", { class: "row" }, tool.fields(), h("label", {}, "Bus", where)),
      h("datalist", { id: "tool-devices" }, [...known.devices.values()].filter((device) => device.protocol === "modbus").map((device) => h("option", { value: device.id }))),
      h("div", { class: "row" }, press)));
  }

  async function run(tool, element, press) {
    const values = Object.fromEntries(new FormData(element));
    bus = values.bus;
    const request = { tool: chosen, ...(bus ? { bus } : {}), ...whom(values.target), ...tool.request(values) };
    const steps = h("pre", { hidden: true });
    const progress = h("div", { class: "meter", hidden: true }, h("i", {}));
    const answer = h("div", {});
    const cancel = h("button", { class: "small", onclick: () => stop?.abort() }, "Stop");
    output.replaceChildren(h("div", { class: "card stack" }, h("div", { class: "row" }, h("span", { class: "soft pulse" }, "Working on the bus …"), cancel), progress, steps, answer));
    press.disabled = true;
    stop = new AbortController();
    try {
      await lines("/v1/tools/modbus", request, (line) => {
        if (line.progress) step(line.progress, progress, steps);
        if (line.error) answer.replaceChildren(h("p", { class: "outcome bad" }, `${line.error.message} ${line.error.hint ?? ""}`));
        if (line.result !== undefined) { answer.replaceChildren(...result(line.result)); if (chosen === "scan") steps.hidden = true; }
      }, stop.signal);
    } catch (error) {
      answer.replaceChildren(h("p", { class: "outcome bad" }, `${error.message} ${error.hint}`));
      if (error.status === 0) toast(error.message, "bad");
    }
    press.disabled = false;
    progress.hidden = true;
    output.firstChild?.firstChild?.remove();
  }

  draw();
  body.append(h("div", { class: "title" }, h("h1", {}, "Modbus tools")), h("div", { class: "stack" }, chips, form, output));
  return () => stop?.abort();
}

/** Progress with a number moves the bar; what was found, or passed on the wire, is listed. */
function step(progress, meter, steps) {
  const at = progress.done ?? progress.unit;
  if (progress.of) {
    meter.hidden = false;
    meter.firstChild.style.width = `${Math.min(100, (at / progress.of) * 100)}%`;
  }
  if (progress.of && !progress.found) return;
  steps.hidden = false;
  const old = steps.textContent.split("\n").slice(-400);
  steps.textContent = [...old, line(progress.found ?? progress)].filter(Boolean).join("\n");
  steps.scrollTop = steps.scrollHeight;
}

const line = (value) => typeof value === "string" ? value
  : Object.entries(value ?? {}).filter(([, part]) => part !== null && part !== undefined).map(([name, part]) => `${name} ${typeof part === "object" ? JSON.stringify(part) : part}`).join("  ");

/** Lists of like documents become tables, single values stand large, the rest is shown as it is. */
function result(value) {
  if (value === null || typeof value !== "object") return [h("p", { class: "figure" }, shown(value))];
  const entries = Object.entries(value).filter(([, part]) => part !== null).sort(([a], [b]) => Number(b === "value") - Number(a === "value"));
  return entries.map(([name, part]) => {
    if (name === "value" && typeof part !== "object") return h("p", { class: "figure" }, shown(part));
    if (Array.isArray(part) && part.length && part.every((one) => one && typeof one === "object" && !Array.isArray(one))) return [h("h2", {}, name), table(part)];
    if (part !== null && typeof part === "object" && !Array.isArray(part)) return [h("h2", {}, name), h("pre", {}, JSON.stringify(part, null, 2))];
    const words = Array.isArray(part) ? (part.length ? part.map((one) => (typeof one === "object" ? JSON.stringify(one) : String(one))).join("  ") : "nothing") : shown(part);
    return h("p", {}, h("span", { class: "soft" }, `${name}  `), h("span", { class: "strong mono" }, words));
  }).flat();
}

function table(rows) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (Array.isArray(value)) return value.map((one) => (typeof one === "object" ? line(one) : String(one))).join(", ");
    return typeof value === "object" ? Object.values(value).filter((part) => typeof part !== "object").join(" ") : shown(value);
  };
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, columns.map((name) => h("th", {}, name)))),
    h("tbody", {}, rows.slice(0, 300).map((row) => h("tr", {}, columns.map((name) => h("td", {}, cell(row[name]))))))));
}
