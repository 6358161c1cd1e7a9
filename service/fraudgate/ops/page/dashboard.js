// The dashboard: asks the ops port for its state, and draws it. Everything shown comes from this one server.
"use strict";

const SECONDS_KEPT = 300;
const ANSWER_MS_MAX = 5000;
const GONE_MS = 4000; // without an answer for so long, what is shown is called old
const MS = 1e6;

const page = {
  stages: [], // the order of a second's columns
  seconds: [], // [number, wall_ns, decisions a second, refusals a second, p50 by stage, p99 by stage]
  state: null,
  startedMs: 0, // tells a server from the one before
  answeredAt: 0,
  failures: 0,
  busy: false,
  paused: false,
  timer: 0,
  said: "",
};

const $ = (id) => document.getElementById(id);

// -- words and numbers ------------------------------------------------------------------------------------------------

function ms(ns) {
  if (ns === null || ns === undefined) return "–";
  const value = ns / MS;
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return `${value.toFixed(digits)} ms`;
}

const count = (n) => Math.round(n).toLocaleString("en");
const rate = (n) => (n >= 10 || n === 0 ? count(n) : n.toFixed(1));
const clock = (wallMs) => new Date(wallMs).toLocaleTimeString("en-GB");

// Colour never stands alone: each has a shape and a word.
const VERDICTS = {
  within: ["good", "✓", "within the budget"],
  near: ["near", "▲", "near the budget"],
  over: ["bad", "✕", "OVER BUDGET"],
  idle: ["", "–", "no decisions"],
  unbounded: ["", "–", "no budget is set"],
};

// -- elements ---------------------------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function show(id, words, tone = "") {
  const place = $(id);
  if (place.textContent !== words) place.textContent = words;
  if (place.className !== tone) place.className = tone;
}

/** Fill a table: heads are texts, or [text, class] for columns of words; a cell may be {words, tone}. */
function table(id, caption, heads, rows) {
  const place = $(id);
  const kind = heads.map((head) => (Array.isArray(head) ? head[1] : ""));
  const head = element("tr", {}, ...heads.map((each, i) =>
    element("th", { scope: "col", className: kind[i] }, Array.isArray(each) ? each[0] : each)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell, i) => {
    const { words, tone } = typeof cell === "object" ? cell : { words: cell, tone: "" };
    const made = element(i ? "td" : "th", { className: `${kind[i]} ${tone}`.trim() }, words);
    if (!i) made.scope = "row";
    return made;
  })));
  const none = element("tr", {}, element("td", { colSpan: heads.length, className: "words" }, "none"));
  place.replaceChildren(
    element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...(body.length ? body : [none])));
}

// -- the figures ------------------------------------------------------------------------------------------------------

function showVerdict(id, verdict) {
  const [tone, sign, words] = VERDICTS[verdict.word];
  show(id, verdict.count ? `${sign} ${ms(verdict.p99_ns)}` : sign, tone);
  show(`${id}-more`, verdict.over_budget ? `${words}, ${count(verdict.over_budget)} decisions over it` : words, "soft");
}

function showNow() {
  const { server, verdict, verdict_long: long, rates, fallbacks } = page.state;
  const engine = page.state.fleet ? page.state.fleet.engines[0].model : "";
  show("identity", [engine, `rules ${server.rules_version}`, `version ${server.version}`, `up since ${new Date(server.started_ms).toLocaleString("en-GB")}`].filter(Boolean).join(" · "), "soft");
  show("serving", server.serving ? "● SERVING" : "■ DRAINING", server.serving ? "good" : "bad");
  showVerdict("verdict", verdict);
  showVerdict("verdict-long", long);
  show("decisions", rate(rates.decisions));
  show("refusals-rate", rate(rates.refusals), rates.refusals ? "near" : "");
  const worst = fallbacks.filter((each) => each.count).at(-1);
  const decided = fallbacks.reduce((sum, each) => sum + each.count, 0);
  const best = page.state.ladder ? page.state.ladder.rung : "full"; // what a decision can be at best just now
  const full = (!worst || worst.fallback === "NONE") && best === "full";
  show("rung", full ? "✓ full" : `▼ ${best === "full" ? rung(worst.fallback) : rung(best)}`, full ? "good" : "near");
  show("rung-more", full || !worst ? "no fallback, last 10 s" : `${rung(worst.fallback)}: ${(100 * worst.count / decided).toFixed(1)} % of the last 10 s`, "soft");
  announce(`${server.serving ? "Serving" : "Draining"}, p99 ${VERDICTS[verdict.word][2]}, rung ${$("rung").textContent.slice(2)}`);
}

