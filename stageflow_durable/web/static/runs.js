// The list of runs: what needs a person, pipelines, and runs by what they are filtered by.

import { age, ask, cannot, code, confirmed, field, follow, h, header, lasted, legible, look, main, pill, prefix, reasonField, replace, send, setClock, svg, words } from "./common.js";

const STATUSES = ["pending", "running", "waiting", "stopping", "compensating", "parked", "succeeded", "failed", "cancelled", "compensated", "compensation_failed"];
const CHIPS = [["", "All"], ["live", "Live"], ["attention", "Need you"], ["succeeded", "Succeeded"], ["failed", "Failed"], ["parked", "Parked"], ["compensated", "Compensated"]];
const FIELDS = ["status", "pipeline", "client", "key", "since", "until", "error", "park_reason", "attribute"];
const TAKES = {
  resume: ["parked", "failed", "cancelled"],
  cancel: ["pending", "running", "waiting", "parked"],
  compensate: ["pending", "running", "waiting", "parked", "failed", "cancelled", "compensation_failed"],
};

// --- what is asked: pairs of a name and a value, in the address ------------------------------------------------------

let asked = read(location.search);
let places = []; // where the pages before this one began

function read(search) {
  return [...new URLSearchParams(search)].filter(([name]) => FIELDS.includes(name) || name === "before");
}

function filters() {
  return asked.filter(([name]) => name !== "before");
}

function query(pairs = asked) {
  return new URLSearchParams(pairs).toString();
}

function go(pairs) {
  asked = pairs;
  const search = query();
  history.pushState(places, "", `${prefix}/runs${search ? `?${search}` : ""}`);
  show();
}

function narrowed(name, value) {
  const others = filters().filter(([one]) => one !== name || name === "attribute");
  places = [];
  go(value ? [...others, [name, value]] : others);
}

window.addEventListener("popstate", (event) => {
  asked = read(location.search);
  places = event.state || [];
  show();
});

/** As it is typed: `status:failed client:"a b" since:2h key:A-1 order=A-1`. */
function typed(pairs) {
  return pairs.map(([name, value]) => {
    const text = /[\s"]/.test(value) ? `"${value.replaceAll('"', '\\"')}"` : value;
    return name === "attribute" ? text : `${name}:${text}`;
  }).join(" ");
}

function parsed(text) {
  const pairs = [];
  for (const found of text.matchAll(/(?:([a-z_]+):)?(?:"((?:[^"\\]|\\.)*)"|(\S+))/g)) {
    const value = found[2] === undefined ? found[3] : found[2].replaceAll('\\"', '"');
    if (found[1] && FIELDS.includes(found[1])) pairs.push([found[1], value]);
    else if (!found[1] && /^[0-7][0-9A-HJKMNP-TV-Z]{5,25}…?$/i.test(value)) return { run: value.replace("…", "").toUpperCase() };
    else if (!found[1] && value.includes("=")) pairs.push(["attribute", value]);
    else if (!found[1] && STATUSES.concat("live", "attention").includes(value)) pairs.push(["status", value]);
    else return { wrong: found[0] };
  }
  return { pairs };
}

// --- the parts of the page -------------------------------------------------------------------------------------------

const needs = h("section", { class: "sf-needs", "aria-labelledby": "sf-needs" });
const charts = h("section", { class: "sf-charts", "aria-label": "Pipelines" });
const box = h("input", { type: "search", id: "sf-filter", class: "form-control", autocomplete: "off", spellcheck: "false", placeholder: "status:failed pipeline:checkout client:web key:order-7 since:2h order=A-1, or a run's id" });
const wrong = h("p", { class: "sf-alert", role: "alert", hidden: true });
const suggestions = h("div", { class: "sf-suggest", "aria-label": "Filters that help" });
const chips = h("div", { class: "sf-chips", role: "group", "aria-label": "Status" });
const body = h("tbody");
const note = h("p", { class: "sf-hint", "aria-live": "polite" });
const older = h("button", { type: "button", class: "btn btn-outline-secondary btn-sm", onclick: () => page(1) }, "Older");
const newer = h("button", { type: "button", class: "btn btn-outline-secondary btn-sm", onclick: () => page(-1) }, "Newer");
const bulk = h("div", { class: "sf-bulk", role: "group", "aria-label": "Do to all that the filter finds" });
let next = null, names = [], counts = {}, countedTo = 0;

