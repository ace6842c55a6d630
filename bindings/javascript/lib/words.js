// Contexts and verdicts: the JSON of docs/spec.md, and the values of wit/policy.wit as JavaScript has them.

import { PolicyError } from './errors.js'

const UNKNOWN = 'unknown'
// The first name of a version is the one that is written.
const VERSIONS = { 'TLSv1': 0x0301, 'TLSv1.0': 0x0301, 'TLSv1.1': 0x0302, 'TLSv1.2': 0x0303, 'TLSv1.3': 0x0304 }
const TRUST = ['trusted', 'expired', 'unknown-issuer', 'not-yet-valid', 'revoked', 'invalid']
const CERTIFICATE = ['dns-names', 'subject', 'issuer', 'sha256', 'key-sha256', 'not-after', 'trust', 'anchor', 'unknown']
const FACTS = ['dns-names', 'sha256', 'key-sha256', 'not-after', 'trust', 'anchor']
const CONTEXT = ['direction', 'client-ip', 'helo', 'tls', 'mail-from', 'rcpt-to', 'header-from', 'certificate-common-name']

const HALF = /\p{Surrogate}/u

const wrong = (what) => new PolicyError('context', what)

/** A JSON object that has no other fields; `null` is no fact. */
function fields(value, known, where) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(`${where || 'a context'} is an object`)
  const prefix = where ? `${where}.` : ''
  for (const [name, found] of Object.entries(value)) {
    if (!known.includes(name)) throw wrong(`${prefix}${name}: there is no such field`)
    if (found === null || found === undefined) throw wrong(`${prefix}${name}: null is no fact: leave it out, or say "unknown"`)
  }
  return value
}

function text(value, where) {
  if (typeof value !== 'string') throw wrong(`${where} is a text`)
  // Half of a surrogate pair has no UTF-8. Another character in its place would be another name.
  if (HALF.test(value)) throw wrong(`${where} has half of a surrogate pair`)
  return value
}

function texts(value, where) {
  if (!Array.isArray(value)) throw wrong(`${where} is a list of texts`)
  return Array.from(value, (each, number) => text(each, `${where}[${number}]`))
}

const SPACE = /\p{White_Space}/u
const FOREIGN = /[\p{White_Space}\p{Cc}<>,;"()\u200b-\u200f\ufeff]/u
const QUOTED = /^"(?:[^"\\]|\\[^])*"$/u

/** Without white space around it. `trim` takes U+FEFF for that; an expression for both ends takes quadratic time. */
function trimmed(written) {
  let [start, end] = [0, written.length]
  while (start < end && SPACE.test(written[start])) start++
  while (start < end && SPACE.test(written[end - 1])) end--
  return written.slice(start, end)
}

/**
 * The address in a text that people write for one: alone, in angle brackets, or behind a name. A text that could be read
 * as an address of another domain is none.
 */
function mailbox(value, where) {
  let inside = trimmed(text(value, where))
  if (inside.endsWith('>')) {
    const start = inside.lastIndexOf('<')
    const before = inside.slice(0, Math.max(start, 0))
    inside = start < 0 || /[<>]/.test(before) ? undefined : inside.slice(start + 1, -1)
  }
  const at = inside?.lastIndexOf('@')
  const [local, domain] = at >= 0 ? [inside.slice(0, at), inside.slice(at + 1)] : ['', inside ?? '']
  const isLocal = local.startsWith('"') ? QUOTED.test(local) : !FOREIGN.test(local) && !local.includes('@')
  if (inside === undefined || FOREIGN.test(domain) || !isLocal) {
    throw wrong(`${where}: ${JSON.stringify(value)} is not an address such as "alice@contosobank.com"`)
  }
  return inside
}

function mailboxes(value) {
  if (!Array.isArray(value)) throw wrong('header-from is a list of addresses')
  return Array.from(value, (each, number) => mailbox(each, `header-from[${number}]`))
}

function oneOf(value, words, where) {
  if (!words.includes(value)) throw wrong(`${where} is one of ${words.join(', ')}`)
  return value
}

