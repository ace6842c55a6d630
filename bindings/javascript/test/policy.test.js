import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'

import { PolicyError, RulesError, load, ofTranspiled } from '../index.js'

// A `portcullis` that builds components, and the cases of the conformance kit.
const PORTCULLIS = process.env.PORTCULLIS_BIN
const CASES = process.env.PORTCULLIS_CASES ?? new URL('../../../conformance/cases', import.meta.url).pathname

const folder = mkdtempSync(join(tmpdir(), 'portcullis-'))
after(() => rmSync(folder, { recursive: true }))

const rules = {
  connectors: [
    { name: 'bank', direction: 'inbound', from: { 'sender-domains': ['bank.test'] }, require: { tls: true } },
  ],
}
const context = { direction: 'inbound', 'client-ip': '192.0.2.1', 'mail-from': 'a@bank.test', 'rcpt-to': 'b@c.test' }

/** What `portcullis build` makes of rules, or of the octets of a core module. */
function built(source) {
  const isModule = source instanceof Uint8Array
  const [from, to] = [join(folder, isModule ? 'in.core.wasm' : 'rules.json'), join(folder, 'policy.wasm')]
  writeFileSync(from, isModule ? source : JSON.stringify(source))
  execFileSync(PORTCULLIS, ['build', from, '-o', to], { stdio: 'ignore' })
  return readFileSync(to)
}

// Policies that `evaluate` in their own ways: the octets of their function bodies. All else is the smallest policy there is.
const BODIES = {
  trap: [0x00], // unreachable
  loop: [0x03, 0x40, 0x0c, 0x00, 0x0b, 0x00], // loop br 0 end unreachable
  recursion: [0x20, 0x00, 0x10, 0x01], // local.get 0, call evaluate
  // loop, while memory.grow (1 page) succeeds: br; end; unreachable
  memory: [0x03, 0x40, 0x41, 0x01, 0x40, 0x00, 0x41, 0x7f, 0x47, 0x0d, 0x00, 0x0b, 0x00],
  garbage: [0x41, 0xff, 0xff, 0xff, 0xff, 0x07], // i32.const 0x7fffffff: no verdict is there
}

/** i32.const of a small number. */
const address = (value) => [0x41, (value & 0x7f) | 0x80, ((value >> 7) & 0x7f) | 0x80, (value >> 14) & 0x7f]
/** Zeros, which are a description. */
const NOTHING = 60_000
/** Numbers as memory has them. */
const words = (...values) => [...new Uint8Array(new Uint32Array(values).buffer)]

/** A component whose `evaluate` and `explain` have such a body; with octets at 0, room for the context, and a description. */
function hostile(body, { data = [], realloc = 4096, describe = NOTHING } = {}) {
  const name = (text) => [text.length, ...Buffer.from(text)]
  const section = (kind, contents) => {
    const length = contents.length
    return [kind, (length & 0x7f) | 0x80, length >> 7, ...contents]
  }
  const size = (length) => [(length & 0x7f) | 0x80, length >> 7]
  const code = (octets) => [...size(octets.length + 2), 0x00, ...octets, 0x0b]
  const of = 'portcullis:policy/evaluation@0.1.0#'
  const exported = [
    [...name('cabi_realloc'), 0, 0], [...name(`${of}evaluate`), 0, 1], [...name(`${of}explain`), 0, 1],
    [...name(`${of}describe`), 0, 2], [...name('memory'), 2, 0],
  ]
  const module = [
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    // (i32 i32 i32 i32) -> i32, (i32) -> i32, (i32 i32) -> i32
    ...section(1, [3, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]),
    ...section(3, [3, 0, 1, 2]),
    ...section(5, [1, 0, 1]),
    ...section(7, [exported.length, ...exported.flat()]),
    ...section(10, [3, ...code(address(realloc)), ...code(body), ...code(address(NOTHING))]),
    ...section(11, [1, 0x00, ...address(0), 0x0b, ...size(data.length), ...data]),
  ]
  const component = built(new Uint8Array(module))
  // `portcullis build` has to see a description that is one.
  component.set(address(describe), component.indexOf(Buffer.from(address(NOTHING))))
  return component
}

const failsWith = (code, text) => (error) => {
  assert.ok(error instanceof PolicyError, error)
  assert.equal(error.code, code, error.message)
  assert.match(error.message, text)
  return true
}

