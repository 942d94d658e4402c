// Bars and curves.

import { el, percent, shown, spoken, svg } from "./dom.js";

// One line with a bar: a symbol, its share, and a second, thin bar for what it was before.
export class Bars {
  constructor(box) {
    this.box = box;
    this.rows = [];
  }

  // items: {symbol, share, before, cut}
  draw(items) {
    while (this.rows.length < items.length) this.rows.push(this.row());
    this.box.replaceChildren(...this.rows.slice(0, items.length).map((row) => row.line));
    const most = Math.max(...items.flatMap(({ share, before }) => [share, before]), 0.01);
    items.forEach((item, number) => {
      const row = this.rows[number];
      row.line.classList.toggle("cut", Boolean(item.cut));
      row.symbol.textContent = shown(item.symbol);
      row.now.style.width = `${(100 * item.share) / most}%`;
      row.before.style.width = `${(100 * item.before) / most}%`;
      row.share.textContent = item.cut ? "cut" : percent(item.share);
      row.line.setAttribute("aria-label", `${spoken(item.symbol)}: ${item.cut ? "cut" : percent(item.share)}, the model's own ${percent(item.before)}`);
    });
  }

  row() {
    const [symbol, now, before, share] = [el("span", { class: "symbol" }), el("i", { class: "now" }), el("i", { class: "before" }), el("span", { class: "share" })];
    const line = el("li", { class: "bar" }, symbol, el("span", { class: "track", "aria-hidden": "true" }, before, now), share);
    return { line, symbol, now, before, share };
  }
}

// A width at which a chart in this box has letters of their own size.
export const widthOf = (box) => Math.max(300, Math.min(760, box.clientWidth || 640));

// Curves in one frame. series: {name, points: [[x, y], ...], class}. x may be logarithmic.
export function curves(series, { width = 640, height = 240, x = "", y = "", log = false, dots = false, yMin = null, label = "" } = {}) {
  const all = series.flatMap(({ points }) => points);
  if (!all.length) return el("p", { class: "empty" }, "Nothing to show.");
  const left = 46, right = 12, top = 12, bottom = 34; // prettier-ignore
  const xs = all.map(([value]) => value);
  const ys = all.map(([, value]) => value);
  const scale = (value) => (log ? Math.log2(value + 1) : value);
  const [x0, x1] = [scale(Math.min(...xs)), scale(Math.max(...xs))];
  const y0 = yMin ?? Math.floor(10 * Math.min(...ys)) / 10;
  const y1 = Math.max(Math.max(...ys), y0 + 0.1);
  const px = (value) => left + ((scale(value) - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (value) => top + ((y1 - value) / (y1 - y0)) * (height - top - bottom);
  const frame = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  for (const value of ticks(y0, y1)) {
    frame.append(
      svg("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), class: "grid" }),
      svg("text", { x: left - 6, y: py(value) + 4, class: "tick end" }, number(value)),
    );
  }
  const marks = log ? [...new Set(xs)].sort((one, other) => one - other) : ticks(Math.min(...xs), Math.max(...xs));
  let last = -Infinity;
  for (const value of marks) {
    if (px(value) - last < 34) continue;
    last = px(value);
    frame.append(svg("text", { x: px(value), y: height - bottom + 16, class: "tick middle" }, number(value)));
  }
  for (const { points, class: name } of series) {
    const path = points.map(([one, other], at) => `${at ? "L" : "M"}${px(one).toFixed(1)} ${py(other).toFixed(1)}`).join("");
    frame.append(svg("path", { d: path, class: `curve ${name}` }));
    if (dots) for (const [one, other] of points) frame.append(svg("circle", { cx: px(one), cy: py(other), r: 3.5, class: `dot ${name}` }));
  }
  frame.append(svg("text", { x: (left + width - right) / 2, y: height - 3, class: "tick middle" }, x));
  frame.append(svg("text", { x: 12, y: (top + height - bottom) / 2, class: "tick middle", transform: `rotate(-90 12 ${(top + height - bottom) / 2})` }, y));
  return frame;
}

function ticks(from, to) {
  const step = [1, 2, 5].flatMap((one) => [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6].map((power) => one * 10 ** power));
  step.sort((one, other) => one - other);
  const chosen = step.find((size) => (to - from) / size <= 5) ?? to - from;
  const found = [];
  for (let value = Math.ceil(from / chosen) * chosen; value <= to + chosen / 1e6; value += chosen) found.push(value);
  return found;
}

const number = (value) => (Math.abs(value) >= 10_000 ? `${+(value / 1000).toFixed(1)}k` : String(+value.toFixed(3)));
