// The core module in a component (the binary format of the component model, with the layers of core WebAssembly).
//
// The evaluator's bindings work for the core module of every policy: what a module exports, and how values go in and
// out, follows from wit/policy.wit alone. That holds where a component is one core module without imports, as
// `portcullis build` makes them, and compilers of Rust and C.

import { PolicyError } from './errors.js'

const INTERFACE = 'portcullis:policy/evaluation'
export const VERSION = '0.1.0'
export const EVALUATION = `${INTERFACE}@${VERSION}`
const FUNCTIONS = ['evaluate', 'explain', 'describe'].map((name) => `${EVALUATION}#${name}`)

const MOST_NESTED = 100
const MAGIC = [0x00, 0x61, 0x73, 0x6d]
// A core module has version 1 and layer 0, a component version 13 and layer 1.
const [CORE, COMPONENT] = ['1,0,0,0', '13,0,1,0']
const [CORE_MODULE, NESTED, ALIAS, CANON, IMPORT, EXPORT] = [1, 4, 6, 8, 10, 11]
// The sections of tables and memories in a core module, and the octets of a page.
const [TABLE, MEMORY, PAGE] = [4, 5, 65536]
// funcref and externref; as many tables with as many elements as `portcullis run` allows.
const [REFERENCES, MOST_TABLES, MOST_ELEMENTS] = [[0x70, 0x6f], 4, 100_000]

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
  const outer = [...sections(octets)]
  if (outer.some(([kind]) => kind === IMPORT)) throw transpiled('it imports something')
  const modules = modulesIn(octets, 0)
  if (modules.length !== 1) throw transpiled(`it has ${modules.length} core modules`)
  if (!outer.some(([kind]) => kind === CORE_MODULE)) throw transpiled('its core module is not its own')
  checkShape(outer)
  const module = await compile(limited(modules[0], Math.floor(memory / PAGE)))
  check(module)
  return module
}

/**
 * What a component exports must be the functions of its core module of the same names: the bindings call these, whatever
 * the component says.
 */
function checkShape(outer) {
  const of = (wanted) => outer.filter(([kind]) => kind === wanted).map(([, contents]) => new Reader(contents))
  const exported = of(EXPORT).flatMap((reader) => reader.list(() => reader.exported()))
  if (!exported.some((name) => name.startsWith(`${INTERFACE}@`))) {
    throw new PolicyError('component', `this is not a policy: it does not export ${EVALUATION}`)
  }
  checkVersion(exported)
  // Core functions are numbered in the order of their aliases: nothing else makes any here.
  const functions = of(ALIAS).flatMap((reader) => reader.list(() => reader.alias())).filter((name) => name !== undefined)
  const lifted = of(CANON).flatMap((reader) => reader.list(() => functions[reader.lift()]))
  for (const name of FUNCTIONS) {
    if (lifted.filter((it) => it === name).length !== 1) throw transpiled(`it does not lift ${name} from its core module`)
  }
}

/** Of what is exported by its full name, the interface has the version of this package. */
export function checkVersion(exported) {
  const versions = exported.filter((name) => name.startsWith(`${INTERFACE}@`))
  if (versions.length > 0 && !versions.includes(EVALUATION)) {
    throw new PolicyError('version', `the policy exports ${versions[0]}, and this package speaks ${EVALUATION}`)
  }
}

/** Reads the sections of a component, as far as those of one core module go. */
class Reader {
  constructor(octets) {
    Object.assign(this, { octets, at: 0 })
  }

  octet() {
    if (this.at >= this.octets.length) throw new PolicyError('component', 'the component is cut off')
    return this.octets[this.at++]
  }

  number() {
    const [value, at] = number(this.octets, this.at)
    this.at = at
    return value
  }

  name() {
    const length = this.number()
    if (this.at + length > this.octets.length) throw new PolicyError('component', 'the component is cut off')
    const octets = this.octets.subarray(this.at, this.at + length)
    this.at += length
    return new TextDecoder().decode(octets)
  }

  list(read) {
    const found = []
    for (let left = this.number(); left > 0; left--) found.push(read())
    if (this.at !== this.octets.length) throw new PolicyError('component', 'a section has something behind its end')
    return found
  }

  /** A sort: the first octet, and the second one if it is of the core. */
  sort() {
    const sort = this.octet()
    return sort === 0x00 ? [sort, this.octet()] : [sort]
  }

  /** The name of a core function that is aliased; undefined for anything else. */
  alias() {
    const [sort, core] = this.sort()
    const target = this.octet()
    this.number()
    if (target === 0x02) this.number()
    const name = target === 0x02 ? undefined : this.name()
    return sort === 0x00 && core === 0x00 && target === 0x01 ? name ?? '' : undefined
  }

  /** The number of the core function that becomes one of the component. */
  lift() {
    if (this.octet() !== 0x00 || this.octet() !== 0x00) throw transpiled('it lowers functions')
    const lifted = this.number()
    for (let left = this.number(); left > 0; left--) {
      const option = this.octet()
      // UTF-8; memory, realloc and post-return with a number.
      if (![0x00, 0x03, 0x04, 0x05].includes(option)) throw transpiled('its functions are of an unusual kind')
      if (option !== 0x00) this.number()
    }
    this.number()
    return lifted
  }

  /** The name of an export. */
  exported() {
    if (this.octet() > 0x01) throw transpiled('its exports have attributes')
    const name = this.name()
    this.sort()
    this.number()
    if (this.octet() !== 0x00) {
      this.octet()
      this.number()
    }
    return name
  }
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

/** A core module whose memory grows to so many pages, and whose tables to so many elements. */
function limited(module, pages) {
  const parts = [module.subarray(0, 8)]
  for (const [kind, contents] of sections(module)) {
    const changed = kind === MEMORY ? memories(contents, pages) : kind === TABLE ? tables(contents) : contents
    parts.push([kind], leb(changed.length), changed)
  }
  const octets = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  parts.reduce((at, part) => (octets.set(part, at), at + part.length), 0)
  return octets
}

/** Limits: a flag whether there is a maximum, the minimum, the maximum. Shared ones, and those of 64 bits, no policy has. */
function limits(reader, most, what) {
  const flags = reader.octet()
  if (flags > 1) throw new PolicyError('component', `the core module has a ${what} of an unusual kind`)
  const least = reader.number()
  const own = flags === 1 ? reader.number() : most
  if (least > most) throw new PolicyError('memory', `the policy begins with a ${what} of ${least}; ${most} are allowed`)
  return [1, ...leb(least), ...leb(Math.min(own, most))]
}

function memories(contents, pages) {
  const reader = new Reader(contents)
  const all = reader.list(() => limits(reader, pages, 'memory'))
  if (all.length > 1) throw new PolicyError('memory', 'the policy has more than one memory')
  return [...leb(all.length), ...all.flat()]
}

function tables(contents) {
  const reader = new Reader(contents)
  const all = reader.list(() => {
    const kind = reader.octet()
    if (!REFERENCES.includes(kind)) throw new PolicyError('component', 'the core module has a table of an unusual kind')
    return [kind, ...limits(reader, MOST_ELEMENTS, 'table')]
  })
  if (all.length > MOST_TABLES) throw new PolicyError('memory', `the policy has ${all.length} tables; ${MOST_TABLES} are allowed`)
  return [...leb(all.length), ...all.flat()]
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
}
