// Firmware on its way: one bar per device, and what became of earlier ones.

import { get, listen } from "./api.js";
import { ago, bytes, chip, clock, count, h } from "./dom.js";

const tone = { completed: "good", failed: "bad", rolled_back: "bad" };
const word = { rolled_back: "rolled back" };

export function updateBar(update) {
  const done = update.status === "completed";
  const share = done ? 100 : update.progress ?? 0;
  const meter = h("div", { class: `meter ${tone[update.status] === "bad" ? "bad" : ""}`, role: "progressbar", "aria-valuenow": share, "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", {}));
  meter.firstChild.style.width = `${share}%`;
  return h("div", {},
    h("div", { class: "row" },
      h("span", { class: "strong" }, `${update.from ?? "?"} → ${update.to ?? "?"}`),
      chip(word[update.status] ?? update.status, tone[update.status] ?? "busy"),
      h("span", { class: "soft small" }, done ? "" : `${share} %`)),
    meter, update.error && h("p", { class: "outcome bad" }, update.error));
}

export function updatesPage(body) {
  const list = h("ul", { class: "list" });
  const empty = h("p", { class: "empty", hidden: true }, "No update is running, and none ran yet. They are ordered from the cloud, or through the API.");
  body.append(h("div", { class: "title" }, h("h1", {}, "Updates")), h("div", { class: "card flush" }, list, empty));
  async function load() {
    const found = await get("/v1/updates", { background: true }).catch(() => null);
    if (!found) return;
    list.replaceChildren(...found.map((update) => h("li", {}, h("div", { class: "line" }, h("div", { class: "grow" },
      h("a", { class: "name", href: `#/devices/${encodeURIComponent(update.device)}` }, update.device),
      updateBar(update),
      h("p", { class: "soft small" }, [
        update.fetched !== null && update.fetched !== undefined && update.size && update.fetched < update.size && `fetched ${bytes(update.fetched)} of ${bytes(update.size)}`,
        update.size && update.fetched >= update.size && `image ${bytes(update.size)}`,
        update.started && `started ${clock(update.started)}`, update.changed && `last step ${ago(update.changed)}`,
        update.attempts > 1 && `attempt ${count(update.attempts)}`, update.jobId && `job ${update.jobId}`,
      ].filter(Boolean).join(" · ")))))));
    empty.hidden = found.length > 0;
  }
  load();
  const timer = setInterval(() => { if (!document.hidden) load(); }, 5000);
  const stop = listen((kind, detail) => { if (kind === "event" && detail.type === "update") load(); });
  return () => { clearInterval(timer); stop(); };
}
