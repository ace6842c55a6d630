'use strict'

const assert = require('node:assert/strict')
const { describe, it } = require('node:test')

const { addressText, sessionFacts } = require('../lib/facts')

const settings = { certificatesRequested: true, authorities: new Map() }
const facts = (connection, more) => sessionFacts(connection, { ...settings, ...more })
const socket = (more) => ({ getProtocol: () => 'TLSv1.3', getPeerCertificate: () => ({}), ...more })
const encrypted = (client, more) => ({ tls: { enabled: true, cipher: {} }, client, ...more })

describe('a client address', () => {
  const address = (ip) => facts({ remote: { ip } }).clientIp

  it('is IPv4 or IPv6, and a mapped one is IPv4', () => {
    const ipv4 = { tag: 'known', val: { tag: 'ipv4', val: 0xcb007107 } }
    for (const text of ['203.0.113.7', '::ffff:203.0.113.7', '::FFFF:cb00:7107', '0:0:0:0:0:ffff:203.0.113.7']) {
      assert.deepEqual(address(text), ipv4, text)
    }
    const ipv6 = (...val) => ({ tag: 'known', val: { tag: 'ipv6', val } })
    assert.deepEqual(address('2001:db8:7::1'), ipv6(0x20010db800070000n, 1n))
    assert.deepEqual(address('::'), ipv6(0n, 0n))
    assert.deepEqual(address('::1'), ipv6(0n, 1n))
    assert.deepEqual(address('2001:db8:7::'), ipv6(0x20010db800070000n, 0n))
    assert.deepEqual(address('1:2:3:4:5:6:7:8'), ipv6(0x0001000200030004n, 0x0005000600070008n))
    assert.deepEqual(address('fe80::1%eth0'), ipv6(0xfe80000000000000n, 1n))
    assert.deepEqual(address('64:ff9b::192.0.2.1'), ipv6(0x0064ff9b00000000n, 0xc0000201n))
  })

  it('that is none is unknown', () => {
    for (const text of ['', 'unknown', undefined, null, '1.2.3', '::1::']) {
      assert.deepEqual(address(text), { tag: 'unknown' })
    }
  })
})

describe('the protection of a session', () => {
  it('is none without TLS', () => {
    assert.deepEqual(facts({ tls: { enabled: false } }).security, { tag: 'plaintext' })
    assert.deepEqual(facts({}).security, { tag: 'plaintext' })
  })

  it('is unknown behind XCLIENT', () => {
    assert.deepEqual(facts({ xclient: true }).security, { tag: 'unknown' })
    assert.deepEqual(facts(encrypted(socket(), { xclient: true })).security, { tag: 'unknown' })
  })

  it('has the version, which may be unknown', () => {
    const version = (name) => facts(encrypted(socket({ getProtocol: () => name }))).security.val.version
    assert.equal(version('TLSv1.3'), 0x0304)
    assert.equal(version('TLSv1.2'), 0x0303)
    assert.equal(version('TLSv9'), undefined)
    assert.equal(version(null), undefined)
  })

  it('has no certificate only if one was requested', () => {
    const certificate = (client, more) => facts(encrypted(client), more).security.val.certificate.tag
    assert.equal(certificate(socket()), 'none')
    assert.equal(certificate({ cleartext: socket() }), 'none')
    assert.equal(certificate(socket({ _tlsOptions: { requestCert: true } })), 'none')
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
