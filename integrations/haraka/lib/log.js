'use strict'
// The log lines of a decision.

const MOST_LISTED = 20
const LONGEST = 1000

const VERSIONS = { 0x0301: 'TLSv1', 0x0302: 'TLSv1.1', 0x0303: 'TLSv1.2', 0x0304: 'TLSv1.3' }

/** One line for the decision, and one for each connector in audit mode that would refuse. */
function logDecision(plugin, connection, context, verdict) {
  const { connectors, connector, failed, audit } = verdict.val
  const findings = audit.slice(0, MOST_LISTED)
  const fields = {
    verdict: verdict.tag,
    connector: listed(connectors ?? [connector ?? '']),
    failed: failed ?? '',
    audit: listed(findings.map((finding) => `${finding.connector} (${finding.failed})`)),
    client: connection.remote?.ip ?? 'unknown',
    ...protection(context.security),
    from: context.mailFrom,
    to: context.rcptTo,
  }
  if (context.headerFrom.tag === 'addresses') fields.header_from = listed(context.headerFrom.val)
  connection.loginfo(plugin, 'decision', harmless(fields))
  for (const finding of findings) {
    connection.logwarn(plugin, 'a connector in audit mode would refuse', harmless({ ...finding, to: context.rcptTo }))
  }
}

function protection({ tag, val }) {
  if (tag === 'plaintext') return { tls: 'none', certificate: 'none' }
  if (tag === 'unknown') return { tls: 'unknown', certificate: 'unknown' }
  const { certificate, version } = val
  const tls = VERSIONS[version] ?? 'unknown'
  if (certificate.tag !== 'presented') return { tls, certificate: certificate.tag }
  const { trust, dnsNames, sha256 } = certificate.val
  return {
    tls,
    certificate: trust ?? 'unknown',
    certificate_names: listed(dnsNames ?? []),
    certificate_sha256: sha256.map((word) => word.toString(16).padStart(16, '0')).join(''),
  }
}

/** Why a policy has failed. In a stack its script stands for its name, and is large. */
function failure(error) {
  const text = String(error?.stack ?? error)
  return clean(text.replace(/data:text\/javascript;base64,[\w+/=]+/g, 'policy.js'))
}

const listed = (names) => names.slice(0, MOST_LISTED).join(', ')

/** Text of others: without what steers terminals, and not too long. */
const clean = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, ' ').slice(0, LONGEST)

function harmless(fields) {
  return Object.fromEntries(Object.entries(fields).map(([name, text]) => [name, clean(text)]))
}

module.exports = { failure, logDecision }
