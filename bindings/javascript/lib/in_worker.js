// Instances of a policy in a worker, which can be ended.

import { PolicyError, RulesError } from './errors.js'

/** Milliseconds for a worker to start, and for rules to be read. A component is instantiated in the time of an answer. */
const BEGINNING = 30_000

const closed = () => new PolicyError('trap', 'the policy is closed')

export class InWorker {
  #what
  #timeout
  #worker
  #isClosed = false
  /** Questions go one after another: an instance answers one at a time. */
  #last = Promise.resolve()

  constructor(what, timeout) {
    this.#what = what
    this.#timeout = timeout
  }

  async begin() {
    this.#worker = await Child.start()
    if (this.#isClosed) {
      await this.#end(closed())
      throw closed()
    }
    await this.#ask(BEGINNING, { name: 'nothing' })
    await this.#ask(this.#what.module ? this.#timeout : BEGINNING, { begin: this.#what })
  }

  call(name, ...args) {
    const answer = this.#last.then(async () => {
      if (this.#isClosed) throw closed()
      if (!this.#worker) await this.begin()
      return this.#ask(this.#timeout, { name, args })
    })
    // Whoever asked hears of a failure.
    this.#last = answer.catch(() => {})
    return answer
  }

  async close() {
    this.#isClosed = true
    await this.#end(closed())
  }

  async #end(why) {
    const worker = this.#worker
    this.#worker = undefined
    await worker?.end(why)
  }

  async #ask(timeout, question) {
    const worker = this.#worker
    if (!worker) throw closed()
    let timer
    const late = new Promise((resolve, reject) => {
      const error = new PolicyError('timeout', `the policy did not answer within ${timeout} ms`)
      timer = setTimeout(reject, timeout, error)
    })
    try {
      const { answer, error } = await Promise.race([worker.ask(question), late])
      if (!error) return answer
      throw error.problems ? new RulesError(error.problems) : new PolicyError(error.code, error.message)
    } catch (error) {
      // Whoever asked does not wait for its end: what the engine does at once, such as filling a table, cannot be stopped.
      this.#end(error)
      throw error
    } finally {
      clearTimeout(timer)
    }
  }
}

/** A worker, of Node or of a browser. */
class Child {
  static async start() {
    const child = new Child()
    // The URL is written where the worker is made: so bundlers find the script.
    if (globalThis.Worker) {
      try {
        child.worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
      } catch (error) {
        // Scripts of another origin, for one.
        throw new PolicyError('trap', `the worker of the policy does not start: ${error.message}`, { cause: error })
      }
      child.worker.onmessage = ({ data }) => child.heard?.(data)
      // Without a message, its script cannot be had: browsers do not say why.
      child.worker.onerror = (event) => child.lost?.(event.message || 'its script is not loaded')
    } else {
      const { Worker } = await import('node:worker_threads')
      child.worker = new Worker(new URL('./worker.js', import.meta.url))
      child.worker.on('message', (data) => child.heard?.(data))
      child.worker.on('error', (error) => child.lost?.(error.message))
      child.worker.on('exit', (code) => child.lost?.(`it ended with ${code}`))
      // A program ends although a policy is loaded.
      child.worker.unref()
    }
    return child
  }

  ask(question) {
    this.worker.ref?.()
    const answer = new Promise((resolve, reject) => {
      this.heard = resolve
      this.fail = reject
      this.lost = (why) => reject(new PolicyError('trap', `the worker of the policy is lost: ${why}`))
      this.worker.postMessage(question)
    })
    return answer.finally(() => this.worker.unref?.())
  }

  async end(why) {
    this.fail?.(why)
    await this.worker.terminate()
  }
}
