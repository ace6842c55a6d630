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

/** The refusal in a verdict, with a note before its text if it is permanent; undefined if the mail is accepted. */
function refusal({ verdict, code, enhanced, text }, id, note = '') {
  if (verdict === 'accept') return undefined
  const isPermanent = verdict === 'reject'
  return { isPermanent, dsn: new DSN(code, enhanced, line(isPermanent ? note + text : text, id)) }
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
