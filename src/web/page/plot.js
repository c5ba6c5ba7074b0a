// One curve with its band of least and greatest, axes a person would choose, and a cross-hair under the thumb.

import { clock, h, shown, svg } from "./dom.js";

const LEFT = 52, RIGHT = 8, TOP = 10, BOTTOM = 22;

/** Round steps: 1, 2 or 5 times a power of ten. */
function steps(from, to, most) {
  const raw = (to - from) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const list = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step / 1e6; at += step) list.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return list;
}

const MINUTE = 60000;
const TIMES = [1 / 6, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080].map((n) => n * MINUTE);

function timeSteps(from, to, most) {
  const step = TIMES.find((n) => (to - from) / n <= most) ?? 30 * 1440 * MINUTE;
  const shift = new Date(from).getTimezoneOffset() * MINUTE;
  const list = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) list.push(at);
  const two = (n) => String(n).padStart(2, "0");
  const label = (at) => {
    const date = new Date(at);
    if (step < MINUTE) return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
    return step >= 1440 * MINUTE ? `${date.getDate()}.${date.getMonth() + 1}.` : `${two(date.getHours())}:${two(date.getMinutes())}`;
  };
  return list.map((at) => [at, label(at)]);
}

/** plot(element).draw(trend, unit): draws `{from, to, points: [[t, min, mean, max], …]}`. */
export function plot() {
  const picture = svg("svg", { class: "plot", role: "img" });
  const legend = h("p", { class: "soft small" });
  const node = h("div", {}, picture, legend);
  let last;

  function draw(trend, unit) {
    last = [trend, unit];
    const width = picture.clientWidth || 600, height = picture.clientHeight || 230;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const points = trend.points;
    if (!points.length) {
      picture.replaceChildren(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No values in this time"));
      legend.textContent = "";
      return;
    }
    // Where the past is shorter than half of what was asked for, it gets the whole width.
    const first = points[0][0];
    const from = first - trend.from > (trend.to - trend.from) / 2 ? first - (trend.to - first) * 0.02 : trend.from;
    let low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[3]));
    const room = (high - low || Math.abs(high) * 0.02 || 1) * 0.08;
    low -= room; high += room;
    const x = (t) => LEFT + (t - from) / (trend.to - from || 1) * (width - LEFT - RIGHT);
    const y = (v) => TOP + (high - v) / (high - low) * (height - TOP - BOTTOM);
    const grid = steps(low, high, 5).map((v) => [
      svg("line", { class: "grid-line", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }),
      svg("text", { x: LEFT - 8, y: y(v) + 4, "text-anchor": "end" }, shown(v))]);
    const times = timeSteps(from, trend.to, Math.max(2, Math.floor((width - LEFT) / 90))).map(([t, label]) =>
      svg("text", { x: x(t), y: height - 6, "text-anchor": "middle" }, label));
    // A hole is where nothing came for longer than three times the usual distance.
    const distances = points.slice(1).map((p, i) => p[0] - points[i][0]).sort((a, b) => a - b);
    const usual = distances[Math.floor(distances.length / 2)] ?? 0;
    const runs = [];
    points.forEach((p, i) => { if (i === 0 || p[0] - points[i - 1][0] > usual * 3 + 1000) runs.push([]); runs.at(-1).push(p); });
    const curves = runs.map((run) => {
      const pair = (p, v) => `${x(p[0]).toFixed(1)} ${y(v).toFixed(1)}`;
      if (run.length === 1) return svg("circle", { class: "single", r: 2.5, cx: x(run[0][0]), cy: y(run[0][2]) });
      const up = run.map((p) => pair(p, p[3])).join("L"), down = [...run].reverse().map((p) => pair(p, p[1])).join("L");
      return [svg("path", { class: "band", d: `M${up}L${down}Z` }), svg("path", { class: "curve", d: `M${run.map((p) => pair(p, p[2])).join("L")}` })];
    });
    const cross = svg("line", { class: "cross", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
    const spot = svg("circle", { class: "single", r: 4.5, visibility: "hidden" });
    picture.replaceChildren(...grid.flat(), ...times, ...curves.flat(2), cross, spot);
    const all = `least ${shown(Math.min(...points.map((p) => p[1])))}, greatest ${shown(Math.max(...points.map((p) => p[3])))}${unit ? ` ${unit}` : ""}`;
    legend.textContent = all;
    picture.setAttribute("aria-label", `${trend.name}: ${all}`);
    const at = (event) => {
      const px = event.clientX - picture.getBoundingClientRect().left;
      const near = points.reduce((a, b) => (Math.abs(x(b[0]) - px) < Math.abs(x(a[0]) - px) ? b : a));
      cross.setAttribute("x1", x(near[0])); cross.setAttribute("x2", x(near[0]));
      spot.setAttribute("cx", x(near[0])); spot.setAttribute("cy", y(near[2]));
      for (const part of [cross, spot]) part.setAttribute("visibility", "visible");
      const width = near[3] > near[1] ? ` (${shown(near[1])} to ${shown(near[3])})` : "";
      legend.textContent = `${clock(near[0])}   ${shown(near[2])}${unit ? ` ${unit}` : ""}${width}`;
    };
    picture.onpointermove = at;
    picture.onpointerdown = at;
    picture.onpointerleave = () => {
      for (const part of [cross, spot]) part.setAttribute("visibility", "hidden");
      legend.textContent = all;
    };
  }

  const again = () => { if (last && node.isConnected) draw(...last); };
  window.addEventListener("resize", again);
  return { node, draw, stop: () => window.removeEventListener("resize", again) };
}