describe('a policy', () => {
  it('decides as documents and components say', async () => {
    for (const source of [rules, JSON.stringify(rules), built(rules)]) {
      const policy = await load(source)
      const { verdict, connector, failed, code, text } = await policy.evaluate(context)
      assert.deepEqual([verdict, connector, failed, code], ['reject', 'bank', 'tls', 550])
      assert.match(text, /the session is not encrypted/)
      const { considered, others } = await policy.explain(context)
      assert.deepEqual([considered[0].connector, considered[0].matched, others], ['bank', true, 0])
      assert.deepEqual((await policy.describe()).reads, ['mail-from', 'tls'])
    }
  })

  it('gives the verdicts of all cases', async () => {
    let asked = 0
    for (const name of readdirSync(CASES)) {
      const { rules, cases } = JSON.parse(readFileSync(join(CASES, name), 'utf8'))
      for (const policy of [await load(rules), await load(built(rules))]) {
        for (const { name: title, context, verdict: expected } of cases) {
          const { text, ...found } = await policy.evaluate(context)
          assert.deepEqual(found, expected, `${name}: ${title}`)
          asked++
        }
      }
    }
    assert.ok(asked > 1400, `${asked} were asked`)
  })

  it('says what is wrong with rules', async () => {
    await assert.rejects(load('{"connectors": [{}]}'), (error) => {
      assert.ok(error instanceof RulesError)
      assert.equal(error.problems[0].code, 'missing-field')
      return failsWith('rules', /^1:17: the field "name" is missing/)(error)
    })
  })

  it('says what is no component', async () => {
    const octets = built(rules)
    await assert.rejects(load(new Uint8Array(0)), failsWith('component', /not a WebAssembly component/))
    await assert.rejects(load(octets.subarray(0, 1000)), failsWith('component', /cut off/))
    const core = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0])
    await assert.rejects(load(core), failsWith('component', /this is a core module/))
    const empty = new Uint8Array([0, 0x61, 0x73, 0x6d, 13, 0, 1, 0])
    await assert.rejects(load(empty), failsWith('import', /it has 0 core modules/))
    const other = new Uint8Array([...empty, 1, core.length, ...core])
    await assert.rejects(load(other), failsWith('component', /it does not export portcullis:policy/))
    // The functions of the component are not those of its core module with their names.
    const name = Buffer.from('portcullis:policy/evaluation@0.1.0#evaluate')
    const places = []
    for (let at = octets.indexOf(name); at >= 0; at = octets.indexOf(name, at + 1)) places.push(at)
    const aliased = places.find((at) => octets[at - 1] === name.length && octets[at - 3] === 0x01 && octets[at - 4] === 0x00 && octets[at - 5] === 0x00)
    const renamed = Uint8Array.from(octets)
    renamed.set(Buffer.from('X'), aliased + name.length - 1)
    await assert.rejects(load(renamed), failsWith('import', /it does not lift/))
    const importing = new Uint8Array([...empty, 10, 1, 0])
    await assert.rejects(load(importing), failsWith('import', /it imports something/))
    for (let at = 0; at < 300; at++) {
      const damaged = octets.slice()
      damaged[Math.floor(at * octets.length / 300)] ^= 0xff
      await load(damaged).catch((error) => assert.ok(error instanceof PolicyError, error))
    }
  })

  it('that fails is told of by one kind of error, and nobody else notices', async () => {
    const good = await load(rules, { timeout: 5000 })
    for (const [name, body] of Object.entries(BODIES)) {
      const bad = await load(hostile(body), { timeout: 300 })
      const code = name === 'loop' ? 'timeout' : 'trap'
      for (let time = 0; time < 2; time++) {
        await assert.rejects(bad.evaluate(context), failsWith(code, /./), name)
        assert.equal((await good.evaluate(context)).verdict, 'reject')
      }
      // Each time with a fresh instance, that answers what it can.
      assert.deepEqual((await bad.describe()).reads, [])
      await bad.close()
    }
    await good.close()
    for (const name of ['trap', 'recursion', 'memory', 'garbage']) {
      const bad = await load(hostile(BODIES[name]))
      await assert.rejects(bad.evaluate(context), failsWith('trap', /./), name)
    }
    for (const options of [{ timeout: 0 }, { timeout: Infinity }, { memory: 1000 }, { memory: Infinity }, { memory: NaN }]) {
      await assert.rejects(load(rules, options), RangeError)
    }
  })

  it('gives only verdicts that can be carried out', async () => {
    // The octets of a verdict: the case, two strings and the code.
    const refusal = (kind, code) => [kind, ...Array(23).fill(0), code & 255, code >> 8]
    for (const [octets, expected] of [
      [refusal(1, 250), { verdict: 'reject', code: 550, enhanced: '5.7.1' }],
      [refusal(1, 554), { verdict: 'reject', code: 554, enhanced: '5.7.1' }],
      [refusal(2, 550), { verdict: 'defer', code: 451, enhanced: '4.7.1' }],
    ]) {
      const stores = octets.flatMap((octet, at) => [...address(64 + at), ...address(octet), 0x3a, 0, 0])
      const { verdict, code, enhanced } = await (await load(hostile([...stores, ...address(64)]))).evaluate(context)
      assert.deepEqual({ verdict, code, enhanced }, expected)
    }
    const accepting = await load(hostile(address(64)))
    assert.equal((await accepting.evaluate(context)).verdict, 'accept')
    await assert.rejects(accepting.evaluate({ ...context, direction: 'outbound' }), failsWith('verdict', /inbound verdict/))
  })

  it('answers with so much, wherever it lies', async () => {
    // The same 55 000 octets again and again, behind the context.
    const text = words(10_000, 55_000)
    const realloc = 9216
    const strings = (times) => Array(times).fill(text).flat()
    // Connectors of a verdict; considered connectors of an explanation; accepted domains of a description.
    const verdict = (times) => hostile(address(64), { data: [...Array(64).fill(0), ...words(0, 96, times, 4, 0), ...Array(12).fill(0), ...strings(times)], realloc })
    const considered = [...text, ...words(0, 0, 0, 0, 0)]
    const explanation = [...Array(140).fill(0), ...words(160, 310, 0), ...Array(8).fill(0), ...Array(310).fill(considered).flat()]
    const description = [...words(0, 0, 48, 310), ...Array(32).fill(0), ...strings(310)]
    assert.equal((await (await load(verdict(38))).evaluate(context)).connectors.length, 38)
    for (const options of [{}, { timeout: 5000 }]) {
      for (const [component, ask, text] of [
        [verdict(39), (policy) => policy.evaluate(context), /more than 2 MiB/],
        [hostile(address(0), { data: explanation, realloc }), (policy) => policy.explain(context), /more than 16 MiB/],
        [hostile(address(0), { data: description, realloc, describe: 0 }), (policy) => policy.describe(), /more than 16 MiB/],
      ]) {
        const policy = await load(component, options)
        await assert.rejects(ask(policy), failsWith('memory', text))
        await policy.close()
      }
    }
  })

  it('answers with addresses that are some', async () => {
    const connectors = (...list) => hostile(address(0), { data: words(0, ...list, 0, 0) })
    for (const [component, text] of [
      [hostile(address(65)), /at 65 is not aligned to 4/],
      [hostile(address(0), { realloc: 4098 }), /at 4098 is not aligned to/],
      [hostile(address(-8)), /at 4294967288 is not in its memory/],
      [connectors(66, 0), /at 66 is not aligned to 4/],
      [connectors(65_536 - 8, 2), /is not in its memory/],
      [connectors(0, 0xffff_ffff), /is not in its memory/],
    ]) {
      await assert.rejects((await load(component)).evaluate(context), failsWith('trap', text))
    }
    assert.deepEqual((await (await load(connectors(65_536 - 8, 1))).evaluate(context)).connectors, [''])
  })

  it('of bindings is asked as another, also where they wait for promises', async () => {
    const transpiled = async (...options) => {
      const [from, to] = [join(folder, 'policy.wasm'), mkdtempSync(join(folder, 'transpiled-'))]
      built(rules)
      execFileSync('jco', ['transpile', from, '--out-dir', to, '--name', 'policy', '--instantiation', 'async', '--quiet', ...options])
      writeFileSync(join(to, 'package.json'), '{"type": "module"}')
      const { instantiate } = await import(join(to, 'policy.js'))
      return ofTranspiled(instantiate, async (name) => WebAssembly.compile(readFileSync(join(to, name))))
    }
    assert.equal((await (await transpiled()).evaluate(context)).verdict, 'reject')
    const waiting = transpiled('--async-mode', 'jspi', '--async-exports', 'evaluate')
    if ('promising' in WebAssembly) {
      assert.equal((await (await waiting).evaluate(context)).verdict, 'reject')
    } else {
      await assert.rejects(waiting, failsWith('component', /this engine has no JSPI/))
    }
    const evaluation = { evaluate: () => ({ tag: 'accept', val: { connectors: [], audit: [] } }) }
    let made = 0
    const policy = await ofTranspiled(() => ({ evaluation, made: made++ }))
    await Promise.all(Array.from({ length: 10 }, () => policy.evaluate(context)))
    assert.equal(made, 1)
    await assert.rejects(ofTranspiled(() => ({})), failsWith('component', /exports no evaluation/))
    const other = { evaluation, 'portcullis:policy/evaluation@0.2.0': evaluation }
    await assert.rejects(ofTranspiled(() => other), failsWith('version', /speaks portcullis:policy\/evaluation@0.1.0/))
  })

  it('answers one question after another in its worker', async () => {
    const policy = await load(built(rules), { timeout: 5000 })
    const questions = Array.from({ length: 50 }, (_, number) => ({ ...context, 'mail-from': `a@${number % 2 ? 'bank' : 'c'}.test` }))
    const verdicts = await Promise.all(questions.map((question) => policy.evaluate(question)))
    assert.deepEqual(verdicts.map(({ verdict }) => verdict), questions.map((_, number) => number % 2 ? 'reject' : 'accept'))
    await assert.rejects(load('{"connectors": [{}]}', { timeout: 5000 }), RulesError)
    const late = assert.rejects(policy.evaluate(context), failsWith('trap', /is closed/))
    await policy.close()
    await late
    await assert.rejects(policy.evaluate(context), failsWith('trap', /is closed/))
  })

  it('refuses contexts that are none', async () => {
    const policy = await load(rules)
    const tls = (certificate) => ({ version: 'TLSv1.3', certificate })
    for (const [change, text] of [
      [{ direction: 'sideways' }, /^direction is one of inbound, outbound/],
      [{ 'rcpt-to': undefined }, /^rcpt-to: null is no fact/],
      [{ helo: null }, /^helo: null is no fact/],
      [{ more: 1 }, /^more: there is no such field/],
      [{ 'mail-from': 'a@b.test, c@d.test' }, /^mail-from: .* is not an address/],
      [{ 'mail-from': 7 }, /^mail-from is a text/],
      [{ 'client-ip': '192.0.2.256' }, /^client-ip: "192.0.2.256" is no IP address/],
      [{ 'client-ip': '1::2::3' }, /is no IP address/],
      [{ 'client-ip': '1:2:3:4:5:6:7' }, /is no IP address/],
      [{ tls: {} }, /^tls.version is missing/],
      [{ tls: [] }, /^tls is an object/],
      [{ tls: tls({}) }, /^tls.certificate.trust is missing/],
      [{ tls: tls({ trust: 'perhaps' }) }, /^tls.certificate.trust is one of/],
      [{ tls: tls({ trust: 'trusted', sha256: 'ab' }) }, /^tls.certificate.sha256 is no SHA-256/],
      [{ tls: tls({ trust: 'trusted', 'not-after': 'tomorrow' }) }, /is no time such as/],
      [{ tls: tls({ trust: 'trusted', unknown: ['helo'] }) }, /^tls.certificate.unknown is one of/],
      [{ tls: tls({ trust: 'trusted', 'not-after': '2027-02-29T00:00:00Z' }) }, /is no time such as/],
      [{ tls: tls({ trust: 'trusted', 'not-after': '2027-01-01T24:00:00Z' }) }, /is no time such as/],
      [{ tls: tls({ trust: 'trusted', 'not-after': '2027-01-01T23:59:60Z' }) }, /is no time such as/],
      [{ 'header-from': 'a@b.test' }, /^header-from is a list/],
      [{ 'header-from': [, 'a@b.test'] }, /^header-from\[0\] is a text/],
      [{ helo: '\ud800' }, /^helo has half of a surrogate pair/],
    ]) {
      await assert.rejects(policy.evaluate({ ...context, ...change }), failsWith('context', text))
    }
    for (const value of [null, [], 'text', undefined]) await assert.rejects(policy.evaluate(value), PolicyError)
    // And goes on.
    assert.equal((await policy.evaluate(context)).verdict, 'reject')
  })

  it('reads addresses as people write them', async () => {
    const policy = await load({
      connectors: [{ name: 'six', direction: 'inbound', from: { 'sender-ips': ['2001:db8::/32', '192.0.2.0/24'] } }],
    })
    for (const [ip, connectors] of [
      ['2001:db8::1', ['six']],
      ['2001:DB8:0:0:0:0:0:1', ['six']],
      ['2001:db8::192.0.2.1', ['six']],
      ['::ffff:192.0.2.7', ['six']],
      ['::', []],
      ['2001:db9::', []],
    ]) {
      assert.deepEqual((await policy.evaluate({ ...context, 'client-ip': ip })).connectors, connectors, ip)
    }
  })
})
