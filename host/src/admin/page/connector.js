// One connector: new, edit and wizard are the same page.

import { html, useSignal, useComputed, useSignalEffect } from "./vendor/preact.js";
import * as api from "./api.js";
import { ask } from "./aside.js";
import { evaluator } from "./evaluator.js";
import { STEPS, about, command, fresh, isAbout, read, write } from "./fields.js";
import { t } from "./texts.js";
import { Command, Difference, attempt, changed, go, isReadOnly, link, pretty, problem, quote, rules, server, tenant, tenantName, when } from "./ui.js";

/** Flows that a draft is tried on. */
const FLOWS = 5000;
/** After this much quiet, all rules are looked at, and not only the connector. */
const QUIET = 250;

export function ConnectorPage({ direction, name }) {
  const before = name === undefined ? undefined : rules.value?.document?.connectors?.find((it) => it.name === name);
  if (!rules.value) return html`<p>${t.loading}</p>`;
  if (name !== undefined && !before) return html`<p><a href=${link("connectors")}>${t.back}</a></p>`;
  // A draft outlives a change of the rules by somebody else.
  return html`<${Form} key=${`${tenantName.value} ${name}`} before=${before} direction=${before?.direction ?? direction} />`;
}

function begun(direction) {
  const kept = sessionStorage.getItem("portcullis-draft");
  sessionStorage.removeItem("portcullis-draft");
  return fresh(direction, kept ? JSON.parse(kept) : {});
}

function Form({ before, direction }) {
  const original = useSignal(before);
  original.value = before;
  const isBegun = useSignal(false);
  if (!isBegun.value) {
    isBegun.value = true;
    // Mail has come since the last visit.
    known = undefined;
  }
  const draft = useSignal(undefined);
  draft.value ??= before ?? begun(direction);
  const own = useSignal([]);
  const others = useSignal([]);
  const meaning = useSignal(undefined);
  const effect = useSignal(undefined);
  const asking = useSignal(false);
  const whole = useComputed(() => {
    const list = rules.value?.document?.connectors ?? [];
    const old = original.value;
    const connectors = old ? list.map((it) => (it === old ? draft.value : it)) : [...list, draft.value];
    return { document: { ...rules.value?.document, connectors }, number: old ? list.indexOf(old) : list.length };
  });

  useSignalEffect(() => {
    const connector = draft.value;
    effect.value = undefined;
    let isOver = false;
    const accepted = rules.value?.document?.["accepted-domains"];
    (async () => {
      // The connector alone is checked with each keystroke, however many others there are.
      const alone = await evaluator();
      const found = alone.check(JSON.stringify({ "accepted-domains": accepted, connectors: [connector] }));
      if (isOver) return;
      own.value = found.problems.map((it) => ({ ...it, path: it.path.replace(/^connectors\[0\]\.?/, "") }));
      meaning.value = found.accepted ? alone.describe(0, 1).connectors[0] : undefined;
    })();
    const timer = setTimeout(async () => {
      const { document, number } = whole.peek();
      let found;
      try { found = await ask("check", { document: JSON.stringify(document) }); } catch (error) { problem.value = error.message; return; }
      if (isOver) return;
      const mine = `connectors[${number}]`;
      const isMine = (it) => it.path === mine || it.path.startsWith(`${mine}.`);
      own.value = found.problems.filter(isMine).map((it) => ({ ...it, path: it.path.slice(mine.length + 1) }));
      others.value = found.problems.filter((it) => !isMine(it));
      if (!found.accepted || !server.value?.remembers) return;
      const tried = await tryDraft();
      if (!isOver) effect.value = tried;
    }, QUIET);
    return () => { isOver = true; clearTimeout(timer); };
  });

  const isSame = useComputed(() => original.value && JSON.stringify(original.value) === JSON.stringify(draft.value));
  const errors = useComputed(() => [...own.value, ...others.value].some((it) => it.severity === "error"));
  const field = (one) => html`<${FieldInput} key=${one.option} field=${one} draft=${draft} problems=${own.value.filter((it) => isAbout(one, it.path))} />`;
  const rest = own.value.filter((it) => ![...STEPS[direction].flatMap(([, usual, more]) => [...usual, ...more]), ...about()].some((one) => isAbout(one, it.path)));
  const isSet = (one) => { const value = read(draft.value, one); return value !== "" && value !== false && value !== one.usual; };
  return html`
    <p class="small"><a href=${link("connectors")}>${t.back}</a></p>
    <h1>${before ? before.name : t.newConnector[direction]}</h1>
    <div class="two">
      <form onSubmit=${(event) => { event.preventDefault(); asking.value = true; }}>
        <fieldset disabled=${isReadOnly.value}><legend>${t.steps.about}</legend>${field(about()[0])}</fieldset>
        ${STEPS[direction].map(([step, usual, more]) => html`<fieldset disabled=${isReadOnly.value}><legend>${t.steps[step]}</legend>
          ${usual.map(field)}
          <details open=${more.some(isSet)}><summary>${t.moreFields}</summary>${more.map(field)}</details></fieldset>`)}
        <fieldset disabled=${isReadOnly.value}><legend>${t.steps.how}</legend>${about().slice(1).map(field)}</fieldset>
        <div class="bar"><button class="main" disabled=${isReadOnly.value || errors.value || isSame.value}>${t.save}</button>
          <a class="button" href=${link("connectors")}>${t.cancel}</a></div>
      </form>
      <div>
        <section aria-live="polite"><h2>${t.meaning}</h2>
          ${meaning.value && html`<p>${t.meaningOf(meaning.value)}</p>`}
          ${rest.map((it) => html`<${Problem} it=${it} />`)}
          ${own.value.length === 0 && html`<p class="good">${t.noProblems}</p>`}
          ${others.value.length > 0 && html`<h3>${t.otherProblems}</h3>${others.value.slice(0, 20).map((it) => html`<${Problem} it=${it} place />`)}`}
        </section>
        ${server.value.remembers && !errors.value && html`<${EffectView} effect=${effect.value} />`}
        <section><h2>${t.difference}</h2><${Difference} before=${pretty(before)} after=${pretty(draft.value)} />
          <${Command} line=${command(tenant.value.policy, before, draft.value)} /></section>
        ${before && (direction === "outbound" ? html`<${Validation} name=${before.name} />`
          : html`<section><h2>${t.validate}</h2><p>${t.askPartner}</p><p><a href=${`${link("decisions")}?connector=${encodeURIComponent(before.name)}`}>${t.watchDecisions}</a></p>
            <${Command} line=${`portcullis partner ${quote(tenant.value.policy)} ${quote(before.name)}`} /></section>`)}
      </div>
    </div>
    ${asking.value && html`<${SaveDialog} before=${before} draft=${draft.value} effect=${effect.value} close=${() => { asking.value = false; }} />`}`;
}

