// Policies in JavaScript: load one, ask it.

import { checkVersion, coreModule } from './lib/component.js'
import { PolicyError } from './lib/errors.js'
import { InProcess } from './lib/in_process.js'
import { InWorker } from './lib/in_worker.js'
import { consideration, context, verdict } from './lib/words.js'

export { VERSION as INTERFACE_VERSION } from './lib/component.js'
export { PolicyError, RulesError } from './lib/errors.js'

/** Bytes of memory that a component may have, if nothing else is said. */
const MEMORY = 64 * 1024 * 1024

/** Milliseconds that a timer can wait. */
const LONGEST = 2 ** 31 - 1

/** A policy that is loaded. */
export class Policy {
  #instances

  /** @private */
  constructor(instances) {
    this.#instances = instances
  }

  /** The verdict about a context, both as JSON (docs/spec.md). Throws a PolicyError, which is no verdict. */
  async evaluate(json) {
    const asked = context(json)
    return verdict(await this.#instances.call('evaluate', asked), asked.direction)
  }

  /** The verdict, and the connectors that were considered. */
  async explain(json) {
    const asked = context(json)
    const { verdict: decided, considered, others } = await this.#instances.call('explain', asked)
    return { verdict: verdict(decided, asked.direction), considered: considered.map(consideration), others }
  }

  /** What the policy says of itself, with at most `limit` connectors from number `first` on. */
  async describe(first = 0, limit = 1000) {
    return this.#instances.call('describe', Number(first), Number(limit))
  }

  /** Ends what it runs in. */
  async close() {
    await this.#instances.close()
  }
}

/**
 * Loads a policy: a rules document, as text or as an object; or the bytes of a component of one core module without
 * imports, as `portcullis build` makes them.
 *
 * With a `timeout` in milliseconds it runs in a worker, and an evaluation that takes longer ends: for policies of others.
 * A component has at most `memory` bytes.
 */
export async function load(source, { timeout, memory = MEMORY } = {}) {
  if (timeout !== undefined && !(timeout >= 1 && timeout <= LONGEST)) throw new RangeError(`timeout is between 1 and ${LONGEST} ms`)
  if (!(memory >= 65536 && memory <= 2 ** 32)) throw new RangeError('memory is between 64 KiB and 4 GiB')
  const what = source instanceof ArrayBuffer || ArrayBuffer.isView(source)
    ? { module: await coreModule(octets(source), memory) }
    : { document: typeof source === 'string' ? source : JSON.stringify(source) }
  const instances = timeout === undefined ? InProcess.of(what) : new InWorker(what, timeout)
  // What cannot run is no policy.
  await instances.begin()
  return new Policy(instances)
}

function octets(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source)
  return new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
}

/**
 * A policy of what `jco transpile --instantiation async` has made of a component: its `instantiate`, the function that
 * gets a core module by its name, and what the component imports.
 */
export async function ofTranspiled(instantiate, getCoreModule, imports = {}) {
  const instances = new InProcess(async () => {
    const exported = await instanceOf(instantiate, getCoreModule, imports)
    checkVersion(Object.keys(exported))
    if (!exported.evaluation) throw new PolicyError('component', 'this is not a policy: it exports no evaluation')
    return exported.evaluation
  })
  await instances.begin()
  return new Policy(instances)
}

async function instanceOf(instantiate, getCoreModule, imports) {
  try {
    return await instantiate(getCoreModule, imports)
  } catch (error) {
    // Bindings that wait for promises call what not all engines have.
    if (!/WebAssembly\.(promising|Suspending)/.test(error?.message)) throw error
    const text = `this engine has no JSPI (${error.message}): make the bindings without --async-mode`
    throw new PolicyError('component', text, { cause: error })
  }
}
