// Is all well? The cloud link, the log that bridges its absence, the devices, and whatever needs a hand.

import { call, get, known, listen, may } from "./api.js";
import { ago, bytes, card, chip, clock, count, facts, h, icon, mayTalk, note, now, presenceTone, presenceWord, rate, span, svg, toast } from "./dom.js";

export function linkWord(link) {
  switch (link.state) {
    case "live": return ["cloud live", "good"];
    case "catching-up": return ["catching up", "busy"];
    case "connecting": return ["connecting", "warn"];
    case "backing-off": return ["cloud away", "bad"];
    case "refused": return ["cloud refuses", "bad"];
    default: return ["no cloud", ""];
  }
}

const sentence = {
  live: "Connected. Every reading is confirmed as it comes.",
  "catching-up": "Connected. What waited is being sent.",
  connecting: "Connecting to the cloud.",
  "backing-off": "The cloud does not answer. Readings are kept here and sent later.",
  refused: "The cloud turns the gateway away. Readings are kept here.",
  disabled: "No cloud is configured. Everything works locally.",
};

let connections = [];
let alarms = [];

export function overviewPage(body) {
  const place = h("div", {});
  body.append(place);
  const draw = () => {
    const overview = known.overview;
    if (!overview) { place.replaceChildren(h("p", { class: "empty" }, "Asking the gateway …")); return; }
    place.replaceChildren(
      h("div", { class: "stack" }, warnings(overview), alarms.filter((alarm) => alarm.active || !alarm.acknowledged).slice(0, 20).map((alarm) => alarmNote(alarm, ask))),
      h("div", { class: "columns" },
        h("div", {}, placed(1, link(overview.link)), placed(3, devices(overview)), placed(5, gateway(overview))),
        h("div", {}, placed(2, log(overview)), placed(4, storage(overview.log)), placed(5, broker(overview)))));
  };
  const ask = async () => {
    const again = (path, old) => get(path, { background: true }).catch(() => old);
    [connections, alarms] = await Promise.all([again("/v1/connections", connections), again("/v1/alarms", alarms)]);
    draw();
  };
  ask();
  const timer = setInterval(() => { if (!document.hidden) ask(); }, 5000);
  const stop = listen((kind, detail) => {
    if (kind === "overview" || kind === "devices") draw();
    if (kind === "event" && detail.type === "alarm") ask();
  });
  return () => { stop(); clearInterval(timer); };
}

function placed(place, node) {
  node.classList.add(`place-${place}`);
  return node;
}

function warnings(overview) {
  const list = [];
  if (overview.log.refusing) list.push(note("bad", `Nothing can be stored: ${overview.log.refusing}. Readings are not acknowledged until this is mended.`));
  if (overview.config.problems > 0) list.push(note("warn", `The configuration on disk has ${count(overview.config.problems)} problem${overview.config.problems > 1 ? "s" : ""}; the earlier one runs on. `, h("a", { href: "#/config" }, "Look at them")));
  if (!overview.clockTrusted) list.push(note("warn", "The clock is not trusted yet: readings are stamped and will be repaired when the time is known."));
  for (const notice of overview.notices ?? []) list.push(note(notice.urgent ? "bad" : "warn", notice.text));
  return list.length ? [...list, h("div", {})] : [];
}

/** One alarm with the way to say that it was seen; it goes when it is over and seen. */
function alarmNote(alarm, then) {
  const tone = alarm.active && (alarm.severity === "critical" || alarm.severity === "major") ? "bad" : "warn";
  const seen = async () => {
    await call("POST", `/v1/alarms/${encodeURIComponent(alarm.device)}/${encodeURIComponent(alarm.type)}/acknowledge`, {}).catch((error) => toast(error.message, "bad"));
    then();
  };
  const state = alarm.active ? `since ${ago(alarm.last)}` : `over, ${ago(alarm.last)}`;
  return note(tone,
    h("a", { href: `#/devices/${encodeURIComponent(alarm.device)}` }, alarm.device), ` · ${alarm.type} (${alarm.severity}): ${alarm.text} `,
    h("span", { class: "soft small" }, alarm.acknowledged ? `${state}, seen by ${alarm.by ?? "somebody"} ` : `${state} `),
    !alarm.acknowledged && may("technician") && h("button", { class: "small", onclick: seen }, "Seen"));
}

