/** Who sent a request: from the verified connection it came on, never from anything it says. */
import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import type { Socket } from 'node:net'
import { ZtnaError } from './errors.js'
import { flowOf } from './flow-of.js'
import { callers } from './shared.js'
import type { Identity } from './types.js'

/** Remembers who a fetch-style request came from. */
export function bindRequest(request: Request, peer: Identity): void {
  callers.set(request, peer)
}

/**
 * The verified caller of a request or socket. A `Request` that was made from another one, as by `clone()`, came from nobody: ask for
 * the first one's. Errors: ERR_ZTNA_IDENTITY when it did not come through the tunnel.
 */
export function identityOf(from: IncomingMessage | Http2ServerRequest | Request | Socket): Identity {
  const identity = callers.get(from) ?? callers.get(flowOf(from) ?? {})
  if (identity !== undefined) return identity
  throw new ZtnaError('ERR_ZTNA_IDENTITY', 'this request or socket did not come through the tunnel')
}
