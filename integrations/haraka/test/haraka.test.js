'use strict'
// A real Haraka with the plugin, and a client.

const assert = require('node:assert/strict')
const { createHash } = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const { after, before, describe, it } = require('node:test')

const { BODIES, coreModule, ofBody, ofRules } = require('./helpers/component')
const { Haraka } = require('./helpers/haraka')
const { Pki } = require('./helpers/pki')
const { Client, send, transaction } = require('./helpers/smtp')

const UNAVAILABLE = /^451 4\.3\.0 the policy cannot be asked now, try again later \[[-\w]+\.\d\]$/

const inbound = (name, domain, require, more) =>
  ({ name, direction: 'inbound', from: { 'sender-domains': [domain] }, require, ...more })
const rules = (...connectors) => JSON.stringify({ organization: 'Contoso', connectors })
const encrypted = (name, domain = 'contosobank.com') => inbound(name, domain, { tls: true })

const pki = new Pki()
after(() => pki.remove())
const root = pki.root('/CN=Root')
const between = pki.between(root, '/CN=Between')
const mail = (issuer, name) => pki.issue(issuer, `/CN=${name}`, {
  extensions: [`subjectAltName=DNS:${name}`, 'extendedKeyUsage=serverAuth'],
})

/** Describes a Haraka: starts it once, and stops it. */
function haraka(title, options, tests) {
  describe(title, () => {
    const given = {}
    before(async () => {
      given.haraka = await Haraka.start({ pki, ...await options() })
    })
    after(() => given.haraka.stop())
    tests(given)
  })
}

/** The only reply to a recipient. */
async function recipient(given, options) {
  const { recipients: [reply], message } = await send(given.haraka.port, options)
  return message ?? reply
}