function link(link) {
  const [word, tone] = linkWord(link);
  const box = card("Cloud",
    h("p", { class: "strong" }, sentence[link.state] ?? ""),
    link.state === "backing-off" && h("p", { class: "soft small" }, `${link.reason}. Next try in ${span(Math.max(0, (link.until - now()) / 1000))}.`),
    link.state === "refused" && h("p", { class: "soft small" }, link.reason),
    facts([
      ["Broker", link.broker],
      ["Since", link.since && `${clock(link.since)} (${span((now() - link.since) / 1000)})`],
      ["Confirmed", link.state !== "disabled" && `${count(link.acknowledged)} records`],
      ["In flight", link.state !== "disabled" && count(link.inFlight)],
      ["Sent / received", link.state !== "disabled" && `${bytes(link.bytesSent)} / ${bytes(link.bytesReceived)}`],
      ["Per record", link.bytesPerRecord && `${bytes(link.bytesPerRecord)} on the wire`],
      ...(link.budgets ?? []).map(budget),
      ["Last error", link.lastError],
    ].filter(([, value]) => value)));
  box.firstChild.append(h("span", { class: "push" }, chip(word, tone)));
  return box;
}

/** A limit of a metered link: what is used, what the period will have cost, and what waits for the next one. */
function budget(limit) {
  const waits = limit.held.length > 0 && `; ${limit.held.join(", ")} wait until ${clock(limit.ends)}`;
  return [`This ${limit.span}`, `${bytes(limit.used)} of ${bytes(limit.limit)}, ${bytes(limit.forecast)} expected${waits || ""}`];
}

function log(overview) {
  const log = overview.log;
  const share = log.quota > 0 ? Math.min(1, log.bytes / log.quota) : 0;
  const away = overview.link.state !== "live" && overview.link.state !== "catching-up";
  const figure = log.fullIn === null || log.fullIn === undefined
    ? h("p", { class: "figure" }, h("small", {}, "no limit in sight"))
    : h("p", { class: "figure" }, span(log.fullIn));
  const meter = h("div", { class: `meter ${share > 0.9 ? "bad" : share > 0.7 ? "warn" : ""}`, role: "img", "aria-label": `${Math.round(share * 100)} % of the log is used` }, h("i", {}));
  meter.firstChild.style.width = `${(share * 100).toFixed(1)}%`;
  const alone = overview.link.state === "disabled";
  return card(alone ? "The log has room for another" : away ? "You can stay offline for another" : "You can be offline for", figure, meter,
    h("p", { class: "soft small" }, `${bytes(log.bytes)} of ${bytes(log.quota)} used`),
    spark(),
    facts([
      [alone ? "Kept" : "Waiting for the cloud", `${count(log.waiting)} records`],
      ["Oldest of them", log.oldest ? ago(log.oldest) : alone ? null : "nothing waits"],
      ["In / out", `${rate(log.rateIn)} / ${rate(log.rateOut)} per s`],
      ["Caught up in", log.waiting > 0 && log.drainedIn !== null && log.drainedIn !== undefined ? span(log.drainedIn) : null],
    ]),
    dropped(log));
}

/** Records per second in (line) and out (dashes), as long as this page has looked. */
function spark() {
  const points = known.rates;
  if (points.length < 3) return null;
  const top = Math.max(...points.map(([, a, b]) => Math.max(a, b)), 0.1);
  const [from, to] = [points[0][0], points.at(-1)[0]];
  const path = (at) => points.map((p, i) => `${i ? "L" : "M"}${((p[0] - from) / (to - from) * 300).toFixed(1)} ${(42 - p[at] / top * 40).toFixed(1)}`).join("");
  return svg("svg", { class: "spark", viewBox: "0 0 300 44", preserveAspectRatio: "none", role: "img", "aria-label": "records per second in and out" },
    svg("path", { class: "out", d: path(2), "vector-effect": "non-scaling-stroke" }), svg("path", { class: "in", d: path(1), "vector-effect": "non-scaling-stroke" }));
}

function dropped(log) {
  const causes = Object.entries(log.dropped ?? {}).filter(([, n]) => n > 0);
  if (!causes.length) return h("p", { class: "outcome good" }, "Nothing was ever dropped.");
  return h("div", { class: "outcome bad" }, `Dropped and declared: ${causes.map(([cause, n]) => `${count(n)} (${cause})`).join(", ")}`);
}

