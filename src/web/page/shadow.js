// The shadow as a table: wanted beside reported, since when, and what is still open.

import { ago, chip, h, shown } from "./dom.js";
import { said, titleOf } from "./device.js";

/** Every value of a nested document with its path; arrays and empty objects count as values. */
export function leaves(document, path = []) {
  return Object.entries(document ?? {}).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length
      ? leaves(value, [...path, name])
      : [{ path: [...path, name], value }]);
}

export const at = (document, path) => path.reduce((node, name) => (node === null || node === undefined ? undefined : node[name]), document);

/** {a: {b: value}} from ["a", "b"]. */
export const nested = (path, value) => path.reduceRight((inner, name) => ({ [name]: inner }), value);

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export function shadowTable(page, shadow, name) {
  const { desired = {}, reported = {} } = shadow.state ?? {};
  const keys = new Map();
  for (const { path } of [...leaves(desired), ...leaves(reported)]) keys.set(JSON.stringify(path), path);
  const rows = [...keys.values()].map((path) => {
    const wanted = at(desired, path), has = at(reported, path);
    return { path, wanted, has, open: wanted !== undefined && !same(wanted, has) };
  });
  rows.sort((a, b) => Number(b.open) - Number(a.open));
  const time = (section, path) => {
    const stamp = at(shadow.metadata?.[section], path);
    const seconds = stamp?.timestamp ?? (Array.isArray(stamp) ? stamp[0]?.timestamp : undefined);
    return seconds ? h("div", { class: "soft small" }, ago(seconds * 1000)) : null;
  };
  const value = (path, v) => (v === undefined ? h("span", { class: "faint" }, "–") : path.length === 1 && name === null ? said(page, path[0], v) : shown(v));
  const problem = (path) => name === null && path.length === 1 ? page.problems[path[0]] : undefined;
  const open = rows.filter((row) => row.open).length;
  return h("section", { class: "card flush" },
    h("header", {}, h("h2", {}, open ? `${open} open` : "In step"), 
      shadow.sync && shadow.sync.state !== "equal" && chip(shadow.sync.state === "refused" ? `refused by the cloud: ${shadow.sync.reason}` : "on its way to the cloud", shadow.sync.state === "refused" ? "bad" : "busy"),
      chip(`version ${shadow.version ?? "–"}`, "plain push")),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Name", "Wanted", "Reported"].map((word) => h("th", {}, word)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.open ? "open" : "" },
        h("td", {}, h("span", { class: "strong" }, row.path.length === 1 ? titleOf(page, row.path[0]) : row.path.join(" › ")),
          row.open && problem(row.path) && h("div", { class: "outcome bad" }, problem(row.path).message)),
        h("td", {}, value(row.path, row.wanted), time("desired", row.path)),
        h("td", {}, value(row.path, row.has), time("reported", row.path))))))));
}
