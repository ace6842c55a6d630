'use strict'
// Asks a Portcullis policy about each recipient. README.md says how to set it up.
//
// Haraka skips a plugin that throws, and accepts the mail. So nothing here throws: what goes wrong defers the mail.

const fs = require('node:fs')

const { Envelope } = require('./lib/envelope')
const { addressText, sessionFacts } = require('./lib/facts')
const { headerFrom } = require('./lib/header')
const { failure, logDecision } = require('./lib/log')
const { deferral, refusal } = require('./lib/reply')
const { filesUsed, loadSettings, warningsOf } = require('./lib/settings')

// Return values of hooks (haraka-constants).
const [STOP, DENY, DENYSOFT] = [901, 902, 903]
// Before all others: a plugin that answers OK ends the hook.
const FIRST = -100
// Milliseconds between two looks at the files, and until a policy is loaded again that took too long.
const [POLL, AGAIN] = [1000, 5000]

exports.register = function () {
  this.envelopes = new WeakMap()
  this.watched = new Set()
  this.loaded = this.reload()
  this.reloaded = this.loaded
  this.register_hook('rcpt', 'ask_for_recipient', FIRST)
  this.register_hook('data_post', 'ask_for_header', FIRST)
  this.register_hook('deny', 'keep_refusal', FIRST)
  this.register_hook('reset_transaction', 'end_transaction', FIRST)
}

exports.shutdown = function () {
  for (const file of this.watched) fs.unwatchFile(file)
  clearTimeout(this.again)
}

exports.ask_for_recipient = closed(async function (connection, [recipient]) {
  const { transaction } = connection
  const envelope = await this.envelope_of(connection, transaction)
  if (envelope.isOwn) return undefined
  const to = addressText(recipient)
  envelope.settle(transaction)
  if (!envelope.mayTake(to)) {
    const text = 'send again for this recipient: what its policy makes of the header is told by itself'
    return deferral(connection.pipelining ? 451 : 452, '4.5.3', text, transaction.uuid)
  }
  const reply = await this.ask(connection, envelope, to)
  if (!reply) envelope.add(to)
  return reply
})

exports.ask_for_header = closed(async function (connection) {
  const { transaction } = connection
  const envelope = await this.envelope_of(connection, transaction)
  if (envelope.isOwn) return undefined
  envelope.settle(transaction)
  if (!envelope.isComplete(transaction)) throw new Error('another plugin has accepted a recipient first')
  if (!envelope.settings.policy.readsHeader) return undefined
  const header = headerFrom(transaction.header.lines(), transaction.encoding === 'binary')
  for (const to of envelope.recipients) {
    const reply = await this.ask(connection, envelope, to, header)
    if (reply) return reply
  }
  return undefined
})

/** Plugins such as karma and delay_deny overrule refusals of others. STOP ends their hook, and the refusal stands. */
exports.keep_refusal = function (next, connection, params) {
  next(params[2] === this.name ? STOP : undefined)
}

/** What the policy of a transaction runs in may end with it. */
exports.end_transaction = function (next, { transaction }) {
  const envelope = this.envelopes.get(transaction)
  if (envelope && !envelope.isOwn) envelope.settings.policy.release()
  this.envelopes.delete(transaction)
  next()
}

/** The reply that refuses the mail, or undefined. */
exports.ask = async function (connection, envelope, to, header) {
  const context = { ...envelope.facts, 'rcpt-to': to }
  if (header) context['header-from'] = header.fact
  const verdict = await envelope.settings.policy.evaluate(context)
  const note = header && !header.isClear ? 'the From field is ambiguous, and read so this is ' : ''
  const reply = refusal(verdict, connection.transaction?.uuid, note)
  logDecision(this, connection, context, verdict)
  return reply
}

/** What is known of a transaction: its policy and its facts stay as they are when it begins. */
exports.envelope_of = async function (connection, transaction) {
  const known = this.envelopes.get(transaction)
  if (known) return known
  // Relaying is for the organization's own users. Plugins behind this one may grant it to a recipient's domain, which
  // says nothing of the next recipient.
  const isOwn = connection.relaying
  await this.loaded
  if (!this.settings && !isOwn) throw new Error('no policy is loaded')
  // The client may have gone meanwhile, and then nothing ends the transaction again.
  if (transaction.resetting) throw new Error('the transaction is over')
  const facts = isOwn ? undefined : sessionFacts(connection, this.settings)
  const envelope = new Envelope(isOwn, this.settings, { ...facts, 'mail-from': addressText(transaction.mail_from) })
  if (!isOwn) this.settings.policy.hold()
  this.envelopes.set(transaction, envelope)
  return envelope
}

/** Loads settings and policy. What is in force stays if the new ones are not accepted. Never rejects. */
exports.reload = async function () {
  clearTimeout(this.again)
  try {
    const options = { booleans: ['+main.certificates-requested'] }
    const ini = this.config.get('portcullis.ini', options, () => this.changed())
    const folder = this.config.overrides_path ?? this.config.root_path
    this.watch(filesUsed(ini, folder))
    const settings = await loadSettings(ini, folder)
    this.settings?.policy.replace()
    this.settings = settings
    this.lognotice(`the policy is in force; connectors: ${settings.policy.description.total}`)
    for (const warning of warningsOf(settings)) this.logwarn(warning)
  } catch (error) {
    const meanwhile = this.settings ? 'the one before stays in force' : 'all mail is deferred'
    this.logerror(`the policy cannot be loaded, ${meanwhile}: ${error?.message ?? error}`)
    // The machine may have been busy.
    if (error?.code === 'timeout') this.again = setTimeout(() => this.changed(), AGAIN).unref()
  }
}

exports.changed = function () {
  this.reloaded = this.reloaded.then(() => this.reload())
}

exports.watch = function (files) {
  for (const file of files.filter((name) => !this.watched.has(name))) {
    this.watched.add(file)
    fs.watchFile(file, { interval: POLL, persistent: false }, () => this.changed())
  }
}

/** A hook. The function gives the reply that refuses the mail, or undefined for no objection, which is not an OK. */
function closed(ask) {
  return async function (next, connection, params) {
    let reply
    try {
      reply = await ask.call(this, connection, params)
    } catch (error) {
      connection.logerror(this, `the policy failed, and the mail is deferred: ${failure(error)}`)
      reply = deferral(451, '4.3.0', 'the policy cannot be asked now, try again later', connection.transaction?.uuid)
    }
    if (!reply) return next()
    return next(reply.isPermanent ? DENY : DENYSOFT, reply.dsn)
  }
}
