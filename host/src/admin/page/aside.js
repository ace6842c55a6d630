// What takes longer than a key may wait is asked of a worker.

const url = new URL("worker.js", import.meta.url).href;
// The page's Content-Security-Policy allows this policy, and it makes this one address.
const policy = globalThis.trustedTypes?.createPolicy("worker", { createScriptURL: () => url });
const waiting = new Map();
let worker;
let asked = 0;

function started() {
  const fresh = new Worker(policy ? policy.createScriptURL("") : url, { type: "module" });
  fresh.onmessage = ({ data: { number, answer, error } }) => {
    const { resolve, reject } = waiting.get(number);
    waiting.delete(number);
    if (error === undefined) resolve(answer); else reject(new Error(error));
  };
  fresh.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message || "worker.js"));
    waiting.clear();
    worker = undefined;
  };
  return fresh;
}

/** The worker's answer to a question: "check", "remember" or "compare", as worker.js has them. */
export function ask(kind, question) {
  worker ??= started();
  return new Promise((resolve, reject) => {
    asked += 1;
    waiting.set(asked, { resolve, reject });
    worker.postMessage({ kind, number: asked, question });
  });
}
