// The list: found by typing, sorted so that trouble is on top, values moving as they come.

import { known, listen } from "./api.js";
import { ago, h, icon, presenceTone, presenceWord, shown, text } from "./dom.js";

const FILTERS = {
  all: () => true,
  online: (device) => device.presence === "online",
  trouble: (device) => device.presence === "offline" || device.presence === "late" || device.open?.length > 0,
  waiting: (device) => device.lifecycle === "pending" || device.lifecycle === "discovered",
};
const memory = { search: "", filter: "all" };
const rank = { discovered: 0, pending: 0 };
const order = { offline: 1, late: 2, online: 3, "never-seen": 4 };

export function devicesPage(body) {
  const input = h("input", { type: "search", placeholder: "Name, type, tag, address …", "aria-label": "Search", value: memory.search, autocapitalize: "none", spellcheck: false });
  const chips = h("div", { class: "chips" }, Object.keys(FILTERS).map((key) =>
    h("button", { "data-key": key, onclick: () => { memory.filter = key; draw(); } }, key)));
  const list = h("ul", { class: "list" });
  const none = h("p", { class: "empty" });
  const rows = new Map();
  body.append(
    h("div", { class: "title" }, h("h1", {}, "Devices"), h("div", { class: "search push" }, icon("search"), input)),
    chips, h("div", { class: "stack" }, h("div", {}), h("div", { class: "card flush" }, list, none)));
  input.addEventListener("input", () => { memory.search = input.value; draw(); });

  function draw() {
    for (const button of chips.children) {
      const n = [...known.devices.values()].filter(FILTERS[button.dataset.key]).length;
      button.setAttribute("aria-pressed", String(button.dataset.key === memory.filter));
      text(button, `${{ all: "All", online: "Online", trouble: "Needs a look", waiting: "To approve" }[button.dataset.key]} ${n}`);
    }
    const words = memory.search.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (device) => {
      const hay = [device.id, device.type, device.protocol, device.lifecycle, device.presence, device.firmwareVersion, ...(device.tags ?? []), ...(device.groups ?? [])].join(" ").toLowerCase();
      return words.every((word) => hay.includes(word));
    };
    const found = [...known.devices.values()].filter((device) => FILTERS[memory.filter](device) && matches(device));
    const place = (device) => rank[device.lifecycle] ?? order[device.presence] ?? 5;
    found.sort((a, b) => place(a) - place(b) || a.id.localeCompare(b.id, "en", { numeric: true }));
    for (const id of rows.keys()) if (!known.devices.has(id)) rows.delete(id);
    list.replaceChildren(...found.slice(0, 500).map((device) => {
      if (!rows.has(device.id)) rows.set(device.id, row(device.id));
      const entry = rows.get(device.id);
      entry.update(device);
      return entry.node;
    }));
    none.hidden = found.length > 0;
    none.textContent = known.devices.size === 0
      ? "No devices yet. Describe one in devices.d, or let one enrol; it shows up here."
      : "Nothing matches.";
    if (found.length > 500) { none.hidden = false; none.textContent = `${found.length - 500} more; type to narrow.`; }
  }

  draw();
  return listen((kind, id) => {
    if (kind === "devices") draw();
    if (kind === "device" && rows.has(id)) rows.get(id).update(known.devices.get(id));
    if (kind === "overview") for (const [id, entry] of rows) if (known.devices.has(id)) entry.age(known.devices.get(id));
  });
}

function row(id) {
  const dot = h("span", {});
  const kind = h("span", { class: "soft small" });
  const values = h("div", { class: "values" });
  const word = h("div", { class: "small" });
  const seen = h("div", { class: "soft small" });
  const name = h("span", { class: "name" }, id);
  const node = h("li", {}, h("a", { class: "line", href: `#/devices/${encodeURIComponent(id)}` },
    dot, h("span", { class: "grow" }, name, " ", kind, values), h("span", { class: "end" }, word, seen)));
  const age = (device) => text(seen, device.lastSeen ? ago(device.lastSeen) : "");
  const update = (device) => {
    dot.className = `dot ${presenceTone(device)}`;
    text(kind, device.type);
    const open = device.open?.length ?? 0;
    const running = device.update && !["completed", "failed", "rolled_back"].includes(device.update.status);
    text(word, running ? `updating ${device.update.progress ?? 0} %` : open > 0 ? `${open} open` : presenceWord(device));
    age(device);
    const shownValues = device.values.slice(0, 4);
    while (values.childElementCount > shownValues.length) values.lastChild.remove();
    shownValues.forEach((live, index) => {
      let part = values.children[index];
      if (!part) values.append((part = h("span", {}, h("b", {}), h("span", { class: "soft" }))));
      const unit = device.units?.[live.name];
      part.className = live.quality === "good" ? "" : "off";
      text(part.firstChild, shown(live.value, 4) + (unit ? ` ${unit}` : ""));
      text(part.lastChild, ` ${live.name}`);
    });
  };
  return { node, update, age };
}
