/** `Request` in, `Response` out, on Node's HTTP server. */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { bindRequest, identityOf } from './identity-of.js'

/** Hono's `app.fetch` and its like. A throw is answered with 500. */
export type FetchHandler = (request: Request) => Response | Promise<Response>

export function fetchListener(handler: FetchHandler): RequestListener {
  return (incoming, outgoing) => {
    answer(handler, incoming, outgoing).catch(() => {
      // The reason stays here: a stranger to the service learns nothing from it.
      if (outgoing.headersSent) return void outgoing.destroy()
      outgoing.writeHead(500).end()
    })
  }
}

async function answer(handler: FetchHandler, incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
  const gone = new AbortController()
  outgoing.once('close', () => {
    if (!outgoing.writableFinished) gone.abort()
  })
  const request = toRequest(incoming, gone.signal)
  bindRequest(request, identityOf(incoming))
  const response = await handler(request)
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
  await pipeline(Readable.fromWeb(response.body), outgoing)
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
