// One run: its picture, what each stage did, its history, and what may be done to it now.

import { age, ask, askedRun, cannot, clock, code, confirmed, copyable, field, follow, h, header, lasted, legible, legibleLines, main, now, pill, prefix, reasonField, replace, send, setClock, time, toast, uuid, words } from "./common.js";
import { begun, draw, legend, mark, MOST_ROWS, rowAt, waitWords } from "./picture.js";

let run = null, picked = false, chosen = new URLSearchParams(location.search).get("stage"), shown = MOST_ROWS, wanted = "", seen = -1;

const head = h("div"), acts = h("div", { class: "sf-acts", role: "group", "aria-label": "What may be done now" });
const names = h("ul", { class: "sf-names" }), timeBox = h("div", { class: "sf-time" });
const foot = h("div"), key = h("div");
const find = h("input", { type: "search", class: "form-control form-control-sm sf-find", placeholder: "Find a stage", "aria-label": "Find a stage", hidden: true, oninput: () => { wanted = find.value.toLowerCase(); picture(); } });
const detail = h("section", { class: "sf-card sf-detail", "aria-label": "The stage that is chosen" });
const values = h("section", { class: "sf-card", "aria-labelledby": "sf-input" });
const verdict = h("span", { class: "sf-verdict" }), list = h("ol", { class: "sf-events", tabindex: "0", "aria-label": "Events, oldest first" });

// --- the head --------------------------------------------------------------------------------------------------------

function fact(name, ...value) {
  return h("div", null, h("dt", null, name), h("dd", null, value));
}

function drawHead() {
  const took = run.finished_at ? lasted(run.seconds) : null;
  replace(head,
    h("p", { class: "sf-crumb" }, h("a", { href: `${prefix}/runs` }, "Runs"), " / ", h("span", { class: "sf-mono" }, run.run_id), " ", copyable(run.run_id, "the run's id")),
    h("div", { class: "sf-run-head" }, h("h1", null, `${legible(run.pipeline)} `, h("span", { class: "sf-dim" }, `v${legible(run.version)}`)), pill(run.status), h("div", { class: "sf-right" }, live.button)),
    cannot && h("p", { class: "sf-note" }, cannot),
    h("p", { class: `sf-say${run.at_rest && run.status !== "succeeded" ? " sf-text-bad" : ""}` }, legible(why())),
    run.erased_at && h("p", { class: "sf-note" }, `Its values were erased ${clock(run.erased_at, true)} UTC; the history stays.`),
    run.missing && h("p", { class: "sf-note" }, `To let it go on, ${legible(run.missing.advice)}: `, code(run.missing.command, "the command")),
    h("dl", { class: "sf-facts" },
      fact("begun", time(run.created_at, `${clock(run.created_at, true)} UTC`), " (", age(run.created_at), " ago)"),
      took ? fact("took", took) : null,
      fact("client", h("a", { href: `${prefix}/runs?${new URLSearchParams({ client: run.client_id })}` }, legible(run.client_id))),
      run.key && fact("key", legible(run.key), " ", copyable(run.key, "the key")),
      run.deadline && fact("deadline", time(run.deadline, `${clock(run.deadline, true)} UTC`)),
      run.parent && fact("started by", h("a", { class: "sf-mono", href: `${prefix}/runs/${run.parent}` }, run.parent.slice(0, 12))),
      run.pivot_passed && fact("point of no return", "has begun"),
      Object.entries(run.attributes).map(([name, value]) => fact(legible(name), h("a", { href: `${prefix}/runs?${new URLSearchParams({ attribute: `${name}=${value}` })}` }, legible(value))))));
  document.title = `${words(run.status)}: ${legible(run.pipeline)} ${run.run_id.slice(0, 12)}`;
}

