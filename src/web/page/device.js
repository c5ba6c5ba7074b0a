// One device: what it says, what is wanted of it, what it answered, and who asked.

import { call, get, known, listen, may } from "./api.js";
import { ago, bytes, card, chip, clock, confirm, count, door, facts, h, icon, note, presenceTone, presenceWord, rate, shown, span, text, toast } from "./dom.js";
import { plot } from "./plot.js";
import { setters } from "./set.js";
import { leaves, shadowTable } from "./shadow.js";
import { updateBar } from "./updates.js";

const RANGES = [["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", 86400], ["7 d", 604800]];
let span0 = 3600;

export function devicePage(body, id, tab = "values") {
  const path = `/v1/devices/${encodeURIComponent(id)}`;
  const link = (to) => `#/devices/${encodeURIComponent(id)}/${to}`;
  const head = h("div", { class: "title" });
  const notes = h("div", { class: "stack" });
  const tabs = h("div", { class: "chips tabs", role: "tablist" });
  const place = h("div", {});
  body.append(head, notes, tabs, place);
  const page = { id, path, place, view: null, shadow: null, problems: {}, locks: {}, load };
  let left = () => {};
  let update = () => {};

  const TABS = {
    values: ["Values", valuesTab], set: ["Set", setTab], shadow: ["Shadow", shadowTab], history: ["History", historyTab],
    commands: ["Commands", commandsTab], registers: ["Registers", registersTab], about: ["About", aboutTab],
  };

  function drawHead() {
    const device = page.view;
    const waits = ["discovered", "pending"].includes(device.lifecycle);
    head.replaceChildren(...[
      h("a", { href: "#/devices", class: "button back", "aria-label": "back to the list" }, icon("back")),
      h("h1", {}, id), chip(presenceWord(device), presenceTone(device)),
      device.lifecycle === "maintenance" && chip("maintenance", "warn"),
      waits && h("span", { class: "push row" }, lifecycleButtons(page)),
      h("p", { class: "soft small wide wrap" }, [device.type, device.address, device.firmwareVersion && `firmware ${device.firmwareVersion}`, device.lastSeen && `seen ${ago(device.lastSeen)}`].filter(Boolean).join(" · "))].filter(Boolean));
    notes.replaceChildren(...[
      device.presence === "offline" && device.reason && note("bad", `Silent since ${clock(device.presenceSince)}: ${device.reason}`),
      ...(device.drift ?? []).map((drift) => note("warn", `${drift.text} (${drift.kind}, since ${ago(drift.since)})`)),
      device.update && !["completed"].includes(device.update.status) && h("div", { class: "card" }, updateBar(device.update)),
    ].filter(Boolean));
    if (notes.childElementCount) notes.append(h("div", {}));
    const offered = Object.entries(TABS).filter(([key]) =>
      (key !== "registers" || device.points?.some((point) => point.register)) && (key !== "set" || may("technician")));
    tabs.replaceChildren(...offered.map(([key, [word]]) =>
      h("a", { href: link(key), class: "button", role: "tab", "aria-selected": String(key === tab) }, word)));
  }

  async function load() {
    try {
      const [view, shadow, own] = await Promise.all([get(path), get(`${path}/shadow`).catch(none), get(`${path}/shadows/headgate`).catch(none)]);
      page.view = view;
      page.shadow = shadow;
      page.problems = own?.state?.reported?.problems ?? {};
      page.locks = own?.state?.reported?.locks ?? {};
    } catch (error) {
      place.replaceChildren(h("p", { class: "empty" }, error.message, " ", h("a", { href: "#/devices" }, "Back to the list")));
      return;
    }
    drawHead();
    if (!place.childElementCount) ({ update = () => {}, left = () => {} } = (TABS[tab] ?? TABS.values)[1](page) ?? {});
    else update("load");
  }

  const row = () => known.devices.get(id);
  let asked;
  const soon = () => { asked ??= setTimeout(() => { asked = undefined; load(); }, 200); };
  load();
  const stop = listen((kind, detail) => {
    if (!page.view) return;
    if (kind === "device" && detail === id && row()) {
      for (const key of ["values", "presence", "presenceSince", "reason", "lastSeen", "update"]) page.view[key] = row()[key];
      update("values");
    }
    if (kind === "event" && detail.device === id && ["shadow", "presence", "lifecycle", "update"].includes(detail.type)) soon();
    if (kind === "event" && detail.type === "lagged") soon();
    if (kind === "devices") soon();
  });
  return () => { stop(); left(); clearTimeout(asked); };
}

