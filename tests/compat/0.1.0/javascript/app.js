// The policy of the compatibility fixtures, in JavaScript. ../README.md says what it decides.

const BANK = 'contosobank.com';
const NAME = 'mail.contosobank.com';
const KEY = [1n, 0x2233445566778899n, 0xfedcba9876543210n, 0xffffffffffffffffn];
const LOST = [0xffffffffffffffffn, 0n, 1n, 0x8000000000000000n];
// 2100-01-01.
const LAST_DAY = 4102444800n;
const TLS_1_2 = 0x0303;
const TLS_1_3 = 0x0304;

export const evaluation = { evaluate, explain, describe };

function evaluate(context) {
  return context.direction === 'inbound' ? inbound(context) : outbound(context);
}

function explain(context) {
  if (context.direction === 'inbound') {
    const considered = [considerBank(context), considerTrial(context)];
    return { verdict: evaluate(context), considered, others: 0 };
  }
  const enabled = outboundConnectors().filter((it) => it.mode !== 'disabled');
  const considered = enabled.map((it) => considerOutbound(it, context));
  return { verdict: evaluate(context), considered, others: 1 };
}

function describe(first, limit) {
  const connectors = [...inboundConnectors(), ...outboundConnectors()];
  return {
    organization: 'Contoso',
    acceptedDomains: ['contoso.com', 'xn--contos-rva.example'],
    reads: [
      'client-ip',
      'mail-from',
      'rcpt-to',
      'header-from',
      'tls',
      'tls-version',
      'certificate',
      'certificate-names',
      'certificate-sha256',
      'certificate-key',
      'certificate-trust',
      'certificate-anchors',
    ],
    authorities: ['public', 'Contoso CA'].map((name) => ({ name, connector: 'To Contoso Bank' })),
    total: connectors.length,
    connectors: connectors.slice(first, first + limit),
  };
}

function inbound(context) {
  const audit = findings(context);
  const to = domain(context.rcptTo);
  if (to === 'closed.contoso.com') {
    const text = 'this mailbox is closed \u2013 for good';
    return { tag: 'reject', val: { failed: 'closed', code: 554, enhanced: '5.2.1', text, audit } };
  }
  if (to === 'later.contoso.com') {
    const text = 'try again later';
    return { tag: 'defer', val: { failed: 'busy', code: 450, enhanced: '4.2.1', text, audit } };
  }
  if (domain(context.mailFrom) !== BANK) {
    return { tag: 'accept', val: { connectors: [], audit } };
  }
  const connector = 'Contoso Bank';
  const requirements = bankRequirements(context);
  const no = requirements.find((it) => it.satisfied === 'no');
  if (no) {
    const text = `${no.fact} where ${no.expected} is required`;
    const failed = no.requirement;
    return { tag: 'reject', val: { connector, failed, code: 550, enhanced: '5.7.1', text, audit } };
  }
  const unknown = requirements.find((it) => it.satisfied === 'unknown');
  if (unknown) {
    const text = `${unknown.requirement} cannot be checked now`;
    const failed = 'fact-unavailable';
    return { tag: 'defer', val: { connector, failed, code: 451, enhanced: '4.7.0', text, audit } };
  }
  return { tag: 'accept', val: { connectors: [connector], audit } };
}

function outbound(context) {
  const to = domain(context.rcptTo);
  if (to === 'closed.example') {
    const text = 'we do not write to them';
    const refusal = { connector: 'Closed', failed: 'closed', code: 550, enhanced: '5.7.1', text };
    return { tag: 'reject', val: { ...refusal, audit: [] } };
  }
  if (to === 'later.example') {
    const text = 'they do not answer';
    return { tag: 'defer', val: { failed: 'busy', code: 451, enhanced: '4.4.1', text, audit: [] } };
  }
  const decides = (it) => it.mode !== 'disabled' && it.selects.recipientDomains[0] === to;
  const connector = outboundConnectors().find(decides);
  return { tag: 'deliver', val: connector?.delivery ?? byMx(undefined, opportunistic()) };
}

// What the connector in audit mode would have refused.
function findings(context) {
  const { satisfied, requirement } = trialRequirement(context);
  if (satisfied === 'yes') return [];
  return [{ connector: 'Trial', failed: satisfied === 'no' ? requirement : 'fact-unavailable' }];
}

function trialRequirement(context) {
  return versionRequirement(context, TLS_1_3);
}

