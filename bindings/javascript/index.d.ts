/** Whether mail arrives or leaves. */
export type Direction = 'inbound' | 'outbound'

/** The certificate that the peer presented (docs/spec.md, Contexts). */
export interface Certificate {
  'dns-names'?: string[]
  subject?: string
  issuer?: string
  /** SHA-256 of the DER form, in hexadecimal. */
  sha256?: string
  /** SHA-256 of the subjectPublicKeyInfo, in hexadecimal. */
  'key-sha256'?: string
  /** RFC 3339. */
  'not-after'?: string
  trust?: 'trusted' | 'expired' | 'unknown-issuer' | 'not-yet-valid' | 'revoked' | 'invalid'
  /** The authority that the trusted chain ends at, or several; `public` by default. */
  anchor?: string | string[]
  /** The facts above that the host cannot tell. */
  unknown?: Array<'dns-names' | 'sha256' | 'key-sha256' | 'not-after' | 'trust' | 'anchor'>
}

/** An encrypted session. */
export interface Tls {
  /** `TLSv1.3`, or `unknown`. */
  version: string
  cipher?: string
  /** Without it the peer presented none. */
  certificate?: Certificate | 'unknown'
}

/** The facts about one recipient of one message. What is left out is known not to be there. */
export interface Context {
  direction: Direction
  'client-ip'?: string
  helo?: string
  /** Without it the session is not encrypted. */
  tls?: Tls | 'unknown'
  /** Empty for the null sender; required for inbound mail. */
  'mail-from'?: string
  'rcpt-to': string
  /** Without it the header has not arrived. */
  'header-from'?: string[] | 'unknown'
  'certificate-common-name'?: string
}

/** What a connector in audit mode would have refused. */
export interface Finding {
  connector: string
  failed: string
}

/** The mail is accepted. */
export interface Acceptance {
  verdict: 'accept'
  connectors: string[]
  audit: Finding[]
}

/** The mail is refused: for good (`reject`), or for now (`defer`). */
export interface Refusal {
  verdict: 'reject' | 'defer'
  connector?: string
  failed: string
  code: number
  enhanced: string
  text: string
  audit?: Finding[]
}

/** What the next hop must show. */
export interface Protection {
  level: 'opportunistic' | 'encrypt' | 'verify' | 'name'
  names?: string[]
  'min-version'?: string | null
  'certificate-fingerprints'?: string[]
  'certificate-keys'?: string[]
  'certificate-authorities'?: string[]
}

/** What the domain of the next hop publishes is used so; `opportunistic` if left out. */
export interface Published {
  dane?: 'mandatory' | 'none'
  'mta-sts'?: 'none'
}

/** The mail is delivered by this route, if the next hop satisfies `tls`. */
export interface Delivery extends Published {
  verdict: 'deliver'
  connector?: string
  route: 'mx' | { 'smart-hosts': string[] }
  tls: Protection
  'audit-tls'?: Protection & Published
  'audit-connector'?: string
  audit: Finding[]
}

/** A decision. */
export type Verdict = Acceptance | Refusal | Delivery

/** Whether something holds of the facts. */
export type Outcome = boolean | 'unknown'

/** A connector that was considered. */
export interface Consideration {
  connector: string
  mode: 'enforce' | 'audit' | 'disabled'
  matched: Outcome
  selectors: Array<{ selector: string; matched: Outcome; pattern: string; fact: string }>
  requirements: Array<{ requirement: string; satisfied: Outcome; expected: string; fact: string }>
}

/** A verdict, and the reasons for it. */
export interface Explanation {
  verdict: Verdict
  considered: Consideration[]
  others: number
}

/** What a policy says of itself. */
export interface Description {
  organization: string
  acceptedDomains: string[]
  /** The facts that it reads; with `header-from` among them it is asked again when the header is there. */
  reads: string[]
  authorities: unknown[]
  total: number
  connectors: unknown[]
}

/** A problem of a rules document. */
export interface Problem {
  severity: 'error' | 'warning'
  code: string
  path: string
  line: number
  column: number
  length: number
  message: string
  hint?: string
}

/** No policy, no context, or no answer. It is no verdict: whoever catches one defers the mail. */
export class PolicyError extends Error {
  readonly code: 'component' | 'import' | 'version' | 'rules' | 'context' | 'trap' | 'timeout' | 'memory' | 'verdict'
}

/** A rules document that is not accepted. */
export class RulesError extends PolicyError {
  readonly problems: Problem[]
}

/** A policy that is loaded. An instance that has failed is not used again. */
export class Policy {
  private constructor()
  /** Throws a PolicyError. */
  evaluate(context: Context): Promise<Verdict>
  /** Throws a PolicyError. */
  explain(context: Context): Promise<Explanation>
  describe(first?: number, limit?: number): Promise<Description>
  /** Ends the worker, if it has one. */
  close(): Promise<void>
}

/** The version of the interface that this package speaks. */
export const INTERFACE_VERSION: string

/** How a policy runs. */
export interface Options {
  /** Milliseconds of an evaluation: the policy runs in a worker, which ends when they are over. */
  timeout?: number
  /** Bytes of memory of a component; 64 MiB by default. */
  memory?: number
}

/**
 * Loads a rules document (text or object), or a component (bytes) of one core module without imports.
 * Throws a PolicyError.
 */
export function load(source: string | object | Uint8Array | ArrayBuffer, options?: Options): Promise<Policy>

/**
 * A policy of what `jco transpile --instantiation async` has made of a component. No limits hold for it.
 * Throws a PolicyError.
 */
export function ofTranspiled(
  instantiate: (getCoreModule: (name: string) => WebAssembly.Module | Promise<WebAssembly.Module>, imports: object) => unknown,
  getCoreModule: (name: string) => WebAssembly.Module | Promise<WebAssembly.Module>,
  imports?: object,
): Promise<Policy>