describe('with rules', () => {
  const private_ = pki.root('/CN=Tailspin')
  const pinned = pki.issue(undefined, '/CN=pinned')
  const digest = (octets) => createHash('sha256').update(octets).digest('hex')
  const document = rules(
    encrypted('Encrypted'),
    inbound('Named', 'fabrikam.com', { tls: true, 'certificate-names': ['*.fabrikam.com'] }),
    inbound('Private', 'tailspin.com', {
      'certificate-names': ['*.tailspin.com'], 'certificate-authorities': ['tailspin'],
    }),
    inbound('Pinned', 'adatum.com', { 'certificate-fingerprints': [digest(pinned.der)] }),
    inbound('Key', 'northwind.com', {
      'certificate-keys': [digest(pinned.x509.publicKey.export({ type: 'spki', format: 'der' }))],
    }),
    inbound('Far', 'litware.com', { 'source-ips': ['203.0.113.0/24'] }),
    inbound('Near', 'wingtip.com', { 'source-ips': ['127.0.0.0/8'] }),
    inbound('Modern', 'relecloud.com', { tls: { 'min-version': 'TLSv1.3' } }),
    inbound('Audited', 'fourthcoffee.com', { tls: true }, { mode: 'audit' }),
    inbound('Replying', 'vanarsdel.com', { tls: true }, { reply: { code: 554, enhanced: '5.7.10', text: 'see x' } }),
  )
  const options = () => ({
    files: {
      'portcullis.json': document,
      'portcullis.ini': 'trusted = root.pem\nauthority.tailspin = tailspin.pem\n',
      'root.pem': root.pem,
      'tailspin.pem': private_.pem,
    },
    plugins: ['grant', 'overrule', 'tls', 'portcullis'],
    scripts: {
      // As karma and delay_deny do.
      overrule: 'exports.hook_deny = (next) => next(OK)',
      grant: `
        exports.hook_mail = function (next, connection, [from]) {
          if (from.user === 'own') connection.relaying = true
          next()
        }
        exports.hook_rcpt = function (next, connection, [to]) {
          if (to.user === 'elsewhere') connection.relaying = true
          next()
        }`,
    },
  })

  haraka('Haraka', options, (given) => {
    it('refuses plaintext, and says why', async () => {
      const reply = await recipient(given, {})
      assert.match(reply, /^550 5\.7\.1 refused by connector "Encrypted" \(tls\): the session is not encrypted \[.*\]$/)
      const id = /\[([-\w]+\.1)\]$/.exec(reply)[1]
      assert.match(
        await given.haraka.logged(`[${id}] [portcullis] decision`),
        new RegExp('verdict=reject connector=Encrypted failed=tls audit="" client=127.0.0.1 tls=none certificate=none ' +
          'from=alice@contosobank.com to=bob@contoso.com$'),
      )
    })

    it('accepts what the policy accepts, and other plugins decide too', async () => {
      assert.match(await recipient(given, { tls: {} }), /^250 /)
      assert.match(await recipient(given, { from: '' }), /^250 /)
      assert.match(await recipient(given, { from: 'x@example.org' }), /^250 /)
      assert.match(await recipient(given, { from: 'x@example.org', to: 'nobody@contoso.com' }), /^550 I cannot deliver/)
      assert.ok(given.haraka.accepted.includes('<alice@contosobank.com> <bob@contoso.com>'))
    })

    it('knows the name in a certificate for serverAuth only', async () => {
      const from = 'a@fabrikam.com'
      for (const tls of [
        mail(root, 'mx.fabrikam.com').with(),
        mail(between, 'mx.fabrikam.com').with(between),
        { ...mail(between, 'mx.fabrikam.com').with(between, root), maxVersion: 'TLSv1.2' },
      ]) {
        assert.match(await recipient(given, { from, tls }), /^250 /)
      }
      for (const [tls, failed] of [
        [{}, 'certificate-missing'],
        [mail(undefined, 'mx.fabrikam.com').with(), 'certificate-untrusted'],
        [mail(between, 'mx.fabrikam.com').with(), 'certificate-untrusted'],
        [mail(private_, 'mx.fabrikam.com').with(), 'certificate-authority'],
        [mail(root, 'mx.example.org').with(), 'certificate-name'],
        [undefined, 'tls'],
      ]) {
        assert.match(await recipient(given, { from, tls }), new RegExp(`^550 5\\.7\\.1 .*"Named" \\(${failed}\\)`))
      }
    })

    it('knows the authority of a partner', async () => {
      const from = 'a@tailspin.com'
      assert.match(await recipient(given, { from, tls: mail(private_, 'mx.tailspin.com').with() }), /^250 /)
      const publicly = mail(root, 'mx.tailspin.com').with()
      assert.match(await recipient(given, { from, tls: publicly }), /\(certificate-authority\)/)
    })

    it('knows pinned certificates and keys', async () => {
      const other = mail(root, 'mx.adatum.com').with()
      const renewed = pki.issue(undefined, '/CN=renewed', { key: pinned.keyFile })
      assert.match(await recipient(given, { from: 'a@adatum.com', tls: pinned.with() }), /^250 /)
      assert.match(await recipient(given, { from: 'a@adatum.com', tls: renewed.with() }), /\(certificate-fingerprint\)/)
      assert.match(await recipient(given, { from: 'a@northwind.com', tls: renewed.with() }), /^250 /)
      assert.match(await recipient(given, { from: 'a@northwind.com', tls: other }), /\(certificate-key\)/)
    })

    it('knows addresses and versions', async () => {
      assert.match(await recipient(given, { from: 'a@litware.com' }), /"Far" \(source-ip\)/)
      assert.match(await recipient(given, { from: 'a@wingtip.com' }), /^250 /)
      const old = { maxVersion: 'TLSv1.2' }
      assert.match(await recipient(given, { from: 'a@relecloud.com', tls: old }), /\(tls-version\)/)
      assert.match(await recipient(given, { from: 'a@relecloud.com', tls: {} }), /^250 /)
    })

    it('tells the reply of a connector', async () => {
      assert.match(await recipient(given, { from: 'a@vanarsdel.com' }), /^554 5\.7\.10 .*see x \[/)
    })

    it('warns of what an audit finds', async () => {
      assert.match(await recipient(given, { from: 'a@fourthcoffee.com' }), /^250 /)
      assert.match(
        await given.haraka.logged('[portcullis] a connector in audit mode would refuse'),
        /\[WARN\] .* connector=Audited failed=tls to=bob@contoso.com$/,
      )
      assert.match(await given.haraka.logged('audit="Audited (tls)"'), /verdict=accept/)
    })

    it('does not ask about mail of the own users, and about all other', async () => {
      assert.match(await recipient(given, { from: 'own@contosobank.com' }), /^250 /)
      const { recipients } = await send(given.haraka.port, {
        from: 'a@example.org', to: ['elsewhere@contoso.com', 'bob@contoso.com'],
      })
      assert.deepEqual(recipients.map((reply) => reply.slice(0, 3)), ['250', '250'])
      // Another plugin has granted relaying for the first one.
      const client = await Client.connect(given.haraka.port)
      await client.greet()
      await client.command('MAIL FROM:<a@contosobank.com>')
      assert.match(await client.command('RCPT TO:<elsewhere@contoso.com>'), /^550 5\.7\.1/)
      assert.match(await client.command('RCPT TO:<bob@contoso.com>'), /^550 5\.7\.1/)
      client.close()
    })

    it('asks again in a session whose protection has changed', async () => {
      const client = await Client.connect(given.haraka.port)
      await client.greet()
      const envelope = { from: 'a@contosobank.com', to: 'bob@contoso.com' }
      assert.match((await transaction(client, envelope)).recipients[0], /^550 5\.7\.1/)
      await client.greet({})
      assert.match((await transaction(client, envelope)).message, /^250/)
      client.close()
    })
  })
})

describe('with rules on the From header', () => {
  const document = rules(inbound('Header', 'contosobank.com', { tls: true }, { 'match-header-from': true }))
  const options = () => ({ files: { 'portcullis.json': document } })
  const from = 'bounce@mailer.example'

  haraka('Haraka', options, (given) => {
    const header = (text, more) => recipient(given, { from, header: text, ...more })

    it('refuses a message for its header', async () => {
      assert.match(await header('From: A <a@example.org>'), /^250 /)
      assert.match(await header('From: A <alice@contosobank.com>'), /^550 5\.7\.1 refused by connector "Header" \(tls\)/)
      assert.match(await header('From: A <alice@contosobank.com>', { tls: {} }), /^250 /)
      assert.match(await header('From: "alice@contosobank.com" <a@example.org>'), /^250 /)
      assert.match(await header('X: y\r\n\r\nFrom: a@contosobank.com'), /^250 /)
      assert.equal(given.haraka.accepted.length, 4)
      const line = await given.haraka.logged('header_from=alice@contosobank.com')
      assert.match(line, /verdict=reject connector=Header failed=tls/)
    })

    it('reads an ambiguous header in each way', async () => {
      for (const text of [
        'From: carol@example.org\r\nFrom: alice@contosobank.com',
        'From: (alice@contosobank.com) carol@example.org',
        'Subject: x\r\n From: alice@contosobank.com',
        'From: carol@example.org\r\nFrom\u00a0: alice@contosobank.com',
      ]) {
        const refused = /^550 5\.7\.1 the From field is ambiguous, and read so this is refused by connector "Header" \(tls\)/
        assert.match(await header(text), refused, text)
      }
      assert.match(await header('From: carol@example.org\r\nFrom: a@example.net'), /^250 /)
      assert.match(await header(`From: ${'a@b.example, '.repeat(1000)}`), /^451 4\.7\.0 .*\(fact-unavailable\)/)
    })

    it('takes recipients of one domain, and others in another transaction', async () => {
      const to = ['a@contoso.com', 'b@CONTOSO.com', 'c@example.net', 'nobody@contoso.com', 'd@contoso.com']
      const { recipients, message } = await send(given.haraka.port, { from, to, header: 'From: a@example.org' })
      const begins = recipients.map((reply) => reply.slice(0, 9))
      assert.deepEqual(begins, ['250 recip', '250 recip', '452 4.5.3', '550 no su', '250 recip'])
      assert.match(message, /^250 /)
      const refused = await send(given.haraka.port, { from, to: ['nobody@example.net', 'a@contoso.com'] })
      assert.deepEqual(refused.recipients.map((reply) => reply.slice(0, 3)), ['550', '250'])
    })

    it('says 451 to those in a pipelined session', async () => {
      const client = await Client.connect(given.haraka.port)
      await client.greet()
      client.socket.write(`MAIL FROM:<${from}>\r\nRCPT TO:<a@contoso.com>\r\nRCPT TO:<b@example.net>\r\n`)
      const replies = [await client.reply(), await client.reply(), await client.reply()]
      assert.match(replies[2], /^451 4\.5\.3/)
      client.close()
    })
  })
})

describe('with implicit TLS', () => {
  const document = rules(inbound('Named', 'fabrikam.com', { 'certificate-names': ['*.fabrikam.com'] }))
  const options = () => ({
    implicit: true,
    files: { 'portcullis.json': document, 'portcullis.ini': 'trusted = root.pem\n', 'root.pem': root.pem },
  })

  haraka('Haraka', options, (given) => {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3']) {
      it(`defers a session that is resumed and has lost its chain (${maxVersion})`, async () => {
        const options = { from: 'a@fabrikam.com', implicit: true, maxVersion }
        const own = mail(between, 'mx.fabrikam.com').with(between)
        const client = await Client.connect(given.haraka.port, { ...options, ...own })
        let session
        client.socket.on('session', (it) => (session = it))
        await client.greet()
        assert.match((await transaction(client, { from: options.from, to: 'bob@contoso.com' })).message, /^250 /)
        session ??= client.socket.getSession()
        client.close()
        const reply = await recipient(given, { ...options, session })
        assert.match(reply, /^451 4\.7\.0 .*"Named" .*\(fact-unavailable\): whether the client certificate is trusted/)
      })
    }
  })
})