function bankRequirements(context) {
  const of = (name, expected, read) => ofCertificate(context, name, expected, read);
  return [
    sourceIp(context),
    encryption(context),
    versionRequirement(context, TLS_1_2),
    presented(context),
    of('certificate-fingerprint', `not ${hex(LOST)}`, ({ sha256 }) =>
      isThere(sha256) && [!isSame(sha256, LOST), hex(sha256)]),
    of('certificate-key', hex(KEY), ({ keySha256 }) =>
      isThere(keySha256) && [isSame(keySha256, KEY), hex(keySha256)]),
    of('certificate-expiry', `before ${LAST_DAY}`, ({ notAfter }) =>
      isThere(notAfter) && [notAfter < LAST_DAY, `${notAfter}`]),
    of('certificate-untrusted', 'trusted', ({ trust }) =>
      isThere(trust) && [trust === 'trusted', trust]),
    of('certificate-authority', 'public', ({ anchors }) =>
      isThere(anchors) && [anchors.includes('public'), anchors.join(',')]),
    of('certificate-name', NAME, ({ dnsNames }) =>
      isThere(dnsNames) && [dnsNames.includes(NAME), dnsNames.join(',')]),
    headerFrom(context),
    requirement('helo', answer(context.helo !== 'localhost'), 'not localhost', context.helo ?? 'none'),
    attributes(context),
  ];
}

function sourceIp({ clientIp }) {
  const expected = '203.0.113.0/24 or 2001:db8:7::/48';
  if (clientIp.tag !== 'known') {
    const satisfied = clientIp.tag === 'none' ? 'no' : 'unknown';
    return requirement('source-ip', satisfied, expected, clientIp.tag);
  }
  const { tag, val } = clientIp.val;
  const isTheirs = tag === 'ipv4' ? val >>> 8 === 0xcb0071 : val[0] >> 16n === 0x20010db80007n;
  return requirement('source-ip', answer(isTheirs), expected, ipText(clientIp.val));
}

function encryption({ security }) {
  const outcomes = { plaintext: 'no', encrypted: 'yes', unknown: 'unknown' };
  const fact = security.tag === 'encrypted' ? `encrypted ${security.val.cipher}` : security.tag;
  return requirement('tls', outcomes[security.tag], 'encryption', fact);
}

function versionRequirement({ security }, least) {
  const named = (satisfied, fact) => requirement('tls-version', satisfied, `${least}`, fact);
  if (security.tag === 'plaintext') return named('no', 'none');
  const version = security.val?.version;
  return isThere(version) ? named(answer(version >= least), `${version}`) : named('unknown', 'unknown');
}

// The certificate; without encryption there is none.
function certificate({ security }) {
  if (security.tag === 'encrypted') return security.val.certificate;
  return { tag: security.tag === 'plaintext' ? 'none' : 'unknown' };
}

function presented(context) {
  const { tag, val } = certificate(context);
  const outcomes = { none: 'no', presented: 'yes', unknown: 'unknown' };
  const fact = tag === 'presented' ? `${val.subject} by ${val.issuer}` : tag;
  return requirement('certificate-missing', outcomes[tag], 'a certificate', fact);
}

// A requirement on a field, which is unknown where `read` gives nothing.
function ofCertificate(context, name, expected, read) {
  const { tag, val } = certificate(context);
  if (tag === 'none') return requirement(name, 'no', expected, 'none');
  const found = tag === 'presented' && read(val);
  return found
    ? requirement(name, answer(found[0]), expected, found[1])
    : requirement(name, 'unknown', expected, 'unknown');
}

function headerFrom(context) {
  const { tag, val } = context.headerFrom;
  const named = (satisfied, fact) => requirement('header-from', satisfied, 'not blocked.example', fact);
  // The host asks again.
  if (tag === 'pending') return named('yes', 'pending');
  if (tag === 'unknown') return named('unknown', 'unknown');
  return named(answer(!val.some((it) => domain(it) === 'blocked.example')), val.join(','));
}

function attributes({ attributes }) {
  const isListed = attributes.some((it) => it.name === 'example.listed' && it.value === 'yes');
  const fact = attributes.map((it) => `${it.name}=${it.value}`).join(',');
  return requirement('listed', answer(!isListed), 'not listed', fact);
}

function considerBank(context) {
  const isMatched = domain(context.mailFrom) === BANK;
  return {
    connector: 'Contoso Bank',
    mode: 'enforce',
    matched: answer(isMatched),
    selectors: [selector('from.sender-domains', answer(isMatched), BANK, context.mailFrom)],
    requirements: isMatched ? bankRequirements(context) : [],
  };
}

function considerTrial(context) {
  return {
    connector: 'Trial',
    mode: 'audit',
    matched: 'yes',
    selectors: [
      selector('from.sender-domains', 'yes', '*', context.mailFrom),
      selector('to.recipient-domains', 'yes', '*', context.rcptTo),
    ],
    requirements: [trialRequirement(context)],
  };
}

function considerOutbound(connector, context) {
  const [pattern] = connector.selects.recipientDomains;
  const matched = answer(pattern === domain(context.rcptTo));
  return {
    connector: connector.name,
    mode: connector.mode,
    matched,
    selectors: [selector('to.recipient-domains', matched, pattern, context.rcptTo)],
    requirements: [],
  };
}

