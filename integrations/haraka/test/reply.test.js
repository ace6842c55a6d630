'use strict'

const assert = require('node:assert/strict')
const { it } = require('node:test')

const { deferral, refusal } = require('../lib/reply')

const reply = (verdict, code, enhanced, text = 'no', note) => {
  const { isPermanent, dsn } = refusal({ verdict, code, enhanced, text }, 'ID.1', note)
  return [isPermanent, dsn.code, dsn.reply]
}

it('a verdict is told with its code', () => {
  assert.equal(refusal({ verdict: 'accept' }), undefined)
  assert.deepEqual(reply('reject', 554, '5.7.0'), [true, 554, '5.7.0 no [ID.1]'])
  assert.deepEqual(reply('defer', 421, '4.3.2'), [false, 421, '4.3.2 no [ID.1]'])
})

it('a text is one printable line that fits', () => {
  assert.equal(reply('reject', 550, '5.7.1', 'a\r\n250 b\u001b\u202e')[2], '5.7.1 a  250 b ? [ID.1]')
  assert.ok(reply('reject', 550, '5.7.1', 'é'.repeat(5000))[2].length < 420)
  assert.equal(reply('reject', 550, '5.7.1', 'no', 'read so: ')[2], '5.7.1 read so: no [ID.1]')
  assert.equal(reply('defer', 451, '4.7.0', 'no', 'read so: ')[2], '4.7.0 no [ID.1]')
  assert.equal(String(deferral(451, '4.3.0', 'later').dsn), '4.3.0 later')
})
