// The versions of the rules, and the way back to each.

import { html, useSignal, useSignalEffect } from "./vendor/preact.js";
import * as api from "./api.js";
import { t } from "./texts.js";
import { Command, Difference, attempt, changed, isReadOnly, quote, rules, tenant, tenantName, when } from "./ui.js";

export function History() {
  const versions = useSignal(null);
  const shown = useSignal(null);
  useSignalEffect(() => {
    const name = tenantName.value;
    void rules.value;
    if (name && tenant.value?.kind === "rules") attempt(async () => { versions.value = (await api.versions(name)).toReversed(); });
  });
  const show = (number) => attempt(async () => { shown.value = { number, text: await api.version(tenantName.value, number) }; });
  const restore = (number) => attempt(async () => changed(await api.restore(tenantName.value, rules.value.etag, number)));
  if (tenant.value?.kind !== "rules") return html`<h1>${t.places.history}</h1><div class="note">${t.isComponent}</div>`;
  return html`<h1>${t.places.history}</h1><p class="faint">${t.historyHelp}</p>
    ${!versions.value ? html`<p>${t.loading}</p>` : versions.value.length === 0 ? html`<p>${t.noHistory}</p>` : html`<div class="wide"><table class="stack">
      <thead><tr>${Object.values(t.historyColumns).map((label) => html`<th>${label}</th>`)}<th></th></tr></thead>
      <tbody>${versions.value.map((it, number) => html`<tr key=${it.version}>
        <td class="number" data-label=${t.historyColumns.version}>${it.version}</td><td class="time" data-label=${t.historyColumns.time}>${when(it.time)}</td>
        <td data-label=${t.historyColumns.author}>${it.author || "–"}</td><td data-label=${t.historyColumns.action}>${it.action}</td><td data-label=${t.historyColumns.comment}>${it.comment}</td>
        <td>${number > 0 && html`<button type="button" onClick=${() => show(it.version)}>${t.show}</button> ${!isReadOnly.value && html`<button type="button" onClick=${() => restore(it.version)}>${t.restore} ${it.version}</button>`}`}</td></tr>
        ${shown.value?.number === it.version && html`<tr><td colspan="6"><${Difference} before=${shown.value.text} after=${rules.value?.text ?? ""} /></td></tr>`}`)}</tbody></table></div>`}
    <${Command} line=${`portcullis history ${quote(tenant.value.policy)}\nportcullis restore ${quote(tenant.value.policy)} VERSION`} />`;
}
