// What the views share: the state of the page, and small pieces.

import { html, signal, computed } from "./vendor/preact.js";
import * as api from "./api.js";
import { evaluator } from "./evaluator.js";
import { t } from "./texts.js";

export const server = signal(null);
export const route = signal([]);
export const status = signal("");
export const problem = signal("");
/** The rules of the tenant, as they were read: text, tag and document. */
export const rules = signal(null);
export const tenantName = computed(() => route.value[0] ?? server.value?.tenants[0]?.name);
export const tenant = computed(() => server.value?.tenants.find((it) => it.name === tenantName.value));
export const isReadOnly = computed(() => !tenant.value || server.value.scope === "read" || tenant.value["read-only"] || tenant.value.kind !== "rules");

export const link = (...parts) => "#/" + [tenantName.value, ...parts].map(encodeURIComponent).join("/");
export const go = (...parts) => { location.hash = link(...parts); };

let clearing;
/** Says something, and for screen readers as well. */
export function say(text) {
  clearTimeout(clearing);
  status.value = text;
  clearing = setTimeout(() => { status.value = ""; }, 6000);
}

/** Does something that may be refused, and shows why. */
export async function attempt(work) {
  problem.value = "";
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error.status === 401) {
      api.forgetToken();
      server.value = null;
      problem.value = error.message;
    } else if (error.status === 412) {
      await readRules();
      problem.value = t.conflict;
    } else {
      const found = error.body?.problems ?? [];
      problem.value = error instanceof TypeError ? t.lost : [error.message, ...found.map((it) => t.problemAt(it) + it.message)].join("\n");
    }
    return undefined;
  }
}

export async function readServer() {
  server.value = await api.state();
}

export async function readRules() {
  const name = tenantName.value;
  // Nobody is shown another tenant's rules meanwhile.
  if (rules.peek()?.tenant !== name) rules.value = null;
  if (tenant.value?.kind !== "rules") return;
  const { text, etag } = await api.policy(name);
  let document = null;
  try { document = JSON.parse(text); } catch { /* The evaluator tells what is wrong with it. */ }
  if (name === tenantName.peek()) rules.value = { text, etag, document, tenant: name };
}

/** Tells what became of a change, and reads again what it has changed. */
export async function changed(answer) {
  say(answer["not-in-force"] ? t.savedNotInForce(answer["not-in-force"]) : t.saved(answer.version?.version));
  await Promise.all([readServer(), readRules()]);
}

let known = {};
/** An evaluator with rules, which the server has taken. */
export async function evaluatorOf(text) {
  if (known.text !== text) {
    const asked = await evaluator();
    if (!asked.check(text).accepted) throw new Error(t.notAccepted);
    known = { text, asked };
  }
  return known.asked;
}

/** An evaluator with the tenant's rules as they are in the file. */
export async function inForce() {
  if (rules.value?.tenant !== tenantName.value) throw new Error(t.noRules);
  return evaluatorOf(rules.value.text);
}

export const when = (time) => {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? time : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
};

export const Command = ({ line }) => html`<details class="small"><summary>${t.command}</summary><pre>${line}</pre></details>`;

export const Mode = ({ mode }) => html`<span class="tag ${{ enforce: "good", audit: "warn" }[mode] ?? "faint"}">${t.mode[mode] ?? mode}</span>`;

export function Outcome({ verdict }) {
  const isBad = verdict.verdict === "reject" || verdict.verdict === "defer";
  return html`<span class="tag ${isBad ? "bad" : "good"}">${t.outcome[verdict.verdict] ?? verdict.verdict}</span>`;
}

export const connectorsOf = (verdict) => {
  const named = verdict.connectors ?? (verdict.connector ? [verdict.connector] : []);
  const failed = verdict.failed ? ` (${verdict.failed})` : "";
  const audit = (verdict.audit ?? []).map((finding) => `audit: ${finding.connector} (${finding.failed})`);
  return [...(named.length ? [named.join(", ") + failed] : failed ? [failed.trim()] : []), ...audit].join("; ");
};

/** Whether something holds, in a word. */
const truthOf = (value) => ({ true: "yes", false: "no" })[value] ?? "unknown";

/** The reasons of a verdict. */
export function Explanation({ explanation }) {
  const { verdict, considered, others } = explanation;
  return html`
    <div class="note ${verdict.verdict === "accept" || verdict.verdict === "deliver" ? "good" : "bad"}">
      <strong>${t.verdictIs[verdict.verdict]}</strong> ${connectorsOf(verdict)}
      ${verdict.text && html`<div class="code">${verdict.code} ${verdict.enhanced} ${verdict.text}</div>`}
    </div>
    ${considered.length > 0 && html`<h3>${t.considered}</h3>`}
    ${considered.map((one) => html`
      <details open=${one.matched !== false}>
        <summary><strong>${one.connector}</strong> <${Mode} mode=${one.mode} /> ${t.matched[truthOf(one.matched)]}</summary>
        <div class="wide"><table class="stack"><tbody>
          ${[...one.selectors.map((it) => [it.selector, it.matched, it.pattern, it.fact]), ...one.requirements.map((it) => [it.requirement, it.satisfied, it.expected, it.fact])].map(([name, truth, expected, fact]) => html`
            <tr><td><code>${name}</code></td>
              <td class=${{ yes: "good", no: "bad" }[truthOf(truth)] ?? "warn"}>${t.truth[truthOf(truth)]}</td>
              <td data-label=${t.expected}>${expected}</td><td data-label=${t.fact}>${fact || "–"}</td></tr>`)}
        </tbody></table></div>
      </details>`)}
    ${others > 0 && html`<p class="faint">${t.notConsidered(others)}</p>`}`;
}

/** The lines that two texts do not have in common, with some around them. */
export function Difference({ before, after }) {
  if (before === after) return html`<p class="faint">${t.noDifference}</p>`;
  const [old, now] = [before, after].map((text) => (text === "" ? [] : text.split("\n")));
  let start = 0;
  while (start < old.length && start < now.length && old[start] === now[start]) start++;
  let end = 0;
  while (end < old.length - start && end < now.length - start && old[old.length - 1 - end] === now[now.length - 1 - end]) end++;
  const around = (list, from, to) => list.slice(Math.max(0, from), to).map((line) => `  ${line}\n`).join("");
  return html`<pre>${around(old, start - 3, start)}${old.slice(start, old.length - end).map((line) => html`<del>- ${line}${"\n"}</del>`)}${now.slice(start, now.length - end).map((line) => html`<ins>+ ${line}${"\n"}</ins>`)}${around(old, old.length - end, old.length - end + 3)}</pre>`;
}

/** A text as the shell takes it for one word. */
export const quote = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

/** JSON as people write it. */
export const pretty = (value) => (value === undefined ? "" : JSON.stringify(value, null, 2));
