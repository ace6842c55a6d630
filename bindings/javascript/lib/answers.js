// What a policy answers, before it is read: how it lies in the memory of the core module (the canonical ABI of the
// component model, and the types of wit/policy.wit).
//
// A few octets of memory can be an answer of gigabytes: all strings of a list may be the same one. Reading such an answer
// ends the program, and no handler of errors runs. So it is counted first. Nothing runs between counting and reading.

import { PolicyError } from './errors.js'

const MIB = 1024 * 1024
/** Octets that an answer may have, as `portcullis run` allows them. */
const [OF_A_VERDICT, OF_MORE] = [2 * MIB, 16 * MIB]
/** An element of a list takes as much in JavaScript, also where it is one octet of memory. */
const LEAST = 8

const alignedTo = (align, at) => Math.ceil(at / align) * align
const trap = (why) => new PolicyError('trap', `the policy gives no answer: ${why}`)

/** What is left of the octets that an answer may have. */
class Count {
  constructor(memory, most) {
    Object.assign(this, { memory: new DataView(memory.buffer), most, left: most })
  }

  /** The place and the length of a string, or of a list of such elements. */
  range(at, { size, align }, counted) {
    const start = this.memory.getUint32(at, true)
    const length = this.memory.getUint32(at + 4, true)
    this.inside(start, length * size, align)
    this.left -= length * counted
    if (this.left < 0) throw new PolicyError('memory', `the policy answers with more than ${this.most / MIB} MiB`)
    return [start, length]
  }

  inside(start, size, align) {
    if (start % align !== 0) throw trap(`what is at ${start} is not aligned to ${align}`)
    if (start + size > this.memory.byteLength) throw trap(`what is at ${start} is not in its memory`)
  }
}

// Types: how large they are, and what counts the strings and lists in them, if there may be any.

const number = (size) => ({ size, align: size })
const [none, one, u16, u32, u64] = [{ size: 0, align: 1 }, number(1), number(2), number(4), number(8)]
const string = { size: 8, align: 4, count: (at, count) => { count.range(at, one, 1) } }

function list(of) {
  return {
    size: 8,
    align: 4,
    count(at, count) {
      const [start, length] = count.range(at, of, Math.max(of.size, LEAST))
      if (!of.count) return
      for (let number = 0; number < length; number++) of.count(start + number * of.size, count)
    },
  }
}

function record(...fields) {
  const align = Math.max(...fields.map((it) => it.align))
  let end = 0
  const placed = fields.map((it) => {
    const at = alignedTo(it.align, end)
    end = at + it.size
    return [at, it]
  })
  const counted = placed.filter(([, it]) => it.count)
  const count = (at, count) => counted.forEach(([from, it]) => it.count(at + from, count))
  return { size: alignedTo(align, end), align, count: counted.length > 0 ? count : undefined }
}

function variant(...cases) {
  const align = Math.max(...cases.map((it) => it.align))
  const size = alignedTo(align, align + Math.max(...cases.map((it) => it.size)))
  // The bindings refuse a case that there is not.
  const count = (at, count) => cases[count.memory.getUint8(at)]?.count?.(at + align, count)
  return { size, align, count: cases.some((it) => it.count) ? count : undefined }
}

const option = (some) => variant(none, some)
const tuple = record

// The interface, in the order of wit/policy.wit. An enum is `one`.

const ipAddress = variant(u32, tuple(u64, u64))
const sha256 = tuple(u64, u64, u64, u64)
const findings = list(record(string, string))
const acceptance = record(list(string), findings)
const refusal = record(option(string), string, u16, string, string, findings)
const smartHost = record(variant(string, ipAddress), option(u16))
const route = variant(none, list(smartHost))
const level = variant(none, none, none, list(string))
const protection = record(level, option(u16), list(sha256), list(sha256), list(string), one, one)
const delivery = record(option(string), route, protection, option(protection), option(string), findings)
const verdict = variant(acceptance, refusal, refusal, delivery)
const compared = record(string, one, string, string)
const consideration = record(string, one, one, list(compared), list(compared))
const explanation = record(verdict, list(consideration), u32)
const selectors = record(list(string), list(string), list(string), list(string))
const connector = record(string, one, one, string, string, option(string), selectors, option(delivery), list(one))
const description = record(string, list(string), list(one), list(record(string, string)), u32, list(connector))

const ANSWERS = { evaluate: [verdict, OF_A_VERDICT], explain: [explanation, OF_MORE], describe: [description, OF_MORE] }

/** The exports of an instance, of which the functions of `evaluation` give only answers that can be read. */
export function bounded(exports, evaluation) {
  const { memory, cabi_realloc: realloc } = exports
  const changed = Object.entries(ANSWERS).map(([name, [type, most]]) => {
    const call = exports[`${evaluation}#${name}`]
    return [`${evaluation}#${name}`, (...args) => {
      // An address is an unsigned number; an i32 of JavaScript is not.
      const at = call(...args) >>> 0
      const count = new Count(memory, most)
      count.inside(at, type.size, type.align)
      type.count(at, count)
      return at
    }]
  })
  return {
    ...exports,
    ...Object.fromEntries(changed),
    cabi_realloc(old, oldSize, align, size) {
      const at = realloc(old, oldSize, align, size) >>> 0
      new Count(memory, 0).inside(at, size, align)
      return at
    },
  }
}
