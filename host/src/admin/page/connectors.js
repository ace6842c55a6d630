// All connectors: what they are for, what they did, what needs attention.

import { html, useSignal, useSignalEffect } from "./vendor/preact.js";
import * as api from "./api.js";
import { write } from "./fields.js";
import { t } from "./texts.js";
import { Command, Mode, attempt, changed, go, isReadOnly, link, quote, rules, server, tenant, tenantName, when } from "./ui.js";
import { ImportDialog } from "./importing.js";

const PAGE = 100;

export function Connectors() {
  const text = useSignal("");
  const shown = useSignal(PAGE);
  const list = useSignal(null);
  const advice = useSignal(null);
  const selected = useSignal(new Set());
  const importing = useSignal(false);
  const removing = useSignal(false);

  useSignalEffect(() => {
    const [name, values] = [tenantName.value, { text: text.value, limit: shown.value }];
    void rules.value;
    if (!name) return undefined;
    // Of two questions, the answer to the later one counts, whichever comes first.
    let isOver = false;
    attempt(async () => {
      const found = await api.connectors(name, values);
      if (!isOver) list.value = found;
    });
    return () => { isOver = true; };
  });
  useSignalEffect(() => {
    const name = tenantName.value;
    advice.value = null;
    if (name && server.value.remembers && tenant.value?.kind === "rules") {
      api.advice(name).then((found) => { advice.value = found; }, () => {});
    }
  });

  const select = (name, isSelected) => {
    const next = new Set(selected.value);
    if (isSelected) next.add(name);
    else next.delete(name);
    selected.value = next;
  };
  const each = (work) => attempt(async () => {
    let answer;
    try {
      let { etag } = rules.value;
      for (const name of selected.value) {
        answer = await work(name, etag);
        etag = `"${answer.digest}"`;
      }
      selected.value = new Set();
    } finally {
      // Also what was changed before something was refused.
      if (answer) await changed(answer);
    }
  });
  const setMode = (mode) => each((name, etag) => {
    const connector = rules.value.document.connectors.find((it) => it.name === name);
    return api.put(tenantName.value, etag, name, write(connector, { kind: "mode", path: ["mode"] }, mode));
  });

  if (!list.value) return html`<p>${t.loading}</p>`;
  const { connectors, total, organization } = list.value;
  const canEdit = !isReadOnly.value;
  const isEmpty = total === 0 && text.value === "";
  return html`
    <h1>${t.places.connectors}${organization && html` <span class="faint">${organization}</span>`}</h1>
    <${Status} />
    <${Attention} advice=${advice.value} />
    ${isEmpty ? html`<p>${t.empty}</p>` : html`
      <div class="bar" role="search">
        <input type="search" aria-label=${t.filter} placeholder=${t.filter} data-search value=${text} onInput=${(event) => { text.value = event.target.value; shown.value = PAGE; }} />
        ${canEdit && html`<a class="button main" href=${link("new", "inbound")}>${t.add.inbound}</a>
          <a class="button main" href=${link("new", "outbound")}>${t.add.outbound}</a>
          <button type="button" onClick=${() => { importing.value = true; }}>${t.add.import}</button>`}
      </div>
      <p class="faint" role="status">${t.count(connectors.length, total)}</p>`}
    ${isEmpty && canEdit && html`<div class="cards">
      ${["inbound", "outbound"].map((way) => html`<section class="card"><h2>${t.add[way]}</h2><p>${t.addHelp[way]}</p><a class="button main" href=${link("new", way)}>${t.add[way]}</a></section>`)}
      <section class="card"><h2>${t.add.import}</h2><p>${t.addHelp.import}</p><button type="button" onClick=${() => { importing.value = true; }}>${t.add.import}</button></section>
    </div>`}
    ${selected.value.size > 0 && html`<div class="bar">
      <span>${t.withSelected(selected.value.size)}</span>
      <button type="button" onClick=${() => setMode("enforce")}>${t.makeEnforce}</button>
      <button type="button" onClick=${() => setMode("audit")}>${t.makeAudit}</button>
      <button type="button" onClick=${() => setMode("disabled")}>${t.makeDisabled}</button>
      <button type="button" onClick=${() => { removing.value = true; }}>${t.remove}</button>
      <${Command} line=${`portcullis enforce|audit|remove ${quote(tenant.value.policy)} ${[...selected.value].map(quote).join(" ")}`} />
    </div>`}
    ${removing.value && html`<div class="note warn">${t.removeSure([...selected.value].join(", "))}
      <div class="bar"><button type="button" onClick=${() => { removing.value = false; each((name, etag) => api.remove(tenantName.value, etag, name)); }}>${t.remove}</button>
      <button type="button" onClick=${() => { removing.value = false; }}>${t.cancel}</button></div></div>`}
    ${!isEmpty && html`<div class="wide"><table class="stack">
      <thead><tr>${canEdit && html`<th>${t.columns.select}</th>`}<th>${t.columns.name}</th><th>${t.columns.appliesTo}</th><th>${t.columns.requires}</th><th>${t.columns.mode}</th><th>${t.columns.counts}</th><th>${t.columns.tested}</th></tr></thead>
      <tbody>${connectors.map((it) => html`<${Row} key=${it.name} it=${it} canEdit=${canEdit} isSelected=${selected.value.has(it.name)} select=${select} />`)}</tbody>
    </table></div>`}
    ${connectors.length < total && html`<p><button type="button" onClick=${() => { shown.value = Math.min(1000, shown.value + PAGE); }}>${t.more}</button></p>`}
    <${Command} line=${`portcullis list ${quote(tenant.value?.policy)}`} />
    ${importing.value && html`<${ImportDialog} close=${() => { importing.value = false; }} />`}`;
}

