'use strict'
// The facts of a connection, as a context has them (docs/spec.md). What cannot be told is unknown, never absent.

const net = require('node:net')

const { certificateFacts, presented } = require('./chain')

const UNKNOWN = 'unknown'
const VERSIONS = ['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3']

/** What holds for all recipients of a session. */
function sessionFacts(connection, settings) {
  const helo = connection.hello?.host
  const tls = protection(connection, settings)
  return {
    direction: 'inbound',
    'client-ip': clientAddress(connection.remote?.ip),
    ...(helo && { helo }),
    ...(tls && { tls }),
  }
}

/** The text of an envelope address; empty for the null sender. Older releases of Haraka have a method for it. */
function addressText(address) {
  const text = typeof address.address === 'function' ? address.address() : address.address
  return text ?? ''
}

function clientAddress(text) {
  // Without the zone.
  const ip = typeof text === 'string' ? text.replace(/%.*$/, '') : ''
  return net.isIP(ip) ? ip : UNKNOWN
}

/** Undefined without encryption. */
function protection(connection, settings) {
  // XCLIENT tells the client's address, but not how the client reached the proxy.
  if (connection.xclient) return UNKNOWN
  if (!connection.tls?.enabled) return undefined
  // After STARTTLS the TLS socket is inside Haraka's; with implicit TLS it is Haraka's.
  const socket = connection.client?.cleartext ?? connection.client
  const cipher = connection.tls.cipher ?? {}
  const version = socket?.getProtocol?.() ?? cipher.version
  const own = certificate(socket, settings)
  return {
    version: VERSIONS.includes(version) ? version : UNKNOWN,
    cipher: String(cipher.standardName ?? cipher.name ?? ''),
    ...(own && { certificate: own }),
  }
}

/** Undefined if the client was asked for one, and has none. */
function certificate(socket, settings) {
  const peer = socket?.getPeerCertificate?.(true)
  // Without a TLS socket, or after its end.
  if (!peer) return UNKNOWN
  if (!peer.raw) return wasRequested(socket, settings) ? undefined : UNKNOWN
  const isResumed = socket.isSessionReused?.() === true
  return certificateFacts(presented(peer), settings.authorities, { isResumed })
}

/** Node does not publish what a socket has asked for; the setting stands where that is gone. */
function wasRequested(socket, settings) {
  return settings.certificatesRequested && socket._tlsOptions?.requestCert !== false
}

module.exports = { sessionFacts, addressText }
