/** Who sent a request: from the verified connection it came on, never from anything it says. */
import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import type { Socket } from 'node:net'
import { ZtnaError } from './errors.js'
import { SELF, peerOf } from './socket.js'
import type { Identity } from './types.js'

const requests = new WeakMap<Request, Identity>()

/** Remembers who a fetch-style request came from. */
export function bindRequest(request: Request, peer: Identity): void {
  requests.set(request, peer)
}

/** The verified caller of a request or socket. Errors: ERR_ZTNA_IDENTITY when it did not come through the tunnel. */
export function identityOf(from: IncomingMessage | Http2ServerRequest | Request | Socket): Identity {
  const identity = from instanceof Request ? requests.get(from) : (ofSocket(from) ?? ofSocket(socketOf(from)))
  if (identity !== undefined) return identity
  throw new ZtnaError('ERR_ZTNA_IDENTITY', 'this request or socket did not come through the tunnel')
}

function socketOf(from: unknown): unknown {
  if (typeof from !== 'object' || from === null) return undefined
  const { stream, socket } = from as { stream?: { session?: { socket?: unknown } }; socket?: unknown }
  return stream?.session?.socket ?? socket
}

// TLS that ends at the handler wraps our socket: `_parent` is what it reads from.
function ofSocket(socket: unknown): Identity | undefined {
  for (let at = socket; typeof at === 'object' && at !== null; at = (at as { _parent?: unknown })._parent) {
    const self = (at as { [SELF]?: object })[SELF] ?? at
    const identity = peerOf(self)
    if (identity !== undefined) return identity
  }
  return undefined
}
