// Writing: a wish with its limits beside it, and in plain words what became of it.

import { call } from "./api.js";
import { ago, h, now, text, toast } from "./dom.js";
import { pointOf, said, titleOf, unitOf } from "./device.js";
import { at, leaves, nested } from "./shadow.js";

export function setters(page) {
  const list = h("div", { class: "card flush" });
  const other = anything(page);
  page.place.append(h("div", { class: "stack" }, list, other));
  const drawn = new Map();

  /** Writable values of the profile, and whatever is wanted or reported where no profile says otherwise. */
  const paths = () => {
    const points = page.view.points ?? [];
    const found = points.filter((point) => point.writable).map((point) => [point.name]);
    const described = new Set(points.map((point) => point.name));
    const scalar = ({ value }) => value === null || typeof value !== "object";
    const { desired, reported } = page.shadow?.state ?? {};
    for (const { path, value } of [...leaves(desired), ...(points.length ? [] : leaves(reported))]) {
      const known = found.some((other) => JSON.stringify(other) === JSON.stringify(path));
      if (!known && !described.has(path[0]) && scalar({ value }) && path[0] !== "firmwareVersion") found.push(path);
    }
    return found;
  };

  function update() {
    for (const path of paths()) {
      const key = JSON.stringify(path);
      if (!drawn.has(key)) {
        const setter = makeSetter(page, path);
        drawn.set(key, setter);
        list.append(setter.node);
      }
    }
    for (const setter of drawn.values()) setter.update();
    list.hidden = drawn.size === 0;
  }
  update();
  const timer = setInterval(() => { for (const setter of drawn.values()) setter.update(); }, 1000);
  return { update, left: () => clearInterval(timer) };
}