/** Figures that nobody vouches for any more. */
function showUnknown() {
  show("serving", "✕ UNKNOWN", "bad");
  for (const id of ["verdict", "verdict-long", "decisions", "refusals-rate", "rung"]) show(id, "–");
  for (const id of ["verdict-more", "verdict-long-more", "rung-more"]) show(id, "unknown", "soft");
  announce("No answer from the server");
}

const rung = (fallback) => fallback.toLowerCase().replaceAll("_", " ");

/** For screen readers: said when it changes, and only then. */
function announce(words) {
  if (words === page.said) return;
  page.said = words;
  $("announcer").textContent = words;
}

function showTables() {
  const { stages, refusals, fallbacks, ladder, fleet, drift, recent, server, window_seconds: window } = page.state;
  table("stages", `The last ${Math.round(window)} seconds; the budget of total is ${server.budget_ns / MS} ms`,
    [["stage", "words"], "values", "p50", "p99", "p99.9", "max", "allowed"],
    stages.map((each) => {
      const allowed = (each.stage === "total" ? server.budget_ns : server.allowed_ns[each.stage]) || null;
      const over = allowed && each.p99 > allowed;
      const p99 = { words: over ? `✕ ${ms(each.p99)}` : ms(each.p99), tone: over ? "bad" : "" };
      return each.count ? [each.stage, count(each.count), ms(each.p50), p99, ms(each.p999), ms(each.max), ms(allowed)]
        : [each.stage, "0", "–", "–", "–", "–", ms(allowed)];
    }));
  table("refusals", "Transactions that got a status instead of a decision",
    [["reason", "words"], "a second, last 10 s", "since the start"],
    refusals.map((each) => [each.reason, rate(each.rate), count(each.total)]));
  table("rungs", "How the last 10 seconds were decided", [["rung", "words"], "decisions"],
    fallbacks.map((each) => [each.fallback === "NONE" ? "full" : rung(each.fallback), count(each.count)]));
  table("breakers", "What decisions depend on", [["dependency", "words"], ["breaker", "words"], "changes"],
    (ladder ? ladder.breakers : []).map((each) => [each.dependency,
      each.state === "closed" ? "✓ closed" : { words: `▼ ${each.state.replaceAll("_", " ")}`, tone: "near" }, count(each.changes)]));
  showFleet(fleet);
  showDrift(drift);
  table("recent", "The last 50 decisions, latest first",
    [["time", "words"], ["decision", "words"], "score", ["reasons", "words long"], ["rung", "words"], "latency", ["engine", "words"], ["id", "words"]],
    recent.map((each) => [
      clock(each.wall_ms), { words: SIGNS[each.decision] + each.decision, tone: TONES[each.decision] },
      each.score === null ? "–" : each.score.toFixed(4), each.reasons.join(", ") || "–",
      each.fallback === "NONE" ? "full" : rung(each.fallback), ms(each.latency_ns), each.model, each.id]));
}

const SIGNS = { APPROVE: "✓ ", REVIEW: "? ", DECLINE: "✕ " };
const TONES = { APPROVE: "good", REVIEW: "near", DECLINE: "bad" };

function showFleet(fleet) {
  if (!fleet) return;
  table("models", `${count(fleet.rollbacks)} rollbacks, ${count(fleet.shadow_skipped)} shadow batches skipped`,
    [["engine", "words"], ["state", "words"]], fleet.engines.map((each) => [each.model, each.state]));
  const words = [];
  if (fleet.trial) {
    const trial = fleet.trial;
    words.push(`On trial: ${trial.model} for ${trial.share_percent} % of the customers, ${count(trial.rows)} rows, ${count(trial.flips)} flips, mean difference ${trial.difference_mean.toFixed(4)}.`);
  }
  if (fleet.tier) {
    const tier = fleet.tier;
    words.push(`Tiers: ${count(tier.small_rows)} rows by the small engine, ${count(tier.large_rows)} by the large one, ${count(tier.pressed_rows)} by the small one under pressure.`);
  }
  show("trial", words.join(" "));
}