function why() {
  const running = run.stages.filter((stage) => stage.state === "running").map((stage) => stage.name);
  if (!run.at_rest && running.length) return `${running.slice(0, 5).join(", ")}${running.length > 5 ? ` and ${running.length - 5} more` : ""} ${running.length === 1 ? "runs" : "run"}${run.waits.length ? `; ${run.waits[0].text}` : ""}`;
  const undo = run.stages.find((stage) => stage.undo && stage.undo.state === "compensation_failed");
  if (run.status === "compensation_failed" && undo) return `The undo ${undo.undo.name} of ${undo.name} failed: ${undo.undo.error || ""}. It was to be undone because: ${run.error || words(run.cause || "")}`;
  return run.why || (run.status === "succeeded" ? `All ${run.stages.length} stages are done.` : "");
}

// --- what may be done ------------------------------------------------------------------------------------------------

const TITLES = { cancel: "Cancel this run", resume: "Resume this run", compensate: "Undo what this run did", fork: "Fork", approve: "Approve", deny: "Deny", signal: "Send the signal", settle: "Settle" };
const BUTTONS = { cancel: "Cancel…", resume: "Resume…", compensate: "Compensate…" };
const QUIET = new Set(["fork"]);

function label(verb) {
  if (verb.verb === "settle") return `${verb.outcome === "done" ? "It happened" : "It did not happen"}: ${legible(verb.stage)}…`;
  if (verb.skips) return `Give up the undo of ${legible(verb.stage)}…`;
  if (verb.verb === "fork") return `Fork from ${legible(verb.stage)}…`;
  if (verb.verb === "signal") return `Signal ${legible(verb.stage)}…`;
  if (verb.verb === "approve" || verb.verb === "deny") return `${TITLES[verb.verb]} ${legible(verb.stage)}…`;
  return BUTTONS[verb.verb] || verb.verb;
}

function button(verb, index) {
  const kind = QUIET.has(verb.verb) || verb.verb === "deny" ? "btn-outline-secondary" : verb.verb === "cancel" || verb.verb === "compensate" ? "btn-outline-danger" : index ? "btn-outline-primary" : "btn-primary";
  return h("button", { type: "button", class: `btn btn-sm ${kind}`, "data-verb": verb.verb, title: legible(verb.effect), onclick: () => act(verb) }, label(verb));
}