/** `known` of what is there, or the case of what is not. */
const orUnknown = (value, known, absent) => {
  if (value === undefined) return { tag: absent }
  return value === UNKNOWN ? { tag: UNKNOWN } : known(value)
}

/** A context as the interface has it. */
export function context(json) {
  fields(json, CONTEXT, '')
  const direction = oneOf(json.direction, ['inbound', 'outbound'], 'direction')
  if (json['mail-from'] === undefined && direction === 'inbound') throw wrong('mail-from is missing')
  if (json['rcpt-to'] === undefined) throw wrong('rcpt-to is missing')
  const name = json['certificate-common-name']
  return {
    direction,
    clientIp: orUnknown(json['client-ip'], (it) => ({ tag: 'known', val: address(it) }), 'none'),
    helo: json.helo === undefined ? undefined : text(json.helo, 'helo'),
    security: orUnknown(json.tls, (it) => ({ tag: 'encrypted', val: tls(it) }), 'plaintext'),
    mailFrom: mailbox(json['mail-from'] ?? '', 'mail-from'),
    rcptTo: mailbox(json['rcpt-to'], 'rcpt-to'),
    headerFrom: orUnknown(json['header-from'], (it) => ({ tag: 'addresses', val: mailboxes(it) }), 'pending'),
    attributes: name === undefined ? [] : [{ name: 'certificate-common-name', value: text(name, 'certificate-common-name') }],
  }
}

function tls(json) {
  fields(json, ['version', 'cipher', 'certificate'], 'tls')
  if (json.version === undefined) throw wrong('tls.version is missing')
  return {
    version: json.version === UNKNOWN ? undefined : version(json.version),
    cipher: text(json.cipher ?? '', 'tls.cipher'),
    certificate: orUnknown(json.certificate, (it) => ({ tag: 'presented', val: certificate(it) }), 'none'),
  }
}

function version(name) {
  if (!Object.hasOwn(VERSIONS, text(name, 'tls.version'))) throw wrong(`tls.version: ${JSON.stringify(name)} is no version of TLS`)
  return VERSIONS[name]
}

function certificate(json) {
  const at = 'tls.certificate'
  fields(json, CERTIFICATE, at)
  const unknown = texts(json.unknown ?? [], `${at}.unknown`)
  unknown.forEach((name) => oneOf(name, FACTS, `${at}.unknown`))
  // What is there is read, also if it is said to be unknown.
  const known = (name, read) => unknown.includes(name) ? undefined : read
  const optional = (name, of) => known(name, json[name] === undefined ? undefined : of(json[name]))
  if (json.trust === undefined && !unknown.includes('trust')) {
    throw wrong(`${at}.trust is missing; "unknown": ["trust"] says that it is not known`)
  }
  const trust = optional('trust', (value) => oneOf(value, TRUST, `${at}.trust`))
  const usual = trust === undefined ? undefined : trust === 'trusted' ? ['public'] : []
  return {
    dnsNames: known('dns-names', texts(json['dns-names'] ?? [], `${at}.dns-names`)),
    subject: text(json.subject ?? '', `${at}.subject`),
    issuer: text(json.issuer ?? '', `${at}.issuer`),
    sha256: optional('sha256', (value) => digest(value, `${at}.sha256`)),
    keySha256: optional('key-sha256', (value) => digest(value, `${at}.key-sha256`)),
    notAfter: optional('not-after', (value) => moment(value, `${at}.not-after`)),
    trust,
    anchors: known('anchor', json.anchor === undefined ? usual : anchors(json.anchor, `${at}.anchor`)),
  }
}

const anchors = (value, where) => Array.isArray(value) ? texts(value, where) : [text(value, where)]

/** A SHA-256 in hexadecimal, as four words. */
function digest(value, where) {
  const digits = text(value, where).replaceAll(':', '')
  if (!/^[0-9a-f]{64}$/i.test(digits)) throw wrong(`${where} is no SHA-256 in hexadecimal`)
  return [0, 16, 32, 48].map((at) => BigInt(`0x${digits.slice(at, at + 16)}`))
}

const MOMENT = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))$/
// The first second of the year 0, and the last one of 9999.
const [FIRST, LAST] = [-62_167_219_200, 253_402_300_799]

