// The built-in evaluator, and instances of modules by its bindings.

import { instantiate as bound } from '../evaluator/evaluator.js'
import { bounded } from './answers.js'
import { EVALUATION } from './component.js'

const FILE = new URL('../evaluator/evaluator.core.wasm', import.meta.url)

let compiled

/** The evaluator's core module, compiled once. */
export function evaluator() {
  compiled ??= compile().catch((error) => {
    // The next one tries again: there may have been no network.
    compiled = undefined
    throw error
  })
  return compiled
}

async function compile() {
  if (FILE.protocol === 'file:') {
    const { readFile } = await import('node:fs/promises')
    return WebAssembly.compile(await readFile(FILE))
  }
  const answer = await fetch(FILE)
  if (!answer.ok) throw new Error(`${FILE} is not served: ${answer.status}`)
  // Not as it arrives: for that, the server would have to know its type.
  return WebAssembly.compile(await answer.arrayBuffer())
}

/** An instance of a policy's core module. */
export function instantiate(module) {
  return bound(() => module, {}, async (module, imports) => {
    const { exports } = await WebAssembly.instantiate(module, imports)
    // What a reactor does first (C and C++ with constructors).
    exports._initialize?.()
    return { exports: withPostReturns(bounded(exports, EVALUATION)) }
  })
}

/** A module need not have functions that are called after its answers; the evaluator has them, and its bindings call them. */
function withPostReturns(exports) {
  const names = Object.keys(exports).filter((name) => name.includes('#') && !name.startsWith('cabi_post_'))
  const nothing = names.map((name) => [`cabi_post_${name}`, () => {}])
  return { ...Object.fromEntries(nothing), ...exports }
}
