// One picture of a run that is its graph and its waterfall at once: a row a stage, time to the right. Attempts are bars, waits are
// dotted gaps that say for what, undos are drawn backwards, what has not begun stands behind the line of now. Time in which
// nothing ran is folded.

import { clock, h, lasted, legible, now, svg } from "./common.js";

const ROW = 30, TOP = 28, BAR = 12, FUTURE = 34, NARROWEST = 4;
export const MOST_ROWS = 2000;
const MOST_EDGES = 600; // with more, lines say nothing any more

const MARKS = {
  ok: ["✓", "ok"], running: ["▸", "run"], waiting: ["◷", "wait"], failed: ["✕", "bad"], unknown: ["?", "warn"], pending: ["·", "idle"],
  skipped: ["–", "idle"], cancelled: ["■", "idle"], undone: ["↶", "undo"],
};
const WAITS = {
  time: "until its time", signal: "for a signal", approval: "for an approval", callback: "for its callback", limit: "for its turn",
  child: "for a run that it started", worker: "for a worker", items: "for its items",
};

export function mark(stage) {
  const [sign, tone] = MARKS[stage.state] || MARKS.pending;
  return h("span", { class: `sf-mark sf-text-${tone}`, "aria-hidden": "true" }, sign);
}

export function waitWords(stage) {
  if (stage.kind === "sleep") return "sleeps";
  return stage.waiting_for ? WAITS[stage.waiting_for] || `for ${stage.waiting_for}` : "";
}

// --- what happened when ----------------------------------------------------------------------------------------------

function parts(stage, end) {
  const of = (attempt) => {
    const from = Date.parse(attempt.began_at);
    return { attempt, from, to: Math.max(from, attempt.ended_at ? Date.parse(attempt.ended_at) : end) };
  };
  return {
    forward: stage.attempts.filter((attempt) => attempt.state !== "void").map(of),
    back: stage.undo ? stage.undo.attempts.map(of) : [],
  };
}

/** A scale of time in which stretches without work are short. */
function scaleOf(spans, begin, end, width) {
  const busy = [];
  for (const span of [...spans].sort((one, other) => one.from - other.from)) {
    const last = busy.at(-1);
    if (last && span.from <= last.to) last.to = Math.max(last.to, span.to);
    else busy.push({ from: span.from, to: span.to });
  }
  const worked = busy.reduce((sum, span) => sum + (span.to - span.from), 0) || Math.max(1, end - begin);
  const most = Math.max(worked * 0.35, 5), short = Math.max(worked * 0.14, 2);
  const pieces = [];
  let at = begin;
  const gap = (to) => { if (to > at) pieces.push({ from: at, to, folded: to - at > most, size: to - at > most ? short : to - at }); };
  for (const span of busy) {
    gap(span.from);
    if (span.to > span.from) pieces.push({ from: Math.max(at, span.from), to: span.to, folded: false, size: Math.max(span.to - Math.max(at, span.from), 0) });
    at = Math.max(at, span.to);
  }
  gap(end);
  if (!pieces.length) pieces.push({ from: begin, to: begin + 1, folded: false, size: 1 });
  const size = pieces.reduce((sum, piece) => sum + piece.size, 0) || 1;
  let x = 0;
  for (const piece of pieces) { piece.x = x; piece.width = (piece.size / size) * width; x += piece.width; }
  const scale = (moment) => {
    const piece = pieces.find((one) => moment <= one.to) || pieces.at(-1);
    const share = piece.to > piece.from ? (moment - piece.from) / (piece.to - piece.from) : 0;
    return piece.x + Math.min(1, Math.max(0, share)) * piece.width;
  };
  return { scale, pieces };
}

function ticks(pieces, begin) {
  const found = [];
  const taken = pieces.filter((piece) => piece.folded && piece.width > 44).map((piece) => piece.x + piece.width / 2);
  let last = -1e9;
  for (const piece of pieces) {
    if (piece.folded) continue;
    const span = piece.to - piece.from;
    if (!span || piece.width < 40) continue;
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 216e5, 864e5];
    const step = steps.find((one) => (one / span) * piece.width >= 74) || steps.at(-1);
    for (let at = Math.ceil((piece.from - begin) / step) * step; at <= piece.to - begin; at += step) {
      const x = piece.x + ((at + begin - piece.from) / span) * piece.width;
      if (x - last >= 60 && taken.every((one) => Math.abs(one - x) > 58)) { found.push([x, at, step]); last = x; }
    }
  }
  return found;
}

