// Bulk jobs: how far each is, which device stands where, and the way to pause, resume or end one.

import { call, get, may } from "./api.js";
import { ago, chip, clock, confirm, count, h, toast } from "./dom.js";

const tone = { running: "busy", paused: "warn", succeeded: "good", failed: "bad", aborted: "bad", pending: "hollow" };
const place = { succeeded: "good", failed: "bad", in_progress: "busy", queued: "hollow", skipped: "" };
const words = (status) => status.replace("_", " ");

/** What a person may do with a job that stands like this: [word, verb, question]. */
const choices = (status) => ({
  pending: [["abort", "End it"]],
  running: [["pause", "Pause"], ["abort", "End it"]],
  paused: [["resume", "Go on"], ["abort", "End it"]],
  failed: [["retry", "Try the failed again"]],
})[status] ?? [];

export function jobsPage(body) {
  const list = h("ul", { class: "list" });
  const empty = h("p", { class: "empty", hidden: true }, "No job was ordered yet. The cloud orders them, or the API: POST /v1/jobs.");
  const opened = new Set();
  body.append(h("div", { class: "title" }, h("h1", {}, "Jobs")), h("div", { class: "card flush" }, list, empty));

  async function say(job, control, verb) {
    const id = job.order.jobId;
    if (control === "abort" && !(await confirm(`End ${id}?`, "Devices whose turn has not come are left as they are.", verb, "bad"))) return;
    await call("POST", `/v1/jobs/${encodeURIComponent(id)}/control`, { control }).catch((error) => toast(error.message, "bad"));
    load();
  }

  function row(job) {
    const id = job.order.jobId;
    const many = (status) => job.targets.filter((target) => target.status === status).length;
    const done = many("succeeded") + many("failed") + many("skipped");
    const share = job.targets.length ? (100 * done) / job.targets.length : 0;
    const meter = h("div", { class: `meter ${many("failed") ? "warn" : ""}`, role: "progressbar", "aria-valuenow": Math.round(share), "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", {}));
    meter.firstChild.style.width = `${share}%`;
    const targets = h("details", { open: opened.has(id) }, h("summary", {}, `${count(job.targets.length)} devices`),
      h("ul", { class: "list" }, job.targets.map((target) => h("li", {}, h("div", { class: "line" },
        h("div", { class: "grow" },
          h("a", { class: "name", href: `#/devices/${encodeURIComponent(target.device)}` }, target.device),
          h("div", { class: "soft small" }, [target.error, target.attempt > 1 && `attempt ${count(target.attempt)}`].filter(Boolean).join(" · "))),
        chip(words(target.status), place[target.status]))))));
    targets.addEventListener("toggle", () => { if (targets.open) opened.add(id); else opened.delete(id); });
    return h("li", {}, h("div", { class: "line" }, h("div", { class: "grow" },
      h("div", { class: "row" }, h("span", { class: "name" }, id), chip(words(job.status), tone[job.status]), h("span", { class: "soft small" }, job.order.type)),
      meter,
      h("p", { class: "soft small" }, [
        `${count(many("succeeded"))} done`, many("in_progress") && `${count(many("in_progress"))} at work`,
        many("failed") && `${count(many("failed"))} failed`, many("skipped") && `${count(many("skipped"))} skipped`,
        job.order.rollout && `stage ${job.stage + 1}`, job.soakUntil && job.status === "running" && `watched until ${clock(job.soakUntil)}`,
        `ordered ${ago(job.created)}`,
      ].filter(Boolean).join(" · ")),
      job.reason && h("p", { class: "outcome bad" }, job.reason),
      job.targets.length > 0 && targets,
      may("technician") && h("div", { class: "row" }, choices(job.status).map(([control, verb]) =>
        h("button", { class: "small", onclick: () => say(job, control, verb) }, verb))))));
  }

  async function load() {
    const jobs = await get("/v1/jobs", { background: true }).catch(() => null);
    if (!jobs) return;
    list.replaceChildren(...jobs.map(row));
    empty.hidden = jobs.length > 0;
  }
  load();
  const timer = setInterval(() => { if (!document.hidden) load(); }, 3000);
  return () => clearInterval(timer);
}
