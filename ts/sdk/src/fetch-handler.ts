/** `Request` in, `Response` out, on Node's HTTP server. */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { show } from './arguments.js'
import { failPlainly } from './http-service.js'
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
export function fetchListener(handler: FetchHandler, report: (error: unknown) => void): RequestListener {
  return (incoming, outgoing) => {
    const gone = new AbortController()
    outgoing.once('close', () => {
      if (!outgoing.writableFinished) gone.abort()
    })
    answer(handler, incoming, outgoing, gone.signal, report).catch((error: unknown) => {
      // A handler that stops because the caller has gone has not failed.
      if (gone.signal.aborted) return
      report(error)
      // With an error, so that what has gone out is not taken for whole.
      if (outgoing.headersSent) return void outgoing.destroy(error instanceof Error ? error : new Error(show(error)))
      failPlainly(outgoing)
    })
  }
}

async function answer(
  handler: FetchHandler,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  gone: AbortSignal,
  report: (error: unknown) => void,
): Promise<void> {
  const request = toRequest(incoming, gone)
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

function toRequest(incoming: IncomingMessage, signal: AbortSignal): Request {
  const scheme = 'encrypted' in incoming.socket ? 'https' : 'http'
  const base = `${scheme}://${incoming.headers.host ?? 'localhost'}`
  const headers = new Headers()
  for (let at = 0; at + 1 < incoming.rawHeaders.length; at += 2) {
    headers.append(incoming.rawHeaders[at] ?? '', incoming.rawHeaders[at + 1] ?? '')
  }
  const method = incoming.method ?? 'GET'
  const init: RequestInit & { duplex?: 'half' } = { method, headers, signal }
  if (method !== 'GET' && method !== 'HEAD') {
    init.body = Readable.toWeb(incoming) as NonNullable<RequestInit['body']>
    init.duplex = 'half'
  }
  // Only the path is the client's: an absolute-form target must not name another host.
  const url = new URL(base)
  const target = incoming.url ?? '/'
  const path = target.startsWith('/') ? target : new URL(target, base).pathname + new URL(target, base).search
  const query = path.indexOf('?')
  url.pathname = query < 0 ? path : path.slice(0, query)
  url.search = query < 0 ? '' : path.slice(query)
  return new Request(url, init)
}
