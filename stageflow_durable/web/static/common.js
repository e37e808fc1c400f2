// What the pages share: elements, words, requests and news. Everything that others wrote enters a page as text.

const page = document.body.dataset;
export const prefix = page.prefix;
export const who = page.who;
export const cannot = page.cannot;
export const askedRun = page.run;
export const main = document.getElementById("main-content");

// --- elements --------------------------------------------------------------------------------------------------------

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// --- words -----------------------------------------------------------------------------------------------------------

// Controls, lone surrogates, and what reverses text or hides in it: written out, never acted on.
const ACTS =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|\p{Surrogate}/gu;

function written(one) {
  const code = one.codePointAt(0);
  return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
}

/** Text on one line, harmless. */
export function legible(text) {
  return String(text).replace(/\s*[\t\n\v\f\r\u0085\u2028\u2029]\s*/g, " ").replace(ACTS, written);
}

/** The same with its lines. */
export function legibleLines(text) {
  return String(text).split("\n").map((line) => line.replace(/\t/g, "    ").replace(ACTS, written)).join("\n");
}

let ahead = 0; // how far the server's clock is ahead of this one, in milliseconds

export function setClock(iso) {
  if (iso) ahead = Date.parse(iso) - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

export function ageOf(iso) {
  const seconds = Math.max(0, (now() - Date.parse(iso)) / 1000);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "m"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)}${unit}`;
  }
  return `${Math.floor(seconds)}s`;
}

export function lasted(seconds) {
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 5997) return `${(seconds / 60).toFixed(1)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
}

export function clock(iso, withDay = false) {
  const at = new Date(iso).toISOString();
  const time = at.slice(11, 19);
  return withDay || Math.abs(now() - Date.parse(iso)) > 86400000 ? `${at.slice(0, 10)} ${time}` : time;
}

export function time(iso, text) {
  return h("time", { datetime: iso, title: `${new Date(iso).toISOString().replace("T", " ").slice(0, 23)} UTC` }, text);
}

/** An age that goes on by itself. */
export function age(iso) {
  return h("time", { class: "sf-age", datetime: iso, title: `${clock(iso, true)} UTC` }, ageOf(iso));
}

setInterval(() => {
  if (document.hidden) return;
  for (const one of document.querySelectorAll("time.sf-age")) {
    const text = ageOf(one.dateTime);
    if (one.textContent !== text) one.textContent = text;
  }
}, 1000);

export function words(status) {
  return String(status).replaceAll("_", " ");
}

const LOOK = {
  succeeded: "ok", ok: "ok", running: "run", waiting: "wait", pending: "idle", stopping: "turn", compensating: "turn",
  parked: "warn", failed: "bad", compensation_failed: "bad", cancelled: "idle", compensated: "undo", undone: "undo",
  skipped: "idle", unknown: "warn",
};

export function pill(status) {
  return h("span", { class: `sf-pill sf-${LOOK[status] || "idle"}` }, h("span", { class: "sf-dot", "aria-hidden": "true" }), words(status));
}

export function look(status) {
  return LOOK[status] || "idle";
}

