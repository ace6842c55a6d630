// Instances of a policy in this thread.

import { PolicyError, RulesError } from './errors.js'
import { evaluator, instantiate } from './evaluator.js'

export class InProcess {
  #instantiate
  #instance

  /** By a function that makes an instance: an object with the functions of the interface. */
  constructor(instantiate) {
    this.#instantiate = instantiate
  }

  /** Of a rules document, or of a core module. */
  static of({ document, module }) {
    if (module) return new InProcess(async () => (await instantiate(module)).evaluation)
    return new InProcess(async () => {
      const { rules, evaluation } = await instantiate(await evaluator())
      configure(rules, document)
      return evaluation
    })
  }

  /** Makes the first instance. */
  async begin() {
    this.#instance = await this.#make()
  }

  /** Calls a function of the interface. What has failed once is in an unknown state, so it is not used again. */
  async call(name, ...args) {
    const instance = this.#instance ?? await this.#make()
    this.#instance = undefined
    try {
      const called = instance[name](...args)
      // Bindings may be asynchronous (JSPI). Of others, who asks meanwhile finds the same instance.
      const answer = called instanceof Promise ? await called : called
      this.#instance = instance
      return answer
    } catch (error) {
      throw failed(error)
    }
  }

  async close() {
    this.#instance = undefined
  }

  async #make() {
    try {
      return await this.#instantiate()
    } catch (error) {
      throw failed(error)
    }
  }
}

function configure(rules, document) {
  try {
    rules.configure(document)
  } catch (error) {
    throw Array.isArray(error.payload) ? new RulesError(error.payload) : error
  }
}

function failed(error) {
  if (error instanceof PolicyError) return error
  return new PolicyError('trap', `the policy gives no answer: ${error?.message ?? error}`, { cause: error })
}
