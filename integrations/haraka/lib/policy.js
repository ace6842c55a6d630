'use strict'
// A rules document or a component, as the package `@portcullis/policy` asks it.

const fs = require('node:fs/promises')

class Policy {
  constructor(loaded, description, decidesByDomain) {
    Object.assign(this, { loaded, description, decidesByDomain, users: 0, isReplaced: false })
  }

  /** Whether its verdict can depend on the From header. */
  get readsHeader() {
    return this.description.reads.includes('header-from')
  }

  /** The client may have gone before the answer is there, and its transaction with it. */
  async evaluate(context) {
    this.hold()
    try {
      return await this.loaded.evaluate(context)
    } finally {
      this.release()
    }
  }

  /** A transaction begins with it. */
  hold() {
    this.users += 1
  }

  /** A transaction with it ends. */
  release() {
    this.users -= 1
    this.closeUnused()
  }

  /** No other transaction will begin with it. */
  replace() {
    this.isReplaced = true
    this.closeUnused()
  }

  closeUnused() {
    if (this.isReplaced && this.users === 0) this.loaded.close()
  }

  /** The evaluator with a rules document. Recipients of one domain get the same verdict. */
  static async ofRules(file, timeout) {
    return begin(file, await fs.readFile(file, 'utf8'), timeout, true)
  }

  /** A component, as `portcullis build` makes them. */
  static async ofComponent(file, timeout) {
    return begin(file, await fs.readFile(file), timeout, false)
  }
}

/** Throws if it is not accepted, and says why. With a timeout of 0 it runs in this thread. */
async function begin(file, source, timeout, decidesByDomain) {
  const { load } = await import('@portcullis/policy')
  let loaded
  try {
    loaded = await load(source, timeout === 0 ? {} : { timeout })
    return new Policy(loaded, await loaded.describe(0, 0), decidesByDomain)
  } catch (error) {
    loaded?.close()
    throw Object.assign(new Error(objection(file, error)), { code: error.code })
  }
}

function objection(file, error) {
  const problems = error.problems?.filter(({ severity }) => severity === 'error')
  const lines = problems?.map((it) => `${file}:${it.line}:${it.column}: ${it.message} [${it.code}]`)
  return lines?.join('; ') ?? `${file}: ${error.message}`
}

module.exports = { Policy }
