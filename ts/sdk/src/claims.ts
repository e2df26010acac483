/** Headers that claim an identity. None of ours exists, so none is believed: they are taken out before a handler hears of a request. */
import type { IncomingMessage } from 'node:http'
import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2'

/** True of header names that claim an identity, also in the spelling that CGI-like layers make the same of. */
function isClaim(name: string): boolean {
  return name.toLowerCase().replaceAll('_', '-').startsWith('x-ztna-')
}

/** Takes claims out of every view of a request's headers, and of its trailers before they are there. */
export function cleanRequest(request: IncomingMessage): void {
  // Node makes the views from the raw list, by its first length, when they are first read: so they are read before it gets shorter.
  if (hasClaim(request.rawHeaders)) strip(request.rawHeaders, request.headers, request.headersDistinct)
  // Only a chunked body has trailers (RFC 9112 §7.1.2). Those of HTTP/2 are the stream's.
  if (request.headers['transfer-encoding'] === undefined) return
  const internals = request as unknown as Internals
  const add = internals._addHeaderLines.bind(request)
  const addClean: Internals['_addHeaderLines'] = (lines) => {
    strip(lines)
    add(lines, lines.length)
  }
  Object.defineProperty(request, '_addHeaderLines', { value: addClean })
}

/** What Node's parser puts trailers into a request by, which may be long before its body is read to the end. */
interface Internals {
  _addHeaderLines(lines: string[], count: number): void
}

/** The same for HTTP/2, of which a request is made afterwards. `raw`: names and values, as the event `stream` has them. */
export function cleanStream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, raw: string[] | undefined): void {
  strip(raw, headers)
  // The types leave out the third.
  ;(stream as NodeJS.EventEmitter).on('trailers', (trailers: IncomingHttpHeaders, _flags: number, rawTrailers?: string[]) => {
    strip(rawTrailers, trailers)
  })
}

function hasClaim(raw: readonly string[]): boolean {
  return raw.some((name, at) => at % 2 === 0 && isClaim(name))
}

function strip(raw: string[] | undefined, ...views: (Record<string, unknown> | undefined)[]): void {
  for (const view of views) for (const name of Object.keys(view ?? {})) if (isClaim(name)) delete view?.[name]
  if (raw === undefined) return
  for (let at = raw.length - 2; at >= 0; at -= 2) if (isClaim(raw[at] ?? '')) raw.splice(at, 2)
}
