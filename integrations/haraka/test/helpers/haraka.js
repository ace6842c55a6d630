'use strict'
// A Haraka of its own, with the plugin, and a plugin behind it that accepts all recipients and keeps all mail.

const { spawn } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')

const PACKAGE = path.join(__dirname, '..', '..')
const MODULES = process.env.HARAKA_DIR
  ? path.join(process.env.HARAKA_DIR, 'node_modules')
  : path.join(PACKAGE, 'node_modules')

/** A file of Haraka's own configuration, which has to be whole. */
const ownConfig = (name) => fs.readFileSync(path.join(MODULES, 'Haraka', 'config', name), 'utf8')

const ACCEPT = `
const fs = require('node:fs')
exports.hook_rcpt = (next, _, [to]) => (to.user === 'nobody' ? next(DENY, 'no such user') : next(OK))
exports.hook_queue = function (next, connection) {
  const { mail_from, rcpt_to } = connection.transaction
  fs.appendFileSync(process.env.PORTCULLIS_MAIL, mail_from + ' ' + rcpt_to + '\\n')
  next(OK)
}
`

class Haraka {
  /** Starts it, and waits until it listens. `files` are in its config folder; `plugins` stand around ours. */
  static async start(options) {
    for (;;) {
      const haraka = new Haraka(await freePort(), options)
      haraka.run()
      try {
        await haraka.logged(`Listening on 127.0.0.1:${haraka.port}`)
        return haraka
      } catch (error) {
        await haraka.stop()
        // Another program may have taken the port meanwhile.
        if (!haraka.log.includes('EADDRINUSE')) throw error
      }
    }
  }

  constructor(port, { pki, files = {}, plugins = ['tls', 'portcullis'], scripts = {}, implicit = false }) {
    this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'portcullis-haraka-'))
    this.port = port
    this.log = ''
    this.mail = path.join(this.folder, 'mail')
    fs.writeFileSync(this.mail, '')
    this.layOut(pki, files, plugins, { accept: ACCEPT, ...scripts }, implicit)
  }

  layOut(pki, files, plugins, scripts, implicit) {
    for (const name of ['config', 'plugins', 'node_modules', 'queue']) fs.mkdirSync(path.join(this.folder, name))
    fs.symlinkSync(PACKAGE, path.join(this.folder, 'node_modules', 'haraka-plugin-portcullis'))
    const server = pki.issue(undefined, '/CN=mx.contoso.com')
    const all = {
      'smtp.ini': `listen=127.0.0.1:${this.port}\nnodes=0\n${implicit ? `smtps_port=${this.port}\n` : ''}`,
      'plugins': [...plugins, 'accept'].join('\n'),
      'log.ini': 'level=INFO\n',
      'connection.ini': ownConfig('connection.ini'),
      'me': 'mx.contoso.com\n',
      'tls_key.pem': server.key,
      'tls_cert.pem': server.pem,
      // Otherwise Haraka makes its own, which takes long.
      'dhparams.pem': pki.openssl('genpkey', '-genparam', '-algorithm', 'DH', '-pkeyopt', 'group:ffdhe2048'),
      ...files,
    }
    for (const [name, text] of Object.entries(all)) this.write(name, text)
    for (const [name, text] of Object.entries(scripts)) {
      fs.writeFileSync(path.join(this.folder, 'plugins', `${name}.js`), text)
    }
  }

  run() {
    const command = path.join(MODULES, 'Haraka', 'bin', 'haraka')
    const env = { ...process.env, PORTCULLIS_MAIL: this.mail }
    this.process = spawn(process.execPath, [command, '-c', this.folder], { env })
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.log += text
        this.wake?.()
      })
    }
    this.process.on('exit', () => {
      this.isOver = true
      this.wake?.()
    })
  }

  /** Writes a file of the config folder, as an editor does: under another name first. */
  write(name, text) {
    const file = path.join(this.folder, 'config', name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(`${file}~`, text)
    fs.renameSync(`${file}~`, file)
  }

  /** Waits for a text in the log, from a place in it on, and gives its line. */
  async logged(text, from = 0) {
    for (;;) {
      const line = this.log.slice(from).split('\n').slice(0, -1).find((it) => it.includes(text))
      if (line !== undefined) return line
      if (this.isOver) throw new Error(`Haraka has ended:\n${this.log}`)
      await new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no "${text}" in the log:\n${this.log}`)), 30_000)
        this.wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  /** The mail that was accepted, one line each. */
  get accepted() {
    return fs.readFileSync(this.mail, 'utf8').split('\n').filter(Boolean)
  }

  async stop() {
    const over = new Promise((resolve) => this.process.once('exit', resolve))
    if (!this.isOver) {
      this.process.kill('SIGKILL')
      await over
    }
    fs.rmSync(this.folder, { recursive: true })
  }
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address()
  await new Promise((resolve) => server.close(resolve))
  return port
}

module.exports = { Haraka, ownConfig }
