// The evaluator of the server, in the browser: the same WebAssembly, called by the names of the canonical ABI
// (component model, "CanonicalABI.md"). It imports nothing, so it can reach nothing.

const NAMES = "portcullis:policy/json@0.1.0#";
const encoder = new TextEncoder();
const decoder = new TextDecoder();
let compiled;

/** A fresh evaluator without rules. */
export async function evaluator() {
  compiled ??= WebAssembly.compileStreaming(fetch("evaluator.wasm"));
  const { exports } = await WebAssembly.instantiate(await compiled, {});
  exports._initialize?.();
  return new Evaluator(exports);
}

class Evaluator {
  #exports;

  constructor(exports) {
    this.#exports = exports;
  }

  #text(text) {
    const octets = encoder.encode(text);
    const at = this.#exports.cabi_realloc(0, 0, 1, octets.length);
    new Uint8Array(this.#exports.memory.buffer, at, octets.length).set(octets);
    return [at, octets.length];
  }

  #call(name, args, read) {
    const result = this.#exports[NAMES + name](...args) >>> 0;
    const found = read(new DataView(this.#exports.memory.buffer), result);
    this.#exports[`cabi_post_${NAMES}${name}`]?.(result);
    return found;
  }

  #string(view, at) {
    const [start, length] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    return decoder.decode(new Uint8Array(view.buffer, start, length));
  }

  #result(view, at) {
    const text = this.#string(view, at + 4);
    if (view.getUint8(at) !== 0) throw new Error(text);
    return JSON.parse(text);
  }

  /** What is wrong with a document; if it is accepted, it holds from now on. */
  check(document) {
    return JSON.parse(this.#call("check", this.#text(document), (view, at) => this.#string(view, at)));
  }

  /** What is decided about a message, given by its context. */
  evaluate(context) {
    return this.#call("evaluate", this.#text(JSON.stringify(context)), (view, at) => this.#result(view, at));
  }

  /** The same with the reasons. */
  explain(context) {
    return this.#call("explain", this.#text(JSON.stringify(context)), (view, at) => this.#result(view, at));
  }

  /** The connectors from a number on, as people read them. */
  describe(first, limit) {
    return JSON.parse(this.#call("describe", [first, limit], (view, at) => this.#string(view, at)));
  }
}