function makeSetter(page, path) {
  const name = path[0];
  const point = path.length === 1 ? pointOf(page, name) : undefined;
  const unit = path.length === 1 ? unitOf(page, name) : "";
  const title = path.length === 1 ? titleOf(page, name) : path.join(" › ");
  const reported = () => at(page.shadow?.state?.reported, path) ?? (path.length === 1 ? page.view.values.find((live) => live.name === name)?.value : undefined);
  const wanted = () => at(page.shadow?.state?.desired, path);
  const isSwitch = () => typeof (wanted() ?? reported()) === "boolean";

  const current = h("span", { class: "soft" });
  const outcome = h("p", { class: "outcome", role: "status" });
  const withdraw = h("button", { class: "quiet small", hidden: true, onclick: () => send(null) }, "Withdraw");
  const lock = h("button", { class: "quiet small", hidden: path.length > 1, onclick: () => turn(!locked()) });
  const hint = [];
  let input;
  let controls;
  if (point?.choices?.length) {
    input = h("select", { "aria-label": title }, point.choices.map((choice, index) => h("option", { value: String(index) }, choice.title)));
    const here = point.choices.findIndex((choice) => choice.value === (wanted() ?? reported()));
    if (here >= 0) input.value = String(here);
    controls = [input, h("button", { class: "main", onclick: () => send(point.choices[Number(input.value)].value) }, "Set")];
  } else if (isSwitch()) {
    controls = [h("button", { onclick: () => send(false) }, "Off"), h("button", { onclick: () => send(true) }, "On")];
  } else {
    const numeric = point ? typeof reported() !== "string" : typeof (wanted() ?? reported()) === "number";
    const limits = point && (point.min !== null && point.min !== undefined || point.max !== null && point.max !== undefined);
    if (limits) hint.push(`${point.min ?? "…"} to ${point.max ?? "…"}${unit ? ` ${unit}` : ""}`);
    input = h("input", { inputMode: numeric ? "decimal" : "text", "aria-label": title, autocomplete: "off", placeholder: hint[0] ?? "", value: String(wanted() ?? reported() ?? "") });
    const submit = () => {
      const raw = input.value.trim();
      if (!numeric) return send(raw);
      const value = Number(raw.replace(",", "."));
      if (raw === "" || !Number.isFinite(value)) return say("bad", "That is not a number.");
      if (point?.min !== null && point?.min !== undefined && value < point.min) return say("bad", `At least ${point.min}${unit ? ` ${unit}` : ""}.`);
      if (point?.max !== null && point?.max !== undefined && value > point.max) return say("bad", `At most ${point.max}${unit ? ` ${unit}` : ""}.`);
      return send(value);
    };
    input.addEventListener("keydown", (event) => { if (event.key === "Enter") submit(); });
    controls = [input, h("button", { class: "main", onclick: submit }, "Set")];
  }
  let sent; // {value, at} of the wish made on this page
  let local; // an outcome that is only this page's to say

  function say(tone, words) {
    local = [tone, words];
    update();
  }

  async function send(value) {
    local = ["wait", "Storing …"];
    update();
    try {
      await call("PATCH", `${page.path}/shadow`, { desired: nested(path, value) });
      sent = value === null ? undefined : { value, at: now() };
      local = value === null ? ["good", "Withdrawn."] : undefined;
    } catch (error) {
      local = ["bad", `${error.message} ${error.hint}`.trim()];
    }
    update();
  }

  const locked = () => {
    const held = page.locks[name];
    return held && (held.until === undefined || held.until > now()) ? held : undefined;
  };

  async function turn(on) {
    try {
      await call(on ? "PUT" : "DELETE", `${page.path}/locks/${encodeURIComponent(name)}`, on ? {} : undefined);
      await page.load();
    } catch (error) { say("bad", `${error.message} ${error.hint}`.trim()); }
  }

  function state() {
    if (local) return local;
    const want = wanted(), has = reported();
    const words = (value) => `${said(page, name, value)}${unit ? ` ${unit}` : ""}`;
    const problem = path.length === 1 ? page.problems[name] : undefined;
    const differs = want !== undefined && JSON.stringify(want) !== JSON.stringify(has);
    const fresh = problem && (!sent || (problem.at ?? 0) >= sent.at - 2000);
    if (differs && fresh) return ["bad", `The device refused ${words(problem.value ?? want)}: ${problem.message}`];
    if (!differs && problem && sent && fresh) return ["bad", `The device refused ${words(problem.value ?? sent.value)}: ${problem.message}`];
    if (differs) return ["wait", page.view.presence === "offline" ? `${words(want)} waits until the device is back.` : `${words(want)} is stored; waiting for the device …`];
    if (sent && JSON.stringify(has) === JSON.stringify(sent.value)) return ["good", `Done: the device reports ${words(has)}.`];
    if (sent) return ["wait", "Stored; waiting for the device …"];
    return ["", ""];
  }

  function update() {
    const has = reported();
    text(current, has === undefined ? "not reported yet" : `now ${said(page, name, has)}${unit ? ` ${unit}` : ""}`);
    const [tone, words] = state();
    outcome.className = `outcome ${tone}`;
    text(outcome, words);
    outcome.hidden = !words;
    const held = locked();
    text(lock, held ? `Locked by ${held.by}: unlock` : "Lock");
    const want = wanted();
    withdraw.hidden = want === undefined || JSON.stringify(want) === JSON.stringify(has);
    if (!isSwitch()) return;
    for (const [index, button] of controls.entries()) button.setAttribute("aria-pressed", String(has === (index === 1)));
  }
  update();
  const node = h("div", { class: "setter" },
    h("div", { class: "head" }, h("span", { class: "strong" }, title), current, hint.length > 0 && h("span", { class: "faint small" }, hint[0])),
    h("div", { class: "controls" }, controls), outcome, withdraw, lock);
  return { node, update: () => { if (local?.[0] !== "wait" || sent) update(); } };
}

/** Any name and any value, for what no profile describes. */
function anything(page) {
  const name = h("input", { placeholder: "name", autocapitalize: "none", spellcheck: false, required: true });
  const value = h("input", { placeholder: "21.5, true, \"text\", {…}", autocapitalize: "none", spellcheck: false, required: true });
  const send = async (event) => {
    event.preventDefault();
    let parsed;
    try { parsed = JSON.parse(value.value); } catch { parsed = value.value; }
    try {
      await call("PATCH", `${page.path}/shadow`, { desired: { [name.value.trim()]: parsed } });
      toast(`${name.value.trim()}: stored`);
      value.value = "";
    } catch (error) { toast(`${error.message} ${error.hint}`, "bad"); }
  };
  return h("details", { class: "card" }, h("summary", { class: "strong" }, "Set another value"),
    h("form", { class: "row", onsubmit: send }, h("label", {}, "Name", name), h("label", {}, "Value ", h("span", { class: "hint" }, "(JSON; null removes)"), value), h("button", { class: "main" }, "Set")));
}