const none = () => null;

function lifecycleButtons(page) {
  if (!may("technician")) return [];
  const to = async (lifecycle, title, explanation, verb, tone) => {
    if (!(await confirm(title, explanation, verb, tone))) return;
    try {
      await call("PUT", `${page.path}/lifecycle`, { lifecycle });
      toast(`${page.id} is ${lifecycle} now`);
      page.load();
    } catch (error) {
      toast(error.message, "bad");
    }
  };
  const now = page.view.lifecycle;
  const approve = ["discovered", "pending"].includes(now);
  return [
    approve && h("button", { class: "main small", onclick: () => to("active", `Approve ${page.id}?`, "It may then send readings and receive what is wanted of it.", "Approve") }, "Approve"),
    now === "active" && h("button", { class: "small", onclick: () => to("maintenance", "Begin maintenance?", "It works on, and raises no alarms.", "Begin") }, "Maintenance"),
    now === "maintenance" && h("button", { class: "small", onclick: () => to("active", "End maintenance?", "Alarms count again.", "End") }, "End maintenance"),
    ["active", "maintenance"].includes(now) && h("button", { class: "small risky", onclick: () => to("suspended", `Suspend ${page.id}?`, "Its connection is closed and it may not talk until it is resumed.", "Suspend", "risky") }, "Suspend"),
    ["suspended", "quarantined"].includes(now) && h("button", { class: "small", onclick: () => to("active", `Resume ${page.id}?`, "It may talk again.", "Resume") }, "Resume"),
  ];
}

export const pointOf = (page, name) => page.view.points?.find((point) => point.name === name);
export const unitOf = (page, name) => pointOf(page, name)?.unit ?? page.view.units?.[name] ?? "";
export const titleOf = (page, name) => pointOf(page, name)?.title ?? name;
/** A value by its title where it is one of a list. */
export function said(page, name, value) {
  const choice = pointOf(page, name)?.choices?.find((choice) => choice.value === value);
  return choice ? choice.title : shown(value);
}

// ---- values and the plot ----

