// The package for JavaScript, `@portcullis/policy`: node javascript.mjs
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'

import { PolicyError, load } from '@portcullis/policy'

let policy

async function answer(question) {
  if (question.conformance) return { name: '@portcullis/policy (JavaScript)', version: '0.1.0' }
  if (!question.load) return { verdict: await policy.evaluate(question.context) }
  policy = await load(question.component ? await readFile(question.component) : question.rules)
  return { loaded: true }
}

for await (const line of createInterface({ input: process.stdin })) {
  const said = await answer(JSON.parse(line)).catch((error) => {
    if (error instanceof PolicyError) return { error: error.message }
    throw error
  })
  console.log(JSON.stringify(said))
}
