// The types of the package, as a program uses them; `tsc` says whether they fit.
import { PolicyError, RulesError, load } from '@portcullis/policy'
import type { Context, Verdict } from '@portcullis/policy'

const context: Context = { direction: 'inbound', 'mail-from': 'a@b.test', 'rcpt-to': 'c@d.test', tls: 'unknown' }

export async function reply(component: Uint8Array): Promise<[number, string]> {
  try {
    const policy = await load(component, { timeout: 50 })
    const verdict: Verdict = await policy.evaluate(context)
    switch (verdict.verdict) {
      case 'accept': return [250, verdict.connectors.join()]
      case 'deliver': return [250, verdict.tls.level]
      default: return [verdict.code, verdict.text]
    }
  } catch (error) {
    if (error instanceof RulesError) return [451, error.problems[0].message]
    if (error instanceof PolicyError) return [451, error.code]
    throw error
  }
}
