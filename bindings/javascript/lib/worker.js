// What runs in a worker: one policy, and the questions to it.

import { InProcess } from './in_process.js'

let instances

async function answer({ begin, name, args }) {
  // Whether it has started.
  if (name === 'nothing') return {}
  try {
    if (!begin) return { answer: await instances.call(name, ...args) }
    instances = InProcess.of(begin)
    return { answer: await instances.begin() }
  } catch ({ code, message, problems }) {
    return { error: { code, message, problems } }
  }
}

if (globalThis.postMessage && globalThis.self) {
  self.onmessage = async ({ data }) => self.postMessage(await answer(data))
} else {
  const { parentPort } = await import('node:worker_threads')
  parentPort.on('message', async (data) => parentPort.postMessage(await answer(data)))
}