describe('without client certificates', () => {
  const document = rules(inbound('Named', 'fabrikam.com', { 'certificate-names': ['*.fabrikam.com'] }))
  const defers = (given) => it('defers what depends on them', async () => {
    assert.match(await recipient(given, { from: 'a@fabrikam.com', tls: {} }), /^451 4\.7\.0 .*\(fact-unavailable\)/)
    assert.match(await recipient(given, { from: 'a@example.org', tls: {} }), /^250 /)
  })
  haraka('by tls.ini', () => ({ files: { 'portcullis.json': document, 'tls.ini': 'requestCert=false\n' } }), defers)
  const ini = { 'portcullis.json': document, 'portcullis.ini': 'certificates-requested = false\n' }
  haraka('by portcullis.ini', () => ({ files: ini }), (given) => {
    defers(given)
    it('warns', () => given.haraka.logged('the policy reads client certificates, and none are requested'))
  })
})

describe('without a policy', () => {
  for (const [title, files, reason] of [
    ['broken rules', { 'portcullis.json': '{"connectors": [{"name": 1}]}' }, 'portcullis.json:1:26: expected a string'],
    ['no rules', {}, 'ENOENT'],
    ['an unknown key', { 'portcullis.json': rules(), 'portcullis.ini': 'trustd = x\n' }, 'the key "trustd" is unknown'],
    ['an unknown section', {
      'portcullis.json': rules(), 'portcullis.ini': '[authority]\na = b\n',
    }, 'the key "authority" is unknown'],
    ['no certificate', {
      'portcullis.json': rules(), 'portcullis.ini': 'trusted = portcullis.json\n',
    }, 'has no certificate'],
    ['two policies', { 'portcullis.ini': 'rules = a\npolicy = b\n' }, 'exclude each other'],
    ['a folder', { 'portcullis.ini': 'policy = policy\n', 'policy/x': '' }, 'EISDIR'],
    ['a core module', {
      'portcullis.ini': 'policy = policy.wasm\n', 'policy.wasm': coreModule(BODIES.accepting),
    }, 'policy.wasm: this is a core module'],
    ['no timeout', { 'portcullis.json': rules(), 'portcullis.ini': 'timeout = soon\n' }, '"timeout" is a number'],
  ]) {
    haraka(`for ${title}`, () => ({ files }), (given) => {
      it('defers all mail, and says why', async () => {
        assert.match(await recipient(given, { from: 'a@example.org', tls: {} }), UNAVAILABLE)
        const line = await given.haraka.logged('the policy cannot be loaded, all mail is deferred')
        assert.match(line, /^.*\[ERROR\] /)
        assert.ok(line.includes(reason), line)
        assert.deepEqual(given.haraka.accepted, [])
      })

      if (title === 'broken rules') {
        it('begins when it is mended', async () => {
          given.haraka.write('portcullis.json', rules(encrypted('Encrypted')))
          await given.haraka.logged('the policy is in force')
          assert.match(await recipient(given, {}), /^550 5\.7\.1/)
        })
      }
    })
  }
})

