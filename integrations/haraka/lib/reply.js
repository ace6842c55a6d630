'use strict'
// What Haraka answers to a verdict.

// Octets of a text. A reply line has 512 with its code and CRLF (RFC 5321 section 4.5.3.1.5), and Haraka may add an id.
const LONGEST = 380

/** Haraka takes an object of a class of this name for a reply with its own code. */
class DSN {
  constructor(code, enhanced, text) {
    this.code = code
    this.reply = `${enhanced} ${text}`
  }

  /** For Haraka's log. */
  toString() {
    return this.reply
  }
}

/** By verdict: the codes that a refusal may have, and those that stand in for others. */
const CLASSES = {
  reject: { lowest: 500, enhanced: /^5\.\d{1,3}\.\d{1,3}$/, code: 550, status: '5.7.1' },
  defer: { lowest: 400, enhanced: /^4\.\d{1,3}\.\d{1,3}$/, code: 451, status: '4.7.1' },
}

/**
 * The refusal in a verdict, with a note before its text if it is permanent; undefined if the mail is accepted. Throws
 * if inbound mail cannot be answered so.
 */
function refusal(verdict, id, note = '') {
  if (verdict.tag === 'accept') return undefined
  const allowed = CLASSES[verdict.tag]
  if (!allowed) throw new Error(`the policy answers inbound mail with the verdict ${verdict.tag}`)
  const { code, enhanced, text } = verdict.val
  // RFC 5321 section 4.2.1: the second digit is at most 5.
  const fits = code >= allowed.lowest && code < allowed.lowest + 60
  const status = allowed.enhanced.test(enhanced) ? enhanced : allowed.status
  const isPermanent = verdict.tag === 'reject'
  const words = line(isPermanent ? note + text : text, id)
  return { isPermanent, dsn: new DSN(fits ? code : allowed.code, status, words) }
}

/** A deferral that no policy has decided on. */
function deferral(code, enhanced, text, id) {
  return { isPermanent: false, dsn: new DSN(code, enhanced, line(text, id)) }
}

/** One printable line with the id by which the log has the decision. */
function line(text, id) {
  const printable = text.replace(/[^ -~]/g, (sign) => (/[\s\p{Cc}]/u.test(sign) ? ' ' : '?')).slice(0, LONGEST)
  return id ? `${printable} [${id}]` : printable
}

module.exports = { refusal, deferral }
