'use strict'
// An SMTP client for tests.

const net = require('node:net')
const tls = require('node:tls')

class Client {
  static async connect(port, options = {}) {
    const client = new Client()
    client.attach(options.implicit
      ? tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options })
      : net.connect({ port, host: '127.0.0.1', ...options }))
    if (options.proxy) {
      const family = net.isIPv6(options.proxy) ? 'TCP6' : 'TCP4'
      client.socket.write(`PROXY ${family} ${options.proxy} ${options.proxy} 40000 25\r\n`)
    }
    await client.reply()
    return client
  }

  attach(socket) {
    this.socket = socket
    this.received = ''
    socket.on('data', (data) => {
      this.received += data
      this.wake?.()
    })
    socket.on('error', (error) => this.fail?.(error))
    socket.on('close', () => this.fail?.(new Error(`the server has closed the connection: ${this.received}`)))
  }

  /** The next reply; its lines are joined by line feeds. */
  async reply() {
    for (;;) {
      const match = /^(?:\d{3}-.*\r\n)*\d{3} .*\r\n/.exec(this.received)
      if (match) {
        this.received = this.received.slice(match[0].length)
        return match[0].trim().replaceAll('\r\n', '\n')
      }
      await new Promise((resolve, reject) => Object.assign(this, { wake: resolve, fail: reject }))
    }
  }

  command(line) {
    this.socket.write(`${line}\r\n`)
    return this.reply()
  }

  /** EHLO, and STARTTLS with these options. */
  async greet(options) {
    await this.command('EHLO client.example')
    if (!options) return
    const answer = await this.command('STARTTLS')
    if (!answer.startsWith('220')) throw new Error(answer)
    const plain = this.socket
    plain.removeAllListeners()
    const secure = tls.connect({ socket: plain, rejectUnauthorized: false, ...options })
    this.attach(secure)
    await new Promise((resolve, reject) => secure.once('secureConnect', resolve).once('error', reject))
    await this.command('EHLO client.example')
  }

  close() {
    this.fail = undefined
    this.socket.destroy()
  }
}

/** The replies to MAIL and RCPT, and to the message if a recipient is accepted, of one transaction. */
async function send(port, options = {}) {
  const { tls: secure, from = 'alice@contosobank.com', to = ['bob@contoso.com'], header, ...more } = options
  const client = await Client.connect(port, more)
  try {
    await client.greet(secure)
    return await transaction(client, { from, to, header })
  } finally {
    client.close()
  }
}

async function transaction(client, { from, to, header = `From: ${from}` }) {
  await client.command(`MAIL FROM:<${from}>`)
  const recipients = []
  for (const address of [to].flat()) recipients.push(await client.command(`RCPT TO:<${address}>`))
  if (!recipients.some((reply) => reply.startsWith('250'))) return { recipients }
  await client.command('DATA')
  const message = await client.command(`${header}\r\nSubject: test\r\n\r\ntext\r\n.`)
  return { recipients, message }
}

module.exports = { Client, send, transaction }