export function copyable(text, label) {
  const button = h("button", { type: "button", class: "sf-copy", "aria-label": `Copy ${label}`, onclick: copy }, "Copy");
  function copy() {
    // The clipboard's own interface exists over HTTPS alone; these pages work over plain HTTP.
    const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  return button;
}

export function code(text, label) {
  return h("span", { class: "sf-command" }, h("code", null, legible(text)), copyable(text, label || "this"));
}

// --- requests --------------------------------------------------------------------------------------------------------

export class Refused extends Error {
  constructor(status, told) {
    super([told.detail, ...(told.errors || [])].filter(Boolean).join("\n") || `the server answered ${status}`);
    this.status = status;
    this.kind = told.kind;
  }
}

async function answered(response) {
  const kind = response.headers.get("content-type") || "";
  if (!kind.includes("json")) {
    const why = response.ok || response.status === 403 ? "You are signed out: reload the page." : `The server answered ${response.status}.`;
    throw new Refused(response.status, { detail: why });
  }
  const told = await response.json();
  if (!response.ok) throw new Refused(response.status, told);
  return told;
}

// Absolute: a page that was opened as http://name:password@host/ would give its requests the same, which fetch refuses.
function address(path) {
  return new URL(`${prefix}/api/stageflow/${path}`, location.origin);
}

export async function ask(path) {
  return answered(await fetch(address(path), { credentials: "same-origin" }));
}

export async function send(path, body) {
  const headers = { "Content-Type": "application/json", "X-Stageflow-Token": page.token };
  const request = { method: "POST", headers, body: JSON.stringify(body), credentials: "same-origin" };
  return answered(await fetch(address(path), request));
}

// --- news ------------------------------------------------------------------------------------------------------------

const STATES = {
  live: ["Live", "what changes is shown at once"],
  asking: ["Every few seconds", "the server does not stream; it is asked again"],
  paused: ["Paused", "while this tab is hidden"],
  away: ["Not up to date", ""],
  stopped: ["Stopped", "press to go on"],
};

/**
 * Follow what a page shows: by server-sent events, or by asking where those do not come through; paused while the tab is hidden,
 * and when somebody says so. `tell(kind, told)` gets each piece of news; `poll()` asks for all of it; `waits`: until `restart()`.
 */
export function follow(path, kinds, tell, poll, waits = false) {
  let source = null, timer = null, stopped = false, failures = 0;
  const word = h("span", null, "Connecting");
  const button = h("button", { type: "button", class: "sf-live", "data-state": "paused", onclick: toggle, "aria-live": "off" },
    h("span", { class: "sf-dot", "aria-hidden": "true" }), word);

  function say(state, why) {
    button.dataset.state = state;
    word.textContent = STATES[state][0];
    button.title = why || STATES[state][1];
    button.setAttribute("aria-label", `Updates: ${STATES[state][0]}. ${stopped ? "Go on" : "Stop"}`);
  }
  function toggle() {
    stopped = !stopped;
    stopped ? close("stopped") : open();
  }
  function close(state) {
    if (source) source.close();
    clearTimeout(timer);
    source = null;
    say(state);
  }
  function open() {
    if (stopped || source || document.hidden) return;
    source = new EventSource(`${prefix}/api/stageflow/${path()}`);
    source.onopen = () => { failures = 0; say("live"); };
    for (const kind of kinds) {
      source.addEventListener(kind, (event) => { say("live"); tell(kind, JSON.parse(event.data)); });
    }
    source.addEventListener("away", (event) => say("away", JSON.parse(event.data)));
    source.addEventListener("gone", (event) => { say("away", JSON.parse(event.data)); tell("gone", JSON.parse(event.data)); });
    source.onerror = () => {
      failures += 1;
      if (source && source.readyState === EventSource.CLOSED) failures = 3; // refused: it is not tried again by itself
      if (failures < 3) return say("away", "the server does not answer; it is tried again");
      close("asking");
      again();
    };
  }
  async function again() {
    if (stopped || document.hidden) return;
    try {
      await poll();
      say("asking");
    } catch (error) {
      say("away", error.message);
    }
    timer = setTimeout(again, 3000);
  }
  document.addEventListener("visibilitychange", () => {
    if (stopped) return;
    if (document.hidden) close("paused");
    else open();
  });
  window.addEventListener("pagehide", () => close("paused"));
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  say("paused");
  if (!waits) open();
  return { button, restart() { if (!stopped) { close("paused"); failures = 0; open(); } } };
}

// --- dialogs ---------------------------------------------------------------------------------------------------------

/** Ask before something is done. `fields`: elements; `act(form)`: does it, and may return what to say. */
export function confirmed({ title, effect, fields = [], verb, dangerous, act, done }) {
  const problem = h("p", { class: "sf-alert", role: "alert", hidden: true });
  const go = h("button", { type: "submit", class: `btn ${dangerous ? "btn-danger" : "btn-primary"}` }, verb);
  const form = h("form", { method: "dialog" },
    h("h2", { id: "sf-dialog-title" }, title),
    effect && h("div", { class: "sf-effect" }, effect),
    fields,
    problem,
    h("div", { class: "sf-buttons" },
      h("button", { type: "button", class: "btn btn-outline-secondary", onclick: () => dialog.close() }, "Cancel"),
      go));
  const dialog = h("dialog", { class: "sf-dialog", "aria-labelledby": "sf-dialog-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    problem.hidden = true;
    try {
      const said = await act(form);
      dialog.close();
      if (done) done(said);
    } catch (error) {
      problem.textContent = legibleLines(error.message);
      problem.hidden = false;
    } finally {
      go.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  const first = form.querySelector("textarea, input");
  if (first) first.focus();
  return dialog;
}

let fieldNumber = 0;

export function field(label, element, hint) {
  fieldNumber += 1;
  element.id = `sf-field-${fieldNumber}`;
  if (hint) element.setAttribute("aria-describedby", `${element.id}-hint`);
  return h("div", { class: "sf-field" }, h("label", { for: element.id }, label), element,
    hint && h("p", { class: "sf-hint", id: `${element.id}-hint` }, hint));
}

export function reasonField() {
  return field("Why", h("textarea", { name: "reason", rows: 2, maxlength: 1000, required: true }), `It stays in the history, with your name${who ? ` (${who})` : ""}.`);
}

const toasts = h("div", { class: "sf-toasts", role: "status", "aria-live": "polite" });
document.body.append(toasts);

export function toast(...said) {
  const one = h("div", { class: "sf-toast" }, said);
  toasts.append(one);
  setTimeout(() => one.remove(), 8000);
}

export function uuid() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- the frame -------------------------------------------------------------------------------------------------------

export function header(title, tab, ...right) {
  const entry = (name, path, text) => h("a", { href: `${prefix}/${path}`, "aria-current": tab === name ? "page" : null }, text);
  return [
    h("div", { class: "sf-head" },
      h("h1", null, title),
      h("nav", { class: "sf-tabs", "aria-label": "Runs" }, entry("runs", "runs", "Runs"), entry("workers", "stageflow/workers", "Workers and queues"), entry("limits", "limits", "Limits"), entry("approvals", "approvals", "Approvals")),
      h("div", { class: "sf-right" }, right)),
    cannot && h("p", { class: "sf-note" }, cannot),
  ];
}
