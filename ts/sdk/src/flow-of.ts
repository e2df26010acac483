/** Which flow of the tunnel lies under what a server hands to its handlers. */
import type { Socket } from 'node:net'
import { SELF, callers } from './shared.js'
import type { ZtnaSocket } from './socket.js'

/** The flow that a request, an HTTP/2 stream or session, or a socket came by, also one of another copy of the SDK. TLS that ends in this process may lie between. */
export function flowOf(from: unknown): ZtnaSocket | undefined {
  return underSocket(from) ?? underSocket(socketOf(from))
}

/** Has a TLS socket show the address of the flow under it, which its own handle knows nothing of. */
export function showRemote(tls: Socket): void {
  const flow = underSocket(tls)
  if (flow === undefined) return
  for (const name of ['remoteAddress', 'remotePort', 'remoteFamily'] as const) {
    Object.defineProperty(tls, name, { value: flow[name], configurable: true, enumerable: false })
  }
}

function socketOf(from: unknown): unknown {
  if (typeof from !== 'object' || from === null) return undefined
  const { stream, session, socket } = from as { stream?: { session?: Holder }; session?: Holder; socket?: unknown }
  return stream?.session?.socket ?? session?.socket ?? socket
}

interface Holder {
  readonly socket?: unknown
}

// `_parent` of a TLS socket is what it reads from. The socket of an HTTP/2 session is a proxy, which SELF looks behind.
function underSocket(socket: unknown): ZtnaSocket | undefined {
  for (let at = socket; typeof at === 'object' && at !== null; at = (at as { _parent?: unknown })._parent) {
    const self = (at as { [SELF]?: ZtnaSocket })[SELF]
    if (self !== undefined && callers.has(self)) return self
  }
  return undefined
}