/** A time of RFC 3339 in seconds. `Date.parse` takes more, and reads days that a month does not have. */
function moment(value, where) {
  const found = MOMENT.exec(text(value, where))
  const seconds = found ? secondsOf(found) : NaN
  // With its offset, a time may be in a year of UTC that cannot be written.
  if (!(seconds >= FIRST && seconds <= LAST)) throw wrong(`${where} is no time such as 2027-01-01T00:00:00Z`)
  return BigInt(seconds)
}

function secondsOf([, year, month, day, hour, minute, second, sign, hours = '0', minutes = '0']) {
  const date = new Date(0)
  // `Date.UTC` takes the first hundred years for those of the twentieth century.
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day))
  const isDay = date.getUTCDate() === Number(day) && date.getUTCMonth() === Number(month) - 1
  const isTime = hour < 24 && minute < 60 && second <= 60 && hours < 24 && minutes < 60
  if (!isDay || !isTime) return NaN
  const offset = (Number(hours) * 60 + Number(minutes)) * (sign === '-' ? -60 : 60)
  const seconds = date.getTime() / 1000 + Number(hour) * 3600 + Number(minute) * 60 + Number(second) - offset
  if (second !== '60') return seconds
  // A leap second is the last one of a month in UTC, and counts as the second before it.
  const isLeap = seconds % 86_400 === 0 && new Date(seconds * 1000).getUTCDate() === 1
  return isLeap ? seconds - 1 : NaN
}

/** An address as the interface has it. */
function address(value) {
  const written = text(value, 'client-ip')
  const octets = v4(written) ?? v6(written)
  if (!octets) throw wrong(`client-ip: ${JSON.stringify(value)} is no IP address`)
  const word = (from, to) => octets.slice(from, to).reduce((all, octet) => all * 256n + BigInt(octet), 0n)
  const isMapped = octets.length === 16 && word(0, 12) === 0xffffn
  if (octets.length === 4) return { tag: 'ipv4', val: Number(word(0, 4)) }
  if (isMapped) return { tag: 'ipv4', val: Number(word(12, 16)) }
  return { tag: 'ipv6', val: [word(0, 8), word(8, 16)] }
}

