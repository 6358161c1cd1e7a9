// The charts of the dashboard, drawn from `page` with the helpers of dashboard.js.
"use strict";

const STAGES_DRAWN = ["total", "queue", "features", "inference", "guardrails"];
const HEIGHT = 240, LEFT = 64, RIGHT = 12, TOP = 20, BOTTOM = 28;
let WIDTH = 960; // of the figure that is being drawn

/** Drawn at its own size, so that letters are as large on a telephone as on a wall. */
function begin(id) {
  WIDTH = Math.max($(id).clientWidth, 240);
}

const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

/** A logarithmic axis of milliseconds that holds the values and the budget: the scale, and its grid. */
function msAxis(values, budgetNs) {
  const ticks = [0.01, 0.1, 1, 10, 100, 1000, 10000];
  const low = Math.min(...values, budgetNs || Infinity) / MS, high = Math.max(...values, budgetNs || 0) / MS;
  const bottom = ticks.filter((tick) => tick <= low).pop() || ticks[0];
  const top = Math.max(ticks.find((tick) => tick >= high) || 60000, bottom * 10);
  const place = linear(Math.log10(bottom), Math.log10(top), HEIGHT - BOTTOM, TOP);
  const up = (ns) => place(Math.log10(Math.min(Math.max(ns / MS, bottom), top)));
  const grid = ticks.filter((tick) => tick >= bottom && tick <= top).flatMap((tick) => across(up(tick * MS), tick < 1000 ? `${tick} ms` : `${tick / 1000} s`));
  if (budgetNs) {
    const y = up(budgetNs).toFixed(1);
    grid.push(shape("line", { class: "budget", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
    grid.push(shape("text", { class: "budget-text", x: LEFT + 6, y: y - 5 }, `budget ${budgetNs / MS} ms`));
  }
  return [up, grid];
}

function across(y, label) {
  return [
    shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y.toFixed(1), y2: y.toFixed(1) }),
    shape("text", { x: LEFT - 8, y: (y + 4).toFixed(1), "text-anchor": "end" }, label),
  ];
}

/** A line with gaps where a value is null. */
function line(className, points) {
  let path = "", drawing = false;
  for (const [x, y] of points) {
    if (y === null) { drawing = false; continue; }
    path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${drawing ? "" : "h.1"}`;
    drawing = true;
  }
  return shape("path", { class: `line ${className}`, d: path || "M0 0" });
}

function chart(id, words, ...shapes) {
  const figure = $(id);
  const drawing = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": words }, ...shapes.flat());
  const keys = figure.querySelector(".keys");
  figure.replaceChildren(drawing, ...(keys ? [keys] : []));
  return figure;
}

function keys(figure, names) {
  if (figure.querySelector(".keys")) return;
  figure.append(element("ul", { className: "keys" }, ...Object.entries(names).map(([style, name]) =>
    element("li", {}, shape("svg", { viewBox: "0 0 40 10", "aria-hidden": "true" },
      shape("line", { class: `line ${style}`, x1: 0, x2: 40, y1: 5, y2: 5 })), name))));
}

function timeAxis() {
  const end = page.seconds.at(-1)[1];
  const right = linear(end - SECONDS_KEPT * 1e9, end, LEFT, WIDTH - RIGHT);
  const ticks = (WIDTH < 500 ? [0, 2, 4] : [0, 1, 2, 3, 4, 5]).flatMap((minutes) => {
    const x = right(end - minutes * 60e9);
    return [shape("text", { x, y: HEIGHT - 8, "text-anchor": minutes ? "middle" : "end" }, minutes ? `−${minutes} min` : "now")];
  });
  return [right, ticks];
}

function drawLines() {
  begin("lines");
  const column = Number(document.querySelector("input[name=percentile]:checked").value);
  const drawn = STAGES_DRAWN.map((stage) => [stage, page.stages.indexOf(stage)]);
  const values = page.seconds.flatMap((row) => drawn.map(([, i]) => row[column][i])).filter((value) => value !== null);
  const [right, ticks] = timeAxis();
  const [up, grid] = msAxis(values, page.state.server.budget_ns);
  const lines = drawn.map(([stage, i]) => line(stage,
    page.seconds.map((row) => [right(row[1]), row[column][i] === null ? null : up(row[column][i])])));
  const name = column === 5 ? "p99" : "p50";
  const latest = page.seconds.at(-1)[column][page.stages.indexOf("total")];
  keys(chart("lines", `${name} of each second by stage; of the last one in total ${ms(latest)}.`, grid, ticks, lines),
    Object.fromEntries(STAGES_DRAWN.map((stage) => [stage, stage])));
  table("lines-table", `${name} of each second`, [["time", "words"], ...STAGES_DRAWN],
    page.seconds.slice(-15).reverse().map((row) => [clock(row[1] / MS), ...drawn.map(([, i]) => ms(row[column][i]))]));
}

function drawThroughput() {
  begin("throughput");
  const [right, ticks] = timeAxis();
  const top = niceTop(Math.max(1, ...page.seconds.flatMap((row) => [row[2], row[3]])));
  const up = linear(0, top, HEIGHT - BOTTOM, TOP);
  const grid = [0, top / 2, top].flatMap((tick) => across(up(tick), `${rate(tick)}/s`));
  const lines = [["decided", 2], ["refused", 3]].map(([style, i]) =>
    line(style, page.seconds.map((row) => [right(row[1]), up(row[i])])));
  const last = page.seconds.at(-1);
  keys(chart("throughput", `In the last second ${rate(last[2])} decisions and ${rate(last[3])} refusals.`, grid, ticks, lines),
    { decided: "decisions", refused: "refusals" });
  table("throughput-table", "A second", [["time", "words"], "decisions", "refusals"],
    page.seconds.slice(-15).reverse().map((row) => [clock(row[1] / MS), rate(row[2]), rate(row[3])]));
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function drawSpectrum() {
  begin("spectrum");
  const points = page.state.spectrum;
  const told = points.filter(([percent]) => percent < 100);
  const last = told.length ? nines(told.at(-1)[0]) : 0;
  const place = ([percent]) => (percent < 100 ? nines(percent) : last + 0.3);
  const right = linear(0, Math.max(last + 0.3, 1), LEFT, WIDTH - RIGHT);
  const [up, grid] = msAxis(points.map(([, ns]) => ns), page.state.server.budget_ns);
  const labels = [[0, "min"], [90, "90 %"], [99, "99 %"], [99.9, "99.9 %"], [99.99, "99.99 %"]]
    .filter(([percent]) => nines(percent) <= last && right(nines(percent)) < WIDTH - RIGHT - 60)
    .map(([percent, label]) => shape("text", { x: right(nines(percent)), y: HEIGHT - 8, "text-anchor": percent ? "middle" : "start" }, label));
  labels.push(shape("text", { x: WIDTH - RIGHT, y: HEIGHT - 8, "text-anchor": "end" }, "max"));
  chart("spectrum", `Total latency by percentile, both axes logarithmic; the highest is ${ms(points.length ? points.at(-1)[1] : null)}.`,
    grid, labels, line("total", points.map((point) => [right(place(point)), up(point[1])])));
  table("spectrum-table", "Total latency by percentile", [["percentile", "words"], "latency"],
    points.map(([percent, ns]) => [percent < 100 ? (percent ? `${percent} %` : "min") : "max", ms(ns)]));
}

const nines = (percent) => -Math.log10(1 - percent / 100);

function drawBatches() {
  begin("batches");
  const batches = page.state.batches;
  const all = batches.reduce((sum, n) => sum + n, 0), rows = batches.reduce((sum, n, i) => sum + n * (i + 1), 0);
  const top = Math.max(1, ...batches);
  const up = linear(0, top, HEIGHT - BOTTOM, TOP), step = (WIDTH - LEFT - RIGHT) / batches.length;
  const bars = batches.map((n, i) => shape("rect", {
    class: "bar", x: (LEFT + i * step + 2).toFixed(1), width: (step - 4).toFixed(1), y: up(n).toFixed(1),
    height: (HEIGHT - BOTTOM - up(n)).toFixed(1) }));
  const labels = [1, 8, 16, 24, 32].map((n) =>
    shape("text", { x: LEFT + (n - 0.5) * step, y: HEIGHT - 8, "text-anchor": "middle" }, String(n)));
  const words = all ? `${count(all)} batches, ${(rows / all).toFixed(1)} rows in the mean.` : "No batch.";
  chart("batches", words, [0, top].flatMap((tick) => across(up(tick), count(tick))), bars, labels);
  table("batches-table", words, [["rows", "words"], "batches"],
    batches.map((n, i) => [String(i + 1), count(n)]).filter((_, i) => batches[i]));
}
