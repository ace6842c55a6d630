'use strict'
// Components for tests, made by `portcullis build`.

const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const PORTCULLIS = process.env.PORTCULLIS_BIN ?? path.join(__dirname, '../../../../target/release/portcullis')

// i32.const 2048, where nothing else is; i32.const 1024, where zeros are: a verdict of zeros is an acceptance.
const [COUNTER, ACCEPTANCE] = [[0x41, 0x80, 0x10], [0x41, 0x80, 0x08]]

/** Accepts one message, and does something else about the next. */
const second = (...instructions) => [
  ...COUNTER, 0x28, 2, 0, // i32.load
  0x04, 0x40, ...instructions, 0x0b, // if ... end
  ...COUNTER, 0x41, 1, 0x36, 2, 0, // i32.const 1, i32.store
  ...ACCEPTANCE,
]

/** What policies do when they are asked: the instructions of their `evaluate`. */
const BODIES = {
  accepting: ACCEPTANCE,
  trapping: second(0x00), // unreachable
  looping: second(0x03, 0x40, 0x0c, 0, 0x0b), // loop, br 0, end
  babbling: [0x41, 0x7f], // i32.const -1: no verdict is there
}

/** What `portcullis build` makes of a file of that name. */
function built(name, contents) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'portcullis-component-'))
  try {
    const [source, component] = [name, 'policy.wasm'].map((it) => path.join(folder, it))
    fs.writeFileSync(source, contents)
    execFileSync(PORTCULLIS, ['build', source, '-o', component], { stdio: 'pipe' })
    return fs.readFileSync(component)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/** The component of a rules document. */
const ofRules = (document) => built('rules.json', document)

/** The component of a core module whose `evaluate` has these instructions. */
const ofBody = (instructions) => built('policy.core.wasm', coreModule(instructions))

/** The smallest core module that is a policy. */
function coreModule(evaluate) {
  const [I32, FUNCTION, MEMORY] = [0x7f, 0x00, 0x02]
  const named = (name, ...what) => [name.length, ...Buffer.from(name), ...what]
  const ours = (name) => `portcullis:policy/evaluation@0.1.0#${name}`
  const sized = (octets) => [(octets.length & 0x7f) | 0x80, octets.length >> 7, ...octets]
  const section = (kind, ...contents) => [kind, ...sized(contents)]
  const code = (...instructions) => sized([0, ...instructions, 0x0b])
  const type = (parameters) => [0x60, parameters, ...Array(parameters).fill(I32), 1, I32]
  return Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, 3, ...type(4), ...type(1), ...type(2)),
    ...section(3, 3, 0, 1, 2),
    ...section(5, 1, 0, 1),
    ...section(7, 5,
      ...named('memory', MEMORY, 0),
      ...named('cabi_realloc', FUNCTION, 0),
      ...named(ours('evaluate'), FUNCTION, 1),
      ...named(ours('explain'), FUNCTION, 1),
      ...named(ours('describe'), FUNCTION, 2),
    ),
    // What is passed in is at 4096, and a description of zeros at 0.
    ...section(10, 3, ...code(0x41, 0x80, 0x20), ...code(...evaluate), ...code(0x41, 0)),
  ])
}

module.exports = { BODIES, coreModule, ofBody, ofRules }