function drawActs() {
  const held = acts.contains(document.activeElement);
  const buttons = cannot ? [] : run.allowed.map(button);
  const of = JSON.stringify([run.allowed, run.erased_at]);
  if (acts.dataset.of === of && acts.childElementCount) return; // a button that is about to be pressed stays where it is
  acts.dataset.of = of;
  replace(acts, buttons, !cannot && !run.erased_at && h("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: reveal }, "Reveal values…"));
  if (held && acts.firstElementChild) acts.firstElementChild.focus();
}

function json(element, what) {
  const text = element.value.trim();
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} is not JSON: ${error.message}`);
  }
}

function act(verb) {
  const looked = run.op_version, once = uuid();
  const stage = run.stages.find((one) => one.name === verb.stage);
  const value = h("textarea", { class: "sf-json", rows: 4, spellcheck: "false", placeholder: "{}" });
  const asksValue = verb.verb === "signal" || verb.outcome === "done";
  const approval = stage && stage.approval;
  const path = `runs/${run.run_id}/${verb.verb}`;
  confirmed({
    title: verb.stage && TITLES[verb.verb] ? `${TITLES[verb.verb]}: ${legible(verb.stage)}` : TITLES[verb.verb] || verb.verb,
    effect: [h("p", null, `What will happen: ${effect(verb)}`),
      approval && (verb.verb === "approve" || verb.verb === "deny") && [h("p", { class: "sf-dim" }, "You decide about exactly this:"), approval.content && h("pre", { tabindex: "0" }, legibleLines(approval.content.text), approval.content.cut ? "…" : ""), h("p", { class: "sf-dim" }, `digest ${approval.digest.slice(0, 12)}${approval.approvers.length ? `, by one of ${approval.approvers.map(legible).join(", ")}` : ""}`)]],
    fields: [asksValue && field(verb.verb === "signal" ? "What it says, as JSON" : "The output it would have saved, as JSON", value, "Left empty it is null."), reasonField()],
    verb: verb.verb === "settle" ? "Record it" : label(verb).replace("…", ""),
    dangerous: verb.verb === "cancel" || verb.verb === "compensate",
    act: (form) => {
      const body = { reason: form.reason.value };
      if (["signal", "fork"].includes(verb.verb)) body.key = once; else body.op_version = looked;
      if (verb.stage && !verb.skips) body.stage = verb.stage;
      if (verb.skips) body.skip = [verb.stage];
      if (verb.past_pivot) body.past_pivot = true;
      if (verb.digest) body.digest = verb.digest;
      if (verb.verb === "signal") body.payload = json(value, "What it says");
      if (verb.outcome === "done") body.done = json(value, "The output");
      if (verb.outcome === "not_done") body.not_done = true;
      return send(path, body);
    },
    done: async (said) => {
      if (verb.verb === "fork") toast("A new run began: ", h("a", { href: `${prefix}/runs/${said.run_id}` }, said.run_id.slice(0, 12)));
      else toast(`${label(verb).replace("…", "")}: recorded.`);
      await look();
    },
  });
}

function effect(verb) {
  if (verb.verb === "fork") return `a new run begins at ${legible(verb.stage)}, with what the stages before it saved. This run stays as it is; what it did is undone, if ever, by itself.`;
  if (verb.verb === "approve") return "a worker looks whether exactly this is still asked, and the run goes on.";
  if (verb.verb === "deny") return "the run does not do it; what its pipeline says about that follows.";
  if (verb.verb === "signal") return `the wait ${legible(verb.stage)} ends with what you send, which becomes its output.`;
  if (verb.verb === "compensate" && !verb.skips) return `${legible(verb.effect).startsWith("tries") ? "" : "these undos run, in this order: "}${legible(verb.effect)}.${verb.past_pivot ? " Its point of no return has begun: that is undone all the same." : ""}`;
  return `${legible(verb.effect)}.`;
}

function reveal() {
  confirmed({
    title: "Reveal the values of this run",
    effect: h("p", null, "What will happen: its input, metadata and outputs are shown without masks. That you looked, and why, is in its history first."),
    fields: [reasonField()],
    verb: "Reveal",
    act: (form) => send(`runs/${run.run_id}/reveal`, { reason: form.reason.value }),
    done: (said) => {
      const close = h("button", { type: "button", class: "btn btn-outline-secondary", onclick: () => dialog.close() }, "Close");
      const dialog = h("dialog", { class: "sf-dialog", "aria-label": "Values without masks" }, h("form", { method: "dialog" }, h("h2", null, "Values without masks"),
        Object.entries(said.values).filter(([, value]) => value).map(([name, value]) => h("div", null, h("h3", null, legible(name)), h("pre", { tabindex: "0" }, legibleLines(value.text)))), h("div", { class: "sf-buttons" }, close)));
      dialog.addEventListener("close", () => dialog.remove());
      document.body.append(dialog);
      dialog.showModal();
      look();
    },
  });
}

// --- the picture -----------------------------------------------------------------------------------------------------

function visible() {
  const found = wanted ? run.stages.filter((stage) => stage.name.toLowerCase().includes(wanted)) : run.stages;
  return found.slice(0, shown);
}

function choose(name, focus) {
  chosen = name;
  picked = true;
  history.replaceState(null, "", `${location.pathname}?${new URLSearchParams({ stage: name })}`);
  for (const one of names.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one.dataset.stage === name));
  for (const [number, lane] of [...timeBox.querySelectorAll(".sf-lane")].entries()) lane.classList.toggle("sf-chosen", names.children[number]?.firstChild.dataset.stage === name);
  drawDetail();
  if (focus) names.querySelector(`button[data-stage="${CSS.escape(name)}"]`)?.focus();
}

function nameRow(stage) {
  const tries = stage.attempts.length > 1 ? `${stage.tries}${stage.max_attempts ? `/${stage.max_attempts}` : ""}` : "";
  const note = [words(stage.state), tries && `${stage.attempts.length} attempts`, waitWords(stage), stage.undo && stage.undo.attempts.length ? `undo ${stage.undo.state}` : ""].filter(Boolean).join(", ");
  return h("li", null, h("button", { type: "button", "data-stage": stage.name, "aria-pressed": String(stage.name === chosen), "aria-label": `${legible(stage.name)}: ${note}`, title: legible(stage.name), onclick: () => choose(stage.name) },
    mark(stage), h("span", { class: "sf-name" }, legible(stage.name)), stage.pivot && h("span", { class: "sf-dim", title: "the point of no return" }, "◆"), h("span", { class: "sf-tries" }, tries)));
}

function picture() {
  const stages = visible();
  drawNames(stages);
  drawTime(stages);
  find.hidden = run.stages.length <= 30;
  const all = wanted ? run.stages.filter((stage) => stage.name.toLowerCase().includes(wanted)).length : run.stages.length;
  replace(foot, all > stages.length && h("div", { class: "sf-more" }, `${stages.length.toLocaleString("en")} of ${all.toLocaleString("en")} stages are drawn.`,
    h("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: () => { shown += MOST_ROWS; picture(); } }, `Draw ${Math.min(MOST_ROWS, all - stages.length).toLocaleString("en")} more`)));
  replace(key, legend(run));
}

function drawNames(stages) {
  const same = JSON.stringify(stages.map((stage) => [stage.name, stage.state, stage.attempts.length, stage.tries, stage.waiting_for, stage.undo && stage.undo.state]).concat([[chosen]]));
  if (names.dataset.of === same) return; // a name that is about to be pressed stays where it is
  names.dataset.of = same;
  const held = names.contains(document.activeElement) ? document.activeElement.dataset.stage : null;
  replace(names, stages.map(nameRow));
  if (held) names.querySelector(`button[data-stage="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}

function drawTime(stages) {
  replace(timeBox, draw(run, stages, Math.max(180, timeBox.clientWidth || 600), chosen));
}

timeBox.addEventListener("pointerdown", (event) => { // not a click: the picture of a run that goes is another each second
  const stage = visible()[rowAt(event.clientY - timeBox.getBoundingClientRect().top)];
  if (stage) choose(stage.name);
});

names.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const at = event.target.closest("li");
  if (!step || !at) return;
  event.preventDefault();
  const next = step > 0 ? at.nextElementSibling : at.previousElementSibling;
  if (next) { next.firstChild.focus(); choose(next.firstChild.dataset.stage); }
});

// --- one stage -------------------------------------------------------------------------------------------------------

function block(title, ...content) {
  return h("div", null, title && h("h3", null, title), content);
}

const whole = new Map(); // values that somebody asked for in full, until they are others

function valueBlock(title, value, query) {
  if (!value) return null;
  const name = JSON.stringify([query, value.text, value.length]);
  const full = whole.get(name);
  const pre = h("pre", { tabindex: "0" }, full || legibleLines(value.text), value.cut && !full ? "…" : "");
  const more = value.cut && !full && h("button", { type: "button", class: "sf-copy", onclick: async () => {
    more.disabled = true;
    try {
      const told = await ask(`runs/${run.run_id}/values?${new URLSearchParams(query)}`);
      const rest = told.value.cut ? `… (${told.value.length.toLocaleString("en")} characters: all of them by the command stageflow show --full)` : "";
      whole.set(name, legibleLines(told.value.text) + rest);
      drawDetail();
      drawValues();
    } catch (error) {
      more.disabled = false;
      toast(legible(error.message));
    }
  } }, `Show all ${value.length.toLocaleString("en")} characters`);
  return block(title || more ? [title, more] : "", pre);
}

/** A text with what is not the same in the one before marked, word by word. */
function changed(text, before) {
  const split = (one) => legible(one).split(/(\s+)/);
  const now_ = split(text), then = split(before);
  let head_ = 0, tail = 0;
  while (head_ < now_.length && head_ < then.length && now_[head_] === then[head_]) head_ += 1;
  while (tail < now_.length - head_ && tail < then.length - head_ && now_.at(-1 - tail) === then.at(-1 - tail)) tail += 1;
  const middle = now_.slice(head_, now_.length - tail);
  if (middle.length > now_.length * 0.6) return legible(text); // another error, not a variant of the one before
  const rest = new Set(then.slice(head_, then.length - tail));
  return [now_.slice(0, head_).join(""), middle.map((word) => (rest.has(word) || !word.trim() ? word : h("mark", null, word))), tail ? now_.slice(-tail).join("") : ""];
}

function attemptRows(attempts) {
  let before = null;
  return attempts.map((attempt) => {
    const end = attempt.ended_at ? Date.parse(attempt.ended_at) : null;
    const error = attempt.error && (before === null ? legible(attempt.error) : attempt.error === before ? h("span", { class: "sf-dim" }, "the same error") : changed(attempt.error, before));
    if (attempt.error) before = attempt.error;
    return [
      h("tr", null, h("th", { scope: "row" }, `#${attempt.n}`), h("td", null, words(attempt.state)), h("td", null, time(attempt.began_at, clock(attempt.began_at))), h("td", null, end === null ? age(attempt.began_at) : lasted((end - Date.parse(attempt.began_at)) / 1000)),
        h("td", null, error, attempt.delay !== null && h("div", { class: "sf-dim" }, `again after ${lasted(attempt.delay)}`), h("div", { class: "sf-dim" }, place(attempt)), traceback(attempt), lines(attempt))),
    ];
  });
}

function place(attempt) {
  const host = attempt.owner_host || attempt.owner;
  return host ? `on ${legible(host)}${attempt.owner_pid ? ` (pid ${attempt.owner_pid})` : ""}` : "";
}

function traceback(attempt) {
  return folded("Traceback", attempt.traceback);
}

function lines(attempt) {
  return folded("Log lines", attempt.log);
}

function folded(title, text) {
  if (!text || !text.length) return null;
  return h("details", null, h("summary", null, title), h("pre", { tabindex: "0" }, legibleLines(text.join("\n"))));
}

const MOST_STEPS = 100;

function step(one) {
  const state_ = one.undone_at ? "undone" : one.saved_at ? "saved" : "begun; it is not known whether it was done";
  return h("li", { value: one.number }, h("details", null, h("summary", null, h("strong", null, legible(one.name)), one.tool && h("span", { class: "sf-dim" }, " tool"), ` ${state_}`, one.key && h("span", { class: "sf-dim" }, ` key ${legible(one.key)}`)),
    one.arguments && block("Arguments", h("pre", { tabindex: "0" }, legibleLines(one.arguments.text), one.arguments.cut ? "…" : "")),
    one.result && block("Result", h("pre", { tabindex: "0" }, legibleLines(one.result.text), one.result.cut ? "…" : ""))));
}

function attemptTable(title, attempts) {
  return attempts.length > 0 && block(title, h("table", { class: "sf-attempts" }, h("thead", null, h("tr", null, ["", "ended", "began", "took", "what happened"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", null, attemptRows(attempts))));
}

function canFork(stage) {
  const done = (name) => { const one = run.stages.find((other) => other.name === name); return one && (one.state === "ok" || one.state === "skipped"); };
  return !cannot && !run.erased_at && stage.after.every(done);
}

function drawDetail() {
  const stage = run.stages.find((one) => one.name === chosen) || run.stages[0];
  if (!stage) return replace(detail);
  const same = JSON.stringify([stage, run.allowed, run.at_rest, run.erased_at, [...whole.keys()]]);
  if (detail.dataset.of === same) return; // what somebody reads, or has marked, stays where it is
  detail.dataset.of = same;
  const open = new Set([...detail.querySelectorAll("details[open]")].map((one) => one.dataset.n));
  const allowed = cannot ? [] : run.allowed.filter((verb) => verb.stage === stage.name && verb.verb !== "fork");
  const asked = stage.approval;
  replace(detail,
    h("header", null, h("h2", null, legible(stage.name)), pill(stage.state), h("span", { class: "sf-dim" }, legible(stage.kind), stage.pivot ? " · point of no return" : "")),
    h("div", { class: "sf-body" },
      (allowed.length > 0 || canFork(stage)) && h("div", { class: "sf-need-acts" }, allowed.map(button), canFork(stage) && button({ verb: "fork", stage: stage.name, effect: `a new run from ${stage.name} on` })),
      stage.error && block("Error", h("pre", { class: "sf-err", tabindex: "0" }, legibleLines(stage.error))),
      stage.undo && stage.undo.error && block(`Error of the undo ${legible(stage.undo.name)}`, h("pre", { class: "sf-err", tabindex: "0" }, legibleLines(stage.undo.error))),
      h("dl", { class: "sf-facts" },
        stage.waiting_for && fact("waits", waitWords(stage), stage.wake_at && [", until ", time(stage.wake_at, `${clock(stage.wake_at, true)} UTC`)]),
        stage.progress !== null && stage.progress !== undefined && stage.state === "running" && fact("progress", legible(JSON.stringify(stage.progress))),
        fact("tries", `${stage.tries}${stage.max_attempts ? ` of ${stage.max_attempts}` : ""}${stage.lost ? `, lost with its worker ${stage.lost}×` : ""}`),
        fact("after", stage.after.length ? stage.after.map(legible).join(", ") : "the beginning"),
        fact("key", h("code", null, legible(stage.key)), " ", copyable(stage.key, "the key")),
        stage.undo && fact("undo", legible(stage.undo.name), ` (${STEPS[stage.undo.state] || words(stage.undo.state)})`),
        stage.undo && stage.undo.attempts.length > 0 && fact("its key", h("code", null, legible(stage.undo.key)))),
      asked && [valueBlock("What is to be approved", asked.content, { stage: stage.name }), asked.decision && h("p", null, `${legible(asked.decision)} by ${legible(asked.actor || "")}${asked.reason ? `: ${legible(asked.reason)}` : ""}`)],
      valueBlock("Output", stage.output, { stage: stage.name }),
      stage.steps.length > 0 && block(`Saved steps (${stage.steps.length.toLocaleString("en")})`, h("ol", { class: "sf-steps" }, stage.steps.slice(0, MOST_STEPS).map(step)), stage.steps.length > MOST_STEPS && h("p", { class: "sf-dim" }, `The first ${MOST_STEPS}; all of them by the command stageflow show.`)),
      attemptTable("Attempts", stage.attempts),
      stage.undo && attemptTable(`Attempts of the undo ${legible(stage.undo.name)}`, stage.undo.attempts),
      !begun(stage) && h("p", { class: "sf-dim" }, run.at_rest ? "It was never begun." : "It has not begun.")));
  for (const [number, one] of [...detail.querySelectorAll("details")].entries()) { one.dataset.n = number; one.open = open.has(String(number)); }
}

const STEPS = { intended: "intended: the stage may have acted", recorded: "owed, if the run turns back", void: "not needed", compensating: "under way", compensated: "done", skipped: "given up", compensation_failed: "failed" };

// --- values and history ----------------------------------------------------------------------------------------------

function drawValues() {
  replace(values, h("header", null, h("h2", { id: "sf-input" }, "Input")), h("div", { class: "sf-body" },
    valueBlock("", run.input, { of: "input" }) || h("p", { class: "sf-dim" }, "None."),
    valueBlock("Metadata", run.metadata, { of: "metadata" })));
}

const SHOWN_EVENTS = 300;
const known = [];
let audited = -Infinity;

function eventRow(event) {
  const { stage, ...data } = event.data;
  const noted = Object.entries(data).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("  ");
  return h("li", { class: event.type.startsWith("operator.") ? "sf-person" : null }, h("span", { class: "sf-number" }, event.seq), time(event.at, clock(event.at)), h("span", null, legible(event.type), stage && h("strong", null, ` ${legible(stage)}`)), h("code", null, legible(noted.length > 400 ? `${noted.slice(0, 400)}…` : noted)));
}

function drawEvents(all) {
  const some = all ? known : known.slice(-SHOWN_EVENTS);
  replace(list, some.length < known.length && h("li", null, h("span"), h("button", { type: "button", class: "sf-copy", onclick: () => drawEvents(true) }, `All ${known.length}`)), some.map(eventRow));
}

async function history_() {
  const mine = run.seq;
  if (seen === mine) return;
  seen = mine;
  const audits = run.at_rest || now() - audited > 15000; // all of its events are gone through
  try {
    let told;
    do {
      told = await ask(`runs/${run.run_id}/history?after=${known.length ? known.at(-1).seq : 0}${audits ? "" : "&audit=0"}`);
      known.push(...told.events.filter((event) => !known.length || event.seq > known.at(-1).seq));
    } while (told.more);
    drawEvents(false);
    list.scrollTop = list.scrollHeight;
    if (audits) { audited = now(); drawVerdict(told.verdict); }
  } catch (error) {
    seen = -1;
    verdict.textContent = legible(error.message);
  }
}

function drawVerdict(told) {
  if (!told) return replace(verdict);
  const bad = told.problems.length > 0;
  verdict.className = `sf-verdict ${bad ? "sf-text-bad" : "sf-text-ok"}`;
  const sealed = told.sealed ? "sealed with the audit key" : "no audit key is set: this shows accidents, not attackers";
  replace(verdict, bad ? `✕ The audit found: ${legible(told.problems.join("; "))}` : `✓ ${told.events} events as the engine wrote them; ${sealed}`);
}

// --- the page --------------------------------------------------------------------------------------------------------

function tell(kind, told) {
  if (kind === "gone") { toast(legible(told)); return; }
  setClock(told.now);
  const first = run === null;
  run = told;
  if (first) {
    if (location.pathname !== `${prefix}/runs/${run.run_id}`) history.replaceState(null, "", `${prefix}/runs/${run.run_id}${location.search}`);
    picked = run.stages.some((stage) => stage.name === chosen);
    replace(main, page());
    drawValues();
  }
  if (!picked) chosen = interesting();
  drawHead();
  drawActs();
  picture();
  drawDetail();
  if (seen !== run.seq && !late) late = setTimeout(() => { late = null; history_(); }, seen < 0 ? 0 : 1000);
}

/** The stage to look at, until somebody chooses one: where it failed, else where it is. */
function interesting() {
  const by = (test) => run.stages.find(test);
  const found = by((stage) => stage.name === run.error_stage) || by((stage) => stage.state === "running") || by((stage) => stage.state === "waiting" || stage.state === "unknown") || by((stage) => stage.state === "failed");
  return (found || run.stages.findLast((stage) => begun(stage)) || run.stages[0] || {}).name;
}

let late = null;

function page() {
  return h("div", { class: "sf-page" }, head, acts,
    h("div", { class: "sf-two" },
      h("div", { class: "sf-col" },
        h("section", { class: "sf-card sf-picture", "aria-labelledby": "sf-stages" },
          h("header", null, h("h2", { id: "sf-stages" }, `Stages (${run.stages.length.toLocaleString("en")})`), h("div", { class: "sf-right" }, find)),
          h("div", { class: "sf-picture-scroll" }, h("div", { class: "sf-rows" }, names, timeBox)), key, foot),
        values),
      detail),
    h("section", { class: "sf-card sf-below", "aria-labelledby": "sf-history" }, h("header", null, h("h2", { id: "sf-history" }, "History"), h("div", { class: "sf-right" }, verdict)), list));
}

async function look() {
  tell("run", await ask(`runs/${askedRun}`));
}

const live = follow(() => `runs/${askedRun}/live${run ? `?seq=${run.seq}` : ""}`, ["run"], tell, look, true);
let drawn = 0;
new ResizeObserver(() => {
  if (run && timeBox.clientWidth && Math.abs(timeBox.clientWidth - drawn) > 4) { drawn = timeBox.clientWidth; picture(); }
}).observe(timeBox);
setInterval(() => { if (run && !run.at_rest && !document.hidden && run.stages.length <= 300) drawTime(visible()); }, 1000);

replace(main, h("div", { class: "sf-page" }, header("Run", "runs", live.button), h("p", { class: "sf-dim" }, "Looking…")));
look().then(() => live.restart(), (error) => replace(main, h("div", { class: "sf-page" }, header("Run", "runs"), h("p", { class: "sf-alert", role: "alert" }, legible(error.message)), h("p", null, h("a", { href: `${prefix}/runs` }, "All runs")))));
