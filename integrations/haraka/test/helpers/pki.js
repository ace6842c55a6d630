'use strict'
// Certificates of a test, made by the openssl command in a folder of its own.

const { execFileSync } = require('node:child_process')
const { X509Certificate } = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const AUTHORITY = ['basicConstraints=critical,CA:true', 'keyUsage=critical,keyCertSign,cRLSign']

class Pki {
  constructor() {
    this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'portcullis-pki-'))
    this.count = 0
  }

  remove() {
    fs.rmSync(this.folder, { recursive: true })
  }

  /** A root. */
  root(name, options) {
    return this.issue(undefined, name, { extensions: AUTHORITY, ...options })
  }

  /** An authority below another. */
  between(issuer, name, extra = [], options) {
    return this.issue(issuer, name, { extensions: [...AUTHORITY, ...extra], ...options })
  }

  /** A certificate; self-signed without an issuer. `sections` stand below the extensions. */
  issue(issuer, name, { extensions = [], sections = '', key, digest = 'sha256', days = 30 } = {}) {
    const file = path.join(this.folder, String(this.count++))
    const [keyFile, certFile, csr, config] = ['key', 'pem', 'csr', 'cnf'].map((ending) => `${file}.${ending}`)
    fs.writeFileSync(config, `[req]\ndistinguished_name=dn\n[dn]\n[ext]\n${extensions.join('\n')}\n${sections}\n`)
    if (key) fs.copyFileSync(key, keyFile)
    else this.key(keyFile)
    const common = ['-config', config, '-key', keyFile, '-subj', name, `-${digest}`]
    if (issuer) {
      this.openssl('req', '-new', ...common, '-out', csr)
      const by = ['-CA', issuer.certFile, '-CAkey', issuer.keyFile, '-set_serial', String(1000 + this.count)]
      const extended = ['-extfile', config, '-extensions', 'ext']
      this.openssl('x509', '-req', '-in', csr, ...by, ...extended, '-days', String(days), `-${digest}`, '-out', certFile)
    } else {
      this.openssl('req', '-new', '-x509', '-days', String(days), '-extensions', 'ext', ...common, '-out', certFile)
    }
    return new Issued(keyFile, certFile)
  }

  key(file) {
    this.openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', file)
  }

  /** An RSA key of that length. */
  rsa(bits) {
    const file = path.join(this.folder, `rsa${bits}.key`)
    this.openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`, '-out', file)
    return file
  }

  openssl(...words) {
    return execFileSync('openssl', words, { stdio: ['ignore', 'pipe', 'pipe'] })
  }
}

class Issued {
  constructor(keyFile, certFile) {
    Object.assign(this, { keyFile, certFile, key: fs.readFileSync(keyFile), pem: fs.readFileSync(certFile, 'latin1') })
    this.x509 = new X509Certificate(this.pem)
    this.der = this.x509.raw
  }

  /** What a TLS client presents, with the authorities in between. */
  with(...authorities) {
    return { key: this.key, cert: [this, ...authorities].map(({ pem }) => pem).join('') }
  }
}

module.exports = { Pki }
