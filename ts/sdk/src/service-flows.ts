/** The flows that a service's handler has: each is handed to it, counted, and ended when the handler fails. */
import { isObject } from './arguments.js'
import { ZtnaUdpSocket } from './datagram.js'
import type { FlowInfo, FlowTable } from './flows.js'
import type { Sink } from './handlers.js'
import { type NativeRole, whileRunning } from './native.js'
import { type ServeSpan, type ServedFlow, inServeSpan } from './otel.js'
import { type StreamInfo, ZtnaSocket, discard } from './socket.js'
import { toPath } from './types.js'

/** One service that `serve()` has opened. */
export class ServiceFlows {
  readonly service: string
  readonly sink: Sink
  readonly #flows: FlowTable
  readonly #failed: (error: unknown) => void
  #open = 0

  /** `failed`: hears of what the handler threw or rejected with. */
  constructor(service: string, sink: Sink, flows: FlowTable, failed: (error: unknown) => void) {
    this.service = service
    this.sink = sink
    this.#flows = flows
    this.#failed = failed
  }

  /** Flows that the handler has now: none of a target's, which are known to native only. */
  get open(): number {
    return this.#open
  }

  /** A TCP flow has come in. */
  takeStream(role: NativeRole, flow: StreamInfo): void {
    const { sink } = this
    if (sink.kind !== 'tcp') return discard(role, flow)
    inServeSpan(servedOf(flow, 'tcp'), (span) => {
      const socket = new ZtnaSocket(flow.service, sink.allowHalfOpen, sink.forLibrary)
      this.#count(socket, span)
      socket.attach(role, this.#flows, flow)
      this.#hand(socket, sink.take, span)
    })
  }

  /** A UDP flow has come in. */
  takeDatagram(role: NativeRole, flow: FlowInfo & { readonly flow: number }): void {
    const { sink } = this
    if (sink.kind !== 'udp') return whileRunning(() => role.flowReset(flow.flow))
    inServeSpan(servedOf(flow, 'udp'), (span) => {
      const socket = new ZtnaUdpSocket(role.takeDatagram(flow.flow), this.#flows)
      this.#count(socket, span)
      this.#hand(socket, sink.take, span)
    })
  }

  /** No more flows are to come: lets go of those that are idle. */
  drain(): void {
    if (this.sink.kind === 'tcp') this.sink.drain()
  }

  /** All flows have ended. */
  close(): void {
    if (this.sink.kind === 'tcp') this.sink.close()
  }

  #count(socket: ZtnaSocket | ZtnaUdpSocket, span: ServeSpan | undefined): void {
    this.#open += 1
    const events = socket as NodeJS.EventEmitter
    if (span !== undefined) events.once('error', span.failed)
    events.once('close', () => {
      this.#open -= 1
      span?.ended()
    })
  }

  // A handler's own failure ends its flow, not the connector.
  #hand<T extends ZtnaSocket | ZtnaUdpSocket>(socket: T, take: (socket: T) => unknown, span: ServeSpan | undefined): void {
    let failed: unknown
    // A reset nobody listens for is not an uncaught exception.
    ;(socket as NodeJS.EventEmitter).on('error', (error) => (failed = error))
    const onFailure = (error: unknown): void => {
      span?.failed(error)
      if (socket instanceof ZtnaSocket) socket.reset()
      else void socket.close()
      // What the other end did to the flow is no failure of the handler that passes it on.
      if (error !== failed && !isPremature(error)) this.#failed(error)
    }
    try {
      const done = take(socket)
      if (isThenable(done)) done.then(undefined, onFailure)
    } catch (error) {
      onFailure(error)
    }
  }
}

function servedOf(flow: FlowInfo, protocol: 'tcp' | 'udp'): ServedFlow {
  const { service, port, peer, path, traceparent } = flow
  return { service, port, protocol, peer: peer.name, path: toPath(path).kind, traceparent: traceparent ?? undefined }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return isObject(value) && typeof (value as { then?: unknown }).then === 'function'
}

/** What readers of a stream get that closed without an end and without an error. */
function isPremature(error: unknown): boolean {
  return isObject(error) && (error as { code?: unknown }).code === 'ERR_STREAM_PREMATURE_CLOSE'
}