/** A time since the beginning, to the digit that tells it from its neighbours. */
function exactly(after, step) {
  if (after < 1000) return `${after} ms`;
  const digits = Math.max(0, 3 - Math.floor(Math.log10(step)));
  return after < 99950 ? `${(after / 1000).toFixed(Math.min(3, digits))} s` : lasted(after / 1000);
}

/** How many steps a stage that has not begun is away from what has. */
function depths(stages) {
  const found = new Map(), byName = new Map(stages.map((stage) => [stage.name, stage]));
  for (const stage of stages) { // those that it follows stand before it
    const before = stage.after.map((name) => (begun(byName.get(name)) ? 0 : found.get(name) || 0));
    found.set(stage.name, Math.max(0, ...before) + 1);
  }
  return found;
}

/** The number of the row at a height of the picture. */
export function rowAt(y) {
  return Math.floor((y - TOP) / ROW);
}

export function begun(stage) {
  return Boolean(stage && (stage.attempts.length || (stage.state !== "pending" && stage.state !== "cancelled")));
}

// --- drawing ---------------------------------------------------------------------------------------------------------

function bar(span, y, x, cls) {
  const from = x(span.from), to = Math.max(x(span.to), from + NARROWEST);
  const title = svg("title", null, `#${span.attempt.n} ${span.attempt.state}, ${lasted((span.to - span.from) / 1000)}${span.attempt.error ? `: ${legible(span.attempt.error).slice(0, 200)}` : ""}`);
  return svg("rect", { class: `sf-bar ${cls}`, x: from.toFixed(1), y: y - BAR / 2, width: (to - from).toFixed(1), height: BAR, rx: 3 }, title);
}

function backwards(span, y, x) {
  const from = x(span.from), to = Math.max(x(span.to), from + 9), half = BAR / 2;
  const failed = span.attempt.state === "failed" || span.attempt.state === "retry";
  return svg("path", { class: `sf-bar ${failed ? "sf-bar-undo-failed" : "sf-bar-undo"}`, d: `M${from},${y} l6,${-half} H${to} V${y + half} H${from + 6} z` },
    svg("title", null, `undo #${span.attempt.n} ${span.attempt.state}`));
}

function elbow(x1, y1, x2, y2) {
  if (x2 - x1 < 8) { // it began where the other ended, or before: straight down beside it
    const x = Math.min(x1, x2) - 1;
    return `M${x1.toFixed(1)},${y1} L${x.toFixed(1)},${(y1 + BAR / 2 + 3).toFixed(1)} V${(y2 - BAR / 2 - 2).toFixed(1)}`;
  }
  const r = 5, down = y2 > y1 ? 1 : -1, at = x1 + 4;
  return `M${x1.toFixed(1)},${y1} H${(at - r / 2).toFixed(1)} Q${at.toFixed(1)},${y1} ${at.toFixed(1)},${y1 + down * r} V${y2 - down * r} Q${at.toFixed(1)},${y2} ${(at + r).toFixed(1)},${y2} H${(x2 - 1).toFixed(1)}`;
}

/**
 * Draw the stages of a run. `chosen`: the name of the one that is looked at.
 */
