// What was decided, as it is decided.

import { html, useSignal, useSignalEffect } from "./vendor/preact.js";
import * as api from "./api.js";
import { t } from "./texts.js";
import { Command, Explanation, Outcome, attempt, connectorsOf, evaluatorOf, go, inForce, isReadOnly, pretty, quote, rules, server, tenant, tenantName, when } from "./ui.js";
import { begin } from "./connectors.js";
import { askWith } from "./whatif.js";

/** Decisions that are shown at most. */
const MOST = 2000;
const PAGE = 100;

export function Decisions({ connector: asked }) {
  const filter = useSignal({ connector: asked ?? "", verdict: "", text: "" });
  const list = useSignal(null);
  const isLive = useSignal(true);
  const open = useSignal(null);
  const hasOlder = useSignal(false);

  const isLost = useSignal(false);
  const merge = (found) => {
    const known = new Map((list.peek() ?? []).map((it) => [it.number, it]));
    for (const it of found) known.set(it.number, it);
    list.value = [...known.values()].sort((one, two) => two.number - one.number).slice(0, MOST);
  };
  const readAgain = useSignal(0);

  useSignalEffect(() => {
    const [name, values] = [tenantName.value, { ...filter.value, limit: PAGE }];
    void readAgain.value;
    if (!name || !server.value.remembers) return undefined;
    // Of two questions, the answer to the later one counts, whichever comes first.
    let isOver = false;
    attempt(async () => {
      const { decisions } = await api.decisions(name, values);
      if (isOver) return;
      list.value = (list.peek() ?? []).filter((it) => it.number > (decisions[0]?.number ?? 0) && fits(it, filter.peek()));
      merge(decisions);
      hasOlder.value = decisions.length === PAGE;
    });
    return () => { isOver = true; };
  });
  useSignalEffect(() => {
    const name = tenantName.value;
    if (!name || !isLive.value || !server.value.remembers) return undefined;
    const stop = new AbortController();
    (async () => {
      while (!stop.signal.aborted) {
        try {
          for await (const decision of api.live(name, stop.signal)) {
            isLost.value = false;
            if (decision.missed) readAgain.value += 1;
            else if (decision.number && fits(decision, filter.peek())) merge([decision]);
          }
        } catch (error) {
          if (error.status === 401) { await attempt(() => { throw error; }); return; }
        }
        if (stop.signal.aborted) return;
        // The server has gone, or is restarting.
        isLost.value = true;
        await new Promise((next) => setTimeout(next, 2000));
        readAgain.value += 1;
      }
    })();
    return () => stop.abort();
  });

  if (!server.value.remembers) return html`<h1>${t.places.decisions}</h1><div class="note">${t.nothingRemembered}</div>`;
  const set = (key) => (event) => { filter.value = { ...filter.value, [key]: event.target.value }; };
  const older = () => attempt(async () => {
    const last = list.value[list.value.length - 1];
    const { decisions } = await api.decisions(tenantName.value, { ...filter.value, limit: PAGE, before: last.number });
    list.value = [...list.value, ...decisions].slice(0, MOST);
    hasOlder.value = decisions.length === PAGE;
  });
  const it = filter.value;
  const line = ["portcullis decisions --config portcullis.toml", `--tenant ${quote(tenantName.value)}`, it.connector && `--connector ${quote(it.connector)}`, it.verdict && `--verdict ${it.verdict}`, it.text && `--search ${quote(it.text)}`, isLive.value && "--follow"].filter(Boolean).join(" ");
  return html`<h1>${t.places.decisions}</h1>
    <div class="bar" role="search">
      <input type="search" data-search aria-label=${t.search} placeholder=${t.search} value=${it.text} onInput=${set("text")} />
      <input aria-label=${t.decisionColumns.connector} placeholder=${t.decisionColumns.connector} value=${it.connector} onInput=${set("connector")} />
      <select aria-label=${t.decisionColumns.verdict} value=${it.verdict} onChange=${set("verdict")}>
        <option value="">${t.anyVerdict}</option>${Object.entries(t.outcome).map(([key, text]) => html`<option value=${key}>${text}</option>`)}<option value="audit">${t.auditVerdict}</option></select>
      <button type="button" aria-pressed=${isLive.value} onClick=${() => { isLive.value = !isLive.value; }}>${isLive.value ? t.pause : t.resume}</button>
      <span class=${isLive.value && !isLost.value ? "good" : "faint"} role="status">${!isLive.value ? t.paused : isLost.value ? t.reconnecting : t.live}</span>
    </div>
    ${!list.value ? html`<p>${t.loading}</p>` : list.value.length === 0 ? html`<p class="faint">${t.noDecisions}</p>` : html`<div class="wide"><table class="stack">
      <thead><tr>${["time", "verdict", "from", "to", "client", "connector"].map((key) => html`<th>${t.decisionColumns[key]}</th>`)}</tr></thead>
      <tbody>${list.value.map((one) => html`<${Row} key=${one.number} it=${one} isOpen=${open.value === one.number} toggle=${() => { open.value = open.value === one.number ? null : one.number; }} />`)}</tbody></table></div>`}
    ${hasOlder.value && html`<p><button type="button" onClick=${older}>${t.older}</button></p>`}
    <${Command} line=${line} />`;
}

