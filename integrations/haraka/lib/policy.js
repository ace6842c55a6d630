'use strict'
// A policy: the built-in evaluator with a rules document, or a component that `portcullis build` has made. Both are
// what `jco transpile --instantiation async` makes of a component.

const fs = require('node:fs/promises')
const path = require('node:path')

const EVALUATOR = path.join(__dirname, 'evaluator')

class Policy {
  /** Begins with an instance of the component, and makes another one after a failure. */
  constructor(instantiate, instance, decidesByDomain) {
    Object.assign(this, { instantiate, instance, decidesByDomain })
    this.description = instance.evaluation.describe(0, 0)
  }

  /** Whether its verdict can depend on the From header. */
  get readsHeader() {
    return this.description.reads.includes('header-from')
  }

  /** The verdict. What has failed once is in an unknown state, so the instance is not used again. */
  async evaluate(context) {
    this.instance ??= await this.instantiate()
    try {
      return this.instance.evaluation.evaluate(context)
    } catch (error) {
      this.instance = undefined
      throw error
    }
  }

  /** The evaluator with a rules document. Throws if the document is not accepted, and says why. */
  static async ofRules(file) {
    const document = await fs.readFile(file, 'utf8')
    const component = await load(EVALUATOR)
    const instantiate = async () => {
      const instance = await component()
      configure(instance, file, document)
      return instance
    }
    return new Policy(instantiate, await instantiate(), true)
  }

  /** A policy in a folder. */
  static async ofFolder(folder) {
    const component = await load(folder)
    return new Policy(component, await component(), false)
  }
}

function configure(instance, file, document) {
  try {
    instance.rules.configure(document)
  } catch (error) {
    if (!Array.isArray(error.payload)) throw error
    const problems = error.payload.filter(({ severity }) => severity === 'error')
    const lines = problems.map((it) => `${file}:${it.line}:${it.column}: ${it.message} [${it.code}]`)
    throw new Error(lines.join('; '))
  }
}

/** The files of a policy's folder. */
async function filesOf(folder) {
  const names = await fs.readdir(folder)
  return names.filter((name) => /\.(js|wasm)$/.test(name)).map((name) => path.join(folder, name))
}

/** A function that makes instances of the component in a folder. */
async function load(folder) {
  const files = await filesOf(folder)
  const scripts = files.filter((file) => file.endsWith('.js'))
  if (scripts.length !== 1) throw new Error(`${folder} must have one .js file, and has ${scripts.length}`)
  const modules = new Map()
  for (const file of files.filter((name) => name.endsWith('.wasm'))) {
    modules.set(path.basename(file), await WebAssembly.compile(await fs.readFile(file)))
  }
  // From a data URL it is a module whatever the package says, and another one when the file has changed.
  const script = await fs.readFile(scripts[0], 'base64')
  const { instantiate } = await import(`data:text/javascript;base64,${script}`)
  if (!instantiate) throw new Error(`${scripts[0]} was made without --instantiation async`)
  return async () => {
    const instance = await instantiate((name) => modules.get(name), {})
    if (!instance.evaluation) throw new Error(`${folder} exports no portcullis:policy/evaluation`)
    return instance
  }
}

module.exports = { Policy, filesOf }