const Problem = ({ it, place }) => html`<div class="note ${it.severity === "error" ? "bad" : "warn"}">${place && html`<code>${it.path}</code> `}${it.message}${it.hint && html`<div class="faint">${it.hint}</div>`}</div>`;

function FieldInput({ field, draft, problems }) {
  const [label, help] = t.fields[field.label ?? field.option];
  const id = `field-${field.option}`;
  const value = read(draft.value, field);
  const set = (next) => { draft.value = write(draft.value, field, next); };
  const describedBy = [help && `${id}-help`, problems.length && `${id}-problems`].filter(Boolean).join(" ") || undefined;
  const common = { id, "aria-describedby": describedBy, "aria-invalid": problems.some((it) => it.severity === "error") || undefined };
  const modes = { enforce: t.mode.enforce, audit: t.mode.audit, disabled: t.mode.disabled };
  const choices = field.kind === "mode" ? modes : field.choices && (t.choices[field.option] ?? {});
  // What somebody types is kept as it is typed, though the connector has it as a list.
  const typed = useSignal(undefined);
  return html`<div class="field">
    ${field.kind === "flag" || field.kind === "tls"
      ? html`<label class="check" for=${id}><input type="checkbox" ...${common} checked=${value} onChange=${(event) => set(event.target.checked)} />${label}</label>`
      : html`<label for=${id}>${label}</label>
        ${choices
          ? html`<select ...${common} value=${value} onChange=${(event) => set(event.target.value)}>${Object.entries(choices).map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}</select>`
          : field.kind === "list" || field.kind === "hosts"
            ? html`<textarea ...${common} rows="2" spellcheck="false" value=${typed.value ?? value} onInput=${(event) => { typed.value = event.target.value; set(event.target.value); }}></textarea>`
            : html`<input ...${common} value=${value} spellcheck="false" autocomplete="off" onInput=${(event) => set(event.target.value)} />`}`}
    ${help && html`<p class="help" id=${`${id}-help`}>${help}</p>`}
    ${field.kind === "mode" && html`<p class="help">${t.modeHelp[value]}</p>`}
    ${problems.length > 0 && html`<div id=${`${id}-problems`}>${problems.map((it) => html`<p class="problem ${it.severity === "error" ? "bad" : "warn"}">${it.message}${it.hint ? ` (${it.hint})` : ""}</p>`)}</div>`}
  </div>`;
}

let known;
/** Gives the worker the mail that is remembered; once for each visit of a connector's page, and each change of the rules. */
function giveMail() {
  const key = `${tenantName.value} ${rules.value?.etag}`;
  if (known?.key !== key) known = { key, given: api.flows(tenantName.value, FLOWS).then((flows) => ask("remember", { flows })) };
  return known.given;
}

/** What the draft, which the worker has checked last, would do to the mail that is remembered. */
async function tryDraft() {
  try {
    await giveMail();
    return await ask("compare", { inForce: rules.value.text });
  } catch {
    known = undefined;
    return { isUnread: true, messages: 0, changed: [] };
  }
}

