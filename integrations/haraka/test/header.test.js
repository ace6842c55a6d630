'use strict'

const assert = require('node:assert/strict')
const { describe, it } = require('node:test')

const { headerFrom } = require('../lib/header')

const read = (...lines) => headerFrom(lines)
const domains = (...lines) => read(...lines).fact.map((address) => address.split('@')[1]).sort()

describe('a From field', () => {
  it('that is clear has its addresses', () => {
    for (const [field, ...expected] of [
      ['alice@contosobank.com', 'alice@contosobank.com'],
      ['<alice@contosobank.com>', 'alice@contosobank.com'],
      ['Alice Smith <alice@contosobank.com>', 'alice@contosobank.com'],
      ['"alice@example.org" <alice@contosobank.com>', 'alice@contosobank.com'],
      ['"Smith, \\"A\\"" <alice@contosobank.com>', 'alice@contosobank.com'],
      ['=?utf-8?q?carol=40example.org?= <alice@contosobank.com>', 'alice@contosobank.com'],
      ['J. Doe <j@a.com>, k@b.com', 'j@a.com', 'k@b.com'],
      ['Zoë <z@bücher.example>', 'z@bücher.example'],
      ['\r\n carol\r\n\t<alice@CONTOSOBANK.com>', 'alice@CONTOSOBANK.com'],
    ]) {
      const { fact, isClear } = read('Subject: x\r\n', `From: ${field}\r\n`, 'To: a@b.example\r\n')
      assert.deepEqual([isClear, fact], [true, expected], field)
    }
  })

  it('that is not clear has every address that a reader could see', () => {
    for (const [lines, ...expected] of [
      [['From: (carol@example.org) alice@contosobank.com\n'], 'contosobank.com', 'example.org'],
      [['From: Team: carol@example.org, alice@contosobank.com;\n'], 'contosobank.com', 'example.org'],
      [['From: carol@example.org\n', 'From: alice@contosobank.com\n'], 'contosobank.com', 'example.org'],
      [['From : a@x.com\n', 'FROM: b@y.com\n'], 'x.com', 'y.com'],
      [['From\u00a0: alice@contosobank.com\n', 'From: carol@example.org\n'], 'contosobank.com', 'example.org'],
      [['Subject: x\r\n From: alice@contosobank.com\r\n'], 'contosobank.com'],
      [['From alice@contosobank.com Mon\n', 'From: carol@example.org\n'], 'contosobank.com', 'example.org'],
      [['no field\n', 'From: alice@contosobank.com\n'], 'contosobank.com'],
      [['From: <@example.org:alice@contosobank.com>\n'], 'contosobank.com', 'example.org'],
      [['From: "carol <alice@contosobank.com>\n'], 'contosobank.com'],
      [['From: =?utf-8?q?alice=40contosobank.com?=\n'], 'contosobank.com'],
      [['From: =?utf-8?b?YWxpY2VAY29udG9zb2JhbmsuY29t?=\n'], 'contosobank.com'],
      [['From: alice@contoso(x)bank.com\n'], 'contosobank.com'],
      [['From: alice\uff20contosobank.com\n'], 'contosobank.com'],
      [['From: alice@contosobank.com,\n'], 'contosobank.com'],
      [['From: "a b"@contosobank.com\n'], 'contosobank.com'],
      [['From: alice@contosobank.com\u00a0x\n'], 'contosobank.com'],
      [['From: alice@bücher\u200b.example\n'], 'bücher', 'bücher.example'],
      [['From: alice@.contosobank.com.\n'], 'contosobank.com'],
    ]) {
      assert.equal(read(...lines).isClear, false, lines.join())
      // There may be more, which only makes the policy stricter.
      for (const domain of expected) assert.ok(domains(...lines).includes(domain), lines.join())
    }
    assert.ok(domains('From: alice@contoso\ufffdbank.com\n').includes('contosobank.com'))
    assert.ok(domains('From: alice@contoso\rbank.com\n').some((domain) => domain.startsWith('contoso')))
  })

  // What has another sign is no address for a policy, and would defer the mail.
  it('has domains without white space and invisible signs', () => {
    for (const sign of '\t\u0085\u00a0\u1680\u2003\u200b\u200f\u2028\u3000\ufeff') {
      for (const domain of domains(`From: alice@contoso${sign}bank.com (x@y${sign}.com)\n`)) {
        assert.doesNotMatch(domain, /[\s\p{Cc}\u200b-\u200f]/u, JSON.stringify(sign))
      }
    }
  })

  it('that is missing has no address', () => {
    assert.deepEqual(domains('Subject: x\n'), [])
    assert.deepEqual(domains('Resent-From: carol@example.org\n'), [])
    assert.deepEqual(domains(), [])
  })

  it('that is too much to read is unknown', () => {
    assert.equal(read(`From: ${'a@b.c, '.repeat(2000)}\n`).fact, 'unknown')
    const many = Array.from({ length: 300 }, (_, place) => `(a@${place}.com)`).join('')
    assert.equal(read(`From: ${many}\n`).fact, 'unknown')
    assert.equal(read(`X: ${'x'.repeat(300_000)}\n`, 'From: a@b.c\n').fact, 'unknown')
  })

  // An expression that goes back and forth would not end.
  it('that is made to be slow is read to the end', () => {
    for (const piece of ['"', '(', 'a', 'a ', 'a.', 'a.b', '<', '=?a?q?', '@', '.', '@.', '"\\', 'a@', ' ', ',']) {
      read(`From: ${piece.repeat(8000 / piece.length)}\n`)
    }
  })

  it('of a session with HELO is in single octets', () => {
    const octets = Buffer.from('From: z@bücher.example\n').toString('latin1')
    assert.deepEqual(headerFrom([octets], true).fact, ['z@bücher.example'])
  })
})
