// Who holds the slots of limits, and how many wait for one.

import { age, ask, follow, h, header, legible, main, prefix, replace, setClock } from "./common.js";

const limits = h("div", { class: "sf-card" });

function meter(one) {
  const share = one.amount ? Math.min(1, one.held / one.amount) : 1;
  return h("div", { class: "sf-meter" }, h("meter", { min: 0, max: one.amount || 1, value: Math.min(one.held, one.amount || 1), "aria-label": `${one.held} of ${one.amount} taken` }), h("span", { class: share >= 1 ? "sf-text-warn" : "" }, `${one.held} of ${one.amount}`));
}

function holder(one) {
  return h("li", null, h("a", { class: "sf-id", href: `${prefix}/runs/${one.run_id}` }, one.run_id.slice(0, 12)), ` ${legible(one.stage)}`, one.lost && h("span", { class: "sf-text-warn" }, " lost, may still act"));
}

function row(one) {
  const cell = (label, ...children) => h("td", { "data-label": label }, children);
  return h("tr", { class: "sf-limit" },
    h("th", { scope: "row", "data-label": "Limit" }, h("strong", null, legible(one.name)), one.key && h("span", { class: "sf-dim" }, ` ${legible(one.key)}`)),
    cell("Taken", meter(one)),
    cell("Wait", one.waiting ? one.waiting.toLocaleString("en") : h("span", { class: "sf-dim" }, "nobody")),
    cell("Longest", one.oldest && age(one.oldest)),
    cell("Held by", one.holders.length > 0 && h("ul", { class: "sf-plain" }, one.holders.map(holder), one.held > one.holders.length && h("li", { class: "sf-dim" }, `and ${one.held - one.holders.length} more`))));
}

function draw(told) {
  setClock(told.now);
  replace(limits, h("header", null, h("h2", null, "Limits"), told.more && h("div", { class: "sf-right sf-dim" }, `of ${told.most.toLocaleString("en")} slots and waits; there are more`)),
    h("div", { class: "sf-scroll", tabindex: "0", role: "region", "aria-label": "Limits" }, told.limits.length
      ? h("table", { class: "sf-table" }, h("thead", null, h("tr", null, ["Limit", "Taken", "Wait for a slot", "Longest", "Held by"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", null, told.limits.map(row)))
      : h("p", { class: "sf-none sf-limit" }, "No pipeline has a limit.")));
}

const look = async () => draw(await ask("limits"));
const live = follow(() => "limits/live", ["limits"], (kind, told) => { if (kind === "limits") draw(told); }, look);
replace(main, h("div", { class: "sf-page" }, header("Limits", "limits", live.button), limits));
look().catch((error) => replace(limits, h("p", { class: "sf-alert", role: "alert" }, legible(error.message))));
