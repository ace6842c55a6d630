// What would happen to a message: asked of the evaluator in the browser.

import { html, useSignal } from "./vendor/preact.js";
import { t } from "./texts.js";
import { Command, Explanation, attempt, inForce, quote, tenant } from "./ui.js";

const fromContext = (context) => ({
  direction: context.direction ?? "inbound",
  from: context["mail-from"] ?? "",
  to: context["rcpt-to"] ?? "",
  ip: context["client-ip"] ?? "",
  tls: context.tls?.version ?? "",
  names: (context.tls?.certificate?.["dns-names"] ?? []).join("\n"),
  trust: context.tls?.certificate?.trust ?? "trusted",
});

function toContext(facts) {
  const context = { direction: facts.direction, "mail-from": facts.from, "rcpt-to": facts.to };
  if (facts.ip) context["client-ip"] = facts.ip;
  const names = facts.names.split(/[\n,]/).map((name) => name.trim()).filter(Boolean);
  if (facts.tls) {
    context.tls = { version: facts.tls };
    if (names.length) context.tls.certificate = { "dns-names": names, trust: facts.trust };
  }
  return context;
}

const commandOf = (facts) => [
  `portcullis explain ${quote(tenant.value?.policy)}`,
  facts.direction === "outbound" && "--direction outbound",
  `--from ${quote(facts.from)}`, `--to ${quote(facts.to)}`,
  facts.ip && `--ip ${quote(facts.ip)}`, facts.tls && `--tls ${facts.tls}`,
  ...facts.names.split(/[\n,]/).map((name) => name.trim()).filter(Boolean).map((name) => `--cert-name ${quote(name)}`),
].filter(Boolean).join(" ");

/** Opens the place with the facts of a decision. */
export function askWith(context) {
  sessionStorage.setItem("portcullis-context", JSON.stringify(context));
}

export function WhatIf() {
  const facts = useSignal(undefined);
  if (facts.value === undefined) {
    const kept = sessionStorage.getItem("portcullis-context");
    facts.value = fromContext(kept ? JSON.parse(kept) : {});
  }
  const found = useSignal(null);
  const set = (key) => (event) => { facts.value = { ...facts.value, [key]: event.target.value }; };
  const ask = (event) => {
    event.preventDefault();
    attempt(async () => {
      const context = toContext(facts.value);
      sessionStorage.setItem("portcullis-context", JSON.stringify(context));
      found.value = (await inForce()).explain(context);
    });
  };
  const it = facts.value;
  const input = (key, more = {}) => html`<div class="field"><label for=${`if-${key}`}>${t.whatIf[key]}</label><input id=${`if-${key}`} value=${it[key]} spellcheck="false" autocomplete="off" onInput=${set(key)} ...${more} /></div>`;
  const isInbound = it.direction === "inbound";
  return html`<h1>${t.places.whatIf}</h1><p class="faint">${t.whatIfHelp}</p>
    <div class="two"><form onSubmit=${ask}><fieldset>
      <legend>${t.whatIf.direction}</legend>
      <div class="field"><label for="if-direction">${t.whatIf.direction}</label><select id="if-direction" value=${it.direction} onChange=${set("direction")}>
        ${["inbound", "outbound"].map((way) => html`<option value=${way} selected=${way === it.direction}>${t.direction[way]}</option>`)}</select></div>
      ${input("from", { "data-search": true })}${input("to", { required: true })}
      ${isInbound && html`${input("ip")}
        <div class="field"><label for="if-tls">${t.whatIf.tls}</label><select id="if-tls" value=${it.tls} onChange=${set("tls")}>
          ${["", "TLSv1.2", "TLSv1.3"].map((version) => html`<option value=${version} selected=${version === it.tls}>${version || t.noTls}</option>`)}</select></div>
        ${it.tls && html`<div class="field"><label for="if-names">${t.whatIf.names}</label><textarea id="if-names" rows="2" spellcheck="false" value=${it.names} onInput=${set("names")}></textarea></div>
          ${it.names && html`<div class="field"><label for="if-trust">${t.whatIf.trust}</label><select id="if-trust" value=${it.trust} onChange=${set("trust")}>
            ${Object.entries(t.trust).map(([key, text]) => html`<option value=${key} selected=${key === it.trust}>${text}</option>`)}</select></div>`}`}`}
      </fieldset><div class="bar"><button class="main">${t.whatIf.ask}</button></div>
      <${Command} line=${commandOf(it)} /></form>
    <div aria-live="polite">${found.value && html`<${Explanation} explanation=${found.value} />`}</div></div>`;
}
