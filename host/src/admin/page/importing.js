// Taking over what another product exports: a table of what means the same, what differs, what cannot be said.

import { html, useSignal } from "./vendor/preact.js";
import * as api from "./api.js";
import { t } from "./texts.js";
import { attempt, changed, pretty, problem, rules, tenantName } from "./ui.js";

export function ImportDialog({ close }) {
  const kind = useSignal("exchange");
  const found = useSignal(null);
  const open = (element) => { if (element && !element.open) element.showModal(); };
  const look = (event) => attempt(async () => {
    const file = event.target.files[0];
    if (file) found.value = await api.importFile(kind.value, await file.arrayBuffer());
  });
  const add = () => attempt(async () => {
    let answer;
    try {
      let { etag } = rules.value;
      for (const connector of found.value.rules.connectors) {
        answer = await api.add(tenantName.value, etag, connector, "import");
        etag = `"${answer.digest}"`;
      }
    } finally {
      if (answer) await changed(answer);
    }
    close();
  });
  const connectors = found.value?.rules.connectors ?? [];
  return html`<dialog ref=${open} onClose=${close} aria-labelledby="import">
    <h2 id="import">${t.add.import}</h2>
    <p>${t.importHelp}</p>
    <div class="bar">
      <select aria-label=${t.add.import} value=${kind} onChange=${(event) => { kind.value = event.target.value; found.value = null; }}>
        ${Object.entries(t.importKind).map(([value, label]) => html`<option value=${value}>${label}</option>`)}
      </select>
      <input type="file" aria-label=${t.importHelp} onChange=${look} />
    </div>
    ${problem.value && html`<div class="note bad" role="alert">${problem}</div>`}
    ${found.value && html`
      <div class="wide"><table><thead><tr><th>${t.importThere}</th><th>${t.importHere}</th><th>${t.importDifference}</th></tr></thead><tbody>
        ${found.value.rows.map((row) => html`<tr><td>${row.there}</td><td>${row.here.join(", ") || t.importNone}</td>
          <td>${row.differences.map((it) => html`<div class=${{ note: "faint", "not-imported": "bad" }[it.kind] ?? "warn"}>${t.importKinds[it.kind]}: ${it.text}</div>`)}</td></tr>`)}
      </tbody></table></div>
      ${found.value.notes.map((note) => html`<p class="faint">${note}</p>`)}
      <details><summary>JSON</summary><pre>${pretty(found.value.rules)}</pre></details>`}
    <div class="bar">
      ${connectors.length > 0 && html`<button type="button" class="main" onClick=${add}>${t.importAdd(connectors.length)}</button>`}
      <button type="button" onClick=${close}>${t.cancel}</button>
    </div>
  </dialog>`;
}