function showDrift(drift) {
  if (!drift) {
    show("drift-more", "Drift is switched off.", "soft");
    $("drift").replaceChildren();
    return;
  }
  const made = drift.source === "model" ? "the model's reference" : "the first live rows";
  show("drift-more", drift.features.length
    ? `${count(drift.window_rows)} live rows against ${made} (${count(drift.reference_rows)} rows).`
    : `Nothing to compare yet: ${count(drift.window_rows)} live rows, ${count(drift.reference_rows)} of ${count(drift.reference_rows_wanted)} reference rows.`, "soft");
  table("drift", "Worst first", [["feature", "words"], ["verdict", "words"], "PSI", "KS"],
    drift.features.map((each) => [each.feature,
      each.verdict === "drifted" ? { words: "✕ drifted", tone: "bad" } : each.verdict, each.psi.toFixed(3), each.ks.toFixed(3)]));
}

// -- the link to the server -------------------------------------------------------------------------------------------

class Busy extends Error {}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(ANSWER_MS_MAX) });
  if (answer.status === 503) throw new Busy(answer.headers.get("Retry-After"));
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

/** Take the state's last seconds; the whole history when some are missing, or the server is another one. */
async function take(state) {
  const newest = page.seconds.length ? page.seconds.at(-1)[0] : 0;
  const fresh = state.seconds.filter((row) => row[0] > newest);
  const another = state.server.started_ms !== page.startedMs;
  const gap = fresh.length > 0 && fresh[0][0] > newest + 1;
  if (!page.stages.length || another || gap) {
    const history = await ask("history.json");
    page.stages = history.stages;
    page.seconds = history.seconds;
    page.startedMs = state.server.started_ms;
  } else {
    page.seconds = [...page.seconds, ...fresh].slice(-SECONDS_KEPT);
  }
  page.state = state;
}

async function poll() {
  let wait = 1000;
  try {
    const state = await ask("dashboard.json");
    await take(state);
    if (page.paused) return;
    page.answeredAt = Date.now();
    page.failures = 0;
    page.busy = false;
    wait = state.poll_ms;
    draw();
  } catch (error) {
    page.failures += 1;
    page.busy = error instanceof Busy;
    wait = Math.min(1000 * 2 ** page.failures, 15000) * (0.5 + Math.random()); // apart from all other pages
  }
  showLink();
  if (!page.paused) page.timer = setTimeout(poll, wait);
}

function draw() {
  showNow();
  showTables();
  if (!page.seconds.length) return;
  drawLines();
  drawThroughput();
  drawSpectrum();
  drawBatches();
}

function setLink(link, words) {
  document.body.dataset.link = link;
  if ($("link").textContent !== words) $("link").textContent = words;
  document.title = link === "live" ? "Fraudgate" : `(${link}) Fraudgate`;
}

/** Say what the figures are worth. Old ones are never left to look live. */
function showLink() {
  const since = page.answeredAt ? `since ${clock(page.answeredAt)}` : "yet";
  const old = Date.now() - page.answeredAt > Math.max(GONE_MS, 2 * ((page.state && page.state.poll_ms) || 0));
  if (page.paused) setLink("paused", `Paused: these are the figures of ${page.answeredAt ? clock(page.answeredAt) : "nothing yet"}.`);
  else if (page.busy) setLink("busy", `Too many viewers: busy, retrying. No answer ${since}.`);
  else if (old && page.failures) {
    setLink("gone", `No answer ${since}: the server is gone or out of reach. What is below is old.`);
    showUnknown();
  } else if (!page.failures) setLink("live", "Live.");
}

function setPaused(paused) {
  page.paused = paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  clearTimeout(page.timer);
  if (paused) showLink();
  else poll();
}

$("pause").addEventListener("click", () => setPaused(!page.paused));
document.querySelectorAll("input[name=percentile]").forEach((each) =>
  each.addEventListener("change", () => page.seconds.length && drawLines()));
setInterval(() => page.paused || showLink(), 1000);
poll();
