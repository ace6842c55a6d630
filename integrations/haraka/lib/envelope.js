'use strict'
// The recipients of a transaction that may still be told something once the header has arrived.

class Envelope {
  constructor(isOwn, settings, facts) {
    Object.assign(this, { isOwn, settings, facts, recipients: [], last: undefined, accepted: 0 })
  }

  /** A recipient that the policy accepts. Other plugins still decide on it. */
  add(to) {
    this.last = to
  }

  /** Keeps the last recipient if it was accepted by all. */
  settle({ rcpt_count: { accept } }) {
    if (this.last !== undefined && accept > this.accepted) this.recipients.push(this.last)
    this.last = undefined
    this.accepted = accept
  }

  /** Whether no other plugin has accepted a recipient by itself. */
  isComplete({ rcpt_count: { accept } }) {
    return this.recipients.length === accept
  }

  /**
   * Whether a recipient may join the others. SMTP has one reply after the header, so those share a transaction for whom
   * the policy cannot decide differently: with rules, recipients of one domain.
   */
  mayTake(to) {
    const { policy } = this.settings
    if (!policy.readsHeader) return true
    return this.recipients.every((other) => policy.decidesByDomain && domain(other) === domain(to))
  }
}

const domain = (address) => address.slice(address.lastIndexOf('@') + 1).toLowerCase()

module.exports = { Envelope }
