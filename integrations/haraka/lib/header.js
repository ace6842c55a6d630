'use strict'
// The From field. A policy decides on addresses that the recipient sees, so a field that readers may understand in
// different ways is held against the rules in each of them.

const LONGEST_HEADER = 256 * 1024
const LONGEST_FIELD = 8 * 1024
const MOST_ADDRESSES = 200

// What a list of mailboxes consists of, each piece tried where the one before ended: no text takes long.
const SIGNS = "\\w!#$%&'*+/=?^`{|}~\\u00a1-\\ufeff-"
const TOKEN = new RegExp(` +|"(?:[^"\\\\]|\\\\.)*"|[${SIGNS}.@]+|[<>,]`, 'uy')
// What follows an @, or a sign that looks like one, up to a white space or a sign that no domain has.
const DOMAIN = /[@\uff20\ufe6b]\s*((?:(?![\s\u0080-\u009f\u200b-\u200f])[\w.\u0080-\uffff-])+)/g
const LABEL = '[\\w\\u00a1-\\ufeff-]+'
const ADDRESS = new RegExp(`^[${SIGNS}]+(?:\\.[${SIGNS}]+)*@${LABEL}(?:\\.${LABEL})*$`, 'u')

/** The fact for a context, and whether the field is clear. `lines` are Haraka's: each field with its line ends. */
function headerFrom(lines, isBinary) {
  const joined = lines.map((field) => (/\n$/.test(field) ? field : `${field}\n`)).join('')
  if (joined.length > LONGEST_HEADER) return { fact: 'unknown', isClear: false }
  const text = isBinary ? Buffer.from(joined, 'latin1').toString('utf8') : joined
  const exact = clearAddresses(text)
  if (exact) return { fact: exact, isClear: true }
  return { fact: possibleAddresses(text) ?? 'unknown', isClear: false }
}

/** The addresses of the only From field, if all readers find the same; otherwise undefined. */
function clearAddresses(text) {
  const physical = text.replace(/\r?\n$/, '').split(/\r?\n/)
  if (!physical.every((line) => /^(?:[!-9;-~]+[ \t]*:|[ \t]+[^ \t])/.test(line))) return undefined
  const fields = physical.join('\n').split(/\n(?![ \t])/)
  if (possibleFields(text).length !== 1) return undefined
  const [value, ...others] = fields.filter((field) => /^from[ \t]*:/i.test(field))
  if (value === undefined || others.length > 0) return undefined
  return mailboxes(value.slice(value.indexOf(':') + 1).replace(/[\n\t]+/g, ' '))
}

/** The addresses in a list of mailboxes, read strictly; undefined if it is none. */
function mailboxes(value) {
  if (value.length > LONGEST_FIELD || /[\p{C}\p{Z}\ufffd]/u.test(value.replaceAll(' ', ''))) return undefined
  const boxes = [[]]
  TOKEN.lastIndex = 0
  while (TOKEN.lastIndex < value.length) {
    const token = TOKEN.exec(value)?.[0]
    if (token === undefined) return undefined
    if (token === ',') boxes.push([])
    else if (token.trim() !== '') boxes.at(-1).push(token)
  }
  const addresses = boxes.map(mailbox)
  return addresses.includes(undefined) ? undefined : addresses
}

/** The address of a mailbox, which stands alone, or in angle brackets behind a name. */
function mailbox(tokens) {
  const isBare = tokens.length === 1
  const name = isBare ? [] : tokens.slice(0, -3)
  const [open, address, close] = isBare ? ['<', ...tokens, '>'] : tokens.slice(-3)
  const isName = name.every((token) => token.startsWith('"') || !/[<>@]/.test(token))
  return isName && open === '<' && close === '>' && ADDRESS.test(address) ? address : undefined
}

/** Whatever a reader could take for an address in a From field; undefined if it is too much. */
function possibleAddresses(text) {
  const domains = new Set()
  for (const field of possibleFields(text)) {
    if (field.length > LONGEST_FIELD) return undefined
    for (const reading of readings(field)) {
      for (const [, domain] of reading.matchAll(DOMAIN)) domains.add(trimmed(domain))
    }
    if (domains.size > MOST_ADDRESSES) return undefined
  }
  domains.delete('')
  return [...domains].map((domain) => `unclear@${domain}`)
}

const trimmed = (domain) => domain.split('.').filter(Boolean).join('.').toWellFormed()

/** The lines that a reader could take for a From field, wherever they stand, with what follows them folded. */
function possibleFields(text) {
  const fields = []
  let isInside = false
  for (const line of text.split(/[\r\n]/)) {
    const name = line.split(':', 1)[0]
    const isFrom = line.includes(':') && name.replace(/[^!-~]/g, '').toLowerCase() === 'from'
    // Some readers take "From someone" of old mailboxes for one.
    if (isFrom || /^from ./i.test(line)) {
      fields.push(line.slice(isFrom ? name.length + 1 : 5))
      isInside = true
    } else if (isInside && !/^[a-z\d]/i.test(line)) {
      fields.push(fields.pop() + line)
    } else {
      isInside = false
    }
  }
  return fields
}

/** How readers may understand the text of a field: with encoded words, without comments, quotes or odd signs. */
function readings(field) {
  const plain = field.replace(/[^ -~]/g, '')
  const texts = [field, plain, decoded(field), decoded(plain)]
  return texts.flatMap((text) => {
    const bare = withoutComments(text)
    return [text, bare, withoutSigns(text), withoutSigns(bare)]
  })
}

function decoded(text) {
  return text.replace(/=\?([^?]*)\?([bq])\?([^?]*)\?=\s*/gi, (_, charset, encoding, word) => {
    const octets = /b/i.test(encoding) ? Buffer.from(word, 'base64') : unquoted(word)
    return octets.toString(/utf-?8/i.test(charset) ? 'utf8' : 'latin1')
  })
}

function unquoted(word) {
  const octet = (_, code) => String.fromCharCode(parseInt(code, 16))
  return Buffer.from(word.replaceAll('_', ' ').replace(/=([\da-f]{2})/gi, octet), 'latin1')
}

function withoutComments(text) {
  let depth = 0
  let kept = ''
  for (const sign of text) {
    if (sign === '(') depth += 1
    if (depth === 0 && sign !== ')') kept += sign
    if (sign === ')' && depth > 0) depth -= 1
  }
  return kept
}

const withoutSigns = (text) => text.replace(/[\s\p{Cc}\p{Cf}"\\<>()[\]{}]/gu, '')

module.exports = { headerFrom }
