// The server, as the page sees it. The static demo has another file in the place of this one.

const KEY = "portcullis-token";

/** Takes the token of a link over, and out of the address bar. */
export function takeToken() {
  const found = /[#&]token=([^&]+)/.exec(location.hash);
  if (found) {
    sessionStorage.setItem(KEY, found[1]);
    history.replaceState(null, "", location.pathname + "#/");
  }
  return sessionStorage.getItem(KEY);
}

export const setToken = (token) => sessionStorage.setItem(KEY, token.trim());
export const forgetToken = () => sessionStorage.removeItem(KEY);

/** What the server says instead of doing it. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.error ?? `the server answers ${status}`);
    this.status = status;
    this.body = body;
  }
}

async function ask(method, path, { body, headers = {}, signal } = {}) {
  const token = sessionStorage.getItem(KEY);
  const all = { ...headers };
  if (token) all.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers: all, body, signal, cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

const json = (value) => ({ body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });
const of = (tenant, rest) => `api/tenants/${encodeURIComponent(tenant)}/${rest}`;
const query = (values) => {
  const set = Object.entries(values).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  return set.length ? "?" + new URLSearchParams(set) : "";
};

/** The lines of an answer, as they come. */
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
  }
  if (rest.trim()) yield JSON.parse(rest);
}

const get = async (path) => (await ask("GET", path)).json();

export const state = () => get("api/state");
export const connectors = (tenant, values) => get(of(tenant, "connectors" + query(values)));
export const advice = (tenant) => get(of(tenant, "advice"));
export const decisions = (tenant, values) => get(of(tenant, "decisions" + query(values)));
export const versions = async (tenant) => (await get(of(tenant, "versions"))).versions;
export const version = async (tenant, number) => (await ask("GET", of(tenant, `versions/${number}`))).text();

/** The rules, and the tag of what was read. */
export async function policy(tenant) {
  const answer = await ask("GET", of(tenant, "policy"));
  return { text: await answer.text(), etag: answer.headers.get("ETag") };
}

/** The mail that is remembered. */
export async function flows(tenant, limit) {
  const found = [];
  for await (const flow of lines(await ask("GET", of(tenant, `flows?limit=${limit}`)))) found.push(flow);
  return found;
}

export async function* live(tenant, signal) {
  yield* lines(await ask("GET", of(tenant, "decisions/live"), { signal }));
}

export async function* validate(tenant, connector, to) {
  const path = of(tenant, `connectors/${encodeURIComponent(connector)}/validate`);
  yield* lines(await ask("POST", path, json(to ? { to } : {})));
}

async function change(method, tenant, rest, etag, comment, value) {
  const options = value === undefined ? {} : json(value);
  options.headers = { ...options.headers, "If-Match": etag };
  return (await ask(method, of(tenant, rest + query({ comment })), options)).json();
}

const named = (name) => `connectors/${encodeURIComponent(name)}`;
export const add = (tenant, etag, connector, comment) => change("POST", tenant, "connectors", etag, comment, connector);
export const put = (tenant, etag, name, connector, comment) => change("PUT", tenant, named(name), etag, comment, connector);
export const remove = (tenant, etag, name, comment) => change("DELETE", tenant, named(name), etag, comment);
export const restore = (tenant, etag, number) => change("POST", tenant, `versions/${number}/restore`, etag);

export async function importFile(kind, bytes) {
  const headers = { "Content-Type": "application/octet-stream" };
  return (await ask("POST", `api/import?kind=${kind}`, { body: bytes, headers })).json();
}
