'use strict'
// What config/portcullis.ini says, with the files that it names read.

const path = require('node:path')

const { Anchors, PUBLIC } = require('./chain')
const { Policy } = require('./policy')

const KEYS = /^(rules|policy|timeout|trusted|certificates-requested|authority\..+)$/
const RULES = 'portcullis.json'
// Milliseconds of an answer, as `portcullis run` has them. Rules always end, so they run in Haraka's thread.
const [TIMEOUT_OF_POLICY, TIMEOUT_OF_RULES] = [50, 0]

/** The files that the settings depend on. */
function filesUsed({ main }, folder) {
  const files = [main.policy ?? main.rules ?? RULES, main.trusted, ...authoritiesOf(main).map(([, file]) => file)]
  return files.filter(Boolean).map((name) => path.resolve(folder, String(name)))
}

/** Loads the policy and the authorities. Throws if a setting or a file is not accepted. */
async function loadSettings({ main, ...sections }, folder) {
  const unknown = [...Object.keys(main).filter((key) => !KEYS.test(key)), ...Object.keys(sections)][0]
  if (unknown) throw new Error(`portcullis.ini: the key "${unknown}" is unknown`)
  if (main.policy && main.rules) throw new Error('portcullis.ini: "rules" and "policy" exclude each other')
  const named = (name) => path.resolve(folder, String(name))
  const authorities = new Map(authoritiesOf(main).map(([name, file]) => [name, Anchors.ofFile(named(file))]))
  if (authorities.has(PUBLIC)) throw new Error(`portcullis.ini: the authority "${PUBLIC}" is "trusted"`)
  authorities.set(PUBLIC, main.trusted ? Anchors.ofFile(named(main.trusted)) : Anchors.ofNode())
  // Last, since it may have a worker, which nothing ends if anything else is not accepted.
  const policy = main.policy
    ? await Policy.ofComponent(named(main.policy), timeoutIn(main, TIMEOUT_OF_POLICY))
    : await Policy.ofRules(named(main.rules ?? RULES), timeoutIn(main, TIMEOUT_OF_RULES))
  return { policy, authorities, certificatesRequested: main['certificates-requested'] !== false }
}

function timeoutIn({ timeout = '' }, usual) {
  if (timeout === '') return usual
  if (!/^\d{1,9}$/.test(timeout)) throw new Error('portcullis.ini: "timeout" is a number of milliseconds')
  return Number(timeout)
}

function authoritiesOf(main) {
  const keys = Object.keys(main).filter((key) => key.startsWith('authority.'))
  return keys.map((key) => [key.slice('authority.'.length), main[key]])
}

/** What the rules need and the settings do not have. */
function warningsOf({ policy, authorities, certificatesRequested }) {
  const missing = policy.description.authorities.filter(({ name }) => !authorities.has(name))
  const warnings = missing.map(({ name, connector }) =>
    `the authority "${name}" is not in portcullis.ini, so connector "${connector}" refuses all its mail`)
  const readsCertificate = policy.description.reads.some((fact) => fact.startsWith('certificate'))
  if (readsCertificate && !certificatesRequested) {
    warnings.push('the policy reads client certificates, and none are requested')
  }
  return warnings
}

module.exports = { loadSettings, filesUsed, warningsOf }