function complianceLine(counts) {
  if (!counts) return "";
  const drifted = ["configuration", "firmware", "identity"].filter((kind) => counts[kind]).map((kind) => `${count(counts[kind])} in ${kind}`);
  const alarmed = counts.alarmed ? ` · ${count(counts.alarmed)} alarmed` : "";
  return `${count(counts.compliant)} of ${count(counts.devices)} as they should be${drifted.length ? ` · drifted: ${drifted.join(", ")}${alarmed}` : ""}`;
}

function devices(overview) {
  const counts = overview.devices;
  const trouble = [...known.devices.values()].filter((device) => mayTalk(device) && device.presence !== "online").slice(0, 5);
  const waiting = [...known.devices.values()].filter((device) => device.lifecycle === "pending" || device.lifecycle === "discovered").slice(0, 5);
  const row = (device) => h("li", {}, h("a", { class: "line", href: `#/devices/${encodeURIComponent(device.id)}` },
    h("span", { class: `dot ${presenceTone(device)}` }),
    h("span", { class: "grow" }, h("span", { class: "name" }, device.id), h("div", { class: "soft small wrap" }, device.reason ?? device.type)),
    h("span", { class: "end soft small" }, presenceWord(device), h("div", {}, device.lastSeen ? ago(device.lastSeen) : ""))));
  return h("section", { class: "card flush" },
    h("header", {}, h("h2", {}, "Devices"), h("a", { class: "push small soft", href: "#/devices" }, "all")),
    h("div", { class: "setter" },
      h("p", { class: "figure" }, count(counts.online), h("small", {}, ` of ${count(counts.total)} online`)),
      h("p", { class: "soft small" }, [counts.late && `${counts.late} late`, counts.offline && `${counts.offline} offline`, counts.neverSeen && `${counts.neverSeen} never seen`, counts.waiting && `${counts.waiting} waiting for approval`].filter(Boolean).join(" · ") || "All are well."),
      h("p", { class: "soft small" }, complianceLine(overview.compliance))),
    (trouble.length + waiting.length > 0) && h("ul", { class: "list" }, waiting.map(row), trouble.map(row)));
}

function broker(overview) {
  const busy = connections.filter((connection) => connection.connected).sort((a, b) => b.rateIn - a.rateIn).slice(0, 6);
  const dropped = (connection) => Object.values(connection.dropped ?? {}).reduce((sum, n) => sum + n, 0);
  return h("section", { class: "card flush" },
    h("header", {}, h("h2", {}, "Local broker")),
    h("div", { class: "setter" }, h("p", { class: "figure" }, count(overview.connections), h("small", {}, overview.connections === 1 ? " connection" : " connections"))),
    busy.length > 0 && h("ul", { class: "list" }, busy.map((connection) => h("li", {},
      h("a", { class: "line", href: known.devices.has(connection.device) ? `#/devices/${encodeURIComponent(connection.device)}/about` : "#/overview" },
        h("span", { class: "grow" }, h("span", { class: "name" }, connection.device), h("div", { class: "soft small wrap" }, [connection.protocol, connection.address].filter(Boolean).join(" · "))),
        h("span", { class: "end small" }, `${rate(connection.rateIn)} / s`, dropped(connection) > 0 && h("div", { class: "outcome bad" }, `${count(dropped(connection))} dropped`)))))));
}

function storage(log) {
  const lanes = (log.lanes ?? []).filter((lane) => lane.waiting > 0);
  const years = log.cardYears;
  return card("Storage",
    years === null || years === undefined
      ? h("p", { class: "soft" }, "The life of the card is estimated after the first hours.")
      : h("p", { class: "figure" }, years >= 50 ? "50+ years" : years >= 2 ? `${years.toFixed(0)} years` : span(years * 31557600), h("small", {}, " of card life")),
    facts([
      ["Written per day", bytes(log.writtenPerDay)],
      ...lanes.map((lane) => [`Waiting, ${lane.lane}`, count(lane.waiting)]),
    ]));
}

function gateway(overview) {
  return card("Gateway", facts([
    ["Name", overview.gateway],
    ["Running for", span((overview.now - overview.started) / 1000)],
    ["Clock", `${clock(overview.now)}${overview.clockTrusted ? "" : " (not trusted)"}`],
    ["Memory", bytes(overview.memory)],
    ["Configuration", overview.config.loaded ? `loaded ${ago(overview.config.loaded)}` : "defaults"],
    ["Version", overview.version],
  ]));
}
