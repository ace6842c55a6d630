// Looks at all rules, and tries a draft on the mail that is remembered, while the page answers to its keys.

import { evaluator } from "./evaluator.js";
import { t } from "./texts.js";

let draft;
let mail = [];
let current = {};

const KINDS = {
  /** What is wrong with the rules of a draft. */
  async check({ document }) {
    draft = await evaluator();
    return draft.check(document);
  },

  /** The mail that drafts are tried on. */
  async remember({ flows }) {
    mail = flows;
  },

  /** What the draft would have done otherwise than the rules in force. */
  async compare({ inForce }) {
    if (current.text !== inForce) {
      const asked = await evaluator();
      if (!asked.check(inForce).accepted) throw new Error(t.notAccepted);
      current = { text: inForce, asked };
    }
    return compared(current.asked, draft);
  },
};

addEventListener("message", async ({ data: { kind, number, question } }) => {
  try {
    postMessage({ number, answer: await KINDS[kind](question) });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
});

const isUndecided = (verdict) => verdict.failed === "fact-unavailable";
const outcome = (verdict) => (verdict.verdict === "deliver" ? JSON.stringify([verdict.route, verdict.tls]) : verdict.verdict);

/** Nothing, if there is another draft meanwhile. */
async function compared(before, after) {
  const found = new Map();
  let [messages, undecided] = [0, 0];
  let since;
  for (const [number, flow] of mail.entries()) {
    // Another draft may have come.
    if (number % 200 === 199) await new Promise((next) => setTimeout(next));
    if (after !== draft) return undefined;
    let was, is;
    try { [was, is] = [before.evaluate(flow.context), after.evaluate(flow.context)]; } catch { continue; }
    messages += flow.count;
    if (!since || flow.first < since) since = flow.first;
    if (isUndecided(was) || isUndecided(is)) { undecided += flow.count; continue; }
    if (outcome(was) === outcome(is)) continue;
    const [wasText, isText] = [t.outcome[was.verdict], t.outcome[is.verdict]];
    const entry = found.get(wasText + isText) ?? { was: wasText, is: isText, messages: 0, examples: [], refuses: is.verdict === "reject" };
    entry.messages += flow.count;
    if (entry.examples.length < 5) entry.examples.push(`<${flow.context["mail-from"]}> → <${flow.context["rcpt-to"]}>`);
    found.set(wasText + isText, entry);
  }
  return { messages, undecided, since, changed: [...found.values()] };
}
