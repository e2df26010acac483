/**
 * Express 4 and 5: `app.use(ztna())` lets in who came through the tunnel, and puts the caller on the request as `request.identity`. Works for
 * whatever has Node's requests and a `next`, such as Connect.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { identityOf } from './identity-of.js'
import { type ZtnaOptions, gateOf } from './middleware.js'
import type { Identity } from './types.js'

export type { Refusal, ZtnaOptions } from './middleware.js'
export type { Identity, Role } from './types.js'

declare global {
  // oxlint-disable-next-line typescript/no-namespace -- that is where Express has its request extended
  namespace Express {
    interface Request {
      /** The caller, proven by TLS. Set by the middleware `ztna()`. */
      identity: Identity
    }
  }
}

/** A middleware. It asks for nothing but Node's requests and responses. */
export type ZtnaMiddleware = (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void

/**
 * Answers 401 to requests that did not come through the tunnel and 403 to callers in none of `groups`, with {@link Refusal} as JSON. Errors:
 * ERR_ZTNA_CONFIG when the options are not accepted.
 */
export function ztna(options: ZtnaOptions = {}): ZtnaMiddleware {
  const gate = gateOf(options)
  return (request, response, next) => {
    const verdict = gate(() => identityOf(request))
    if ('identity' in verdict) {
      Object.assign(request, { identity: verdict.identity })
      return next()
    }
    const { status, headers, body } = verdict.refused
    response.writeHead(status, { ...headers, 'content-type': 'application/json; charset=utf-8' }).end(JSON.stringify(body))
  }
}
