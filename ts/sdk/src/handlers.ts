/** What a connector does with the flows of a service it serves from this process. */
import { type IncomingMessage, type Server as HttpServer, type ServerResponse, createServer } from 'node:http'
import { EventEmitter } from 'node:events'
import type { Http2SecureServer, Http2Server } from 'node:http2'
import type { Server as HttpsServer } from 'node:https'
import { fieldsOf, flagOf, functionOf, isObject, keysOf, notAccepted } from './arguments.js'
import { configError } from './errors.js'
import type { ZtnaUdpSocket } from './datagram.js'
import { type FetchHandler, fetchServer } from './fetch-handler.js'
import { HttpService, type Report } from './http-service.js'
import type { ZtnaSocket } from './socket.js'

/** Exactly one of these. */
export type Handler =
  | {
      /**
       * Requests go to this server or listener; `identityOf` tells who sent one. The server needs to listen nowhere. A listener that throws, or
       * whose promise is rejected, is a `warning` and its request is answered with 500.
       */
      http: ((request: IncomingMessage, response: ServerResponse) => unknown) | HttpServer | HttpsServer | Http2Server | Http2SecureServer
    }
  | {
      /** Requests go to this function. One that fails is a `warning`, and its request is answered with 500. */
      fetch: FetchHandler
    }
  | {
      /** Called with each flow. One that throws, or whose promise is rejected, is a `warning` and its flow is reset. */
      socket: (socket: ZtnaSocket) => unknown
      /** As for `net.createServer`. Default false: our side ends when the agent's has. */
      allowHalfOpen?: boolean
    }
  | {
      /** Called with each UDP flow. One that throws, or whose promise is rejected, is a `warning` and its flow ends. */
      udp: (socket: ZtnaUdpSocket) => unknown
    }
  | {
      /** Flows are dialled by the native side and never enter JavaScript. */
      target: `tcp://${string}` | `udp://${string}` | `unix:${string}`
    }

/** A handler made ready: where its flows go. */
export type Sink =
  | { readonly kind: 'target'; readonly protocol: 'tcp' | 'udp'; readonly target: string }
  | {
      readonly kind: 'tcp'
      readonly allowHalfOpen: boolean
      /** It is a server that knows sockets and not us: what it hears of their ends is what TCP would have said (decision 0020). */
      readonly forLibrary: boolean
      readonly take: (socket: ZtnaSocket) => unknown
      /** No more flows are to come: lets go of those that are idle. */
      readonly drain: () => void
      /** All have ended. */
      readonly close: () => void
    }
  | { readonly kind: 'udp'; readonly take: (socket: ZtnaUdpSocket) => unknown }

const KINDS = ['http', 'fetch', 'socket', 'udp', 'target']

/** `report`: hears of failures that `take` does not throw. Errors: ERR_ZTNA_CONFIG when the handler is none of the kinds. */
export function toSink(given: Handler, report: Report): Sink {
  const accepted = `an object with one of ${KINDS.join(', ')}`
  if (!isObject(given)) throw notAccepted(given, 'handler', accepted)
  const kinds = keysOf(given, 'handler').filter((key) => KINDS.includes(key))
  if (kinds.length !== 1) throw configError(`a handler is exactly one of ${KINDS.join(', ')}; got ${kinds.join(', ') || 'none'}`)
  const handler = fieldsOf(given, 'handler', accepted, [...kinds, 'allowHalfOpen'], 'handler.')
  if ('target' in handler) return toTargetSink(handler.target)
  if ('udp' in handler) return { kind: 'udp', take: functionOf(handler.udp, 'handler.udp', 'a function') }
  if ('socket' in handler) {
    const take = functionOf(handler.socket, 'handler.socket', 'a function')
    const allowHalfOpen = flagOf(handler.allowHalfOpen, 'handler.allowHalfOpen') ?? false
    return { kind: 'tcp', allowHalfOpen, forLibrary: false, take, drain: () => {}, close: () => {} }
  }
  if ('fetch' in handler) return ownServer(fetchServer(functionOf(handler.fetch, 'handler.fetch', 'a function'), report), report)
  if (typeof handler.http === 'function') return ownServer(createServer(handler.http), report)
  const server = handler.http
  if (!(server instanceof EventEmitter)) throw notAccepted(server, 'handler.http', 'an HTTP server of Node, or a request listener')
  return served(server, report, () => {})
}

function ownServer(server: HttpServer, report: Report): Sink {
  return served(server, report, () => void server.close(() => {}))
}

function served(server: EventEmitter & { readonly listening: boolean }, report: Report, close: () => void): Sink {
  const service = new HttpService(server, report)
  if (!server.listening) startTimers(server)
  return {
    kind: 'tcp',
    allowHalfOpen: true,
    forLibrary: true,
    take: (socket) => service.take(socket),
    drain: () => service.drain(),
    close,
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
