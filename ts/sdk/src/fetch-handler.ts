/** `Request` in, `Response` out, on Node's HTTP server. */
import { type IncomingMessage, STATUS_CODES, type Server, type ServerResponse, createServer } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { show } from './arguments.js'
import { toRequest } from './fetch-request.js'
import { answerPlainly } from './http-service.js'
import { bindRequest, identityOf } from './identity-of.js'

/** What a fetch handler gets beside the request: what Node knows of it. Hono has it as `c.env`. */
export interface FetchEnv {
  /** The request as Node has it. Its body is read by the `Request`. */
  readonly incoming: IncomingMessage
  /** What the `Response` is written to. */
  readonly outgoing: ServerResponse
}

/** Hono's `app.fetch` and its like. */
export type FetchHandler = (request: Request, env: FetchEnv) => Response | Promise<Response>

/** `report`: hears of what the handler threw, and of a body that broke off. */
export function fetchServer(handler: FetchHandler, report: (error: unknown) => void): Server {
  /** How many answers are under way on a connection. */
  const open = new WeakMap<Socket, number>()
  const count = (socket: Socket, more: 1 | -1): void => void open.set(socket, (open.get(socket) ?? 0) + more)
  const server = createServer((incoming, outgoing) => {
    const { socket } = incoming
    const gone = new AbortController()
    count(socket, 1)
    outgoing.once('close', () => {
      count(socket, -1)
      if (!outgoing.writableFinished) gone.abort()
    })
    answer(handler, incoming, outgoing, gone.signal, report).catch((error: unknown) => {
      // A handler that stops because the caller has gone has not failed.
      if (gone.signal.aborted) return
      report(error)
      // With an error, so that what has gone out is not taken for whole.
      if (outgoing.headersSent) return void outgoing.destroy(error instanceof Error ? error : new Error(show(error)))
      answerPlainly(outgoing, 500)
    })
  })
  // Node would end the connection without an answer.
  return server.on('connect', (_, socket: Socket) => {
    if ((open.get(socket) ?? 0) > 0) return void socket.destroy(new Error('a CONNECT before the request ahead of it is answered'))
    socket.write(`HTTP/1.1 501 ${STATUS_CODES[501]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    socket.destroySoon()
  })
}

async function answer(
  handler: FetchHandler,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  gone: AbortSignal,
  report: (error: unknown) => void,
): Promise<void> {
  const request = toRequest(incoming, gone)
  if (typeof request === 'number') return answerPlainly(outgoing, request)
  bindRequest(request, identityOf(incoming))
  const response: unknown = await handler(request, { incoming, outgoing })
  if (!isResponse(response)) throw new TypeError(`a fetch handler answered with ${show(response)}, not with a Response`)
  outgoing.statusCode = response.status
  if (response.statusText !== '') outgoing.statusMessage = response.statusText
  response.headers.forEach((value, name) => {
    if (name !== 'set-cookie') outgoing.setHeader(name, value)
  })
  const cookies = response.headers.getSetCookie()
  if (cookies.length > 0) outgoing.setHeader('set-cookie', cookies)
  if (response.body === null || incoming.method === 'HEAD') {
    await response.body?.cancel()
    outgoing.end()
    return
  }
  // The first part of the body may be long in coming, and callers of a stream want to know that it has begun. Most come in this turn.
  setImmediate(() => {
    if (!outgoing.headersSent && !outgoing.destroyed) outgoing.flushHeaders()
  })
  const body = Readable.fromWeb(response.body)
  body.once('error', (error) => {
    if (!gone.aborted) report(error)
  })
  // Ends with a reset where the body fails: the caller must not take the part for the whole.
  await pipeline(body, outgoing).catch(() => {})
}

/** Other implementations of `Response`, such as a polyfill's, do as well. */
function isResponse(value: unknown): value is Response {
  return typeof value === 'object' && value !== null && 'status' in value && 'headers' in value && 'body' in value
}
