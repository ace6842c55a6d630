// The core module in a component (the binary format of the component model, with the layers of core WebAssembly).
//
// The evaluator's bindings work for the core module of every policy: what a module exports, and how values go in and
// out, follows from wit/policy.wit alone. That holds where a component is one core module without imports, as
// `portcullis build` makes them, and compilers of Rust and C.

import { PolicyError } from './errors.js'

const INTERFACE = 'portcullis:policy/evaluation'
export const VERSION = '0.1.0'
const FUNCTIONS = ['evaluate', 'explain', 'describe'].map((name) => `${INTERFACE}@${VERSION}#${name}`)

const MOST_NESTED = 100
const MAGIC = [0x00, 0x61, 0x73, 0x6d]
// A core module has version 1 and layer 0, a component version 13 and layer 1.
const [CORE, COMPONENT] = ['1,0,0,0', '13,0,1,0']
const [CORE_MODULE, NESTED, IMPORT] = [1, 4, 10]
// The section of memories in a core module, and the octets of a page.
const [MEMORY, PAGE] = [5, 65536]

/** A number in LEB128 of at most 32 bits, and where it ends. */
function number(octets, at) {
  let value = 0
  for (let shift = 0; shift < 35; shift += 7) {
    const octet = octets[at++]
    if (octet === undefined) break
    value += (octet & 0x7f) * 2 ** shift
    if (octet < 0x80) return [value, at]
  }
  throw new PolicyError('component', 'the component is cut off')
}

/** The sections of a component: their kinds and contents. */
function * sections(octets) {
  for (let at = 8; at < octets.length;) {
    const kind = octets[at++]
    const [size, start] = number(octets, at)
    if (start + size > octets.length) throw new PolicyError('component', 'the component is cut off')
    yield [kind, octets.subarray(start, start + size)]
    at = start + size
  }
}

/** The core module of a component that has one, and imports nothing; with at most so many bytes of memory. */
export async function coreModule(octets, memory) {
  const kind = octets.subarray(4, 8).join()
  if (!MAGIC.every((octet, at) => octets[at] === octet) || ![CORE, COMPONENT].includes(kind)) {
    throw new PolicyError('component', 'this is not a WebAssembly component')
  }
  if (kind === CORE) {
    throw new PolicyError('component', 'this is a core module: `portcullis build` makes a component of it')
  }
  for (const [kind] of sections(octets)) {
    if (kind === IMPORT) throw transpiled('it imports something')
  }
  const modules = modulesIn(octets, 0)
  if (modules.length !== 1) throw transpiled(`it has ${modules.length} core modules`)
  const module = await compile(withMemory(modules[0], Math.floor(memory / PAGE)))
  check(module)
  return module
}

/** The core modules, also those of components within. Those that only name types for an export have none. */
function modulesIn(octets, depth) {
  if (depth > MOST_NESTED) throw new PolicyError('component', 'the component is nested too deeply')
  return [...sections(octets)].flatMap(([kind, contents]) => {
    if (kind === CORE_MODULE) return [contents]
    return kind === NESTED ? modulesIn(contents, depth + 1) : []
  })
}

function transpiled(why) {
  const text = `only components of one core module without imports are loaded, and ${why}: make JavaScript of it by`
  return new PolicyError('import', `${text} \`jco transpile --instantiation async\`, and pass that to ofTranspiled`)
}

/** A core module whose memories grow to so many pages. */
function withMemory(module, pages) {
  const parts = [module.subarray(0, 8)]
  for (const [kind, contents] of sections(module)) {
    const limited = kind === MEMORY ? memories(contents, pages) : contents
    parts.push([kind], leb(limited.length), limited)
  }
  const octets = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  parts.reduce((at, part) => (octets.set(part, at), at + part.length), 0)
  return octets
}

/** The limits of memories: a flag whether there is a maximum, the minimum, the maximum. */
function memories(contents, pages) {
  let [count, at] = number(contents, 0)
  const limited = [...leb(count)]
  while (count-- > 0) {
    const flags = contents[at++]
    // Shared ones, and those of 64 bits, no policy has.
    if (flags > 1) throw new PolicyError('component', 'the core module has a memory of an unusual kind')
    let least
    let most = pages
    ;[least, at] = number(contents, at)
    if (flags === 1) [most, at] = number(contents, at)
    if (least > pages) throw new PolicyError('memory', `the policy begins with ${least} pages of memory; ${pages} are allowed`)
    limited.push(1, ...leb(least), ...leb(Math.min(most, pages)))
  }
  return limited
}

function leb(value) {
  const octets = []
  do {
    octets.push((value % 128) | (value >= 128 ? 128 : 0))
    value = Math.floor(value / 128)
  } while (value > 0)
  return octets
}

async function compile(octets) {
  try {
    return await WebAssembly.compile(octets)
  } catch (error) {
    throw new PolicyError('component', `the core module is not valid: ${error.message}`, { cause: error })
  }
}

function check(module) {
  const imported = WebAssembly.Module.imports(module)
  if (imported.length > 0) throw transpiled(`its core module imports ${imported[0].module} ${imported[0].name}`)
  const exported = new Set(WebAssembly.Module.exports(module).map(({ name }) => name))
  if (FUNCTIONS.every((name) => exported.has(name))) return
  const other = [...exported].find((name) => name.startsWith(`${INTERFACE}@`))
  if (other && !other.startsWith(`${INTERFACE}@${VERSION}#`)) {
    const found = other.slice(0, other.indexOf('#'))
    throw new PolicyError('version', `the policy exports ${found}, and this package speaks ${INTERFACE}@${VERSION}`)
  }
  throw new PolicyError('component', `this is not a policy: it does not export ${INTERFACE}@${VERSION}`)
}
