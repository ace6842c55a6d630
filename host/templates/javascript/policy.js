// Who may send mail to whom. README.md says how it is built and tried.

const BLOCKED = ['blocked.example']

export const evaluation = { evaluate, explain, describe }

/** What is thrown defers the mail. Nothing can be printed; what stands under `failed` is in the log, and shown by `make test`. */
function evaluate(context) {
  try {
    return decide(context)
  } catch (error) {
    return refuse('defer', `exception: ${error}`, [451, '4.3.0'], 'the policy has failed, try again later')
  }
}

/** Decides about one recipient of one message. */
function decide(context) {
  const domain = context.mailFrom.slice(context.mailFrom.lastIndexOf('@') + 1).toLowerCase()
  if (BLOCKED.includes(domain)) return refuse('reject', 'blocked', [550, '5.7.1'], 'not from there')
  return context.direction === 'inbound' ? accept() : deliver()
}

/** The same, with what was considered. */
function explain(context) {
  return { verdict: evaluate(context), considered: [], others: 0 }
}

/** What the policy is, and which facts it reads. */
function describe(first, limit) {
  return { organization: '', acceptedDomains: [], reads: ['mail-from'], authorities: [], total: 0, connectors: [] }
}

const accept = () => ({ tag: 'accept', val: { connectors: [], audit: [] } })

/** For good (`reject`) or for now (`defer`); `failed` is for logs and metrics, `text` is what the client reads. */
function refuse(tag, failed, [code, enhanced], text) {
  return { tag, val: { connector: undefined, failed, code, enhanced, text, audit: [] } }
}

/** Mail that the organization sends needs a route, and what the next hop must show. */
function deliver() {
  const tls = {
    level: { tag: 'opportunistic' }, minVersion: undefined, fingerprints: [], keys: [], authorities: [],
    dane: 'opportunistic', mtaSts: 'opportunistic',
  }
  return { tag: 'deliver', val: { connector: undefined, route: { tag: 'mx' }, tls, auditTls: undefined, auditConnector: undefined, audit: [] } }
}
