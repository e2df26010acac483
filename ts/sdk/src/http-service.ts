/** A served HTTP service: hands flows to a server of Node, survives its handlers' failures, and lets go of what is idle when it closes. */
import { EventEmitter, captureRejectionSymbol } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2ServerRequest, Http2ServerResponse, Http2Session, IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { cleanRequest, cleanStream } from './claims.js'
import { flowOf, showRemote } from './flow-of.js'
import type { ZtnaSocket } from './socket.js'

/** Hears of what a handler threw. */
export type Report = (error: unknown) => void

/** Events of a server that bring a request. */
const REQUESTS: ReadonlySet<string | symbol> = new Set(['request', 'upgrade', 'connect', 'checkContinue', 'checkExpectation'])

const flows = new WeakMap<ZtnaSocket, HttpFlow>()
const watched = new WeakSet<object>()

/** The flows of one `serve()`. A server may be served more than once, and listen on a port besides. */
export class HttpService {
  readonly #server: EventEmitter
  readonly #report: Report
  readonly #open = new Set<HttpFlow>()
  #isDraining = false

  constructor(server: EventEmitter, report: Report) {
    this.#server = server
    this.#report = report
    watch(server)
  }

  /** Hands a flow to the server. */
  take(socket: ZtnaSocket): void {
    const flow = new HttpFlow(socket, this.#report)
    if (this.#isDraining) flow.drain()
    flows.set(socket, flow)
    this.#open.add(flow)
    socket.once('close', () => this.#open.delete(flow))
    this.#server.emit('connection', socket)
  }

  /** Ends idle connections now, and the others with the answer to their last request. */
  drain(): void {
    this.#isDraining = true
    for (const flow of this.#open) flow.drain()
  }
}

/** What HTTP makes of one flow. */
class HttpFlow {
  readonly #socket: ZtnaSocket
  readonly #answering = new Set<ServerResponse>()
  #front: Socket | undefined
  #session: Http2Session | undefined
  #isHandedOver = false
  #isDraining = false
  #isRefused = false

  constructor(
    socket: ZtnaSocket,
    readonly report: Report,
  ) {
    this.#socket = socket
    socket.isCut = (error) => this.#isCut(error)
  }

  /** A request of HTTP/1 is being answered. */
  onRequest(request: IncomingMessage, response: ServerResponse): void {
    if (this.#answering.has(response)) return
    this.#answering.add(response)
    this.#front = request.socket
    // A write after the end would be an uncaught exception.
    response.on('error', this.report)
    response.once('close', () => {
      this.#answering.delete(response)
      if (this.#isDraining) this.drain()
    })
    if (this.#isDraining) response.shouldKeepAlive = false
  }

  /** The connection turned out to be HTTP/2. */
  onSession(session: Http2Session): void {
    this.#session = session
    if (this.#isDraining) session.close()
  }

  /** A handler has the socket for itself: an upgrade, a CONNECT. */
  onHandedOver(): void {
    this.#isHandedOver = true
  }

  drain(): void {
    this.#isDraining = true
    this.#session?.close()
    if (this.#session !== undefined || this.#isHandedOver) return
    for (const response of this.#answering) response.shouldKeepAlive = false
    // One without a request yet may have its first one on the way.
    if (this.#answering.size === 0) this.#front?.destroySoon()
  }

  /** Node answers what is no request, or is too slow, with 400, 408 or the like, and then destroys the socket with the error. */
  onClientError(): void {
    this.#isRefused = true
  }

  /** Ends what a failed handler can't any more, so that the peer does not take it for whole. */
  reset(): void {
    this.#socket.reset()
  }

  // Whatever destroys the socket, and TLS hands no error down: only its end says where an answer without a length is over.
  #isCut(error: Error | null): boolean {
    const isUnsent = (this.#front?.writableLength ?? 0) > 0
    for (const { headersSent, writableEnded } of this.#answering) if (headersSent && (isUnsent || !writableEnded)) return true
    return error !== null && !this.#isRefused
  }
}

// By its `emit`, and not by listeners: Node itself answers some of these events where nobody listens.
function watch(server: EventEmitter): void {
  if (watched.has(server)) return
  watched.add(server)
  const emit = server.emit.bind(server)
  server.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    if (REQUESTS.has(event)) return emitRequest(emit, event, args)
    if (event === 'stream') return emitStream(emit, args)
    if (event === 'dropRequest') cleanRequest(args[0] as IncomingMessage)
    if (event === 'secureConnection') showRemote(args[0] as Socket)
    if (event === 'clientError') httpFlowOf(args[1])?.onClientError()
    if (event === 'session') httpFlowOf(args[0])?.onSession(args[0] as Http2Session)
    return emit(event, ...args)
  }
  captureRejections(server)
}

type Emit = (event: string | symbol, ...args: unknown[]) => boolean

function emitRequest(emit: Emit, event: string | symbol, args: unknown[]): boolean {
  const [request, answer] = args as [IncomingMessage | Http2ServerRequest, Answer]
  if (isHttp1(request)) cleanRequest(request)
  const flow = httpFlowOf(request)
  if (flow === undefined) return emit(event, ...args)
  if (isHttp1(request) && isResponse(answer)) flow.onRequest(request, answer as ServerResponse)
  try {
    const isHeard = emit(event, ...args)
    if (isHeard && !isResponse(answer)) flow.onHandedOver()
    return isHeard
  } catch (error) {
    onFailure(flow, event, args, error)
    return true
  }
}

function emitStream(emit: Emit, args: unknown[]): boolean {
  const [stream, headers, , raw] = args as [ServerHttp2Stream, IncomingHttpHeaders, number, string[] | undefined]
  cleanStream(stream, headers, raw)
  const flow = httpFlowOf(stream)
  if (flow === undefined) return emit('stream', ...args)
  // The peer's reset of a stream nobody listens to would be an uncaught exception.
  stream.on('error', () => {})
  resetWhenCut(stream)
  try {
    return emit('stream', ...args)
  } catch (error) {
    onFailure(flow, 'stream', args, error)
    return true
  }
}

/** A handler threw, or its promise was rejected: 500 where nothing is answered yet, else the peer sees that the answer broke off. */
function onFailure(flow: HttpFlow, event: string | symbol, [first, second]: readonly unknown[], error: unknown): void {
  flow.report(error)
  if (event === 'stream') return failStream(first as ServerHttp2Stream)
  const response = second as Answer
  if (!isResponse(response)) return flow.reset()
  if (response.writableEnded) return
  if (!response.headersSent) answerPlainly(response, 500)
  else if ('stream' in response) failStream(response.stream)
  else flow.reset()
}

/** Answers with a status and nothing else: what the handler had prepared was for another answer, and why it failed stays here. */
export function answerPlainly(response: ServerResponse | Http2ServerResponse, status: number): void {
  for (const name of response.getHeaderNames()) response.removeHeader(name)
  // HTTP/2 has no such words, and its setter warns.
  if (!('stream' in response)) response.statusMessage = ''
  response.statusCode = status
  response.end()
}

function failStream(stream: ServerHttp2Stream): void {
  if (stream.destroyed || stream.writableEnded) return
  if (stream.headersSent) stream.destroy(cut())
  else stream.respond({ ':status': 500 }, { endStream: true })
}

/** To a peer of HTTP/2 a stream that its handler destroys without an error looks ended, and in Node 24 one that it closes with an error code. */
function resetWhenCut(stream: ServerHttp2Stream): void {
  const destroy = stream._destroy.bind(stream)
  stream._destroy = (error, callback) => {
    const isCut = stream.headersSent && !stream.writableEnded && !stream.closed
    destroy(error ?? (isCut ? cut() : null), callback)
  }
}

// Its code is what RST_STREAM says: INTERNAL_ERROR (RFC 9113 §7).
function cut(): Error {
  return new Error('the handler has left its answer in the middle')
}

/** The second argument of an event that brings a request: an upgrade and a CONNECT of HTTP/1 bring the socket. */
type Answer = ServerResponse | Http2ServerResponse | Socket

function isResponse(answer: Answer): answer is ServerResponse | Http2ServerResponse {
  return 'setHeader' in answer
}

function isHttp1(request: IncomingMessage | Http2ServerRequest): request is IncomingMessage {
  return request.httpVersionMajor === 1
}

/** Hears of rejected promises of the server's listeners, without which an `async` one that fails would end the process. */
function captureRejections(server: EventEmitter): void {
  const did = Object.getOwnPropertySymbols(server).some((key) => key.description === 'kCapture' && Reflect.get(server, key) === true)
  const own = Reflect.get(server, captureRejectionSymbol) as ((error: Error, event: string, ...args: unknown[]) => void) | undefined
  // As a constructor that is called again: of an emitter that exists it sets this alone.
  Reflect.apply(EventEmitter, server, [{ captureRejections: true }])
  const onRejection = (error: Error, event: string | symbol, ...args: unknown[]): void => {
    const flow = event === 'stream' || REQUESTS.has(event) ? httpFlowOf(args[0]) : undefined
    if (flow !== undefined) onFailure(flow, event, args, error)
    else if (did) own?.call(server, error, String(event), ...args)
    // As it was: an unhandled rejection.
    else void Promise.reject(error)
  }
  Object.defineProperty(server, captureRejectionSymbol, { value: onRejection, configurable: true, writable: true })
}

function httpFlowOf(from: unknown): HttpFlow | undefined {
  const socket = flowOf(from)
  return socket === undefined ? undefined : flows.get(socket)
}
