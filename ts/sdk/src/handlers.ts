/** What a connector does with the flows of a service it serves from this process. */
import { type IncomingMessage, type RequestListener, type Server as HttpServer, createServer } from 'node:http'
import type { Http2SecureServer, Http2Server } from 'node:http2'
import type { Server as HttpsServer } from 'node:https'
import { configError } from './errors.js'
import type { ZtnaUdpSocket } from './datagram.js'
import { type FetchHandler, fetchListener } from './fetch-handler.js'
import type { ZtnaSocket } from './socket.js'

/** Exactly one of these. */
export type Handler =
  | {
      /** Requests go to this server or listener; `identityOf` tells who sent one. */
      http: RequestListener | HttpServer | HttpsServer | Http2Server | Http2SecureServer
    }
  | {
      /** Requests go to this function. */
      fetch: FetchHandler
    }
  | {
      /** Called with each flow. */
      socket: (socket: ZtnaSocket) => void
    }
  | {
      /** Called with each UDP flow. */
      udp: (socket: ZtnaUdpSocket) => void
    }
  | {
      /** Flows are dialled by the native side and never enter JavaScript. */
      target: `tcp://${string}` | `udp://${string}` | `unix:${string}`
    }

/** A handler made ready: where its flows go. */
export type Sink =
  | { readonly kind: 'target'; readonly protocol: 'tcp' | 'udp'; readonly target: string }
  | { readonly kind: 'tcp'; readonly allowHalfOpen: boolean; readonly take: (socket: ZtnaSocket) => void; readonly close: () => void }
  | { readonly kind: 'udp'; readonly take: (socket: ZtnaUdpSocket) => void }

const KINDS = ['http', 'fetch', 'socket', 'udp', 'target']
const sanitized = new WeakSet<object>()

/** Errors: ERR_ZTNA_CONFIG when the handler is none of the kinds. */
export function toSink(handler: Handler): Sink {
  const given = Object.keys(handler).filter((key) => KINDS.includes(key))
  if (given.length !== 1) throw configError(`a handler is exactly one of ${KINDS.join(', ')}; got ${given.join(', ') || 'none'}`)
  if ('target' in handler) return toTargetSink(handler.target)
  if ('udp' in handler) return { kind: 'udp', take: handler.udp }
  if ('socket' in handler) return { kind: 'tcp', allowHalfOpen: false, take: handler.socket, close: () => {} }
  if ('fetch' in handler) return ownServer(createServer(fetchListener(handler.fetch)))
  if (typeof handler.http === 'function') return ownServer(createServer(handler.http))
  const server = handler.http
  sanitize(server)
  return { kind: 'tcp', allowHalfOpen: true, take: (socket) => void server.emit('connection', socket), close: () => {} }
}

function ownServer(server: HttpServer): Sink {
  sanitize(server)
  // Starts the timers that end slow headers and requests; they run from `listening` on.
  server.emit('listening')
  return {
    kind: 'tcp',
    allowHalfOpen: true,
    take: (socket) => void server.emit('connection', socket),
    close: () => void server.close(() => {}),
  }
}

function toTargetSink(target: string): Sink {
  const unix = /^unix:(?:\/\/)?(\/.+)$/.exec(target)
  if (unix !== null) return { kind: 'target', protocol: 'tcp', target: `unix:${unix[1]}` }
  const net = /^(tcp|udp):\/\/(.+):(\d{1,5})\/?$/.exec(target)
  if (net === null) {
    throw configError(`target "${target}" is not accepted: tcp://host:port, udp://host:port or unix:/path`)
  }
  return { kind: 'target', protocol: net[1] as 'tcp' | 'udp', target: `${net[1]}:${net[2]}:${net[3]}` }
}

/** Takes out what a caller could use to claim an identity: no header of ours exists, so none is believed. */
function sanitize(server: { prependListener(event: string, listener: (...args: never[]) => void): unknown }): void {
  if (sanitized.has(server)) return
  sanitized.add(server)
  for (const event of ['request', 'upgrade', 'connect', 'checkContinue', 'checkExpectation']) {
    server.prependListener(event, (request: IncomingMessage) => strip(request.headers, request.rawHeaders))
  }
  server.prependListener('stream', (_stream: never, headers: Record<string, unknown>, _flags: never, raw: string[]) => strip(headers, raw))
}

function strip(headers: Record<string, unknown>, raw: string[] | undefined): void {
  for (const name of Object.keys(headers)) if (isClaim(name)) delete headers[name]
  if (raw === undefined) return
  for (let at = raw.length - 2; at >= 0; at -= 2) if (isClaim(raw[at] ?? '')) raw.splice(at, 2)
}

/** True of header names that claim an identity. */
export function isClaim(name: string): boolean {
  return name.toLowerCase().startsWith('x-ztna-')
}