function valuesTab(page) {
  const tiles = h("div", { class: "tiles" });
  const drawn = new Map();
  const chart = plot();
  const title = h("h2", {});
  let range = span0;
  let chosen;
  let trend;
  const ranges = h("div", { class: "chips push" }, RANGES.map(([word, seconds]) =>
    h("button", { class: "small", "data-seconds": seconds, onclick: () => { span0 = range = seconds; fetchTrend(); } }, word)));
  const plotCard = h("section", { class: "card", hidden: true }, h("header", {}, title, ranges), chart.node);
  const empty = h("p", { class: "empty" }, "No values yet.");
  page.place.append(h("div", { class: "stack" }, plotCard, tiles, empty));

  async function fetchTrend() {
    for (const button of ranges.children) button.setAttribute("aria-pressed", String(Number(button.dataset.seconds) === range));
    const name = chosen;
    const to = known.overview ? Date.now() + (known.overview.now - Date.now()) : Date.now();
    const at = Math.round(Math.max(to, ...page.view.values.map((live) => live.ts)));
    try {
      const found = await get(`${page.path}/trend?name=${encodeURIComponent(name)}&from=${at - range * 1000}&to=${at}&points=${Math.min(600, Math.max(120, Math.round(chart.node.clientWidth / 3)))}`, { background: true });
      if (name !== chosen) return;
      trend = found;
      chart.draw(trend, unitOf(page, name));
    } catch (error) {
      if (error.status !== 0) toast(error.message, "bad");
    }
  }

  function choose(name) {
    chosen = name;
    plotCard.hidden = false;
    title.textContent = titleOf(page, name);
    for (const [other, tile] of drawn) tile.node.setAttribute("aria-pressed", String(other === name));
    fetchTrend();
  }

  const order = new Map((page.view.points ?? []).map((point, index) => [point.name, index]));
  const inOrder = () => [...page.view.values].sort((a, b) => (order.get(a.name) ?? 1e6) - (order.get(b.name) ?? 1e6));

  function update() {
    for (const live of inOrder()) {
      if (!drawn.has(live.name)) {
        const tile = makeTile(page, live, () => choose(live.name));
        drawn.set(live.name, tile);
        tiles.append(tile.node);
      }
      drawn.get(live.name).update(live);
    }
    empty.hidden = drawn.size > 0;
    const numeric = (live) => typeof live.value === "number";
    if (!chosen && page.view.values.some(numeric)) choose(inOrder().find(numeric).name);
    const live = page.view.values.find((value) => value.name === chosen);
    // The newest value joins the curve at once; the whole is asked for again now and then.
    if (trend && live && numeric(live) && live.quality === "good" && live.ts > (trend.points.at(-1)?.[0] ?? 0)) {
      const shift = live.ts - trend.to;
      if (shift > 0) { trend.to += shift; trend.from += shift; }
      trend.points = trend.points.filter((point) => point[0] >= trend.from);
      trend.points.push([live.ts, live.value, live.value, live.value]);
      chart.draw(trend, unitOf(page, chosen));
    }
  }
  update();
  const timer = setInterval(() => { if (chosen && !document.hidden) fetchTrend(); }, 30000);
  const ages = setInterval(() => { for (const live of page.view.values) drawn.get(live.name)?.update(live); }, 1000);
  return { update, left: () => { clearInterval(timer); clearInterval(ages); chart.stop(); } };
}

function makeTile(page, live, press) {
  const what = h("span", { class: "what" }, titleOf(page, live.name));
  const value = h("span", {});
  const much = h("span", { class: "much" }, value, h("small", {}, unitOf(page, live.name) ? ` ${unitOf(page, live.name)}` : ""));
  const state = h("span", { class: "state" });
  const node = h("button", { class: "tile", onclick: press, "aria-pressed": "false", title: live.name }, what, much, state);
  const update = (live) => {
    const words = said(page, live.name, live.value);
    text(value, words);
    much.className = words.length > 9 ? "much long" : "much";
    node.classList.toggle("stale", live.quality === "stale");
    node.classList.toggle("bad", live.quality === "bad");
    text(state, live.quality === "stale" ? `stale, from ${ago(live.since ?? live.ts)}: ${live.reason}` : live.quality === "bad" ? live.reason : ago(live.ts));
  };
  return { node, update };
}

// ---- the other tabs ----

function setTab(page) {
  return setters(page);
}

function shadowTab(page) {
  const place = h("div", { class: "stack" });
  page.place.append(place);
  const names = h("div", { class: "chips" });
  let chosen = null;
  async function draw() {
    const shadow = chosen === null ? page.shadow : await get(`${page.path}/shadows/${encodeURIComponent(chosen)}`).catch(none);
    const all = await get(`${page.path}/shadows`, { background: true }).catch(() => []);
    names.replaceChildren(...(all.length ? [null, ...all] : []).map((name) =>
      h("button", { "aria-pressed": String(name === chosen), onclick: () => { chosen = name; draw(); } }, name ?? "classic")));
    place.replaceChildren(names, shadow ? shadowTable(page, shadow, chosen) : h("p", { class: "empty" }, "This device has no shadow yet: nothing was reported, and nothing is wanted."));
  }
  draw();
  return { update: (why) => { if (why === "load") draw(); } };
}

