// The plugin for Haraka, as clients of a real Haraka see it: node haraka.mjs PLUGIN, the plugin's folder with its tests.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const require = createRequire(join(resolve(process.argv[2]), 'index.js'))
const { Haraka, ownConfig } = require('./test/helpers/haraka')
const { Pki } = require('./test/helpers/pki')
const { send } = require('./test/helpers/smtp')
const { load, PolicyError } = await import(pathToFileURL(require.resolve('@portcullis/policy')))

// Clients say by PROXY who they are.
const PROXY = ownConfig('connection.ini').replace('[haproxy]\n', '[haproxy]\nhosts[] = 127.0.0.1\n')
const SKIPPED = {
  context: 'what is no context, so no session has it',
  outbound: 'outbound mail, which Haraka does not ask about',
  certificate: 'a certificate that no client of this test can present',
}

const anything = await load({ connectors: [] })
const pki = new Pki()
const root = pki.root('/CN=Root')
const identities = new Map()
let haraka

async function start({ rules, component }) {
  await haraka?.stop()
  // With much time, since the machine may be busy.
  const policy = component ? 'policy = policy.wasm\ntimeout = 5000\n' : ''
  haraka = await Haraka.start({ pki, files: {
    ...(component ? { 'policy.wasm': readFileSync(component) } : { 'portcullis.json': JSON.stringify(rules) }),
    'portcullis.ini': `${policy}trusted = root.pem\n`,
    'root.pem': root.pem,
    'connection.ini': PROXY,
  } })
  return { loaded: true }
}

/** What a client presents that has the names and the worth of a case; undefined if none can have it. */
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

async function ask(context) {
  try {
    await anything.evaluate(context)
  } catch (error) {
    if (error instanceof PolicyError) return { skip: SKIPPED.context }
    throw error
  }
  if (context.direction !== 'inbound') return { skip: SKIPPED.outbound }
  const { 'client-ip': proxy, tls, 'mail-from': from, 'rcpt-to': to, 'header-from': header } = context
  const secure = tls?.certificate ? identity(tls.certificate) : tls && {}
  if (tls && !secure) return { skip: SKIPPED.certificate }
  const field = header?.length ? `From: ${header.join(', ')}` : 'From:'
  const { recipients, message } = await send(haraka.port, { from, to, proxy, tls: secure, header: field })
  return { reply: told(message ?? recipients[0]) }
}

function told(reply) {
  if (reply.startsWith('250 ')) return { code: 250 }
  const [, code, enhanced, failed] = /^(\d{3}) (\d\.\d+\.\d+) (?:.*?" )?.*?\(([a-z-]+)\)/.exec(reply) ?? []
  return { code: Number(code), enhanced, failed: failed ?? reply }
}

function answer(question) {
  if (question.conformance) return { name: 'Haraka', smtp: true }
  return question.load ? start(question) : ask(question.context)
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))))
}
await haraka?.stop()
pki.remove()
