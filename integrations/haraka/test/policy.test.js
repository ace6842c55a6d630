'use strict'

const assert = require('node:assert/strict')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { after, it } = require('node:test')

const { Policy } = require('../lib/policy')
const { BODIES, ofBody, ofRules } = require('./helpers/component')

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'portcullis-policy-'))
after(() => fs.rmSync(folder, { recursive: true }))

const CONTEXT = { 'direction': 'inbound', 'mail-from': 'a@example.org', 'rcpt-to': 'b@contoso.com' }

function write(name, contents) {
  const file = path.join(folder, name)
  fs.writeFileSync(file, contents)
  return file
}

it('a policy that is replaced ends when the last transaction with it does', async () => {
  const file = write('policy.wasm', ofBody(BODIES.accepting))
  const policy = await Policy.ofComponent(file, 5000)
  const isOpen = async () => assert.equal((await policy.evaluate(CONTEXT)).verdict, 'accept')
  policy.hold()
  policy.release()
  policy.hold()
  policy.hold()
  policy.replace()
  await isOpen()
  policy.release()
  await isOpen()
  policy.release()
  await assert.rejects(policy.evaluate(CONTEXT), /the policy is closed/)
  const other = await Policy.ofComponent(file, 5000)
  const answer = other.evaluate(CONTEXT)
  other.replace()
  assert.equal((await answer).verdict, 'accept')
  await assert.rejects(other.evaluate(CONTEXT), /the policy is closed/)
})

it('a policy that is not accepted is told of with its file', async () => {
  const rules = write('rules.json', '{"connectors": [{"name": 1}]}')
  for (const timeout of [0, 5000]) {
    await assert.rejects(Policy.ofRules(rules, timeout), ({ message }) => message.includes(`; ${rules}:1:26: expected`))
  }
  const component = write('other.wasm', ofRules('{"connectors": []}').subarray(0, 5000))
  await assert.rejects(Policy.ofComponent(component, 5000), { message: `${component}: the component is cut off` })
  await assert.rejects(Policy.ofRules(path.join(folder, 'none'), 0), /ENOENT/)
})

it('recipients of one domain are alike for rules only', async () => {
  const document = '{"connectors": [{"name": "a", "direction": "inbound", "from": {"sender-domains": ["a.com"]}, ' +
    '"match-header-from": true}]}'
  for (const [policy, byDomain] of [
    [await Policy.ofRules(write('rules.json', document), 0), true],
    [await Policy.ofComponent(write('policy.wasm', ofRules(document)), 0), false],
  ]) {
    assert.deepEqual([policy.readsHeader, policy.decidesByDomain], [true, byDomain])
  }
})
