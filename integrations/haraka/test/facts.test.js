'use strict'

const assert = require('node:assert/strict')
const { describe, it } = require('node:test')

const { addressText, sessionFacts } = require('../lib/facts')

const settings = { certificatesRequested: true, authorities: new Map() }
const facts = (connection, more) => sessionFacts(connection, { ...settings, ...more })
const socket = (more) => ({ getProtocol: () => 'TLSv1.3', getPeerCertificate: () => ({}), ...more })
const encrypted = (client, more) => ({ tls: { enabled: true, cipher: {} }, client, ...more })

describe('a client address', () => {
  const address = (ip) => facts({ remote: { ip } })['client-ip']

  it('is IPv4 or IPv6, without a zone', () => {
    for (const text of ['203.0.113.7', '::ffff:203.0.113.7', '2001:db8:7::1', '::']) assert.equal(address(text), text)
    assert.equal(address('fe80::1%eth0'), 'fe80::1')
  })

  it('that is none is unknown', () => {
    for (const text of ['', 'unknown', undefined, null, '1.2.3', '::1::']) assert.equal(address(text), 'unknown')
  })
})

describe('the protection of a session', () => {
  it('is none without TLS', () => {
    for (const connection of [{ tls: { enabled: false } }, {}]) assert.ok(!('tls' in facts(connection)))
  })

  it('is unknown behind XCLIENT', () => {
    assert.equal(facts({ xclient: true }).tls, 'unknown')
    assert.equal(facts(encrypted(socket(), { xclient: true })).tls, 'unknown')
  })

  it('has the version, which may be unknown', () => {
    const version = (name) => facts(encrypted(socket({ getProtocol: () => name }))).tls.version
    assert.equal(version('TLSv1.3'), 'TLSv1.3')
    assert.equal(version('TLSv1.2'), 'TLSv1.2')
    assert.equal(version('TLSv9'), 'unknown')
    assert.equal(version(null), 'unknown')
  })

  it('has no certificate only if one was requested', () => {
    const certificate = (client, more) => facts(encrypted(client), more).tls.certificate
    assert.equal(certificate(socket()), undefined)
    assert.equal(certificate({ cleartext: socket() }), undefined)
    assert.equal(certificate(socket({ _tlsOptions: { requestCert: true } })), undefined)
    assert.equal(certificate(socket({ _tlsOptions: { requestCert: false } })), 'unknown')
    assert.equal(certificate(socket(), { certificatesRequested: false }), 'unknown')
    assert.equal(certificate(socket({ getPeerCertificate: () => null })), 'unknown')
    assert.equal(certificate({}), 'unknown')
    assert.equal(certificate(undefined), 'unknown')
  })
})

it('an envelope address is a text in this release of Haraka, and was a method', () => {
  assert.equal(addressText({ address: 'a@contoso.com' }), 'a@contoso.com')
  assert.equal(addressText({ address: () => 'a@contoso.com' }), 'a@contoso.com')
  assert.equal(addressText({ address: '' }), '')
  assert.equal(addressText({ address: () => null }), '')
})
