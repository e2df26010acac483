/** What a connector does with the flows of a service it serves from this process. */
import { type IncomingMessage, type RequestListener, type Server as HttpServer, createServer } from 'node:http'
import { EventEmitter } from 'node:events'
import type { Http2SecureServer, Http2Server } from 'node:http2'
import type { Server as HttpsServer } from 'node:https'
import { functionOf, isObject, notAccepted } from './arguments.js'
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
  if (!isObject(handler)) throw notAccepted(handler, 'handler', `an object with one of ${KINDS.join(', ')}`)
  const given = Object.keys(handler).filter((key) => KINDS.includes(key))
  if (given.length !== 1) throw configError(`a handler is exactly one of ${KINDS.join(', ')}; got ${given.join(', ') || 'none'}`)
  if ('target' in handler) return toTargetSink(handler.target)
  if ('udp' in handler) return { kind: 'udp', take: functionOf(handler.udp, 'handler.udp', 'a function') }
  if ('socket' in handler) {
    const take = functionOf(handler.socket, 'handler.socket', 'a function')
    return { kind: 'tcp', allowHalfOpen: false, take, close: () => {} }
  }
  if ('fetch' in handler) return ownServer(createServer(fetchListener(functionOf(handler.fetch, 'handler.fetch', 'a function'))))
  if (typeof handler.http === 'function') return ownServer(createServer(handler.http))
  const server = handler.http
  if (!(server instanceof EventEmitter)) throw notAccepted(server, 'handler.http', 'an HTTP server of Node, or a request listener')
  sanitize(server)
  if (!server.listening) startTimers(server)
  return { kind: 'tcp', allowHalfOpen: true, take: (socket) => void server.emit('connection', socket), close: () => {} }
}

function ownServer(server: HttpServer): Sink {
  sanitize(server)
  startTimers(server)
  return {
    kind: 'tcp',
    allowHalfOpen: true,
    take: (socket) => void server.emit('connection', socket),
    close: () => void server.close(() => {}),
  }
}

/** Node ends slow headers and requests (`headersTimeout`, `requestTimeout`) by a timer that it starts when a server listens. Ours never do. */
function startTimers(server: { listeners(event: string): unknown[] }): void {
  for (const listener of server.listeners('listening')) {
    if (typeof listener === 'function' && listener.name === 'setupConnectionsTracking') Reflect.apply(listener, server, [])
  }
}

function toTargetSink(target: string): Sink {
  if (typeof target !== 'string') throw notAccepted(target, 'handler.target', 'tcp://host:port, udp://host:port or unix:/path')
  const unix = /^unix:(?:\/\/)?(\/.+)$/.exec(target)
  if (unix !== null) return { kind: 'target', protocol: 'tcp', target: `unix:${unix[1]}` }
  const net = /^(tcp|udp):\/\/(.+):(\d{1,5})\/?$/.exec(target)
  if (net === null) {
    throw configError(`target "${target}" is not accepted: tcp://host:port, udp://host:port or unix:/path`)
  }
  return { kind: 'target', protocol: net[1] as 'tcp' | 'udp', target: `${net[1]}:${net[2]}:${net[3]}` }
}

/** Events of a server that bring a request. */
const REQUESTS: ReadonlySet<string | symbol> = new Set(['request', 'upgrade', 'connect', 'checkContinue', 'checkExpectation'])

/**
 * Takes out what a caller could use to claim an identity: no header of ours exists, so none is believed. Before any listener hears of
 * a request, and not as a listener: Node itself answers some of them where nobody listens.
 */
function sanitize(server: EventEmitter): void {
  if (sanitized.has(server)) return
  sanitized.add(server)
  const emit = server.emit.bind(server)
  server.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    if (REQUESTS.has(event)) clean(args[0] as IncomingMessage)
    else if (event === 'stream') strip(args[3] as string[] | undefined, args[1] as Record<string, unknown>)
    return emit(event, ...args)
  }
}

function clean(request: IncomingMessage): void {
  stripHttp1(request)
  if (request.headers['transfer-encoding'] !== undefined) request.prependOnceListener('end', () => stripTrailers(request))
}

function stripHttp1(request: IncomingMessage): void {
  // Node makes both from the raw list, by its first length, when they are first read: so they are read before it gets shorter.
  if (hasClaim(request.rawHeaders)) strip(request.rawHeaders, request.headers, request.headersDistinct)
}

function stripTrailers(request: IncomingMessage): void {
  if (hasClaim(request.rawTrailers)) strip(request.rawTrailers, request.trailers, request.trailersDistinct)
}

function hasClaim(raw: readonly string[]): boolean {
  return raw.some((name, at) => at % 2 === 0 && isClaim(name))
}

function strip(raw: string[] | undefined, ...views: Record<string, unknown>[]): void {
  for (const view of views) for (const name of Object.keys(view)) if (isClaim(name)) delete view[name]
  if (raw === undefined) return
  for (let at = raw.length - 2; at >= 0; at -= 2) if (isClaim(raw[at] ?? '')) raw.splice(at, 2)
}

/** True of header names that claim an identity, also in the spelling that CGI-like layers make the same of. */
export function isClaim(name: string): boolean {
  return name.toLowerCase().replaceAll('_', '-').startsWith('x-ztna-')
}
