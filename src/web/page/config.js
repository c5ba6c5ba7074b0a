// What is wrong with the configuration on disk, where, and what would be right.

import { call, get, listen, may } from "./api.js";
import { ago, chip, clock, h, note, toast } from "./dom.js";

export function configPage(body) {
  const place = h("div", { class: "stack" });
  const reload = h("button", { class: "push", hidden: !may("admin"), onclick: () => act(true) }, "Load again");
  body.append(h("div", { class: "title" }, h("h1", {}, "Configuration"), reload), place);

  function draw(report) {
    const problems = report.problems ?? [];
    place.replaceChildren(
      problems.length
        ? note("warn", `${problems.length} problem${problems.length > 1 ? "s" : ""} on disk. The earlier configuration runs on until all of them are mended.`)
        : note("good", report.loaded ? `All is well; loaded ${ago(report.loaded)}.` : "The defaults run; there is no configuration on disk."),
      problems.length > 0 && h("div", { class: "card flush" }, h("ul", { class: "list" }, problems.map((problem) => h("li", {}, h("div", { class: "line" }, h("div", { class: "grow" },
        h("div", {}, h("code", {}, problem.file + (problem.line > 0 ? `:${problem.line}` : "")), " ", problem.key && chip(problem.key, "plain")),
        h("p", { class: "strong wrap" }, problem.found),
        problem.hint && h("p", { class: "soft wrap" }, problem.hint))))))),
      h("section", { class: "card" }, h("h2", {}, "Where it lies"), h("p", { class: "mono wrap" }, report.folder ?? "no folder; built-in defaults"),
        report.loaded && h("p", { class: "soft small" }, `The running configuration was loaded ${clock(report.loaded)}.`),
        report.changes?.length > 0 && h("ul", { class: "small" }, report.changes.map((change) => h("li", {}, change)))));
  }

  async function act(again) {
    reload.disabled = again;
    try {
      const report = again ? await call("POST", "/v1/config/reload", {}) : await get("/v1/config/problems", { background: true });
      draw(report);
      if (again) toast(report.problems.length ? "Refused; the problems are listed" : "Loaded and running", report.problems.length ? "bad" : "");
    } catch (error) {
      if (again) toast(error.message, "bad");
    }
    reload.disabled = false;
  }
  act(false);
  return listen((kind, detail) => { if (kind === "event" && detail.type === "config") act(false); });
}
