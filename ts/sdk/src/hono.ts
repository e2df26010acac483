/**
 * Hono 4: `app.use(ztna())` lets in who came through the tunnel, and has the caller as `c.get('identity')`. Serve it with
 * `connector.serve('web', { fetch: app.fetch })`.
 */
import type { Context, MiddlewareHandler } from 'hono'
import type { GetConnInfo } from 'hono/conninfo'
import type { FetchEnv } from './fetch-handler.js'
import { identityOf } from './identity-of.js'
import { type ZtnaOptions, gateOf } from './middleware.js'
import type { Identity } from './types.js'

export type { Refusal, ZtnaOptions } from './middleware.js'
export type { Identity, Role } from './types.js'

declare module 'hono' {
  interface ContextVariableMap {
    /** The caller, proven by TLS. Set by the middleware `ztna()`. */
    identity: Identity
  }
}

/**
 * Answers 401 to requests that did not come through the tunnel and 403 to callers in none of `groups`, with {@link Refusal} as JSON. Knows
 * the caller also behind middleware that makes another `Request` of the first, where Hono has the connector's `env` (`{ fetch: app.fetch }`).
 * Errors: ERR_ZTNA_CONFIG when the options are not accepted.
 */
export function ztna(options: ZtnaOptions = {}): MiddlewareHandler {
  const gate = gateOf(options)
  return async (c, next) => {
    const incoming = incomingOf(c)
    const verdict = gate(() => identityOf(incoming ?? c.req.raw))
    if ('identity' in verdict) {
      c.set('identity', verdict.identity)
      return next()
    }
    const { status, headers, body } = verdict.refused
    return c.json(body, status, headers)
  }
}

/** The caller's virtual address and flow, as Hono's other adapters tell the address of theirs. */
export const getConnInfo: GetConnInfo = (c) => {
  const { remoteAddress: address, remotePort: port, remoteFamily } = incomingOf(c)?.socket ?? {}
  if (address === undefined || port === undefined) return { remote: {} }
  return { remote: { address, port, addressType: remoteFamily === 'IPv4' ? 'IPv4' : 'IPv6' } }
}

function incomingOf(c: Context): FetchEnv['incoming'] | undefined {
  const env: unknown = c.env
  return typeof env === 'object' && env !== null ? (env as Partial<FetchEnv>).incoming : undefined
}
