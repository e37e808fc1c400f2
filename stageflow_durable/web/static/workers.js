// Who is alive and runs what, and what waits in the queues.

import { age, ask, cannot, confirmed, follow, h, header, lasted, legible, main, prefix, reasonField, replace, send, setClock, toast } from "./common.js";

const RECENT = 3600000;
const living = h("div", { class: "sf-card" }), lost = h("div"), queues = h("div", { class: "sf-card" }), waits = h("div");

const KINDS = { retry: "the time of a retry", sleep: "the end of a sleep", signal: "a signal", approval: "an approval", callback: "a callback", limit: "a slot of a limit", child: "a run that they started", items: "items", worker: "a worker that knows them", end: "the confirmed end of a worker", message: "a worker that takes their message", person: "a decision" };

function state(worker) {
  if (worker.alive) return h("span", { class: "sf-pill sf-ok" }, h("span", { class: "sf-dot", "aria-hidden": "true" }), "alive");
  if (!worker.ended_at) return h("span", { class: "sf-pill sf-warn" }, "silent for ", age(worker.expires_at));
  if (worker.confirmed) return h("span", { class: "sf-pill sf-idle" }, "ended ", age(worker.ended_at), " ago");
  return h("span", { class: "sf-pill sf-bad" }, "lost ", age(worker.ended_at), " ago");
}

function place(text) {
  const [run, ...stage] = text.split("/");
  return h("li", null, h("a", { class: "sf-id", href: `${prefix}/runs/${run}` }, run.slice(0, 12)), ` ${legible(stage.join("/"))}`);
}

function row(worker) {
  const cell = (label, ...children) => h("td", { "data-label": label }, children);
  return h("tr", { class: "sf-worker" },
    h("th", { scope: "row", "data-label": "Worker" }, h("strong", null, legible(worker.host)), h("span", { class: "sf-dim" }, ` pid ${worker.pid}`)),
    cell("State", state(worker)),
    cell("Started", age(worker.started_at), " ago"),
    cell("Runs", worker.running.length ? h("ul", { class: "sf-plain" }, worker.running.slice(0, 5).map(place), worker.running.length > 5 && h("li", { class: "sf-dim" }, `and ${worker.running.length - 5} more`)) : h("span", { class: "sf-dim" }, "nothing")),
    cell("Serves", legible(worker.queues.join(", "))),
    cell("Knows", h("span", { class: "sf-dim" }, legible(worker.pipelines.join(", ")))),
    worker.awaited && !worker.confirmed ? cell("", h("p", { class: "sf-hint" }, "Undos wait until somebody says that it has ended."), !cannot && h("button", { type: "button", class: "btn btn-sm btn-outline-danger", onclick: () => dead(worker) }, "It has ended…")) : cell(""));
}

function dead(worker) {
  confirmed({
    title: `Say that ${legible(worker.host)} (pid ${worker.pid}) has ended`,
    effect: h("p", null, "What will happen: undos that wait for its end begin. Look first: as long as it may still act, what it does after an undo stays done."),
    fields: [reasonField()],
    verb: "It has ended",
    dangerous: true,
    act: (form) => send(`workers/${encodeURIComponent(worker.owner)}/confirm-dead`, { reason: form.reason.value }),
    done: (said) => toast(`Recorded; ${said.runs.length} ${said.runs.length === 1 ? "run" : "runs"} waited for it.`),
  });
}

function table(title, rows, none) {
  return [h("header", null, h("h2", null, title)),
    h("div", { class: "sf-scroll", tabindex: "0", role: "region", "aria-label": title }, rows.length
      ? h("table", { class: "sf-table" }, h("thead", null, h("tr", null, ["Worker", "State", "Started", "Runs now", "Serves", "Knows", "Attention"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", null, rows))
      : h("p", { class: "sf-none sf-worker" }, none))];
}

function queue(one) {
  const cell = (label, ...children) => h("td", { "data-label": label }, children);
  return h("tr", null, h("th", { scope: "row", "data-label": "Queue" }, h("span", { class: "sf-mono" }, legible(one.name))),
    cell("Served by", one.workers ? `${one.workers} ${one.workers === 1 ? "process" : "processes"}` : h("span", { class: "sf-text-bad" }, one.ready || one.depth ? "nobody" : "nobody now")),
    cell("Messages", one.depth === null ? "the broker does not say" : one.depth.toLocaleString("en")),
    cell("Ready, not taken", one.ready.toLocaleString("en")),
    cell("Oldest message", one.oldest ? [age(one.oldest), " ago"] : ""));
}

function draw(told) {
  setClock(told.now);
  const alive = told.workers.filter((worker) => worker.alive);
  const gone = told.workers.filter((worker) => !worker.alive && (!worker.ended_at || worker.running.length || (worker.awaited && !worker.confirmed) || (!worker.confirmed && Date.parse(told.now) - Date.parse(worker.ended_at) < RECENT)));
  replace(living, table(`${alive.length} alive`, alive.map(row), "No worker is alive: start one with stageflow worker, or celery -A … worker."));
  replace(lost, gone.length > 0 && h("div", { class: "sf-card sf-below" }, table(`${gone.length} lost`, gone.map(row), "")));
  drawWaits(told);
  replace(queues, h("header", null, h("h2", null, "Queues"), h("div", { class: "sf-right sf-dim" }, told.next_wait === null ? "no wait has a time" : `the next wait is over in ${lasted(Math.max(0, told.next_wait))}`)),
    h("div", { class: "sf-scroll", tabindex: "0", role: "region", "aria-label": "Queues" }, h("table", { class: "sf-table" }, h("thead", null, h("tr", null, ["Queue", "Served by", "Messages", "Ready, not taken", "Oldest message"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", null, told.queues.map(queue)))));
}

function drawWaits(told) {
  const cell = (label, ...children) => h("td", { "data-label": label }, children);
  replace(waits, told.waits.length > 0 && h("div", { class: "sf-card sf-below" }, h("header", null, h("h2", null, "What runs wait for"), h("div", { class: "sf-right sf-dim" }, told.more_wait ? `of the newest ${told.looked_at} that wait` : "")),
    h("div", { class: "sf-scroll", tabindex: "0", role: "region", "aria-label": "What runs wait for" }, h("table", { class: "sf-table" }, h("thead", null, h("tr", null, ["For", "Runs", "Longest"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, told.waits.map((one) => h("tr", null, h("th", { scope: "row", "data-label": "For" }, KINDS[one.kind] || legible(one.kind)), cell("Runs", one.runs), cell("Longest", one.since && age(one.since)))))))));
}

const look = async () => draw(await ask("workers"));
const live = follow(() => "workers/live", ["workers"], (kind, told) => { if (kind === "workers") draw(told); }, look);
replace(main, h("div", { class: "sf-page" }, header("Workers and queues", "workers", live.button), living, lost, h("div", { class: "sf-below" }, queues), waits));
look().catch((error) => replace(living, h("p", { class: "sf-alert", role: "alert" }, legible(error.message))));
