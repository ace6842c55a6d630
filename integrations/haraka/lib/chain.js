'use strict'
// Whether the client's certificate chain leads to an authority. Haraka does not say: its `verified` is always false.
//
// What this code cannot judge (name constraints, policy constraints, unknown critical extensions, rare algorithms)
// leaves trust unknown, and a policy that reads it defers the mail.

const fs = require('node:fs')
const tls = require('node:tls')

const { Certificate, hex, sha256 } = require('./certificate')

/** The name of the ordinary roots among the authorities. */
const PUBLIC = 'public'

// Certificates of a client that are looked at, and signatures that are checked for one authority.
const MOST_CERTIFICATES = 10
const MOST_SIGNATURES = 20
const LONGEST_PATH = 10
const LONGEST_TEXT = 1000

// What a context says of a certificate, or says to be unknown.
const FACTS = ['dns-names', 'key-sha256', 'not-after', 'trust', 'anchor']

// Key usage bits (RFC 5280 section 4.2.1.3).
const [DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT, CERTIFICATE_SIGNING] = [0, 2, 4, 5]
// serverAuth and clientAuth.
const PURPOSES = ['2b06010505070301', '2b06010505070302']

// RSA and ECDSA with SHA-256, SHA-384 and SHA-512; Ed25519, Ed448.
const SOUND_SIGNATURES = new Set([
  '2a864886f70d01010b', '2a864886f70d01010c', '2a864886f70d01010d',
  '2a8648ce3d040302', '2a8648ce3d040303', '2a8648ce3d040304',
  '2b6570', '2b6571',
])
// RSA with MD2, MD5 and SHA-1; ECDSA with SHA-1.
const BROKEN_SIGNATURES = new Set([
  '2a864886f70d010102', '2a864886f70d010104', '2a864886f70d010105', '2a8648ce3d0401',
])
const SOUND_CURVES = new Set(['prime256v1', 'secp384r1', 'secp521r1'])

// subjectAltName, keyUsage, basicConstraints, extendedKeyUsage, certificatePolicies, policyMappings, inhibitAnyPolicy.
// The last three mean something only below policyConstraints.
const KNOWN_EXTENSIONS = new Set(['551d11', '551d0f', '551d13', '551d25', '551d20', '551d21', '551d36'])
// nameConstraints and policyConstraints, critical or not.
const UNJUDGED_CONSTRAINTS = ['551d1e', '551d24']

/** Authorities that chains may end at. */
class Anchors {
  constructor(certificates) {
    this.ids = new Set(certificates.map(({ id }) => id))
    this.bySubject = new Map()
    for (const certificate of certificates) {
      this.bySubject.set(certificate.subject, [...this.named(certificate.subject), certificate])
    }
  }

  has(certificate) {
    return this.ids.has(certificate.id)
  }

  named(subject) {
    return this.bySubject.get(subject) ?? []
  }

  /** Reads a PEM file; throws if it has no certificate, or one that cannot be read. */
  static ofFile(file) {
    const blocks = fs.readFileSync(file, 'latin1').match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)
    if (!blocks) throw new Error(`${file} has no certificate`)
    return new Anchors(blocks.map((pem) => new Certificate(der(pem))))
  }

  /** The roots that come with Node. */
  static ofNode() {
    return (Anchors.node ??= new Anchors(readable(tls.rootCertificates.map(der))))
  }
}

const der = (pem) => Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64')

/** What there is to search: the client's certificates, and what may still be spent on them. */
class Search {
  constructor(others, anchors) {
    Object.assign(this, { others, anchors, signatures: MOST_SIGNATURES, isComplete: true })
  }

  /** The paths from a certificate to an anchor on which all signatures are right. */
  * paths(path) {
    const last = path.at(-1)
    if (this.anchors.has(last)) yield path
    if (path.length > LONGEST_PATH) return
    const presented = this.others.filter(({ subject }) => subject === last.issuer)
    const issuers = [...this.anchors.named(last.issuer), ...presented]
    const seen = new Set(path.map(({ id }) => id))
    for (const issuer of issuers) {
      if (seen.has(issuer.id)) continue
      seen.add(issuer.id)
      if (!this.hasSigned(issuer, last)) continue
      yield* this.paths([...path, issuer])
    }
  }

  hasSigned(issuer, certificate) {
    if (this.signatures-- <= 0) {
      this.isComplete = false
      return false
    }
    try {
      return certificate.x509.verify(issuer.x509.publicKey)
    } catch {
      // A key that Node cannot use.
      this.isComplete = false
      return false
    }
  }
}

/** `trusted`, or why not; undefined if it cannot be told. */
function judge(own, others, anchors, now) {
  const search = new Search(others, anchors)
  const results = []
  for (const path of search.paths([own])) {
    const result = objection(path, now) ?? (isJudged(path) ? 'trusted' : undefined)
    if (result === 'trusted') return result
    results.push(result)
  }
  if (!search.isComplete || results.includes(undefined)) return undefined
  return results[0] ?? 'unknown-issuer'
}