haraka('when rules change', () => ({ files: { 'portcullis.json': rules(encrypted('First')) } }), (given) => {
  it('the new ones are in force, and a transaction keeps its own', async () => {
    const client = await Client.connect(given.haraka.port)
    await client.greet()
    await client.command('MAIL FROM:<alice@contosobank.com>')
    assert.match(await client.command('RCPT TO:<a@contoso.com>'), /"First"/)
    const before = given.haraka.log.length
    given.haraka.write('portcullis.json', rules(encrypted('Second')))
    await given.haraka.logged('the policy is in force', before)
    assert.match(await client.command('RCPT TO:<b@contoso.com>'), /"First"/)
    await client.command('RSET')
    await client.command('MAIL FROM:<alice@contosobank.com>')
    assert.match(await client.command('RCPT TO:<b@contoso.com>'), /"Second"/)
    client.close()
  })

  it('the old ones stay if the new ones are not accepted', async () => {
    for (const broken of ['{', '', '{"connectors": [], "tests": 1}']) {
      const before = given.haraka.log.length
      given.haraka.write('portcullis.json', broken)
      assert.match(
        await given.haraka.logged('the policy cannot be loaded, the one before stays in force', before),
        /\[ERROR\] .*portcullis.json:\d+:\d+: /,
      )
      assert.match(await recipient(given, {}), /"Second"/)
    }
    assert.deepEqual(given.haraka.accepted, [])
  })

  it('they are read again after they were gone', async () => {
    const before = given.haraka.log.length
    fs.rmSync(path.join(given.haraka.folder, 'config', 'portcullis.json'))
    await given.haraka.logged('stays in force', before)
    given.haraka.write('portcullis.json', rules(encrypted('Third')))
    await given.haraka.logged('the policy is in force', before)
    assert.match(await recipient(given, {}), /"Third"/)
  })

  it('portcullis.ini may name others', async () => {
    const before = given.haraka.log.length
    given.haraka.write('other.json', rules(encrypted('Fourth')))
    given.haraka.write('portcullis.ini', 'rules = other.json\n')
    await given.haraka.logged('the policy is in force', before)
    assert.match(await recipient(given, {}), /"Fourth"/)
  })
})

