'use strict'

const assert = require('node:assert/strict')
const { createHash } = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const { after, before, describe, it } = require('node:test')

const { Anchors, certificateFacts, presented } = require('../lib/chain')
const { Pki } = require('./helpers/pki')

const DAY = 24 * 3600 * 1000
const SERVER = 'extendedKeyUsage=serverAuth'

describe('a chain', () => {
  let pki, root, between, other
  before(() => {
    pki = new Pki()
    root = pki.root('/CN=Root')
    between = pki.between(root, '/CN=Between')
    other = pki.root('/CN=Other root')
  })
  after(() => pki.remove())

  const anchors = (...certificates) => {
    const file = path.join(pki.folder, `anchors${pki.count++}.pem`)
    fs.writeFileSync(file, certificates.map(({ pem }) => pem).join('\n'))
    return Anchors.ofFile(file)
  }
  const facts = (chain, options, authorities) =>
    certificateFacts(chain.map(({ der }) => der), new Map(authorities ?? [['public', anchors(root)]]), options)
  const judge = (chain, options) => {
    const { trust, anchor } = facts(chain, options)
    return [trust, anchor?.join()]
  }
  const leaf = (issuer, ...extensions) => pki.issue(issuer, '/CN=leaf', { extensions })

  it('is trusted with the extended key usage serverAuth, clientAuth or none', () => {
    for (const extensions of [[SERVER], ['extendedKeyUsage=clientAuth'], []]) {
      assert.deepEqual(judge([leaf(root, ...extensions)]), ['trusted', 'public'])
      assert.deepEqual(judge([leaf(between, ...extensions), between]), ['trusted', 'public'])
    }
  })

  it('is trusted with the root in it, in any order, and beside certificates that do not belong to it', () => {
    const own = leaf(between, SERVER)
    assert.deepEqual(judge([own, root, other, between]), ['trusted', 'public'])
  })

  it('is invalid with another purpose, even of an authority only', () => {
    assert.deepEqual(judge([leaf(root, 'extendedKeyUsage=codeSigning')]), ['invalid', ''])
    assert.deepEqual(judge([leaf(root, 'extendedKeyUsage=anyExtendedKeyUsage')]), ['invalid', ''])
    assert.deepEqual(judge([leaf(root, 'keyUsage=critical,cRLSign')]), ['invalid', ''])
    const signer = pki.between(root, '/CN=Code', ['extendedKeyUsage=codeSigning'])
    assert.deepEqual(judge([leaf(signer, SERVER), signer]), ['invalid', ''])
    const client = pki.between(root, '/CN=Client', ['extendedKeyUsage=clientAuth'])
    assert.deepEqual(judge([leaf(client, SERVER), client]), ['invalid', ''])
  })

  it('is out of date', () => {
    const own = leaf(root)
    assert.deepEqual(judge([own], { now: Date.now() + 40 * DAY }), ['expired', ''])
    assert.deepEqual(judge([own], { now: Date.now() - DAY }), ['not-yet-valid', ''])
  })

  it('leads nowhere', () => {
    assert.deepEqual(judge([pki.issue(undefined, '/CN=self')]), ['unknown-issuer', ''])
    assert.deepEqual(judge([leaf(other), other]), ['unknown-issuer', ''])
    assert.deepEqual(judge([leaf(between)]), ['unknown-issuer', ''])
    const impostor = pki.root('/CN=Root')
    assert.deepEqual(judge([leaf(impostor), impostor]), ['unknown-issuer', ''])
  })

  it('is cut in a resumed session, so that nobody knows where it leads', () => {
    assert.deepEqual(judge([leaf(between)], { isResumed: true }), [undefined, undefined])
    assert.deepEqual(judge([leaf(root)], { isResumed: true }), ['trusted', 'public'])
  })

  it('is invalid below what is no authority', () => {
    const plain = leaf(root)
    assert.deepEqual(judge([leaf(plain), plain]), ['invalid', ''])
    const unsigning = pki.issue(root, '/CN=No signer', {
      extensions: ['basicConstraints=critical,CA:true', 'keyUsage=critical,digitalSignature'],
    })
    assert.deepEqual(judge([leaf(unsigning), unsigning]), ['invalid', ''])
  })

  it('is invalid if it is longer than an authority allows', () => {
    const last = pki.issue(root, '/CN=Last', { extensions: ['basicConstraints=critical,CA:true,pathlen:0'] })
    assert.deepEqual(judge([leaf(last), last]), ['trusted', 'public'])
    const more = pki.between(last, '/CN=More')
    assert.deepEqual(judge([leaf(more), more, last]), ['invalid', ''])
  })

  it('is not judged with constraints and critical extensions that are not understood', () => {
    const named = pki.between(root, '/CN=Named', ['nameConstraints=critical,permitted;DNS:contoso.com'])
    assert.deepEqual(judge([leaf(named), named]), [undefined, undefined])
    const policies = pki.between(root, '/CN=Policies', ['policyConstraints=requireExplicitPolicy:0'])
    assert.deepEqual(judge([leaf(policies), policies]), [undefined, undefined])
    assert.deepEqual(judge([leaf(root, '1.2.3.4=critical,ASN1:NULL')]), [undefined, undefined])
    assert.deepEqual(judge([leaf(root, '1.2.3.4=ASN1:NULL')]), ['trusted', 'public'])
    const expired = { now: Date.now() + 40 * DAY }
    assert.deepEqual(judge([leaf(named), named], expired), ['expired', ''])
  })

  it('is invalid with weak algorithms, and not judged with rare ones', () => {
    const small = pki.issue(root, '/CN=leaf', { key: pki.rsa(1024) })
    assert.deepEqual(judge([small]), ['invalid', ''])
    assert.deepEqual(judge([pki.issue(root, '/CN=leaf', { key: pki.rsa(2048) })]), ['trusted', 'public'])
    assert.deepEqual(judge([pki.issue(root, '/CN=leaf', { digest: 'sha1' })]), ['invalid', ''])
    assert.deepEqual(judge([pki.issue(root, '/CN=leaf', { digest: 'sha224' })]), [undefined, undefined])
  })

  it('ends at the authorities that it ends at', () => {
    const authorities = [['fabrikam', anchors(other)], ['public', anchors(root)], ['both', anchors(root, other)]]
    const ends = (chain) => facts(chain, {}, authorities).anchor
    assert.deepEqual(ends([leaf(other), other]), ['fabrikam', 'both'])
    assert.deepEqual(ends([leaf(root)]), ['public', 'both'])
    const crossed = pki.issue(other, '/CN=Root', {
      key: root.keyFile, extensions: ['basicConstraints=critical,CA:true'],
    })
    assert.deepEqual(ends([leaf(root), crossed]), ['fabrikam', 'public', 'both'])
  })

  it('may be an anchor itself', () => {
    const pinned = pki.issue(undefined, '/CN=pinned')
    assert.deepEqual(facts([pinned], {}, [['partner', anchors(pinned)]]).anchor, ['partner'])
    // It is no authority, so it vouches for nobody else.
    assert.equal(facts([leaf(pinned), pinned], {}, [['partner', anchors(pinned)]]).trust, 'invalid')
  })

  it('of authorities that vouch for each other ends', () => {
    const [a, b] = [pki.root('/CN=A'), pki.root('/CN=B')]
    const crossed = { extensions: ['basicConstraints=critical,CA:true'] }
    const ab = pki.issue(b, '/CN=A', { key: a.keyFile, ...crossed })
    const ba = pki.issue(a, '/CN=B', { key: b.keyFile, ...crossed })
    assert.deepEqual(judge([leaf(a), ab, ba, a, b]), ['unknown-issuer', ''])
  })

  it('of many candidates is not searched for ever', () => {
    const candidates = Array.from({ length: 30 }, () => pki.root('/CN=Root'))
    assert.deepEqual(judge([leaf(candidates[29]), ...candidates]), ['unknown-issuer', ''])
    const many = anchors(...candidates)
    assert.equal(facts([leaf(root)], {}, [['many', many]]).trust, undefined)
  })

  it('has names', () => {
    const names = (name, extensions, sections) =>
      facts([pki.issue(root, name, { extensions, sections })])['dns-names']
    assert.deepEqual(names('/CN=mail.contoso.com', []), ['mail.contoso.com'])
    assert.deepEqual(names('/O=x', []), [])
    assert.deepEqual(names('/', ['subjectAltName=critical,DNS:a.com']), ['a.com'])
    assert.deepEqual(names('/CN=cn.com', ['subjectAltName=DNS:a.com,DNS:*.b.com']), ['a.com', '*.b.com'])
    assert.deepEqual(names('/CN=cn.com', ['subjectAltName=email:a@b.com']), [])
    assert.deepEqual(
      names('/CN=cn.com', ['subjectAltName=@alt'], '[alt]\nDNS.1="evil.com, DNS:mail.contosobank.com"'),
      ['evil.com, DNS:mail.contosobank.com'],
    )
  })

  it('has digests and an end', () => {
    const own = leaf(root)
    const digest = (octets) => createHash('sha256').update(octets).digest('hex')
    const found = facts([own])
    assert.equal(found.sha256, digest(own.der))
    assert.equal(found['key-sha256'], digest(own.x509.publicKey.export({ type: 'spki', format: 'der' })))
    assert.equal(Date.parse(found['not-after']), Date.parse(own.x509.validTo))
    assert.deepEqual([found.subject, found.issuer, found.unknown], ['CN=leaf', 'CN=Root', []])
  })

  it('that cannot be read is unknown', () => {
    const own = leaf(root).der
    const unread = certificateFacts([own.subarray(0, 9)], new Map())
    assert.deepEqual(Object.keys(unread), ['sha256', 'unknown'])
    assert.deepEqual(unread.unknown, ['dns-names', 'key-sha256', 'not-after', 'trust', 'anchor'])
    for (let end = 0; end < own.length; end += 7) {
      const trustOf = (octets) => certificateFacts([octets], new Map([['public', anchors(root)]])).trust
      assert.equal(trustOf(own.subarray(0, end)), undefined)
      // If only the signature is another one, the certificate can be read, and nobody has issued it.
      const changed = Buffer.concat([own.subarray(0, end), Buffer.alloc(200, 0x30)])
      assert.ok([undefined, 'unknown-issuer'].includes(trustOf(changed)))
    }
    for (let place = 0; place < own.length; place++) {
      const forged = Buffer.from(own)
      forged[place] ^= 0x41
      const { trust } = certificateFacts([forged], new Map([['public', anchors(root)]]))
      assert.notEqual(trust, 'trusted')
    }
  })

  it('is taken from what Node tells, a loop in it notwithstanding', () => {
    const [a, b] = [{ raw: Buffer.from('a') }, { raw: Buffer.from('b') }]
    Object.assign(a, { issuerCertificate: b })
    Object.assign(b, { issuerCertificate: a })
    assert.deepEqual(presented(a).map(String), ['a', 'b'])
  })

  it('may end at the roots that come with Node', () => {
    const authorities = new Map([['public', Anchors.ofNode()]])
    assert.equal(certificateFacts([leaf(root).der], authorities).trust, 'unknown-issuer')
  })
})
