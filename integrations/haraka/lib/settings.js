'use strict'
// What config/portcullis.ini says, with the files that it names read.

const path = require('node:path')

const { Anchors, PUBLIC } = require('./chain')
const { Policy, filesOf } = require('./policy')

const KEYS = /^(rules|policy|trusted|certificates-requested|authority\..+)$/
const RULES = 'portcullis.json'

/** The files that the settings depend on. */
async function filesUsed({ main }, folder) {
  const named = (name) => path.resolve(folder, String(name))
  const files = [main.policy ?? main.rules ?? RULES, main.trusted, ...authoritiesOf(main).map(([, file]) => file)]
  const inPolicy = main.policy ? await filesOf(named(main.policy)).catch(() => []) : []
  return [...files.filter(Boolean).map(named), ...inPolicy]
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
  const policy = main.policy ? Policy.ofFolder(named(main.policy)) : Policy.ofRules(named(main.rules ?? RULES))
  return {
    policy: await policy,
    authorities,
    certificatesRequested: main['certificates-requested'] !== false,
  }
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
