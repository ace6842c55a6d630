// The built-in evaluator, and instances of modules by its bindings.

import { instantiate as bound } from '../evaluator/evaluator.js'

const FILE = new URL('../evaluator/evaluator.core.wasm', import.meta.url)

let compiled

/** The evaluator's core module, compiled once. */
export function evaluator() {
  compiled ??= compile()
  return compiled
}

async function compile() {
  if (FILE.protocol === 'file:') {
    const { readFile } = await import('node:fs/promises')
    return WebAssembly.compile(await readFile(FILE))
  }
  return WebAssembly.compileStreaming(fetch(FILE))
}

/** An instance of a policy's core module. */
export function instantiate(module) {
  return bound(() => module, {}, async (module, imports) => {
    const instance = await WebAssembly.instantiate(module, imports)
    // What a reactor does first (C and C++ with constructors).
    instance.exports._initialize?.()
    return { exports: withPostReturns(instance.exports) }
  })
}

/** A module need not have functions that are called after its answers; the evaluator has them, and its bindings call them. */
function withPostReturns(exports) {
  const names = Object.keys(exports).filter((name) => name.includes('#') && !name.startsWith('cabi_post_'))
  const nothing = names.map((name) => [`cabi_post_${name}`, () => {}])
  return { ...Object.fromEntries(nothing), ...exports }
}