/** Whether a decision is one of those that are wanted. */
function fits(decision, { connector, verdict, text }) {
  const { context } = decision;
  const named = [...(decision.verdict.connectors ?? []), decision.verdict.connector, ...(decision.verdict.audit ?? []).map((it) => it.connector)];
  const words = [decision.transaction, decision.session, context["mail-from"], context["rcpt-to"], decision.client].join(" ").toLowerCase();
  return (!connector || named.includes(connector))
    && (!verdict || (verdict === "audit" ? (decision.verdict.audit ?? []).length > 0 : decision.verdict.verdict === verdict))
    && (!text || words.includes(text.toLowerCase()));
}

function Row({ it, isOpen, toggle }) {
  return html`
    <tr>
      <td class="time" data-label=${t.decisionColumns.time}><button type="button" class="small" aria-expanded=${isOpen} onClick=${toggle}>${when(it.time)}</button></td>
      <td data-label=${t.decisionColumns.verdict}><${Outcome} verdict=${it.verdict} /></td>
      <td data-label=${t.decisionColumns.from}>${it.context["mail-from"] || "<>"}</td>
      <td data-label=${t.decisionColumns.to}>${it.context["rcpt-to"]}</td>
      <td data-label=${t.decisionColumns.client}>${it.client ?? "–"}</td>
      <td data-label=${t.decisionColumns.connector}>${connectorsOf(it.verdict) || "–"}</td>
    </tr>
    ${isOpen && html`<tr><td colspan="6"><${Why} it=${it} /></td></tr>`}`;
}

function Why({ it }) {
  const found = useSignal(null);
  useSignalEffect(() => {
    attempt(async () => {
      const versions = tenant.value?.kind === "rules" ? await api.versions(tenantName.value).catch(() => []) : [];
      const then = versions.findLast((version) => version.digest === it.policy);
      const isNow = rules.value && `"${it.policy}"` === rules.value.etag;
      if (then && !isNow) {
        const old = await evaluatorOf(await api.version(tenantName.value, then.version));
        found.value = { by: t.rulesThen(then.version), explanation: old.explain(it.context) };
      } else {
        found.value = { by: isNow ? "" : t.rulesNow, explanation: (await inForce()).explain(it.context) };
      }
    });
  });
  const connector = () => {
    const sender = it.context["mail-from"].split("@").pop();
    const to = it.context["rcpt-to"].split("@").pop();
    begin(it.context.direction === "inbound"
      ? { name: sender, direction: "inbound", mode: "audit", from: { "sender-domains": [sender] }, require: { tls: true } }
      : { name: `To ${to}`, direction: "outbound", mode: "audit", to: { "recipient-domains": [to] }, tls: { level: "encrypt" } });
  };
  return html`
    ${found.value && html`${found.value.by && html`<p class="faint">${found.value.by}</p>`}<${Explanation} explanation=${found.value.explanation} />`}
    <p class="small faint">${t.transaction} <code>${it.transaction}</code> · ${t.session} <code>${it.session}</code></p>
    <details><summary>${t.context}</summary><pre>${pretty(it.context)}</pre></details>
    <div class="bar"><button type="button" onClick=${() => { askWith(it.context); go("what-if"); }}>${t.tryThis}</button>
      ${!isReadOnly.value && html`<button type="button" onClick=${connector}>${t.makeConnector}</button>`}</div>`;
}
