// The frame: who is logged in, which page is shown, and the bar that always tells how the gateway is.

import { call, get, known, listen, may, start, stop, whenLoginIsNeeded, whenProofIsNeeded } from "./api.js";
import { chip, h, icon, note } from "./dom.js";
import { askForProof, loginPage } from "./login.js";
import { linkWord, overviewPage } from "./overview.js";
import { devicesPage } from "./devices.js";
import { devicePage } from "./device.js";
import { updatesPage } from "./updates.js";
import { jobsPage } from "./jobs.js";
import { toolsPage } from "./tools.js";
import { configPage } from "./config.js";
import { accessPage } from "./access.js";
import { logPage } from "./log.js";

const PAGES = {
  overview: { title: "Overview", icon: "home", page: overviewPage },
  devices: { title: "Devices", icon: "devices", page: devicesPage },
  updates: { title: "Updates", icon: "updates", page: updatesPage },
  jobs: { title: "Jobs", icon: "jobs", page: jobsPage, aside: true },
  tools: { title: "Modbus tools", icon: "tools", page: toolsPage, role: "technician", aside: true },
  config: { title: "Configuration", icon: "config", page: configPage, aside: true },
  access: { title: "Access", icon: "access", page: accessPage, role: "technician", aside: true },
  log: { title: "Log", icon: "log", page: logPage, aside: true },
  more: { title: "More", icon: "more", page: morePage, phone: true },
};

const app = document.getElementById("app");
const main = h("main", { id: "main", tabIndex: -1 });
const state = h("a", { href: "#/overview" });
const name = h("span", {}, "Headgate");
const nav = h("nav", { class: "nav", "aria-label": "Pages" });
const unreachable = h("div", { hidden: true },
  note("bad", "The gateway does not answer. What you see is from before; the page goes on by itself when it is back."));
let leave = () => {};

const where = () => {
  const [page = "overview", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return [page || "overview", ...rest.map((part) => { try { return decodeURIComponent(part); } catch { return part; } })];
};

function frame() {
  nav.replaceChildren(...Object.entries(PAGES)
    .filter(([, page]) => !page.role || may(page.role))
    .map(([key, page]) => h("a", { href: `#/${key}`, class: page.aside ? "more" : page.phone ? "less" : "", "data-page": key }, icon(page.icon), h("span", {}, page.title))));
  app.replaceChildren(h("div", { class: "frame" },
    h("header", { class: "bar" },
      h("a", { class: "brand", href: "#/overview" }, h("img", { src: "/assets/icon.svg", alt: "" }), name),
      h("span", { class: "push" }), state),
    nav, main));
  status();
  show();
}

function status() {
  const overview = known.overview;
  if (!overview) return;
  name.textContent = overview.gateway;
  document.title = `${overview.gateway} · Headgate`;
  const [word, tone] = known.reachable ? linkWord(overview.link) : ["no answer", "bad"];
  state.replaceChildren(chip(word, tone));
  unreachable.hidden = known.reachable;
  badge("config", overview.config.problems);
  badge("devices", overview.devices.waiting);
}

function badge(page, n) {
  const link = nav.querySelector(`[data-page="${page}"]`);
  link?.querySelector(".badge")?.remove();
  if (n > 0) link?.append(h("span", { class: "badge" }, String(n)));
}

function show() {
  leave();
  const [page, ...rest] = where();
  const found = PAGES[page] ?? PAGES.overview;
  for (const link of nav.children) {
    const here = link.dataset.page === page || (link.dataset.page === "more" && found.aside);
    if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  const body = h("div", {});
  main.replaceChildren(unreachable, body);
  const left = page === "devices" && rest[0] ? devicePage(body, rest[0], rest[1]) : found.page(body);
  leave = typeof left === "function" ? left : () => {};
  window.scrollTo(0, 0);
}

function morePage(body) {
  const rows = Object.entries(PAGES).filter(([, page]) => page.aside && (!page.role || may(page.role)));
  body.append(
    h("div", { class: "title" }, h("h1", {}, "More")),
    h("div", { class: "card flush" }, h("ul", { class: "list" }, rows.map(([key, page]) =>
      h("li", {}, h("a", { class: "line", href: `#/${key}` }, h("span", { class: "grow name" }, page.title)))))),
    h("div", { class: "stack" }, h("div", {}), who()));
}

export const who = () => h("div", { class: "card" },
  h("div", { class: "row" },
    h("div", { class: "grow" }, h("div", { class: "strong" }, known.session.account), h("div", { class: "soft small" }, known.session.role)),
    h("button", { class: "push", onclick: logOut }, "Log out")));

async function logOut() {
  await call("DELETE", "/v1/session").catch(() => {});
  location.reload();
}

async function enter() {
  const session = await get("/v1/session").catch((error) => ({ error }));
  if (session.error) {
    app.replaceChildren(h("div", { class: "gate" }, note("bad", `${session.error.message} ${session.error.hint ?? ""}`)));
    setTimeout(enter, 3000);
    return;
  }
  if (!session.account) {
    stop();
    loginPage(app, session, enter);
    return;
  }
  known.session = session;
  frame();
  start();
}

whenLoginIsNeeded(() => { if (known.session) { known.session = null; leave(); leave = () => {}; enter(); } });
whenProofIsNeeded(askForProof);
listen((kind) => { if (kind === "overview" || kind === "reachable") status(); });
window.addEventListener("hashchange", () => { if (known.session) show(); });
enter();