function inboundConnectors() {
  return [
    {
      name: 'Contoso Bank',
      direction: 'inbound',
      mode: 'enforce',
      appliesTo: 'from contosobank.com',
      requires: 'encryption, its certificate, its addresses',
      comment: 'agreed in Z\u00fcrich',
      selects: {
        senderDomains: [BANK],
        senderIps: ['203.0.113.0/24', '2001:db8:7::/48'],
        certificateNames: [NAME],
        recipientDomains: ['*'],
      },
      delivery: undefined,
      reads: [
        'client-ip', 'mail-from', 'rcpt-to', 'header-from', 'tls', 'tls-version', 'certificate',
        'certificate-names', 'certificate-sha256', 'certificate-key', 'certificate-trust',
        'certificate-anchors',
      ],
    },
    {
      name: 'Trial',
      direction: 'inbound',
      mode: 'audit',
      appliesTo: 'from everyone',
      requires: 'TLS 1.3',
      comment: undefined,
      selects: { senderDomains: ['*'], senderIps: [], certificateNames: [], recipientDomains: ['*'] },
      delivery: undefined,
      reads: ['tls', 'tls-version'],
    },
  ];
}

function outboundConnectors() {
  const toBank = {
    ...byMx('To Contoso Bank', {
      level: { tag: 'name', val: [NAME, '*.contosobank.com'] },
      minVersion: TLS_1_2,
      fingerprints: [LOST, KEY],
      keys: [KEY],
      authorities: ['public', 'Contoso CA'],
      dane: 'none',
      mtaSts: 'none',
    }),
    route: {
      tag: 'smart-hosts',
      val: [
        { host: { tag: 'name', val: 'mx1.contosobank.com' }, port: 2525 },
        { host: { tag: 'address', val: { tag: 'ipv4', val: 0xc0000201 } }, port: undefined },
        {
          host: { tag: 'address', val: { tag: 'ipv6', val: [0x20010db800000000n, 0x25n] } },
          port: 65535,
        },
      ],
    },
  };
  const verified = {
    ...opportunistic(),
    level: { tag: 'verify' },
    minVersion: TLS_1_3,
    dane: 'mandatory',
  };
  const encrypted = {
    ...byMx('Encrypted', { ...opportunistic(), level: { tag: 'encrypt' } }),
    auditTls: verified,
    auditConnector: 'Verified',
    audit: [{ connector: 'Verified', failed: 'tls' }],
  };
  const byName = byMx('Verified', verified);
  const former = byMx('Former', opportunistic());
  return [
    outboundConnector('To Contoso Bank', 'enforce', BANK, 'its smart hosts', toBank),
    outboundConnector('Verified', 'enforce', 'verify.example', 'a trusted certificate', byName),
    outboundConnector('Encrypted', 'audit', 'encrypt.example', 'encryption', encrypted),
    outboundConnector('Former', 'disabled', 'former.example', '', former),
  ];
}

function outboundConnector(name, mode, to, requires, delivery) {
  return {
    name,
    direction: 'outbound',
    mode,
    appliesTo: `to ${to}`,
    requires,
    comment: undefined,
    selects: { senderDomains: [], senderIps: [], certificateNames: [], recipientDomains: [to] },
    delivery,
    reads: ['rcpt-to'],
  };
}

function byMx(connector, tls) {
  return { connector, route: { tag: 'mx' }, tls, auditTls: undefined, auditConnector: undefined, audit: [] };
}

function opportunistic() {
  return {
    level: { tag: 'opportunistic' },
    minVersion: undefined,
    fingerprints: [],
    keys: [],
    authorities: [],
    dane: 'opportunistic',
    mtaSts: 'opportunistic',
  };
}

function requirement(requirement, satisfied, expected, fact) {
  return { requirement, satisfied, expected, fact };
}

function selector(selector, matched, pattern, fact) {
  return { selector, matched, pattern, fact };
}

function answer(holds) {
  return holds ? 'yes' : 'no';
}

function domain(address) {
  const at = address.lastIndexOf('@');
  return at < 0 ? '' : address.slice(at + 1).toLowerCase();
}

function isThere(fact) {
  return fact !== undefined && fact !== null;
}

function isSame(one, other) {
  return one.every((word, index) => word === other[index]);
}

function hex(digest) {
  return Array.from(digest, (word) => word.toString(16).padStart(16, '0')).join('');
}

function ipText({ tag, val }) {
  if (tag === 'ipv4') return [24, 16, 8, 0].map((shift) => (val >>> shift) & 0xff).join('.');
  const groups = val.flatMap((half) => [48n, 32n, 16n, 0n].map((shift) => (half >> shift) & 0xffffn));
  return groups.map((group) => group.toString(16)).join(':');
}
