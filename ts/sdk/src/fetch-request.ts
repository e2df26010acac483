/** The `Request` of what Node's HTTP server has read. */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/** Why there is no `Request`, as a status: the Host or the target is none (RFC 9112 §3.2), or no `Request` can have the method. */
export type Unfit = 400 | 501

/** Methods that Fetch forbids (https://fetch.spec.whatwg.org/#forbidden-method). */
const FORBIDDEN: ReadonlySet<string> = new Set(['CONNECT', 'TRACE', 'TRACK'])
/** `uri-host [ ":" port ]` (RFC 9110 §7.2), as far as a URL's own parser does not check it: nothing that would be another part of a URL. */
const HOST = /^[^/?#@\\\s]+$/
/** The beginning of a target in absolute form (RFC 9112 §3.2.2). */
const ABSOLUTE = /^https?:\/\/[^/?#\\]/i

/** `signal`: fires when the caller has gone. */
export function toRequest(incoming: IncomingMessage, signal: AbortSignal): Request | Unfit {
  const method = incoming.method ?? 'GET'
  if (FORBIDDEN.has(method)) return 501
  const url = urlOf(incoming)
  if (url === undefined) return 400
  const headers = new Headers()
  for (let at = 0; at + 1 < incoming.rawHeaders.length; at += 2) {
    headers.append(incoming.rawHeaders[at] ?? '', incoming.rawHeaders[at + 1] ?? '')
  }
  const init: RequestInit & { duplex?: 'half' } = { method, headers, signal }
  if (method !== 'GET' && method !== 'HEAD') {
    init.body = Readable.toWeb(incoming) as NonNullable<RequestInit['body']>
    init.duplex = 'half'
  }
  return new Request(url, init)
}

function urlOf(incoming: IncomingMessage): URL | undefined {
  const hosts = incoming.rawHeaders.filter((name, at) => at % 2 === 0 && name.toLowerCase() === 'host')
  // HTTP/1.0 needs none; of HTTP/1.1 without one, Node itself has made a 400.
  const host = incoming.headers.host ?? 'localhost'
  if (hosts.length > 1 || !HOST.test(host)) return undefined
  const target = targetOf(incoming)
  if (target === undefined) return undefined
  const url = parsed(`${'encrypted' in incoming.socket ? 'https' : 'http'}://${host}`)
  if (url === undefined) return undefined
  url.pathname = target.path
  url.search = target.query
  return url
}

/** Only the path is the client's: a target in absolute form must not name another host. */
function targetOf({ url: target = '/', method }: IncomingMessage): { readonly path: string; readonly query: string } | undefined {
  if (target === '*') return method === 'OPTIONS' ? { path: '/*', query: '' } : undefined
  if (target.startsWith('/')) {
    const query = target.indexOf('?')
    return query < 0 ? { path: target, query: '' } : { path: target.slice(0, query), query: target.slice(query) }
  }
  const url = ABSOLUTE.test(target) ? parsed(target) : undefined
  return url && { path: url.pathname, query: url.search }
}

function parsed(text: string): URL | undefined {
  return URL.canParse(text) ? new URL(text) : undefined
}
