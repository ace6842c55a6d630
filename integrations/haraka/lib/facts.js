'use strict'
// The facts of a connection, as a policy takes them. What cannot be told is unknown, never absent.

const net = require('node:net')

const { certificateFacts, presented } = require('./chain')

const UNKNOWN = { tag: 'unknown' }
const VERSIONS = { TLSv1: 0x0301, 'TLSv1.1': 0x0302, 'TLSv1.2': 0x0303, 'TLSv1.3': 0x0304 }

/** What holds for all recipients of a session. */
function sessionFacts(connection, settings) {
  return {
    direction: 'inbound',
    clientIp: clientAddress(connection.remote?.ip),
    helo: connection.hello?.host || undefined,
    security: security(connection, settings),
    headerFrom: { tag: 'pending' },
    attributes: [],
  }
}

/** The text of an envelope address; empty for the null sender. Older releases of Haraka have a method for it. */
function addressText(address) {
  const text = typeof address.address === 'function' ? address.address() : address.address
  return text ?? ''
}

function clientAddress(text) {
  const ip = typeof text === 'string' ? text.replace(/%.*$/, '') : ''
  if (net.isIPv4(ip)) return known('ipv4', ipv4(ip))
  if (!net.isIPv6(ip)) return UNKNOWN
  const [upper, lower] = ipv6(ip)
  const isMapped = upper === 0n && lower >> 32n === 0xffffn
  return isMapped ? known('ipv4', Number(lower & 0xffffffffn)) : known('ipv6', [upper, lower])
}

const known = (tag, val) => ({ tag: 'known', val: { tag, val } })

function ipv4(text) {
  return Buffer.from(text.split('.').map(Number)).readUInt32BE()
}

function ipv6(text) {
  // The last four octets may be written as an IPv4 address.
  const hex = text.replace(/[\d.]+$/, (tail) => {
    if (!tail.includes('.')) return tail
    const number = ipv4(tail)
    return `${(number >>> 16).toString(16)}:${(number & 0xffff).toString(16)}`
  })
  const [left, right = []] = hex.split('::').map((half) => (half ? half.split(':') : []))
  const zeros = Array(8 - left.length - right.length).fill('0')
  const groups = [...left, ...zeros, ...right].map((group) => BigInt(`0x${group}`))
  const word = (four) => four.reduce((value, group) => (value << 16n) | group, 0n)
  return [word(groups.slice(0, 4)), word(groups.slice(4))]
}

function security(connection, settings) {
  // XCLIENT tells the client's address, but not how the client reached the proxy.
  if (connection.xclient) return UNKNOWN
  if (!connection.tls?.enabled) return { tag: 'plaintext' }
  // After STARTTLS the TLS socket is inside Haraka's; with implicit TLS it is Haraka's.
  const socket = connection.client?.cleartext ?? connection.client
  const cipher = connection.tls.cipher ?? {}
  const val = {
    version: VERSIONS[socket?.getProtocol?.() ?? cipher.version],
    cipher: String(cipher.standardName ?? cipher.name ?? ''),
    certificate: certificate(socket, settings),
  }
  return { tag: 'encrypted', val }
}

function certificate(socket, settings) {
  const peer = socket?.getPeerCertificate?.(true)
  // Without a TLS socket, or after its end.
  if (!peer) return UNKNOWN
  if (!peer.raw) return wasRequested(socket, settings) ? { tag: 'none' } : UNKNOWN
  const isResumed = socket.isSessionReused?.() === true
  return { tag: 'presented', val: certificateFacts(presented(peer), settings.authorities, { isResumed }) }
}

/** Node does not publish what a socket has asked for; the setting stands where that is gone. */
function wasRequested(socket, settings) {
  return settings.certificatesRequested && socket._tlsOptions?.requestCert !== false
}

module.exports = { sessionFacts, addressText }
