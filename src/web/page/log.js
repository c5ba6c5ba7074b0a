// What the daemon says, and who did what.

import { get, may } from "./api.js";
import { chip, clock, door, h } from "./dom.js";

const LEVELS = ["error", "warn", "info", "debug"];
const tone = { error: "bad", warn: "warn" };

export function logPage(body) {
  const views = h("div", { class: "chips" });
  const place = h("div", { class: "card flush" });
  body.append(h("div", { class: "title" }, h("h1", {}, "Log"), h("span", { class: "push" }), views), place);
  let chosen = "info";
  async function draw() {
    views.replaceChildren(...[...LEVELS, ...(may("admin") ? ["audit"] : [])].map((level) =>
      h("button", { class: "small", "aria-pressed": String(level === chosen), onclick: () => { chosen = level; draw(); } }, level === "audit" ? "who did what" : level)));
    const asked = chosen;
    const found = await get(asked === "audit" ? "/v1/audit?lines=300" : `/v1/log/tail?lines=300&level=${asked}`, { background: true }).catch((error) => error);
    if (asked !== chosen) return;
    if (found instanceof Error) { place.replaceChildren(h("p", { class: "empty" }, found.message)); return; }
    const rows = [...found].reverse().map(asked === "audit" ? auditRow : logRow);
    place.replaceChildren(rows.length ? h("ul", { class: "list" }, rows) : h("p", { class: "empty" }, "Nothing of that kind."));
  }
  const logRow = (line) => h("li", {}, h("div", { class: "line" }, h("div", { class: "grow" },
    h("div", { class: "row" }, chip(line.level, tone[line.level] ?? "plain"), h("span", { class: "soft small" }, clock(line.at)), h("span", { class: "faint small" }, line.target)),
    h("p", { class: "mono wrap" }, line.text))));
  const auditRow = (line) => h("li", {}, h("div", { class: "line" }, h("div", { class: "grow" },
    h("div", { class: "row" }, h("span", { class: "strong" }, line.who), chip(line.ok ? "done" : "refused", line.ok ? "plain" : "bad"), h("span", { class: "soft small" }, clock(line.at))),
    h("p", { class: "wrap" }, `${line.what} ${line.target}`, line.detail && h("span", { class: "soft" }, ` · ${line.detail}`)))));
  draw();
  const timer = setInterval(() => { if (!document.hidden) draw(); }, 5000);
  return () => clearInterval(timer);
}
