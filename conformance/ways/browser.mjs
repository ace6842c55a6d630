// The package for JavaScript, `@portcullis/policy`, in a browser: node browser.mjs [--timeout MS] [--browser chromium]
//
// Serves the package and a page, opens the page in Chromium without a window, and passes the questions to it. The server
// has the policy for scripts that the README of the package names; what a browser forbids ends the way.
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, extname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values: options } = parseArgs({ options: { timeout: { type: 'string' }, browser: { type: 'string', default: 'chromium' } } })

const PACKAGE = dirname(fileURLToPath(import.meta.resolve('@portcullis/policy')))
const POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; report-uri /forbidden"
const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html' }

/** What the page runs. */
async function page() {
  const { PolicyError, load } = await import('/package/index.js')
  const timeout = Number(new URLSearchParams(location.search).get('timeout') ?? NaN)
  const limits = Number.isNaN(timeout) ? {} : { timeout }
  let policy

  async function answer(question) {
    if (question.conformance) {
      const browser = navigator.userAgent.match(/Chrom\w*\/\d+/)?.[0] ?? navigator.userAgent
      return { name: `@portcullis/policy (${browser}${limits.timeout ? ', in a worker' : ''})`, version: '0.1.0' }
    }
    if (!question.load) return { verdict: await policy.evaluate(question.context) }
    await policy?.close()
    policy = await load(question.component ? await (await fetch('/component')).arrayBuffer() : question.rules, limits)
    return { loaded: true }
  }

  for (;;) {
    const question = await (await fetch('/question')).json()
    const said = await answer(question).catch((error) => {
      if (error instanceof PolicyError) return { error: error.message }
      throw error
    })
    await fetch('/answer', { method: 'POST', body: JSON.stringify(said) })
  }
}

/** Without the server the page closes itself, and the browser ends. */
async function watched() {
  try {
    await page()
  } catch (error) {
    await fetch('/broken', { method: 'POST', body: String(error.stack ?? error) }).catch(() => window.close())
  }
}

const SCRIPT = `${page}\n${watched}\nwatched()`

/** The server's part: one question at a time. */
class Page {
  #asked = deferred()
  #answered = deferred()
  #broken = deferred()
  component

  ask(question) {
    this.#answered = deferred()
    this.#asked.resolve(question)
    return Promise.race([this.#answered.promise, this.#broken.promise])
  }

  fail(error) {
    this.#broken.reject(error)
  }

  async serve(request, response) {
    const { pathname } = new URL(request.url, 'http://localhost')
    const send = (type, content) => response.writeHead(200, { 'content-type': type, 'content-security-policy': POLICY }).end(content)
    if (pathname === '/forbidden') {
      this.fail(new Error(`the browser forbids something: ${await textOf(request)}`))
      return response.writeHead(204).end()
    }
    if (pathname === '/broken') {
      this.fail(new Error(`the page is broken: ${await textOf(request)}`))
      return response.writeHead(204).end()
    }
    if (pathname === '/answer') {
      this.#answered.resolve(JSON.parse(await textOf(request)))
      return response.writeHead(204).end()
    }
    if (pathname === '/question') {
      const question = await this.#asked.promise
      this.#asked = deferred()
      return send('application/json', JSON.stringify(question))
    }
    if (pathname === '/') return send('text/html', '<!doctype html><meta charset="utf-8"><script type="module" src="/page.js"></script>')
    if (pathname === '/page.js') return send('text/javascript', SCRIPT)
    if (pathname === '/component') return send('application/octet-stream', this.component)
    const file = pathname.startsWith('/package/') && join(PACKAGE, pathname.slice('/package'.length))
    const content = file && await readFile(file).catch(() => undefined)
    if (!content) return response.writeHead(404).end()
    send(TYPES[extname(file)] ?? 'application/octet-stream', content)
  }
}

/** A promise, and what settles it. Nobody may be waiting for it when it fails. */
function deferred() {
  const it = {}
  it.promise = new Promise((resolve, reject) => Object.assign(it, { resolve, reject }))
  it.promise.catch(() => {})
  return it
}

async function textOf(request) {
  const parts = []
  for await (const part of request) parts.push(part)
  return Buffer.concat(parts).toString()
}

/** Starts the browser; gives what ends it. */
async function open(url) {
  const folder = await mkdtemp(join(tmpdir(), 'browser-'))
  const settings = [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', `--user-data-dir=${folder}`,
  ]
  // A group of its own: a browser is many processes.
  const child = spawn(options.browser, [...settings, url], { stdio: 'ignore', detached: true, env: { ...process.env, HOME: folder } })
  const ended = new Promise((resolve) => child.on('exit', resolve).on('error', resolve))
  ended.then((why) => host.fail(new Error(`the browser is gone: ${why?.message ?? why}`)))
  return async () => {
    if (child.pid) process.kill(-child.pid, 'SIGKILL')
    await ended
    await rm(folder, { recursive: true, force: true, maxRetries: 10 })
  }
}

const host = new Page()
const server = createServer((request, response) => host.serve(request, response).catch((error) => host.fail(error)))
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const close = await open(`http://127.0.0.1:${server.address().port}/${options.timeout ? `?timeout=${options.timeout}` : ''}`)
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => close().then(() => process.exit(1)))
try {
  for await (const line of createInterface({ input: process.stdin })) {
    const question = JSON.parse(line)
    if (question.component) host.component = await readFile(question.component)
    console.log(JSON.stringify(await host.ask(question)))
  }
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
} finally {
  await close()
  server.closeAllConnections()
  server.close()
}
