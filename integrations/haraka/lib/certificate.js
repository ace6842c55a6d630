'use strict'
// What stands in a certificate. Node tells names in one string and most extensions not at all, so the DER is read here.

const { createHash, X509Certificate } = require('node:crypto')

const OID = {
  commonName: '550403',
  subjectAltName: '551d11',
  keyUsage: '551d0f',
  basicConstraints: '551d13',
  extendedKeyUsage: '551d25',
}

const [BOOLEAN, INTEGER, VERSION, EXTENSIONS, DNS_NAME] = [0x01, 0x02, 0xa0, 0xa3, 0x82]
// UTF8String, PrintableString, TeletexString, IA5String.
const TEXTS = new Set([0x0c, 0x13, 0x14, 0x16])

/** The elements that follow each other in these octets: their tags, contents, and whole forms. */
function elements(octets) {
  const found = []
  for (let at = 0; at < octets.length;) {
    const [tag, first] = [octets[at], octets[at + 1]]
    let [start, length] = [at + 2, first]
    if (first > 0x80) {
      const size = first & 0x7f
      if (size > 4) throw new Error('an element is too long')
      length = octets.readUIntBE(start, size)
      start += size
    }
    const end = start + length
    // A length of 0x80 is indefinite, which DER forbids; a missing one is NaN.
    if (first === 0x80 || !(end <= octets.length)) throw new Error('an element has no end')
    found.push({ tag, contents: octets.subarray(start, end), whole: octets.subarray(at, end) })
    at = end
  }
  return found
}

const hex = (octets) => octets.toString('hex')

/** The SHA-256 of some octets. */
const sha256 = (octets) => createHash('sha256').update(octets).digest()

class Certificate {
  /** Throws if it cannot be read. */
  constructor(der) {
    this.raw = der
    this.id = hex(sha256(der))
    this.x509 = new X509Certificate(der)
    const [certificate] = elements(der)
    const [body, algorithm] = elements(certificate.contents)
    const fields = elements(body.contents)
    if (fields[0].tag === VERSION) fields.shift()
    const [, , issuer, , subject, key, ...rest] = fields
    this.algorithm = hex(elements(algorithm.contents)[0].contents)
    this.issuer = hex(issuer.whole)
    this.subject = hex(subject.whole)
    this.key = key.whole
    this.subjectFields = subject.contents
    this.extensions = extensions(rest.find((field) => field.tag === EXTENSIONS))
    this.notBefore = Date.parse(this.x509.validFrom)
    this.notAfter = Date.parse(this.x509.validTo)
  }

  get isSelfIssued() {
    return this.issuer === this.subject
  }

  /** The SAN dNSNames; where there is no SAN at all, the subject's CN. */
  get names() {
    return this.extensions.has(OID.subjectAltName) ? this.dnsNames : this.commonNames
  }

  get dnsNames() {
    const alternatives = elements(this.extensions.get(OID.subjectAltName).value)[0]
    const names = elements(alternatives.contents).filter(({ tag }) => tag === DNS_NAME)
    // They are IA5Strings (RFC 5280 section 4.2.1.6): what has other characters is no name.
    return names.filter(({ contents }) => contents.every((octet) => octet < 0x80)).map(text)
  }

  get commonNames() {
    const attributes = elements(this.subjectFields).flatMap((set) => elements(set.contents))
    return attributes
      .map((attribute) => elements(attribute.contents))
      .filter(([type, value]) => hex(type.contents) === OID.commonName && TEXTS.has(value.tag))
      .map(([, value]) => text(value))
  }

  /** Whether it is an authority's, and how many authorities may follow below it. */
  get authority() {
    const extension = this.extensions.get(OID.basicConstraints)
    const fields = extension ? elements(elements(extension.value)[0].contents) : []
    const isAuthority = fields.some(({ tag, contents }) => tag === BOOLEAN && contents[0] !== 0)
    const below = fields.find(({ tag }) => tag === INTEGER)
    return { isAuthority, below: below ? below.contents.readUIntBE(0, below.contents.length) : Infinity }
  }

  /** Whether the key may be used for one of these; bit 0 is digitalSignature. */
  mayUseKeyFor(bits) {
    const extension = this.extensions.get(OID.keyUsage)
    if (!extension) return true
    const [, ...octets] = elements(extension.value)[0].contents
    return bits.some((bit) => octets[bit >> 3] & (0x80 >> (bit & 7)))
  }

  /** Whether the extended key usage is absent, or has this purpose. */
  isFor(purpose) {
    const extension = this.extensions.get(OID.extendedKeyUsage)
    if (!extension) return true
    return elements(elements(extension.value)[0].contents).some(({ contents }) => hex(contents) === purpose)
  }
}

function extensions(field) {
  const all = new Map()
  for (const extension of field ? elements(elements(field.contents)[0].contents) : []) {
    const parts = elements(extension.contents)
    const isCritical = parts[1].tag === BOOLEAN && parts[1].contents[0] !== 0
    const oid = hex(parts[0].contents)
    if (all.has(oid)) throw new Error('an extension stands twice')
    all.set(oid, { isCritical, value: parts.at(-1).contents })
  }
  return all
}

const text = ({ contents }) => contents.toString('utf8')

module.exports = { Certificate, hex, sha256 }