function v4(written) {
  const parts = written.split('.')
  const isPart = (part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256
  return parts.length === 4 && parts.every(isPart) ? parts.map(Number) : undefined
}

/** The octets of RFC 4291 section 2.2. */
function v6(written) {
  const halves = written.split('::')
  if (halves.length > 2) return undefined
  const read = (half, isLast) => {
    if (half === '') return []
    const groups = half.split(':')
    return groups.flatMap((group, number) => {
      if (isLast && number === groups.length - 1 && group.includes('.')) return v4(group) ?? [NaN]
      return /^[0-9a-f]{1,4}$/i.test(group) ? [parseInt(group, 16) >> 8, parseInt(group, 16) & 255] : [NaN]
    })
  }
  const parts = halves.map((half, number) => read(half, number === halves.length - 1))
  const length = parts.flat().length
  if (parts.flat().some(Number.isNaN)) return undefined
  if (halves.length === 1) return length === 16 ? parts[0] : undefined
  return length <= 14 ? [...parts[0], ...Array(16 - length).fill(0), ...parts[1]] : undefined
}

/** A verdict on mail of that direction, as JSON: one that can be carried out. */
export function verdict({ tag, val }, direction) {
  switch (tag) {
    case 'accept':
      if (direction !== 'inbound') throw new PolicyError('verdict', 'the policy answers outbound mail with an inbound verdict')
      return { verdict: tag, connectors: val.connectors.map(line), audit: audit(val.audit) }
    case 'reject': return refusal(tag, val, 5, [550, '5.7.1'])
    case 'defer': return refusal(tag, val, 4, [451, '4.7.1'])
    case 'deliver':
      if (direction !== 'outbound') throw new PolicyError('verdict', 'the policy answers inbound mail with an outbound verdict')
      return { verdict: tag, ...delivery(val) }
    default: throw new PolicyError('verdict', `${tag} is no verdict`)
  }
}

const OUTCOMES = { yes: true, no: false, unknown: 'unknown' }

/** A connector that was considered, as JSON. */
export function consideration({ connector, mode, matched, selectors, requirements }) {
  return {
    connector: line(connector),
    mode,
    matched: OUTCOMES[matched],
    selectors: selectors.map((it) => ({
      selector: line(it.selector), matched: OUTCOMES[it.matched], pattern: line(it.pattern), fact: line(it.fact),
    })),
    requirements: requirements.map((it) => ({
      requirement: line(it.requirement), satisfied: OUTCOMES[it.satisfied], expected: line(it.expected), fact: line(it.fact),
    })),
  }
}

// What controls a terminal or ends a line, and what turns the direction of writing.
const STEERING = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu
const line = (text) => text.replace(STEERING, ' ')
const audit = (findings) => findings.map(({ connector, failed }) => ({ connector: line(connector), failed: line(failed) }))

const optional = (name, value) => value === undefined ? {} : { [name]: value }
const unlessEmpty = (name, list) => list.length === 0 ? {} : { [name]: list }
const unlessUsual = (name, value) => value === 'opportunistic' ? {} : { [name]: value }

/** The code is of the class of the verdict: a host sends it as it is. */
function refusal(tag, { connector, failed, code, enhanced, text, audit: findings }, kind, [usualCode, usualEnhanced]) {
  const isCode = code >= 100 * kind && code < 100 * kind + 60
  const isEnhanced = new RegExp(`^${kind}\\.(0|[1-9]\\d{0,2})\\.(0|[1-9]\\d{0,2})$`).test(enhanced)
  return {
    verdict: tag,
    ...optional('connector', connector === undefined ? undefined : line(connector)),
    failed: line(failed),
    code: isCode ? code : usualCode,
    enhanced: isEnhanced ? enhanced : usualEnhanced,
    text: line(text),
    ...unlessEmpty('audit', audit(findings)),
  }
}

function delivery({ connector, route, tls, auditTls, auditConnector, audit: findings }) {
  return {
    ...optional('connector', connector),
    route: route.tag === 'mx' ? 'mx' : { 'smart-hosts': route.val.map(smartHost) },
    tls: level(tls),
    ...published(tls),
    ...(auditTls ? { 'audit-tls': { ...level(auditTls), ...published(auditTls) } } : {}),
    ...optional('audit-connector', auditConnector),
    audit: audit(findings),
  }
}

function smartHost({ host, port }) {
  const name = host.tag === 'name' ? host.val : `[${shown(host.val)}]`
  return port === undefined ? name : `${name}:${port}`
}

function level({ level, minVersion, fingerprints, keys, authorities }) {
  return {
    level: level.tag,
    ...optional('names', level.val),
    ...(minVersion === undefined ? {} : { 'min-version': nameOf(minVersion) }),
    ...unlessEmpty('certificate-fingerprints', fingerprints.map(hexadecimal)),
    ...unlessEmpty('certificate-keys', keys.map(hexadecimal)),
    ...unlessEmpty('certificate-authorities', authorities),
  }
}

const published = ({ dane, mtaSts }) => ({ ...unlessUsual('dane', dane), ...unlessUsual('mta-sts', mtaSts) })
const hexadecimal = (words) => words.map((word) => word.toString(16).padStart(16, '0')).join('')
const nameOf = (wanted) => Object.keys(VERSIONS).find((name) => VERSIONS[name] === wanted) ?? null

/** An address as people write it (RFC 5952). */
function shown({ tag, val }) {
  if (tag === 'ipv4') return [24, 16, 8, 0].map((shift) => (val >>> shift) & 255).join('.')
  const groups = val.flatMap((word) => [48n, 32n, 16n, 0n].map((shift) => (word >> shift) & 0xffffn))
  const plain = groups.map((group) => group.toString(16)).join(':')
  const runs = [...plain.matchAll(/(?<![0-9a-f])0(?::0)+(?![0-9a-f])/g)].map(([run]) => run)
  const longest = runs.reduce((best, run) => run.length > best.length ? run : best, '')
  return longest ? plain.replace(new RegExp(`(^|:)${longest}(:|$)`), '::') : plain
}