/** What certainly speaks against a path. */
function objection(path, now) {
  if (path.some(({ notAfter }) => !(now <= notAfter))) return 'expired'
  if (path.some(({ notBefore }) => !(now >= notBefore))) return 'not-yet-valid'
  const hasPurpose = PURPOSES.some((purpose) => path.every((certificate) => certificate.isFor(purpose)))
  const isUsable = path[0].mayUseKeyFor([DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT])
  const isWeak = path.some(hasWeakKey) || path.slice(0, -1).some(({ algorithm }) => BROKEN_SIGNATURES.has(algorithm))
  return hasPurpose && isUsable && !isWeak && path.every(mayIssue) ? undefined : 'invalid'
}

/** Whether the certificate at this place of a path may issue those before it. */
function mayIssue(certificate, place, path) {
  if (place === 0) return true
  const { isAuthority, below } = certificate.authority
  const between = path.slice(1, place).filter((other) => !other.isSelfIssued).length
  return isAuthority && between <= below && certificate.mayUseKeyFor([CERTIFICATE_SIGNING])
}

function hasWeakKey({ x509 }) {
  const { modulusLength } = x509.publicKey.asymmetricKeyDetails ?? {}
  return modulusLength < 2048
}

/** Whether everything in a path is known here. */
function isJudged(path) {
  const isKnown = ([oid, { isCritical }]) => !isCritical || KNOWN_EXTENSIONS.has(oid)
  return path.every(({ extensions }) => [...extensions].every(isKnown)) &&
    path.slice(1).every(({ extensions }) => !UNJUDGED_CONSTRAINTS.some((oid) => extensions.has(oid))) &&
    path.slice(0, -1).every(({ algorithm }) => SOUND_SIGNATURES.has(algorithm)) &&
    path.every(hasKnownKey)
}

function hasKnownKey({ x509 }) {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = x509.publicKey
  return ['rsa', 'ed25519', 'ed448'].includes(type) || (type === 'ec' && SOUND_CURVES.has(details.namedCurve))
}

/** Trust, and the names of the authorities that the chain ends at. */
function judgeAll(own, others, authorities, now) {
  const results = [...authorities].map(([name, anchors]) => [name, judge(own, others, anchors, now)])
  const isUnknown = results.some(([, result]) => result === undefined)
  const anchors = results.filter(([, result]) => result === 'trusted').map(([name]) => name)
  if (anchors.length > 0) return { trust: 'trusted', anchor: isUnknown ? undefined : anchors }
  if (isUnknown) return {}
  const reasons = results.map(([, result]) => result)
  return { trust: reasons.find((reason) => reason !== 'unknown-issuer') ?? 'unknown-issuer', anchor: [] }
}

const oneLine = (name = '') => name.replaceAll('\n', ', ').slice(0, LONGEST_TEXT).toWellFormed()

/**
 * The facts of a client's certificates in DER, its own first. An authority is a name with anchors. A resumed session
 * has the client's own certificate only. Never throws: what cannot be read is unknown.
 */
function certificateFacts(chain, authorities, { isResumed = false, now = Date.now() } = {}) {
  const facts = { sha256: hex(sha256(chain[0])) }
  try {
    const own = new Certificate(chain[0])
    const others = readable(chain.slice(1, 1 + MOST_CERTIFICATES))
    const { trust, anchor } = judgeAll(own, others, authorities, now)
    const isCut = isResumed && trust === 'unknown-issuer'
    return withUnknown({
      ...facts,
      'dns-names': own.names,
      subject: oneLine(own.x509.subject),
      issuer: oneLine(own.x509.issuer),
      'key-sha256': hex(sha256(own.key)),
      'not-after': Number.isNaN(own.notAfter) ? undefined : new Date(own.notAfter).toISOString(),
      trust: isCut ? undefined : trust,
      anchor: isCut ? undefined : anchor,
    })
  } catch {
    return withUnknown(facts)
  }
}

/** The facts that are known, and the names of the others. */
function withUnknown(facts) {
  const known = Object.entries(facts).filter(([, fact]) => fact !== undefined)
  return { ...Object.fromEntries(known), unknown: FACTS.filter((name) => facts[name] === undefined) }
}

/** One that cannot be read is part of no path. */
function readable(chain) {
  return chain.flatMap((octets) => {
    try {
      return [new Certificate(octets)]
    } catch {
      return []
    }
  })
}

/** The certificates of Node's `getPeerCertificate(true)` in DER: each leads to its issuer, a root to itself. */
function presented(certificate) {
  const chain = []
  const seen = new Set()
  for (let it = certificate; it?.raw && !seen.has(it) && chain.length <= MOST_CERTIFICATES; it = it.issuerCertificate) {
    seen.add(it)
    chain.push(it.raw)
  }
  return chain
}

module.exports = { Anchors, PUBLIC, certificateFacts, presented }