const form = h("form", { role: "search", onsubmit: submit }, h("label", { for: "sf-filter", class: "visually-hidden" }, "Filter runs"), box,
  h("button", { type: "submit", class: "btn btn-primary" }, "Filter"));

function submit(event) {
  event.preventDefault();
  const found = parsed(box.value);
  if (found.run) location.assign(`${prefix}/runs/${found.run}`);
  else if (found.wrong) complain(`${found.wrong} is no filter. They are: ${FIELDS.map((name) => `${name}:…`).join(" ")}, name=value for an attribute, or the beginning of a run's id.`);
  else { places = []; go(found.pairs); }
}

function complain(text) {
  wrong.textContent = legible(text);
  wrong.hidden = false;
}

function page(step) {
  if (step > 0 && next) { places = [...places, (asked.find(([name]) => name === "before") || [])[1] || ""]; go([...filters(), ["before", next]]); }
  if (step < 0 && places.length) { const place = places.at(-1); places = places.slice(0, -1); go(place ? [...filters(), ["before", place]] : filters()); }
}

// --- the list --------------------------------------------------------------------------------------------------------

function link(name, value, text) {
  const search = new URLSearchParams([...filters().filter(([one]) => one !== name), [name, value]]);
  return h("a", { href: `${prefix}/runs?${search}`, class: "sf-facet", title: `Only ${name} ${legible(value)}`, onclick: (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    narrowed(name, value);
  } }, text || legible(value));
}

function row(run) {
  const cell = (label, ...children) => h("td", { "data-label": label }, children);
  return h("tr", { "data-run": run.run_id },
    h("th", { scope: "row", "data-label": "Run" }, h("a", { class: "sf-id", href: `${prefix}/runs/${run.run_id}`, title: run.run_id }, run.run_id.slice(0, 12))),
    cell("Status", pill(run.status)),
    cell("Pipeline", link("pipeline", run.pipeline), h("span", { class: "sf-dim" }, ` v${legible(run.version)}`)),
    cell("Client", link("client", run.client_id)),
    cell("Key", h("span", { class: "sf-clip", title: legible(run.key || "") }, legible(run.key || "")) ),
    cell("Age", age(run.created_at)),
    cell("Took", run.seconds === null ? "" : lasted(run.seconds)),
    cell("Why", h("span", { class: run.at_rest && run.status !== "succeeded" ? `sf-why sf-text-${look(run.status)}` : "sf-why", title: legible(run.why || "") }, legible(run.why || ""))));
}

function drawRuns(told) {
  setClock(told.now);
  const held = document.activeElement && body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.run : null;
  wrong.hidden = true;
  next = told.next;
  replace(body, told.runs.length ? told.runs.map(row) : h("tr", null, h("td", { colspan: 8, class: "sf-none" }, filters().length ? "No run fits." : "There are no runs yet: enqueue one.")));
  if (held) { const again = body.querySelector(`tr[data-run="${CSS.escape(held)}"] a`); if (again) again.focus(); }
  note.textContent = told.note || "";
  older.disabled = !next;
  newer.disabled = !places.length && !asked.some(([name]) => name === "before");
}

// --- what needs a person ---------------------------------------------------------------------------------------------

