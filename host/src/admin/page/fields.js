// The fields of a connector: where they stand in the rules, and the option of the command line that sets each.

import { t } from "./texts.js";

const list = (option, ...path) => ({ option, kind: "list", path });
const text = (option, ...path) => ({ option, kind: "text", path });
const choice = (option, usual, ...path) => ({ option, kind: "choice", usual, path, choices: Object.keys(t.choices[option]) });

export const STEPS = {
  inbound: [
    ["what", [list("from", "from", "sender-domains")], [
      list("from-ip", "from", "sender-ips"), list("from-certificate", "from", "certificate-names"),
      { ...list("to", "from", "recipient-domains"), label: "to-inbound" },
      list("except-from", "except", "sender-domains"), list("except-from-ip", "except", "sender-ips"),
      list("except-from-certificate", "except", "certificate-names"), list("except-to", "except", "recipient-domains"),
      { option: "match-header-from", kind: "flag", path: ["match-header-from"] },
    ]],
    ["requires", [
      { option: "tls", kind: "tls", path: ["require", "tls"] },
      list("certificate-name", "require", "certificate-names"), list("source-ip", "require", "source-ips"),
    ], [
      { option: "min-version", kind: "version", path: ["require", "tls"], choices: ["", "TLSv1.2", "TLSv1.3"] },
      list("certificate-fingerprint", "require", "certificate-fingerprints"), list("certificate-key", "require", "certificate-keys"),
      list("certificate-authority", "require", "certificate-authorities"), text("reply", "reply", "text"),
    ]],
  ],
  outbound: [
    ["what", [list("to", "to", "recipient-domains")], [list("except-to", "except", "recipient-domains")]],
    ["delivery", [choice("level", "opportunistic", "tls", "level"), list("server-name", "tls", "names"),
      { option: "smart-host", kind: "hosts", path: ["route"] }], [
      { option: "min-version", kind: "choice", usual: "", path: ["tls", "min-version"], choices: ["", "TLSv1.2", "TLSv1.3"] },
      choice("dane", "opportunistic", "dane"), choice("mta-sts", "opportunistic", "mta-sts"),
      list("certificate-fingerprint", "tls", "certificate-fingerprints"), list("certificate-key", "tls", "certificate-keys"),
      list("certificate-authority", "tls", "certificate-authorities"),
    ]],
  ],
};

const ABOUT = [text("name", "name"), { option: "mode", kind: "mode", path: ["mode"] }, text("comment", "comment")];
export const about = () => ABOUT;
export const all = (direction) => [...ABOUT.slice(0, 1), ...STEPS[direction].flatMap(([, usual, more]) => [...usual, ...more]), ...ABOUT.slice(1)];

const at = (connector, path) => path.reduce((value, key) => value?.[key], connector);

/** A copy with a value at a path; what is left empty by that goes as well. */
function put(connector, path, value) {
  const [key, ...rest] = path;
  const changed = { ...connector };
  const inner = rest.length ? put(typeof changed[key] === "object" ? changed[key] : {}, rest, value) : value;
  const isEmpty = inner === undefined || (typeof inner === "object" && !Array.isArray(inner) && !Object.keys(inner).length && key !== "from" && key !== "to" && key !== "require");
  if (isEmpty) delete changed[key];
  else changed[key] = inner;
  return changed;
}

/** What a form shows of a field. */
export function read(connector, field) {
  const value = at(connector, field.path);
  switch (field.kind) {
    case "list": return (value ?? []).join("\n");
    case "hosts": return (value?.["smart-hosts"] ?? []).join("\n");
    case "mode": return connector.enabled === false ? "disabled" : (value ?? "enforce");
    case "tls": return value === true || (typeof value === "object" && value !== null);
    case "flag": return value === true;
    case "version": return value?.["min-version"] ?? "";
    case "choice": return value ?? field.usual;
    default: return value ?? "";
  }
}

const entries = (text) => text.split(/[\n,]/).map((entry) => entry.trim()).filter(Boolean);

/** The connector with what a form says of a field. */
export function write(connector, field, value) {
  switch (field.kind) {
    case "list": {
      const found = entries(value);
      return put(connector, field.path, found.length ? found : undefined);
    }
    case "hosts": {
      const found = entries(value);
      return put(connector, field.path, found.length ? { "smart-hosts": found } : undefined);
    }
    case "mode": {
      const { enabled, ...rest } = connector;
      if (value === "disabled") return { ...put(rest, ["mode"], rest.mode), enabled: false };
      return put(rest, ["mode"], value === "enforce" ? undefined : value);
    }
    case "tls": {
      const known = at(connector, field.path);
      return put(connector, field.path, value ? (typeof known === "object" ? known : true) : undefined);
    }
    case "flag": return put(connector, field.path, value || undefined);
    case "version": return put(connector, field.path, value ? { "min-version": value } : at(connector, field.path) ? true : undefined);
    case "choice": return put(connector, field.path, value === field.usual ? undefined : value);
    default: return put(connector, field.path, value === "" ? undefined : value);
  }
}

/** The JSON path of what is wrong with a field. */
export const isAbout = (field, path) => {
  const own = field.path.join(".");
  return path === own || path.startsWith(own + ".") || path.startsWith(own + "[");
};

const quote = (text) => (/^[\w.*@:/-]+$/.test(text) && !text.includes("*") ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The options that say what differs from another connector. */
function options(direction, before, after) {
  return all(direction).flatMap((field) => {
    const [was, is] = [read(before, field), read(after, field)];
    if (was === is) return [];
    if (field.kind === "tls" || field.kind === "flag") return is ? [`--${field.option}`] : [`--${field.option}=no`];
    if (is === "") return [`--${field.option} ''`];
    const values = field.kind === "list" || field.kind === "hosts" ? is.split("\n") : [is];
    return values.map((value) => `--${field.option} ${quote(value)}`);
  });
}

/** The command that does what the page is about to do. */
export function command(rules, before, after) {
  const direction = after.direction;
  const line = before
    ? `portcullis edit ${quote(rules)} ${quote(before.name)}`
    : `portcullis add ${quote(rules)} --direction ${direction}`;
  return [line, ...options(direction, before ?? { direction }, after), "--yes"].join(" ");
}

/** A connector that has just been begun. */
export const fresh = (direction, values = {}) => {
  const begun = { name: "", direction, mode: "audit", ...values };
  if (direction === "inbound") return { ...begun, from: values.from ?? {}, require: values.require ?? { tls: true } };
  return { ...begun, to: values.to ?? {}, tls: values.tls ?? { level: "encrypt" } };
};