function EffectView({ effect }) {
  return html`<section aria-live="polite"><h2>${t.effect}</h2>
    ${!effect ? html`<p class="faint">${t.effectBusy}</p>`
      : effect.isUnread ? html`<div class="note warn">${t.effectUnread}</div>`
      : effect.messages === 0 ? html`<p class="faint">${t.effectNothing}</p>`
      : effect.changed.length === 0 ? html`<p class="good">${t.effectNone(effect.messages, when(effect.since))}</p>`
      : effect.changed.map((it) => html`<div class="note ${it.refuses ? "warn" : ""}">${t.effectSome(it, effect.messages, when(effect.since))}<ul class="plain code">${it.examples.map((one) => html`<li>${one}</li>`)}</ul></div>`)}
    ${effect?.undecided > 0 && html`<p class="warn">${t.effectUndecided(effect.undecided)}</p>`}
  </section>`;
}

function Validation({ name }) {
  const to = useSignal("");
  const steps = useSignal([]);
  const outcome = useSignal(null);
  const isBusy = useSignal(false);
  const start = () => attempt(async () => {
    [steps.value, outcome.value, isBusy.value] = [[], null, true];
    try {
      for await (const line of api.validate(tenantName.value, name, to.value.trim())) {
        if (line.step) steps.value = [...steps.value, line.step];
        else outcome.value = line.outcome ?? line;
      }
    } finally {
      isBusy.value = false;
    }
  });
  const found = outcome.value;
  return html`<section><h2>${t.validate}</h2>
    <div class="field"><label for="validate-to">${t.validateTo}</label><input id="validate-to" type="email" value=${to} onInput=${(event) => { to.value = event.target.value; }} /></div>
    <div class="bar"><button type="button" disabled=${isBusy.value || server.value.scope === "read"} onClick=${start}>${t.validate}</button></div>
    <div aria-live="polite">
      <ul class="plain small">${steps.value.map((step) => html`<li>${step}</li>`)}</ul>
      ${isBusy.value && html`<p class="faint">${t.validateBusy}</p>`}
      ${found?.error && html`<div class="note bad">${found.error}</div>`}
      ${found?.note && html`<div class="note">${found.note}</div>`}
      ${found && found.valid !== undefined && html`<div class="note ${found.valid ? "good" : "bad"}">${found.valid ? t.validateOk : t.validateBad}</div>`}
      ${(found?.routes ?? []).map((route) => html`<h3>${route.target}</h3><${Checks} checks=${route.checks} />
        ${route.servers.map((it) => html`<details open=${it.checks?.some((check) => check.status === "failed")}><summary>${it.server ?? it.name ?? it.peer}</summary><${Checks} checks=${it.checks ?? []} /></details>`)}
        ${route.message && html`<${Checks} checks=${[route.message]} />`}`)}
    </div>
    <${Command} line=${`portcullis validate ${quote(tenant.value.policy)} ${quote(name)}${to.value ? ` --to ${quote(to.value)}` : ""}`} />
  </section>`;
}

const Checks = ({ checks }) => html`<ul class="plain">${checks.map((it) => html`<li><span class="tag ${{ ok: "good", failed: "bad", warning: "warn" }[it.status] ?? "faint"}">${it.check}</span> ${it.detail}${it.hint && html`<div class="faint small">${it.hint}</div>`}</li>`)}</ul>`;

function SaveDialog({ before, draft, effect, close }) {
  const comment = useSignal("");
  // Whether a reason is needed is known once it has been tried on the mail that came.
  const isWaiting = server.value.remembers && !effect;
  const refuses = (effect?.changed ?? []).some((it) => it.refuses);
  const open = (element) => { if (element && !element.open) element.showModal(); };
  const save = (event) => {
    event.preventDefault();
    attempt(async () => {
      const [name, etag] = [tenantName.value, rules.value.etag];
      const answer = before
        ? await api.put(name, etag, before.name, draft, comment.value)
        : await api.add(name, etag, draft, comment.value);
      close();
      go("connectors");
      await changed(answer);
    });
  };
  return html`<dialog ref=${open} onClose=${close} aria-labelledby="save-title"><form onSubmit=${save}>
    <h2 id="save-title">${t.saveTitle}</h2>
    <${Difference} before=${pretty(before)} after=${pretty(draft)} />
    ${server.value.remembers && html`<${EffectView} effect=${effect} />`}
    <div class="field"><label for="comment">${t.why}</label><input id="comment" value=${comment} required=${refuses} onInput=${(event) => { comment.value = event.target.value; }} />
      ${refuses && html`<p class="problem warn">${t.whyNeeded}</p>`}</div>
    ${problem.value && html`<div class="note bad" role="alert">${problem}</div>`}
    <div class="bar"><button class="main" disabled=${isWaiting}>${t.saveNow}</button><button type="button" onClick=${close}>${t.cancel}</button></div>
    <${Command} line=${command(tenant.value.policy, before, draft)} />
  </form></dialog>`;
}
