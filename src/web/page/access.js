// Who may enter: children with their credentials, people with their accounts and sessions.

import { call, get, known, may } from "./api.js";
import { ago, card, chip, clock, confirm, dialog, h, now, toast } from "./dom.js";
import { who } from "./app.js";

export function accessPage(body) {
  const children = h("ul", { class: "list" });
  const empty = h("p", { class: "empty", hidden: true }, "No credentials yet. Issue one, or hand out an enrolment code.");
  const people = h("div", { class: "grid" });
  const turnedAway = h("ul", { class: "list" });
  const turnedAwayCard = h("section", { class: "card flush", hidden: true }, h("header", {}, h("h2", {}, "Refused at the door")), turnedAway);
  const refused = (error) => { if (error) toast(`${error.message} ${error.hint ?? ""}`, "bad"); };

  async function load() {
    const found = await get("/v1/credentials", { background: true }).catch((error) => { refused(error); return []; });
    children.replaceChildren(...found.map((credential) => row(credential)));
    empty.hidden = found.length > 0;
    const away = await get("/v1/credentials/refused", { background: true }).catch(() => []);
    turnedAway.replaceChildren(...away.slice(0, 20).map((one) => h("li", {}, h("div", { class: "line" },
      h("span", { class: "grow" }, h("span", { class: "name" }, one.device ?? "somebody"), h("div", { class: "soft small wrap" }, [one.address, one.text].filter(Boolean).join(" · "))),
      h("span", { class: "end small" }, ago(one.last), h("div", { class: "soft" }, one.count === 1 ? "once" : `${one.count} times`))))));
    turnedAwayCard.hidden = away.length === 0;
    if (!may("admin")) { people.replaceChildren(who()); return; }
    const [sessions, accounts] = await Promise.all([get("/v1/sessions", { background: true }).catch(() => []), get("/v1/accounts", { background: true }).catch(() => [])]);
    people.replaceChildren(
      h("section", { class: "card flush" }, h("header", {}, h("h2", {}, "Accounts"), h("button", { class: "push small", onclick: invite }, "Invite")),
        h("ul", { class: "list" }, accounts.map((account) => h("li", {}, h("div", { class: "line" },
          h("span", { class: "grow" }, h("span", { class: "name" }, account.name), h("div", { class: "soft small" }, account.role)),
          account.name !== known.session.account && h("button", { class: "small risky", onclick: () => removeAccount(account.name) }, "Remove")))))),
      h("section", { class: "card flush" }, h("header", {}, h("h2", {}, "Logged in")),
        h("ul", { class: "list" }, sessions.map((session) => h("li", {}, h("div", { class: "line" },
          h("span", { class: "grow" }, h("span", { class: "name" }, session.account), h("div", { class: "soft small wrap" }, `${session.address} · since ${clock(session.created)}, seen ${ago(session.seen)}`)),
          h("button", { class: "small", onclick: () => act("DELETE", `/v1/sessions/${encodeURIComponent(session.handle)}`, "Ended") }, "End")))))),
      who());
  }

  const state = (credential) => {
    if (credential.revoked) return ["revoked", "bad"];
    if (credential.expires && credential.expires < now()) return ["ran out", "bad"];
    if (credential.standing === "due") return ["renew now", "warn"];
    if (credential.expires && credential.expires - now() < 14 * 86400000) return [`ends ${clock(credential.expires).slice(0, 10)}`, "warn"];
    return ["valid", "good"];
  };

  const row = (credential) => {
    const [word, tone] = state(credential);
    return h("li", {}, h("div", { class: "line" },
      h("span", { class: "grow" }, h("span", { class: "name" }, credential.device), " ", h("span", { class: "soft small" }, credential.kind),
        h("div", { class: "soft small wrap" }, [`id ${credential.id}`, credential.lastUsed ? `used ${ago(credential.lastUsed)}` : "never used", credential.expires && `until ${clock(credential.expires)}`, credential.reason].filter(Boolean).join(" · "))),
      h("span", { class: "end" }, chip(word, tone)),
      may("admin") && !credential.revoked && h("button", { class: "small risky", onclick: () => revoke(credential) }, "Revoke")));
  };

  async function act(method, path, done, payload) {
    try {
      const answer = await call(method, path, payload);
      if (done) toast(done);
      load();
      return answer;
    } catch (error) { refused(error); return undefined; }
  }

  async function revoke(credential) {
    if (await confirm(`Revoke ${credential.device}?`, "Its connection is closed within seconds and it cannot come back with this credential.", "Revoke", "risky"))
      act("DELETE", `/v1/credentials/${encodeURIComponent(credential.id)}`, "Revoked");
  }

  async function removeAccount(name) {
    if (await confirm(`Remove ${name}?`, "The account and all of its sessions end.", "Remove", "risky")) act("DELETE", `/v1/accounts/${encodeURIComponent(name)}`, "Removed");
  }

  const ids = () => h("datalist", { id: "device-ids" }, [...known.devices.keys()].map((id) => h("option", { value: id })));

  async function issue() {
    const asked = await dialog("New credential", (done) => {
      const device = h("input", { required: true, placeholder: "meter-1", list: "device-ids", autocapitalize: "none", spellcheck: false });
      const kind = h("select", {}, [["token", "Token (a user name and a long secret)"], ["certificate", "Certificate and key (mutual TLS)"], ["code", "Enrolment code (the device makes its own)"]].map(([value, words]) => h("option", { value }, words)));
      return h("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); done({ device: device.value.trim(), kind: kind.value }); } },
        h("label", {}, "Device", device), ids(), h("label", {}, "Kind", kind),
        h("div", { class: "row" }, h("button", { type: "button", onclick: () => done() }, "Cancel"), h("button", { class: "main" }, "Issue")));
    });
    if (!asked) return;
    const made = asked.kind === "code"
      ? await act("POST", "/v1/credentials/codes", null, { device: asked.device })
      : await act("POST", "/v1/credentials", null, asked);
    if (made) handOut(`For ${asked.device}`, made);
  }

  async function invite() {
    const asked = await dialog("Invite somebody", (done) => {
      const role = h("select", {}, ["technician", "viewer", "admin"].map((role) => h("option", { value: role }, role)));
      const name = h("input", { required: true, autocapitalize: "none", spellcheck: false });
      return h("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); done({ account: name.value.trim(), role: role.value }); } },
        h("p", { class: "soft" }, "They choose their own password with a one-time code."),
        h("label", {}, "Name", name), h("label", {}, "Role", role),
        h("div", { class: "row" }, h("button", { type: "button", onclick: () => done() }, "Cancel"), h("button", { class: "main" }, "Make a code")));
    });
    if (!asked) return;
    const made = await act("POST", "/v1/accounts/codes", null, asked);
    if (made) handOut(`One-time code for ${asked.account}`, made);
  }

  body.append(
    h("div", { class: "title" }, h("h1", {}, "Access"), may("admin") && h("button", { class: "push main", onclick: issue }, "New credential")),
    h("div", { class: "stack" }, h("section", { class: "card flush" }, h("header", {}, h("h2", {}, "Children")), children, empty), turnedAwayCard, people));
  load();
}

const SHOWN = { code: "One-time code", username: "User name", token: "Password (token)", certificate: "Certificate", key: "Private key", authority: "The gateway's authority, for TLS" };

/** What is shown once and never again; what is long is folded. */
function handOut(title, made) {
  const parts = Object.keys(SHOWN).filter((name) => typeof made[name] === "string").map((name) => [SHOWN[name], made[name]]);
  const copy = (value) => h("button", { class: "small", onclick: async () => { await navigator.clipboard?.writeText(value); toast("Copied"); } }, "Copy");
  return dialog(title, (done) => [
    h("p", { class: "soft" }, `This is shown once. Copy it now; the gateway keeps only its fingerprint.${made.expires ? ` Good until ${clock(made.expires)}.` : ""}`),
    h("div", { class: "stack" }, h("div", {}), parts.map(([name, value]) => value.includes("\n")
      ? h("details", {}, h("summary", { class: "small strong" }, name), h("pre", {}, value), copy(value))
      : h("div", {}, h("div", { class: "small soft" }, name), h("div", { class: "secret" }, value), copy(value)))),
    h("div", { class: "row" }, h("button", { class: "main", onclick: () => done() }, "Done")),
  ]);
}
