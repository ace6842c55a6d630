/**
 * A policy cannot be loaded, a context cannot be read, or a policy gives no answer.
 *
 * No error is a verdict: a host that catches one defers the mail (451), and never accepts it.
 */
export class PolicyError extends Error {
  /**
   * @param {'component' | 'import' | 'version' | 'rules' | 'context' | 'trap' | 'timeout' | 'memory' | 'verdict'} code
   * @param {string} message
   */
  constructor(code, message, options) {
    super(message, options)
    this.name = 'PolicyError'
    this.code = code
  }
}

/** A rules document is not accepted: `problems` has what `portcullis check --format json` prints. */
export class RulesError extends PolicyError {
  constructor(problems) {
    const errors = problems.filter(({ severity }) => severity === 'error')
    super('rules', errors.map((it) => `${it.line}:${it.column}: ${it.message} [${it.code}]`).join('; '))
    this.problems = problems
  }
}
