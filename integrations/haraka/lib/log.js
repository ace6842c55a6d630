'use strict'
// The log lines of a decision.

const MOST_LISTED = 20
const LONGEST = 1000

/** One line for the decision, and one for each connector in audit mode that would refuse. */
function logDecision(plugin, connection, context, verdict) {
  const { connectors, connector, failed, audit = [] } = verdict
  const findings = audit.slice(0, MOST_LISTED)
  const fields = {
    verdict: verdict.verdict,
    connector: listed(connectors ?? [connector ?? '']),
    failed: failed ?? '',
    audit: listed(findings.map((finding) => `${finding.connector} (${finding.failed})`)),
    client: connection.remote?.ip ?? 'unknown',
    ...protection(context.tls),
    from: context['mail-from'],
    to: context['rcpt-to'],
  }
  const header = context['header-from']
  if (Array.isArray(header)) fields.header_from = listed(header)
  connection.loginfo(plugin, 'decision', harmless(fields))
  for (const finding of findings) {
    connection.logwarn(plugin, 'a connector in audit mode would refuse', harmless({ ...finding, to: context['rcpt-to'] }))
  }
}

function protection(session) {
  if (session === undefined) return { tls: 'none', certificate: 'none' }
  if (session === 'unknown') return { tls: 'unknown', certificate: 'unknown' }
  const { version: tls, certificate = 'none' } = session
  if (typeof certificate === 'string') return { tls, certificate }
  return {
    tls,
    certificate: certificate.trust ?? 'unknown',
    certificate_names: listed(certificate['dns-names'] ?? []),
    certificate_sha256: certificate.sha256,
  }
}

/** Why a policy has failed; what fails here itself says where. */
const failure = (error) => clean(error?.name === 'PolicyError' ? error.message : error?.stack ?? error)

const listed = (names) => names.slice(0, MOST_LISTED).join(', ')

/** Text of others: without what steers terminals, and not too long. */
const clean = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, ' ').slice(0, LONGEST)

function harmless(fields) {
  return Object.fromEntries(Object.entries(fields).map(([name, text]) => [name, clean(text)]))
}

module.exports = { failure, logDecision }