function group(one) {
  const several = one.count > 1;
  const search = one.filter && new URLSearchParams(Object.entries(one.filter));
  const tone = one.status ? look(one.status) : one.approval ? "wait" : "warn";
  return h("li", { class: `sf-need sf-edge-${tone}` },
    h("div", { class: "sf-need-head" },
      h("span", { class: "sf-count" }, one.count),
      h("div", null, h("strong", null, one.reason), h("div", { class: "sf-dim" }, legible(one.pipeline), one.stage ? ` · ${legible(one.stage)}` : "", " · oldest ", age(one.oldest_at)))),
    one.last_error && h("p", { class: "sf-error" }, legible(one.last_error)),
    one.approval && one.approval.content && h("p", { class: "sf-error" }, `Asks: ${legible(one.approval.content.text)}`),
    one.cause && h("p", { class: "sf-dim" }, `It was to be undone because: ${legible(one.cause)}`),
    one.missing && h("p", { class: "sf-fix" }, `${legible(one.missing.advice)}: `, code(one.missing.command, "the command")),
    !one.missing && !one.approval && !one.verbs.length && h("p", { class: "sf-fix" }, "Next: ", code(one.next, "the command")),
    h("div", { class: "sf-need-acts" },
      several && search && h("a", { class: "btn btn-sm btn-outline-secondary", href: `${prefix}/runs?${search}`, onclick: (event) => { event.preventDefault(); places = []; go([...search]); box.scrollIntoView({ block: "center" }); } }, `Show all ${one.count}`),
      one.approval && h("a", { class: "btn btn-sm btn-primary", href: several ? `${prefix}/approvals` : `${prefix}/runs/${one.last_run}/approvals/${encodeURIComponent(one.approval.stage)}` }, several ? "Decide" : "Look and decide"),
      h("a", { class: "btn btn-sm btn-outline-secondary", href: `${prefix}/runs/${one.last_run}` }, several ? "Open the latest" : "Open"),
      several && !cannot && one.verbs.map((verb) => h("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: () => many(verb, Object.entries(one.filter)) }, `${verb[0].toUpperCase()}${verb.slice(1)} all…`))));
}

function drawNeeds(told) {
  const runs = told.groups.reduce((sum, one) => sum + one.count, 0);
  const title = h("h2", { id: "sf-needs" }, told.groups.length ? `Needs you: ${runs}${told.more ? "+" : ""} ${runs === 1 ? "run" : "runs"}` : "Nothing needs you");
  replace(needs, title, told.groups.length > 0 && h("ul", null, told.groups.map(group)));
  needs.classList.toggle("sf-calm", !told.groups.length);
}

// --- pipelines -------------------------------------------------------------------------------------------------------

function spark(one) {
  const most = Math.max(1, ...one.buckets.map((bucket) => bucket.ok + bucket.bad + bucket.live));
  const bars = one.buckets.flatMap((bucket, number) => {
    let top = 32;
    return ["ok", "live", "bad"].map((kind) => {
      const height = bucket[kind] && Math.max(1.5, (bucket[kind] / most) * 30);
      top -= height;
      return height ? svg("rect", { class: `sf-spark-${kind}`, x: number * 7, y: top, width: 5.5, height, rx: 1 }) : null;
    });
  });
  const bad = one.buckets.reduce((sum, bucket) => sum + bucket.bad, 0);
  return svg("svg", { viewBox: "0 0 168 32", class: "sf-spark", preserveAspectRatio: "none", role: "img", "aria-label": `${one.runs} runs, ${bad} of them did not succeed` }, svg("line", { x1: 0, x2: 168, y1: 32, y2: 32, class: "sf-spark-base" }), bars);
}

function chart(one) {
  const rest = Object.entries(one.statuses).filter(([status]) => status !== "succeeded").sort((a, b) => b[1] - a[1]);
  const ended = one.buckets.reduce((sum, bucket) => sum + bucket.ok + bucket.bad, 0);
  const share = ended ? Math.floor((100 * (one.statuses.succeeded || 0)) / ended) : null;
  return h("article", { class: "sf-chart" },
    h("h3", null, link("pipeline", one.name), share !== null && h("span", { class: "sf-share", title: "of those that are at rest" }, `${share} % succeeded`)),
    spark(one),
    h("p", { class: "sf-dim" }, one.runs ? [`${one.more ? "the last " : ""}${one.runs} ${one.runs === 1 ? "run" : "runs"}, since `, age(one.since)] : "no runs"),
    h("p", { class: "sf-tags" }, rest.slice(0, 4).map(([status, number]) => h("a", { class: `sf-tag sf-text-${look(status)}`, href: `${prefix}/runs?${new URLSearchParams({ pipeline: one.name, status })}`, onclick: (event) => { event.preventDefault(); places = []; go([["pipeline", one.name], ["status", status]]); } }, `${number} ${words(status)}`))));
}

function drawCharts(told) {
  counts = told.counts;
  countedTo = told.counted_to;
  names = told.pipelines.map((one) => one.name);
  replace(charts, told.pipelines.filter((one) => one.runs).map(chart));
  drawFilters();
}

// --- filters ---------------------------------------------------------------------------------------------------------

function number(statuses) {
  const found = statuses.map((status) => counts[status]).filter((one) => one !== undefined);
  if (!found.length) return "";
  const sum = found.reduce((one, other) => one + other, 0);
  return found.some((one) => one >= countedTo) ? `${countedTo.toLocaleString("en")}+` : sum.toLocaleString("en");
}

function drawFilters() {
  const chosen = filters().filter(([name]) => name === "status").map(([, value]) => value);
  const of = { live: STATUSES.slice(0, 5), attention: ["parked", "failed", "compensation_failed"] };
  replace(chips, CHIPS.map(([value, text]) => h("button", { type: "button", class: "sf-chip", "aria-pressed": String(value ? chosen.includes(value) : !chosen.length), onclick: () => narrowed("status", value) },
    text, value && number(of[value] || [value]) && h("span", { class: "sf-dim" }, number(of[value] || [value])))));
  replace(suggestions, filters().filter(([name]) => name !== "status").map(([name, value]) => h("button", { type: "button", class: "sf-chip sf-on", "aria-label": `Remove ${name} ${legible(value)}`, onclick: () => { places = []; go(filters().filter(([one, other]) => one !== name || other !== value)); } },
    `${name}: ${legible(value)}`, h("span", { "aria-hidden": "true" }, " ×"))),
    names.length > 1 && !filters().some(([name]) => name === "pipeline") && h("label", { class: "sf-select" }, h("span", { class: "visually-hidden" }, "Pipeline"), h("select", { class: "form-select form-select-sm", onchange: (event) => narrowed("pipeline", event.target.value) }, h("option", { value: "" }, "Any pipeline"), names.map((name) => h("option", { value: name }, legible(name))))),
    !filters().some(([name]) => name === "since") && h("label", { class: "sf-select" }, h("span", { class: "visually-hidden" }, "Begun since"), h("select", { class: "form-select form-select-sm", onchange: (event) => narrowed("since", event.target.value) }, [["", "Any time"], ["1h", "Last hour"], ["1d", "Last day"], ["7d", "Last 7 days"], ["30d", "Last 30 days"]].map(([value, text]) => h("option", { value }, text)))));
  if (document.activeElement !== box) box.value = typed(filters());
  const verbs = filters().length && !cannot ? Object.keys(TAKES).filter((verb) => !chosen.length || chosen.some((status) => status === "live" ? verb !== "resume" : status === "attention" || TAKES[verb].includes(status))) : [];
  replace(bulk, verbs.length > 0 && [h("span", { class: "sf-dim" }, "All that fit:"), verbs.map((verb) => h("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: () => many(verb, filters()) }, `${verb[0].toUpperCase()}${verb.slice(1)}…`))]);
}

// --- a verb for many -------------------------------------------------------------------------------------------------

function filterOf(pairs) {
  const found = {};
  for (const [name, value] of pairs) found[name] = [...(found[name] || []), value];
  return found;
}

async function many(verb, pairs) {
  const filter = filterOf(pairs);
  const past = h("input", { type: "checkbox", name: "past_pivot" });
  const told = h("div", { class: "sf-dry", "aria-live": "polite" }, "Looking…");
  const rate = h("input", { type: "number", name: "rate", class: "form-control", min: 0.1, max: 500, step: "any", value: 20 });
  let would = 0;
  async function look() {
    try {
      const found = await send(`bulk/${verb}`, { filter, dry_run: true, past_pivot: past.checked });
      would = found.would;
      const undos = Object.entries(found.undos);
      replace(told,
        h("p", { class: "sf-big" }, `${found.would} ${found.would === 1 ? "run" : "runs"}`, h("span", { class: "sf-dim" }, ` of ${found.found}${found.more ? "+" : ""} that fit`)),
        undos.length > 0 && h("p", null, `Would be undone: ${undos.map(([name, count]) => `${legible(name)} (${count}×)`).join(", ")}`),
        Object.entries(found.refused).map(([why, count]) => h("p", { class: "sf-dim" }, `${count} would be left: ${legible(why)}`)),
        found.more && h("p", { class: "sf-dim" }, "So many are done at once; the others by doing it again, or by the command."));
      window.dispatchEvent(new Event("sf-dry"));
    } catch (error) {
      would = 0;
      replace(told, h("p", { class: "sf-alert" }, legible(error.message)));
    }
  }
  past.addEventListener("change", look);
  const dialog = confirmed({
    title: `${verb[0].toUpperCase()}${verb.slice(1)} all that fit ${typed(pairs)}`,
    effect: [told],
    fields: [reasonField(), field("Runs a second", rate, "It goes one run after another, and can be stopped."),
      verb !== "resume" && h("label", { class: "sf-check" }, past, " Also those whose point of no return has begun")],
    verb: `${verb[0].toUpperCase()}${verb.slice(1)}`,
    dangerous: verb !== "resume",
    act: (form) => {
      if (!would) throw new Error("There is no run that it would change.");
      return send(`bulk/${verb}`, { filter, reason: form.reason.value, rate: Number(rate.value), past_pivot: past.checked });
    },
    done: (job) => watchJob(job.job),
  });
  await look();
  return dialog;
}

const jobs = h("section", { class: "sf-jobs", "aria-live": "polite", "aria-label": "Under way" });

async function watchJob(name) {
  const bar = h("progress", { max: 1, value: 0, "aria-label": "How far it has come" });
  const text = h("span");
  const stop = h("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: () => send(`bulk/${name}/stop`, {}) }, "Stop");
  const box = h("div", { class: "sf-job" }, bar, text, stop);
  jobs.append(box);
  for (;;) {
    let job;
    try {
      job = await ask(`bulk/${name}`);
    } catch (error) {
      text.textContent = legible(error.message);
      if (error.status === 404) return;
      await new Promise((done) => setTimeout(done, 2000));
      continue;
    }
    bar.max = Math.max(1, job.of);
    bar.value = job.over ? bar.max : job.seen;
    const left = Object.entries(job.refused).map(([why, count]) => `${count} left: ${why}`).join("; ");
    text.textContent = legible(`${job.verb}: ${job.done} of ${job.of}${job.over ? (job.stopped ? ", stopped" : ", done") : ""}${left ? `; ${left}` : ""}${job.problem ? `; ${job.problem}` : ""}`);
    if (job.over) {
      replace(stop, "Close");
      const close = h("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: () => box.remove() }, "Close");
      stop.replaceWith(close);
      return;
    }
    await new Promise((done) => setTimeout(done, 500));
  }
}

// --- the page --------------------------------------------------------------------------------------------------------

const HEADS = ["Run", "Status", "Pipeline", "Client", "Key", "Age", "Took", "Why it stands there"];
const draws = { runs: drawRuns, attention: drawNeeds, pipelines: drawCharts };
let live = null, number_ = 0;

async function show() {
  drawFilters();
  const mine = (number_ += 1);
  try {
    const told = await ask(`runs?${query()}`);
    if (mine === number_) drawRuns(told);
  } catch (error) {
    if (mine === number_) { complain(error.message); replace(body); }
    return;
  }
  if (live) live.restart();
}

async function all() {
  const [runs, attention, pipelines] = await Promise.all([ask(`runs?${query()}`), ask("attention"), ask("pipelines")]);
  drawRuns(runs);
  drawNeeds(attention);
  drawCharts(pipelines);
}

live = follow(() => `live?${query()}`, Object.keys(draws), (kind, told) => { if (draws[kind]) draws[kind](told); }, all);
replace(main, h("div", { class: "sf-page" },
  header("Runs", "runs", live.button),
  needs, charts, jobs,
  h("section", { class: "sf-list", "aria-label": "Runs" },
    h("div", { class: "sf-filters" }, form, wrong, h("div", { class: "sf-row" }, chips, suggestions)),
    h("div", { class: "sf-scroll", tabindex: "0", role: "region", "aria-label": "The list of runs" }, h("table", { class: "sf-table" }, h("caption", { class: "visually-hidden" }, "Runs, the newest first"), h("thead", null, h("tr", null, HEADS.map((name) => h("th", { scope: "col" }, name)))), body)),
    h("div", { class: "sf-foot" }, bulk, note, h("div", { class: "sf-pages" }, newer, older)))));
replace(body, h("tr", null, h("td", { colspan: 8, class: "sf-none" }, "Looking…")));
show();
