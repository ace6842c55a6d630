'use strict'
// Every verdict of the project's corpus whose facts a session can have, as a real Haraka replies it.

const assert = require('node:assert/strict')
const fs = require('node:fs')
const path = require('node:path')
const { after, describe, it } = require('node:test')

const { Haraka, ownConfig } = require('./helpers/haraka')
const { Pki } = require('./helpers/pki')
const { send } = require('./helpers/smtp')

const FOLDER = process.env.PORTCULLIS_CASES ?? path.join(__dirname, '../../../conformance/cases')
// Clients say by PROXY who they are.
const PROXY = ownConfig('connection.ini').replace('[haproxy]\n', '[haproxy]\nhosts[] = 127.0.0.1\n')

const pki = new Pki()
after(() => pki.remove())
const root = pki.root('/CN=Root')
const identities = new Map()

/** What a client presents that has the names and the worth of a case; undefined if no session can have it. */
function identity({ trust, 'dns-names': names }) {
  const issuer = { 'trusted': root, 'expired': root, 'unknown-issuer': undefined }
  if (!(trust in issuer) || !names?.length) return undefined
  const of = JSON.stringify([trust, names])
  if (!identities.has(of)) {
    const extensions = [`subjectAltName=${names.map((name) => `DNS:${name}`).join()}`, 'extendedKeyUsage=clientAuth']
    const days = trust === 'expired' ? -1 : 30
    identities.set(of, pki.issue(issuer[trust], '/CN=client', { extensions, days }).with())
  }
  return identities.get(of)
}

/** The options of a session with the facts of a case; undefined if there is none. */
function session(context) {
  const { 'client-ip': client, tls, 'mail-from': from, 'rcpt-to': to, 'header-from': header } = context
  const options = { from, to, proxy: client, header: header?.length ? `From: ${header.join(', ')}` : 'From:' }
  if (!tls) return options
  if (!tls.certificate) return { ...options, tls: {} }
  const presented = identity(tls.certificate)
  return presented && { ...options, tls: presented }
}

const isForSessions = ({ smtp, context }) => smtp !== false && context.direction === 'inbound'

let asked = 0
describe('the corpus of verdicts', () => {
  for (const name of fs.readdirSync(FOLDER)) {
    const { rules, cases } = JSON.parse(fs.readFileSync(path.join(FOLDER, name), 'utf8'))
    const sessions = cases.filter(isForSessions).map((each) => [each, session(each.context)]).filter(([, it]) => it)
    if (!sessions.length) continue
    it(name, async () => {
      const haraka = await Haraka.start({ pki, files: {
        'portcullis.json': JSON.stringify(rules),
        'portcullis.ini': 'trusted = root.pem\n',
        'root.pem': root.pem,
        'connection.ini': PROXY,
      } })
      try {
        for (const [{ name, verdict }, options] of sessions) {
          const { recipients: [reply], message } = await send(haraka.port, options)
          hold(message ?? reply, verdict, name)
          asked++
        }
      } finally {
        await haraka.stop()
      }
    })
  }
  // A case that is left out has to say so itself.
  after(() => assert.ok(asked > 300, `only ${asked} cases were asked`))
})

function hold(reply, { verdict, code, enhanced, failed }, name) {
  if (verdict === 'accept') return assert.match(reply, /^250 /, name)
  assert.ok(reply.startsWith(`${code} ${enhanced} `) && reply.includes(`(${failed})`), `${name}: ${reply}`)
}