function historyTab(page) {
  const rows = h("tbody", {});
  const more = h("button", { onclick: () => load(true) }, "Earlier");
  const empty = h("p", { class: "empty", hidden: true }, "Nothing was changed yet.");
  page.place.append(h("div", { class: "card flush" }, h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["When", "Who", "What"].map((word) => h("th", {}, word)))), rows)), empty),
    h("p", { class: "row" }, more));
  let last;
  const what = (change) => {
    const parts = change.change && typeof change.change === "object" && !Array.isArray(change.change) ? Object.entries(change.change) : [["", change.change]];
    return parts.map(([name, part]) => {
      const before = change.before && name in change.before ? `${said(page, name, change.before[name])} → ` : "";
      return h("div", { class: "wrap" }, name && h("span", { class: "strong" }, `${name} `), before + said(page, name, part));
    });
  };
  async function load(earlier) {
    const found = await get(`${page.path}/history?limit=50${earlier && last ? `&before=${last}` : ""}`, { background: !earlier }).catch(() => []);
    if (!earlier) rows.replaceChildren();
    rows.append(...found.map((change) => h("tr", {},
      h("td", { class: "soft small" }, clock(change.at)),
      h("td", { class: "small" }, door(change.door), h("div", { class: "soft" }, change.section + (change.shadow ? ` · ${change.shadow}` : ""))),
      h("td", {}, what(change), change.note && h("div", { class: "soft small" }, change.note), change.refusal && h("div", { class: "outcome bad" }, change.refusal)))));
    last = found.at(-1)?.at ?? last;
    more.hidden = found.length < 50;
    empty.hidden = rows.childElementCount > 0;
  }
  load();
  return { update: (why) => { if (why === "load") load(); } };
}

function commandsTab(page) {
  const list = h("tbody", {});
  const name = h("input", { placeholder: "reboot", "aria-label": "command", autocapitalize: "none", spellcheck: false });
  const params = h("input", { placeholder: "{}", "aria-label": "parameters as JSON", spellcheck: false, class: "mono" });
  async function send(command, given) {
    let parsed;
    try { parsed = given.trim() ? JSON.parse(given) : {}; } catch { toast("The parameters are not JSON, such as {\"seconds\": 5}", "bad"); return; }
    try {
      await call("POST", `${page.path}/commands/${encodeURIComponent(command)}`, { params: parsed });
      toast(`${command}: on its way`);
      load();
    } catch (error) { toast(`${error.message} ${error.hint}`, "bad"); }
  }
  const form = h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); if (name.value.trim()) send(name.value.trim(), params.value); } },
    h("label", {}, "Command", name), h("label", {}, "Parameters (JSON)", params), h("button", { class: "main" }, "Send"));
  const tone = { succeeded: "good", failed: "bad", rejected: "bad", expired: "bad", sent: "busy", waiting: "busy" };
  const empty = h("p", { class: "empty", hidden: true }, "No commands yet.");
  page.place.append(h("div", { class: "stack" },
    may("technician") && h("div", { class: "card stack" },
      page.view.commands?.length ? h("div", { class: "chips" }, page.view.commands.map((command) => h("button", { onclick: () => send(command, "") }, command))) : null, form),
    h("div", { class: "card flush" }, h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["When", "Command", "Outcome"].map((word) => h("th", {}, word)))), list)), empty)));
  async function load() {
    const found = await get(`${page.path}/commands`, { background: true }).catch(() => []);
    list.replaceChildren(...found.map((command) => h("tr", {},
      h("td", { class: "soft small" }, clock(command.at), h("div", {}, command.door ? door(command.door) : "")),
      h("td", {}, h("span", { class: "strong" }, command.name), command.params && Object.keys(command.params).length > 0 && h("div", { class: "soft small mono wrap" }, JSON.stringify(command.params))),
      h("td", {}, chip(command.status, tone[command.status]), command.result !== null && command.result !== undefined && h("div", { class: "small mono wrap" }, JSON.stringify(command.result))))));
    empty.hidden = found.length > 0;
  }
  load();
  const timer = setInterval(() => { if (!document.hidden) load(); }, 3000);
  return { update: (why) => { if (why === "load") load(); }, left: () => clearInterval(timer) };
}