export function draw(run, stages, width, chosen) {
  const begin = Date.parse(run.created_at);
  const end = Math.max(begin + 1, run.at_rest ? Date.parse(run.finished_at || run.updated_at) : now());
  const told = new Map(stages.map((stage) => [stage.name, parts(stage, end)]));
  const future = stages.filter((stage) => !begun(stage));
  const depth = future.length ? depths(run.stages) : new Map();
  const deepest = Math.max(0, ...future.map((stage) => depth.get(stage.name)));
  const behind = future.length ? Math.min(width * 0.35, deepest * FUTURE + 24) : 8;
  const spans = [...told.values()].flatMap((one) => [...one.forward, ...one.back]);
  const { scale, pieces } = scaleOf(spans, begin, end, Math.max(60, width - behind - 16));
  const x = (moment) => scale(moment) + 8;
  const place = new Map(stages.map((stage, number) => [stage.name, TOP + number * ROW + ROW / 2]));
  const height = TOP + stages.length * ROW + 8;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said(run, stages) });

  for (const piece of pieces.filter((one) => one.folded)) {
    picture.append(svg("rect", { class: "sf-skip", x: piece.x + 8, y: TOP - 6, width: piece.width, height: height - TOP }),
      piece.width > 44 ? svg("text", { x: piece.x + 8 + piece.width / 2, y: 16, "text-anchor": "middle" }, `⋯ ${lasted((piece.to - piece.from) / 1000)}`) : "",
      svg("title", null, `${lasted((piece.to - piece.from) / 1000)} in which nothing ran`));
  }
  for (const stage of stages) {
    picture.append(svg("rect", { class: `sf-lane${stage.name === chosen ? " sf-chosen" : ""}`, x: 0, y: place.get(stage.name) - ROW / 2, width, height: ROW }));
  }
  for (const [at, after, step] of ticks(pieces, begin)) {
    picture.append(svg("line", { class: "sf-grid-line", x1: at + 8, x2: at + 8, y1: TOP - 6, y2: height }),
      svg("text", { x: at + 8, y: 16, "text-anchor": at < 20 ? "start" : "middle" }, after ? `+${exactly(after, step)}` : clock(run.created_at)));
  }
  const nowX = x(end);
  if (!run.at_rest || future.length) picture.append(svg("line", { class: "sf-now", x1: nowX, x2: nowX, y1: TOP - 6, y2: height }));
  const starts = new Map(), ends = new Map();
  for (const stage of stages) {
    const { forward } = told.get(stage.name);
    if (forward.length) { starts.set(stage.name, x(forward[0].from)); ends.set(stage.name, Math.max(x(forward.at(-1).to), x(forward.at(-1).from) + NARROWEST)); }
    else if (!begun(stage)) { const at = Math.min(nowX + 8 + depth.get(stage.name) * FUTURE - FUTURE + 8, width - 28); starts.set(stage.name, at); ends.set(stage.name, at + 20); }
    else { const at = x(waitFrom(run, stage, told, end)); starts.set(stage.name, at); ends.set(stage.name, stage.state === "waiting" ? nowX : at + NARROWEST); }
  }
  picture.append(edges(stages, place, starts, ends));
  for (const stage of stages) picture.append(...row(run, stage, told, { x, y: place.get(stage.name), end, starts, nowX }));
  picture.append(returns(stages, told, place, x));
  return picture;
}

/** Since when a stage that has no attempt waits: since those before it were done. */
function waitFrom(run, stage, told, end) {
  const before = stage.after.flatMap((name) => (told.get(name)?.forward || []).map((span) => span.to));
  return Math.min(end, Math.max(Date.parse(run.created_at), ...before));
}

function edges(stages, place, starts, ends) {
  const group = svg("g");
  if (stages.length > MOST_EDGES) return group;
  for (const stage of stages) {
    for (const name of stage.after) {
      if (!place.has(name)) continue;
      const x2 = starts.get(stage.name), y2 = place.get(stage.name);
      group.append(svg("path", { class: `sf-edge${begun(stage) ? "" : " sf-edge-future"}`, d: elbow(ends.get(name), place.get(name), x2, y2) }));
    }
  }
  return group;
}