describe('with a component', () => {
  // Of octets; with much time, since the machine may be busy.
  const files = (octets, timeout = 5000) => ({
    'portcullis.ini': `policy = policy.wasm\ntimeout = ${timeout}\n`, 'policy.wasm': octets,
  })

  for (const [where, timeout] of [['in a worker', 5000], ["in Haraka's thread", 0]]) {
    haraka(where, () => ({ files: files(ofRules(rules(encrypted('Built'))), timeout) }), (given) => {
      it('decides', async () => {
        assert.match(await recipient(given, {}), /^550 5\.7\.1 .*"Built" \(tls\)/)
        assert.match(await recipient(given, { tls: {} }), /^250 /)
      })
    })
  }

  haraka('that reads the header', () => {
    const header = inbound('Header', 'contosobank.com', { tls: true }, { 'match-header-from': true })
    return { files: files(ofRules(rules(header))) }
  }, (given) => {
    it('takes one recipient', async () => {
      const { recipients, message } = await send(given.haraka.port, { to: ['a@contoso.com', 'b@contoso.com'], tls: {} })
      assert.deepEqual(recipients.map((reply) => reply.slice(0, 9)), ['250 recip', '452 4.5.3'])
      assert.match(message, /^250 /)
      assert.match(await recipient(given, { from: 'a@example.org', header: 'From: a@contosobank.com' }), /^550 5\.7\.1/)
    })
  })

  haraka('that traps', () => ({ files: files(ofBody(BODIES.trapping)) }), (given) => {
    it('defers the mail, and asks another instance about the next', async () => {
      assert.match(await recipient(given, {}), /^250 /)
      assert.match(await recipient(given, {}), UNAVAILABLE)
      assert.match(await given.haraka.logged('the policy failed, and the mail is deferred'), /\[ERROR\] .{1,1200}$/)
      assert.match(await given.haraka.logged('the policy gives no answer: '), /unreachable/)
      assert.match(await recipient(given, {}), /^250 /)
      assert.equal(given.haraka.accepted.length, 2)
    })
  })

  haraka('that answers nonsense', () => ({ files: files(ofBody(BODIES.babbling)) }), (given) => {
    it('defers the mail', async () => {
      assert.match(await recipient(given, {}), UNAVAILABLE)
      assert.deepEqual(given.haraka.accepted, [])
    })
  })

  haraka('that loops', () => ({ files: files(ofBody(BODIES.looping), 2000) }), (given) => {
    it('defers the mail in its time, and Haraka answers others meanwhile', async () => {
      assert.match(await recipient(given, {}), /^250 /)
      const begin = Date.now()
      let isOver = false
      const late = recipient(given, {}).finally(() => (isOver = true))
      const client = await Client.connect(given.haraka.port)
      await client.greet()
      assert.match(await client.command('MAIL FROM:<alice@contosobank.com>'), /^250 /)
      assert.equal(isOver, false)
      assert.match(await late, UNAVAILABLE)
      const taken = Date.now() - begin
      assert.ok(taken >= 1900 && taken < 10_000, `${taken} ms`)
      await given.haraka.logged('the policy did not answer within 2000 ms')
      assert.match(await client.command('RCPT TO:<bob@contoso.com>'), /^250 /)
      client.close()
    })
  })

  haraka('that does not begin in its time', () => ({ files: files(ofRules(rules(encrypted('Late'))), 1) }), (given) => {
    it('is tried again', async () => {
      const failed = 'the policy cannot be loaded, all mail is deferred'
      assert.match(await recipient(given, { tls: {} }), UNAVAILABLE)
      assert.match(await given.haraka.logged(failed), /policy\.wasm: the policy did not answer within 1 ms/)
      await given.haraka.logged(failed, given.haraka.log.length)
      given.haraka.write('portcullis.ini', files('')['portcullis.ini'])
      await given.haraka.logged('the policy is in force')
      assert.match(await recipient(given, {}), /"Late"/)
    })
  })

  haraka('that is replaced', () => ({
    files: files(ofBody(BODIES.accepting)),
    plugins: ['workers', 'tls', 'portcullis'],
    scripts: {
      workers: `
        let workers = 0
        exports.register = function () {
          process.on('worker', (worker) => {
            const number = ++workers
            worker.on('exit', () => this.lognotice('worker ' + number + ' has ended'))
          })
        }`,
    },
  }), (given) => {
    it('ends with the last transaction that it began with', async () => {
      const client = await Client.connect(given.haraka.port)
      await client.greet()
      await client.command('MAIL FROM:<alice@contosobank.com>')
      assert.match(await client.command('RCPT TO:<a@contoso.com>'), /^250 /)
      for (const name of ['Second', 'Third']) {
        const before = given.haraka.log.length
        given.haraka.write('policy.wasm', ofRules(rules(encrypted(name))))
        await given.haraka.logged('the policy is in force; connectors: 1', before)
        assert.match(await recipient(given, {}), new RegExp(`"${name}"`))
      }
      await given.haraka.logged('worker 2 has ended')
      assert.doesNotMatch(given.haraka.log, /worker [13] has ended/)
      assert.match(await client.command('RCPT TO:<b@contoso.com>'), /^250 /)
      await client.command('RSET')
      await given.haraka.logged('worker 1 has ended')
      await client.command('MAIL FROM:<alice@contosobank.com>')
      assert.match(await client.command('RCPT TO:<b@contoso.com>'), /"Third"/)
      client.close()
      assert.doesNotMatch(given.haraka.log, /worker 3 has ended/)
    })

    it('by what is none stays in force', async () => {
      const before = given.haraka.log.length
      given.haraka.write('policy.wasm', 'nothing')
      await given.haraka.logged('the one before stays in force', before)
      assert.match(await recipient(given, {}), /"Third"/)
    })
  })
})

haraka('behind a plugin that accepts a recipient first', () => ({
  files: { 'portcullis.json': rules(encrypted('Encrypted')) },
  plugins: ['eager', 'tls', 'portcullis'],
  scripts: {
    eager: `
      exports.register = function () { this.register_hook('rcpt', 'eager', -100) }
      exports.eager = (next) => next(OK)`,
  },
}), (given) => {
  it('the message is deferred', async () => {
    assert.match(await recipient(given, {}), UNAVAILABLE)
    assert.deepEqual(given.haraka.accepted, [])
  })
})
