// The page: places, keys, and who may see it.

import { html, render, effect, useSignal } from "./vendor/preact.js";
import * as api from "./api.js";
import { t } from "./texts.js";
import { attempt, go, link, problem, readRules, readServer, route, server, status, tenant, tenantName } from "./ui.js";
import { Connectors } from "./connectors.js";
import { ConnectorPage } from "./connector.js";
import { WhatIf } from "./whatif.js";
import { Decisions } from "./decisions.js";
import { History } from "./history.js";

const PLACES = [["connectors", t.places.connectors], ["what-if", t.places.whatIf], ["decisions", t.places.decisions], ["history", t.places.history]];
let asked = new URLSearchParams();

function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  asked = new URLSearchParams(query);
  route.value = path.split("/").filter(Boolean).map(decodeURIComponent);
  problem.value = "";
}

function Place() {
  const [, place = "connectors", first] = route.value;
  switch (place) {
    case "new": return html`<${ConnectorPage} direction=${first === "outbound" ? "outbound" : "inbound"} />`;
    case "connector": return html`<${ConnectorPage} name=${first} />`;
    case "what-if": return html`<${WhatIf} />`;
    case "decisions": return html`<${Decisions} key=${asked.get("connector") ?? ""} connector=${asked.get("connector")} />`;
    case "history": return html`<${History} />`;
    default: return html`<${Connectors} />`;
  }
}

function SignIn() {
  const token = useSignal("");
  const open = (event) => {
    event.preventDefault();
    api.setToken(token.value);
    start();
  };
  return html`<main><h1>Portcullis</h1><h2>${t.signIn}</h2><p>${t.signInHelp}</p><pre>${t.signInCommand}</pre>
    ${problem.value && html`<div class="note bad" role="alert">${problem}</div>`}
    <form class="bar" onSubmit=${open}><input type="password" aria-label=${t.token} placeholder=${t.token} autocomplete="off" value=${token} onInput=${(event) => { token.value = event.target.value; }} /><button class="main">${t.open}</button></form></main>`;
}

function App() {
  if (!server.value) return html`<${SignIn} />`;
  const place = route.value[1] ?? "connectors";
  const current = ["new", "connector"].includes(place) ? "connectors" : place;
  const signOut = () => { api.forgetToken(); server.value = null; };
  return html`
    <a class="skip" href="#content" onClick=${(event) => { event.preventDefault(); document.getElementById("content").focus(); }}>${t.skip}</a>
    <header class="top">
      <strong><img src="icon.svg" alt="" /> Portcullis</strong>
      <nav aria-label="Portcullis">${PLACES.map(([key, label], number) => html`<a href=${link(key)} aria-current=${key === current ? "page" : undefined} accesskey=${number + 1}>${label}</a>`)}</nav>
      <span class="who">
        ${server.value.tenants.length > 1 && html`<label>${t.tenant} <select aria-label=${t.tenant} value=${tenantName} onChange=${(event) => { location.hash = `#/${encodeURIComponent(event.target.value)}/${current}`; }}>
          ${server.value.tenants.map((it) => html`<option value=${it.name} selected=${it.name === tenantName.value}>${it.name}</option>`)}</select></label>`}
        <span class="small">${t.signedIn(server.value.user, server.value.scope)}</span>
        <button type="button" class="small" onClick=${signOut}>${t.signOut}</button>
      </span>
    </header>
    <main id="content" tabindex="-1">
      ${problem.value && html`<div class="note bad" role="alert">${problem.value.split("\n").map((line) => html`<div>${line}</div>`)}</div>`}
      ${tenant.value ? html`<${Place} key=${tenantName.value} />` : html`<p>${t.noTenants}</p>`}
      <p class="faint small">${t.keys}</p>
    </main>
    <div role="status" aria-live="polite">${status.value && html`<div class="status">${status}</div>`}</div>`;
}

function onKey(event) {
  const isTyping = event.target.closest?.("input, select, textarea, dialog");
  if (!server.value || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = PLACES[Number(event.key) - 1];
  if (place) go(place[0]);
  else if (event.key === "/") document.querySelector("[data-search]")?.focus();
  else if (event.key === "?") document.querySelector("main > p:last-child")?.scrollIntoView();
  else return;
  event.preventDefault();
}

async function start() {
  readRoute();
  await attempt(readServer);
}

api.takeToken();
addEventListener("hashchange", readRoute);
addEventListener("keydown", onKey);
// The rules are read when the tenant is another one.
let of;
effect(() => {
  const [name, isThere] = [tenantName.value, Boolean(server.value)];
  if (!isThere) of = undefined;
  else if (name && name !== of) {
    of = name;
    attempt(readRules);
  }
});
await start();
render(html`<${App} />`, document.getElementById("app"));