function registersTab(page) {
  const rows = h("tbody", {});
  const draw = () => {
    const live = new Map(page.view.values.map((value) => [value.name, value]));
    rows.replaceChildren(...page.view.points.filter((point) => point.register).map((point) => {
      const { table, address, type, order, scale, interval } = point.register;
      const value = live.get(point.name);
      return h("tr", { class: value && value.quality !== "good" ? "open" : "" },
        h("td", { class: "n mono" }, String(address)),
        h("td", {}, h("span", { class: "strong" }, point.title ?? point.name), h("div", { class: "soft small" }, `${table}${point.writable ? ", writable" : ""}`)),
        h("td", { class: "small" }, [type, order].filter(Boolean).join(" "), h("div", { class: "soft" }, [scale !== null && scale !== undefined && scale !== 1 && `× ${scale}`, interval && `every ${interval < 1000 ? `${interval} ms` : span(interval / 1000)}`].filter(Boolean).join(", "))),
        h("td", { class: "n" }, value ? `${said(page, point.name, value.value)} ${point.unit ?? ""}` : "–", value && value.quality !== "good" && h("div", { class: "small" }, value.reason)));
    }));
  };
  draw();
  page.place.append(h("div", { class: "card flush" }, h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { class: "n" }, "Address"), h("th", {}, "Value"), h("th", {}, "Type"), h("th", { class: "n" }, "Now"))), rows))));
  return { update: draw };
}

function aboutTab(page) {
  const place = h("div", { class: "grid" });
  page.place.append(place);
  const draw = () => {
    const device = page.view;
    const connection = device.connection;
    const config = device.config;
    place.replaceChildren(...[
      card("Device", facts([
        ["Type", device.type], ["Protocol", device.protocol], ["Address", device.address], ["Lifecycle", device.lifecycle],
        ["Firmware", device.firmwareVersion], ["First seen", device.firstSeen && clock(device.firstSeen)], ["Last seen", device.lastSeen && ago(device.lastSeen)],
        ["Tags", (device.tags ?? []).join(", ")], ["Groups", (device.groups ?? []).join(", ")],
      ]), h("div", { class: "row" }, lifecycleButtons(page))),
      connection && card("Connection", facts([
        ["State", `${connection.connected ? "connected" : connection.ended ? "over" : "away"} for ${span((Date.now() - connection.since) / 1000)}`], ["From", connection.address], ["Protocol", connection.protocol], ["Client id", connection.clientId],
        ["Messages in / out", `${count(connection.messagesIn)} / ${count(connection.messagesOut)}`], ["Bytes in / out", `${bytes(connection.bytesIn)} / ${bytes(connection.bytesOut)}`],
        ["Rate in / out", `${rate(connection.rateIn)} / ${rate(connection.rateOut)} per s`], ["Queued for it", count(connection.queued)],
        ...Object.entries(connection.dropped ?? {}).map(([reason, n]) => [`Dropped, ${reason}`, count(n)]), ["Last error", connection.lastError && [connection.lastError, connection.lastErrorAt && ago(connection.lastErrorAt)].filter(Boolean).join(", ")],
      ])),
      device.counters && card("Driver", facts(leaves(device.counters).map(({ path, value }) => [path.join(" "), shown(value)]))),
      config && card("Configuration", facts([["Wanted version", config.desiredVersion], ["Applied version", config.appliedVersion], ["Status", config.status], ["Reason", config.reason]]),
        config.config && h("pre", {}, JSON.stringify(config.config, null, 2))),
    ].filter(Boolean));
  };
  draw();
  return { update: draw };
}
