// The page without a server: example rules, and mail that is invented. What is changed is forgotten with the page.

import { evaluator } from "./evaluator.js";

export const takeToken = () => "demo";
export const setToken = () => {};
export const forgetToken = () => {};

export class Refused extends Error {
  constructor(status, body) {
    super(body.error);
    this.status = status;
    this.body = body;
  }
}

const DAY = 24 * 60 * 60 * 1000;
let text;
let kept = [];
let number = 0;
let mail;
const watching = new Set();

const digest = async (of) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(of)))].map((octet) => octet.toString(16).padStart(2, "0")).join("");

async function ready() {
  if (text === undefined) {
    text = await (await fetch("rules.json")).text();
    kept = [{ version: 1, time: new Date().toISOString(), author: "", action: "as it was found", comment: "", digest: await digest(text), text }];
    mail = await invent();
    setInterval(arrive, 4000);
  }
}

const FACTS = [
  ["alice@contosobank.com", "203.0.113.7", "TLSv1.3", "mail.contosobank.com"],
  ["carol@contosobank.com", "203.0.113.9", undefined, undefined],
  ["dave@fabrikam.com", "198.51.100.4", "TLSv1.3", "mail.fabrikam.com"],
  ["erin@fabrikam.com", "198.51.100.5", "TLSv1.2", "other.example"],
  ["frank@adatum.com", "192.0.2.44", "TLSv1.3", undefined],
  ["grace@northwind.example", "192.0.2.60", "TLSv1.3", "mx.northwind.example"],
  ["heidi@example.org", "192.0.2.99", undefined, undefined],
];

function context([from, ip, version, name]) {
  const facts = { direction: "inbound", "client-ip": ip, "mail-from": from, "rcpt-to": "bob@contoso.com" };
  if (version) facts.tls = { version };
  if (name) facts.tls.certificate = { "dns-names": [name], trust: "trusted" };
  return facts;
}

async function decide(facts, time) {
  const asked = await evaluator();
  asked.check(text);
  number += 1;
  return { number, time: new Date(time).toISOString(), session: `demo${number}`, transaction: `demo${number}.1`, client: facts["client-ip"], context: facts, verdict: asked.evaluate(facts), policy: kept.at(-1).digest };
}

async function invent() {
  const found = [];
  for (let day = 20; day >= 0; day--) {
    for (const facts of FACTS) found.push(await decide(context(facts), Date.now() - day * DAY - 1000));
  }
  return found;
}

async function arrive() {
  const decision = await decide(context(FACTS[number % FACTS.length]), Date.now());
  mail.push(decision);
  for (const tell of watching) tell(decision);
}

export async function state() {
  await ready();
  const now = kept.at(-1);
  const inForce = { digest: now.digest, since: now.time };
  return { version: "demo", hostname: "localhost", user: "you", scope: "operator", expires: "", remembers: true, tenants: [{ name: "contoso", domains: ["contoso.com"], kind: "rules", policy: "rules.json", "in-force": inForce }] };
}

export async function connectors(_, { text: wanted = "", limit = 100 }) {
  const asked = await evaluator();
  asked.check(text);
  const all = asked.describe(0, 100000);
  const fits = all.connectors.filter((it) => `${it.name} ${it["applies-to"]}`.toLowerCase().includes(wanted.toLowerCase()));
  const counted = fits.slice(0, limit).map((it) => {
    const count = (is) => mail.filter(is).length;
    const counts = {
      passed: count(({ verdict }) => (verdict.connectors ?? []).includes(it.name)),
      refused: count(({ verdict }) => verdict.connector === it.name && verdict.verdict === "reject"),
      audited: count(({ verdict }) => (verdict.audit ?? []).some((finding) => finding.connector === it.name)),
    };
    return { ...it, "last-days": counts };
  });
  return { total: fits.length, days: 7, organization: all.organization, connectors: counted };
}

export const advice = async () => ({
  notices: [],
  promotions: [],
  suggestions: [{
    domain: "northwind.example", messages: 21, since: new Date(Date.now() - 20 * DAY).toISOString(), addresses: ["192.0.2.60"],
    connector: { name: "northwind.example", direction: "inbound", mode: "audit", comment: "suggested by the mail that came", from: { "sender-domains": ["northwind.example"] }, require: { tls: { "min-version": "TLSv1.3" }, "certificate-names": ["mx.northwind.example"] } },
  }],
});

export async function decisions(_, { connector, verdict, text: wanted, before, limit = 100 }) {
  const named = (it) => [...(it.verdict.connectors ?? []), it.verdict.connector, ...(it.verdict.audit ?? []).map((finding) => finding.connector)];
  const fits = mail.filter((it) => (!connector || named(it).includes(connector)) && (!verdict || it.verdict.verdict === verdict) && (!before || it.number < before)
    && (!wanted || JSON.stringify(it).toLowerCase().includes(wanted.toLowerCase())));
  return { decisions: fits.toReversed().slice(0, limit) };
}

export async function* live(_, signal) {
  const waiting = [];
  let wake = () => {};
  const tell = (decision) => { waiting.push(decision); wake(); };
  watching.add(tell);
  signal.addEventListener("abort", () => wake());
  try {
    while (!signal.aborted) {
      if (waiting.length) yield waiting.shift();
      else await new Promise((next) => { wake = next; });
    }
  } finally {
    watching.delete(tell);
  }
}

export async function flows() {
  return mail.map((it) => ({ context: it.context, verdict: it.verdict, first: it.time, last: it.time, count: 1 }));
}

export const versions = async () => kept.map(({ text: _, ...version }) => version);
export const version = async (_, wanted) => kept.find((it) => it.version === wanted).text;

export async function policy() {
  await ready();
  return { text, etag: `"${kept.at(-1).digest}"` };
}

export async function* validate() {
  yield { step: "looking up the servers" };
  yield { error: "This is the demo: there is no server that could try it out." };
}

async function save(changed, action, comment = "") {
  const asked = await evaluator();
  const found = asked.check(changed);
  if (!found.accepted) throw new Refused(422, { error: "the rules are not valid", problems: found.problems });
  text = changed;
  kept.push({ version: kept.length + 1, time: new Date().toISOString(), author: "you", action, comment, digest: await digest(text), text });
  const now = kept.at(-1);
  return { digest: now.digest, version: now, "in-force": { digest: now.digest, since: now.time } };
}

const change = (work) => {
  const document = JSON.parse(text);
  work(document);
  return `${JSON.stringify(document, null, 2)}\n`;
};
export const add = (_, __, connector, comment) => save(change((it) => it.connectors.push(connector)), `add "${connector.name}"`, comment);
export const put = (_, __, name, connector, comment) => save(change((it) => { it.connectors = it.connectors.map((one) => (one.name === name ? connector : one)); }), `edit "${name}"`, comment);
export const remove = (_, __, name) => save(change((it) => { it.connectors = it.connectors.filter((one) => one.name !== name); }), `remove "${name}"`);
export const restore = async (_, __, wanted) => save(kept.find((it) => it.version === wanted).text, `restore version ${wanted}`);
export async function importFile() {
  throw new Refused(501, { error: "This is the demo: portcullis import reads files." });
}