function Row({ it, canEdit, isSelected, select }) {
  const counts = it["last-days"];
  return html`<tr>
    ${canEdit && html`<td><input type="checkbox" aria-label=${`${t.columns.select} ${it.name}`} checked=${isSelected} onChange=${(event) => select(it.name, event.target.checked)} /></td>`}
    <td><a href=${link("connector", it.name)}>${it.name}</a> <span class="faint small">${t.direction[it.direction]}</span></td>
    <td data-label=${t.columns.appliesTo}>${it["applies-to"]}</td>
    <td data-label=${t.columns.requires}>${it.requires}</td>
    <td data-label=${t.columns.mode}><${Mode} mode=${it.mode} /></td>
    <td data-label=${t.columns.counts} class=${counts?.refused ? "bad" : ""}>${counts ? t.counts(counts) : t.noMail}</td>
    <td data-label=${t.columns.tested}>${it.validated ? html`<span class=${it.validated.passed ? "good" : "bad"}>${it.validated.passed ? t.tested.passed : t.tested.failed}</span> <span class="faint small">${when(it.validated.time)}</span>` : "–"}</td>
  </tr>`;
}

/** What is in force, and why nothing can be changed. */
function Status() {
  const it = tenant.value;
  if (!it) return null;
  return html`
    ${it["in-force"] ? html`<p class="faint small">${t.since(when(it["in-force"].since))} · <code>${it["in-force"].digest.slice(0, 12)}</code></p>` : html`<div class="note bad">${t.notInForce}</div>`}
    ${it.rejected && html`<div class="note bad"><strong>${t.rejected}</strong><div class="code">${it.rejected}</div></div>`}
    ${it.kind !== "rules" ? html`<div class="note">${t.isComponent}</div>`
      : it["read-only"] ? html`<div class="note">${t.readOnly(it["read-only"])}</div>`
      : server.value.scope === "read" ? html`<div class="note">${t.readOnlyToken}</div>` : null}`;
}

function Attention({ advice }) {
  if (!advice) return null;
  const { notices, promotions, suggestions } = advice;
  return html`
    ${(notices.length > 0 || promotions.length > 0) && html`<section aria-labelledby="attention"><h2 id="attention">${t.attention}</h2>
      ${notices.map((it) => html`<div class="note warn">${it.connector && html`<a href=${link("connector", it.connector)}>${it.connector}</a>: `}${it.subject !== it.connector && `${it.subject}: `}${it.text}</div>`)}
      ${promotions.map((it) => html`<div class="note good">${t.promotion(it)} <a href=${link("connector", it.connector)}>${t.useSuggestion}</a></div>`)}
    </section>`}
    ${suggestions.length > 0 && html`<details><summary>${t.suggestions} (${suggestions.length})</summary>
      <ul class="plain">${suggestions.slice(0, 50).map((it) => html`<li>${t.suggestion(it)}${" "}
        ${!isReadOnly.value && html`<button type="button" onClick=${() => begin(it.connector)}>${t.useSuggestion}</button>`}</li>`)}</ul></details>`}`;
}

/** Opens a connector that is not there yet. */
export function begin(connector) {
  sessionStorage.setItem("portcullis-draft", JSON.stringify(connector));
  go("new", connector.direction);
}