function row(run, stage, told, { x, y, end, starts, nowX }) {
  const { forward, back } = told.get(stage.name);
  const found = [];
  forward.forEach((span, number) => {
    const after = forward[number + 1];
    if (after) found.push(gap(x(span.to), x(after.from), y, `retry ${lasted((after.from - span.to) / 1000)} later`));
    found.push(bar(span, y, x, `sf-bar-${span.attempt.state}`));
  });
  if (stage.state === "waiting") {
    const from = forward.length ? x(forward.at(-1).to) : starts.get(stage.name);
    found.push(gap(from, nowX, y, waitWords(stage)));
  } else if (!forward.length && begun(stage)) {
    found.push(svg("rect", { class: `sf-bar sf-bar-${stage.state === "skipped" ? "skipped" : stage.state === "ok" ? "ok" : "void"}`, x: starts.get(stage.name), y: y - BAR / 2, width: NARROWEST + 2, height: BAR, rx: 3 }));
  } else if (!begun(stage)) {
    found.push(svg("rect", { class: "sf-bar-ghost", x: starts.get(stage.name), y: y - BAR / 2, width: 20, height: BAR, rx: 3 }));
  }
  back.forEach((span) => found.push(backwards(span, y, x)));
  if (stage.undo && stage.undo.waiting_for) found.push(gap(back.length ? x(back.at(-1).to) : nowX - 10, nowX, y, "undo waits"));
  return found;
}

function gap(from, to, y, text) {
  const line = svg("line", { class: "sf-gap", x1: from + 1, x2: Math.max(to - 1, from + 2), y1: y, y2: y }, svg("title", null, text));
  const wide = to - from > text.length * 5.6 + 12;
  return svg("g", null, line, wide && svg("text", { x: (from + to) / 2, y: y - 5, "text-anchor": "middle" }, text));
}

/** The way back: from the first undo to the last, against the graph. */
function returns(stages, told, place, x) {
  const undone = stages.flatMap((stage) => {
    const [first] = told.get(stage.name).back;
    return first ? [{ at: first.from, to: told.get(stage.name).back.at(-1).to, y: place.get(stage.name) }] : [];
  }).sort((one, other) => one.at - other.at);
  const group = svg("g");
  undone.slice(1).forEach((next, number) => {
    const one = undone[number], up = next.y < one.y ? -1 : 1;
    const from = Math.max(x(one.to), x(one.at) + 9), at = x(next.at) + 7;
    const end = next.y - up * (BAR / 2 + 1);
    group.append(svg("path", { class: "sf-edge-back", d: `M${from},${one.y} H${Math.max(from, at) + 2} V${end}` }),
      svg("path", { class: "sf-arrow-back", d: `M${Math.max(from, at) + 2},${end} l-3.5,${-up * 6} h7 z` }));
  });
  return group;
}

function said(run, stages) {
  const counts = {};
  for (const stage of stages) counts[stage.state] = (counts[stage.state] || 0) + 1;
  return `${stages.length} stages in time: ${Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ")}. The list beside it has each.`;
}

export function legend(run) {
  const has = (test) => run.stages.some(test);
  const sample = (cls, text) => h("span", null, svg("svg", { viewBox: "0 0 28 14", "aria-hidden": "true" }, svg("rect", { class: cls, x: 1, y: 1, width: 26, height: 12, rx: 3 })), text);
  return h("div", { class: "sf-legend" },
    sample("sf-bar-ok", "done"),
    has((stage) => stage.attempts.some((attempt) => attempt.state === "retry")) && sample("sf-bar-retry", "failed, tried again"),
    has((stage) => stage.state === "failed") && sample("sf-bar-failed", "failed"),
    has((stage) => stage.state === "running") && sample("sf-bar-running", "runs"),
    has((stage) => stage.state === "unknown") && sample("sf-bar-unknown", "outcome unknown"),
    has((stage) => stage.state === "waiting") && h("span", null, svg("svg", { viewBox: "0 0 28 14", "aria-hidden": "true" }, svg("line", { class: "sf-gap", x1: 1, x2: 27, y1: 7, y2: 7 })), "waits"),
    has((stage) => stage.undo && stage.undo.attempts.length) && h("span", null, svg("svg", { viewBox: "0 0 28 14", "aria-hidden": "true" }, svg("path", { class: "sf-bar-undo", d: "M1,7 l6,-6 H27 V13 H7 z" })), "undone, against the graph"),
    has((stage) => !begun(stage)) && sample("sf-bar-ghost", run.at_rest ? "never begun" : "still to come"));
}
