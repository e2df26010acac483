/** A UDP flow: messages by event or by iteration, read from native only while somebody wants them. */
import { EventEmitter } from 'node:events'
import { notAccepted } from './arguments.js'
import { ZtnaError, fromNative } from './errors.js'
import type { Flow, FlowTable } from './flows.js'
import type { NativeDatagram } from './native.js'
import { type Identity, type NativeIdentity, type NativePath, type PathInfo, toIdentity, toPath } from './types.js'

/** One drain of native's ring. */
const RECV_BYTES = 65_536
/** Drains in one turn of the event loop before others get theirs. */
const DRAINS_PER_TURN = 32

export interface DatagramInfo {
  readonly peer: NativeIdentity
  readonly service: string
  readonly port: number
  readonly path: NativePath
  readonly connection: number
  readonly remoteAddress: string
  readonly remotePort: number
  readonly traceparent?: string | null
}

/** Events of a UDP socket. */
export type UdpEvents = {
  /** One datagram. */
  message: [message: Uint8Array]
  /** The flow has ended; nothing follows. */
  close: []
  /** The flow was reset; `close` follows. */
  error: [error: ZtnaError]
}

interface Reader {
  resolve(result: IteratorResult<Uint8Array, undefined>): void
  reject(error: ZtnaError): void
}

/** Datagrams to a service's port, or from an agent. Unreliable and unordered, as UDP is. */
export class ZtnaUdpSocket extends EventEmitter<UdpEvents> implements AsyncDisposable, AsyncIterable<Uint8Array>, Flow {
  readonly #native: NativeDatagram
  readonly #flows: FlowTable
  readonly #peer: Identity
  readonly #info: DatagramInfo
  readonly #buffer = Buffer.allocUnsafeSlow(RECV_BYTES)
  readonly #pending: Uint8Array[] = []
  readonly #readers: Reader[] = []
  readonly #keepAlive: NodeJS.Timeout
  #path: PathInfo
  #closed = false
  #error: ZtnaError | undefined
  #scheduled = false

  /** @internal Made by `datagram()` and `serve()`. */
  constructor(datagram: NativeDatagram, flows: FlowTable) {
    super({ captureRejections: true })
    this.#native = datagram
    this.#flows = flows
    this.#info = JSON.parse(datagram.infoJson) as DatagramInfo
    this.#peer = toIdentity(this.#info.peer)
    this.#path = toPath(this.#info.path)
    this.#keepAlive = setInterval(() => {}, 0x7fff_ffff)
    flows.add(datagram.flow, this)
    datagram.onReadable(() => this.#drain())
    ;(this as NodeJS.EventEmitter).on('newListener', (name) => {
      if (name === 'message') this.#schedule()
    })
  }

  /** The verified identity at the other end. */
  get peer(): Identity {
    return this.#peer
  }

  /** Name of the service. */
  get service(): string {
    return this.#info.service
  }

  /** Of the service. */
  get port(): number {
    return this.#info.port
  }

  /** W3C trace context the agent sent, if any. */
  get traceparent(): string | undefined {
    return this.#info.traceparent ?? undefined
  }

  /** The peer's virtual address. */
  get remoteAddress(): string {
    return this.#info.remoteAddress
  }

  /** The flow at the peer's virtual address. */
  get remotePort(): number {
    return this.#info.remotePort
  }

  /** How this flow travels now. */
  get path(): PathInfo {
    return this.#path
  }

  /** Largest message now, bytes; it can change with the path. */
  get maxDatagramSize(): number {
    return this.#closed ? 0 : this.#native.maxDatagramSize
  }

  /** Messages lost on our side: to full queues, or because they were too large. */
  get dropped(): number {
    return this.#native.dropped()
  }

  /**
   * Queues messages up to the first that does not fit, because it is larger than `maxDatagramSize` or the queue is full; returns
   * how many. The rest counts as `dropped`. Errors: ERR_ZTNA_CLOSED.
   */
  send(messages: Uint8Array | readonly Uint8Array[]): number {
    if (this.#closed) throw this.#error ?? new ZtnaError('ERR_ZTNA_CLOSED', 'the UDP socket is closed')
    const list: readonly unknown[] = Array.isArray(messages) ? messages : [messages]
    const wrong = list.findIndex((message) => !(message instanceof Uint8Array))
    if (wrong >= 0) throw notAccepted(list[wrong], 'message', 'a Uint8Array (Buffer), or an array of them')
    try {
      return this.#native.send(list as Uint8Array[])
    } catch (error) {
      throw fromNative(error)
    }
  }

  /** Ends the flow. Rejects nothing. */
  close(): Promise<void> {
    this.#finish(undefined)
    return Promise.resolve()
  }

  /** `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** An open socket keeps the process alive: the default. */
  ref(): this {
    this.#keepAlive.ref()
    return this
  }

  /** Lets the process end although the socket is open. */
  unref(): this {
    this.#keepAlive.unref()
    return this
  }

  /** Messages until the socket closes; throws when it was reset. Leaving the loop closes the socket. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array, undefined> {
    return {
      next: () => this.#next(),
      return: async () => {
        await this.close()
        return { done: true, value: undefined }
      },
    }
  }

  /** @internal An async listener has rejected, which Node would end the process for: this flow has failed, and no other. */
  override [EventEmitter.captureRejectionSymbol](thrown: unknown, _event: unknown, ..._args: unknown[]): void {
    this.#finish(fromNative(thrown))
  }

  /** @internal */
  get connection(): number {
    return this.#info.connection
  }

  /** @internal */
  onFlowReset(error: ZtnaError, done: () => void): void {
    this.#finish(error)
    done()
  }

  /** @internal */
  onEnded(error: ZtnaError): void {
    this.#finish(error)
  }

  /** @internal UDP has no end that could be waited for. What was queued before is still sent. */
  onDraining(why: ZtnaError): void {
    this.#finish(why)
  }

  /** @internal */
  onPath(path: PathInfo): void {
    this.#path = path
  }

  #next(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (this.#pending.length === 0 && !this.#closed) this.#pull()
    const value = this.#pending.shift()
    if (value !== undefined) return Promise.resolve({ done: false, value })
    if (this.#error !== undefined) return Promise.reject(this.#error)
    if (this.#closed) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }))
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#drain()
    })
  }

  // Nobody listening leaves messages in native's bounded ring, where the oldest go first.
  #drain(): void {
    for (let turn = 0; turn < DRAINS_PER_TURN; turn++) {
      if (this.#closed || (this.listenerCount('message') === 0 && this.#readers.length === 0)) return
      if (this.#pending.length === 0 && this.#pull() === 0) return
      this.#deliver()
    }
    this.#schedule()
  }

  #deliver(): void {
    for (let next = this.#pending.shift(); next !== undefined; next = this.#pending.shift()) {
      const reader = this.#readers.shift()
      if (reader !== undefined) reader.resolve({ done: false, value: next })
      else if (this.listenerCount('message') > 0) this.emit('message', next)
      else return void this.#pending.unshift(next)
    }
  }

  #pull(): number {
    const filled = this.#native.recv(this.#buffer)
    for (let at = 0; at + 2 <= filled;) {
      const end = at + 2 + this.#buffer.readUInt16LE(at)
      // A copy: the buffer is reused by the next drain.
      this.#pending.push(new Uint8Array(this.#buffer.subarray(at + 2, end)))
      at = end
    }
    return filled
  }

  #finish(error: ZtnaError | undefined): void {
    if (this.#closed) return
    this.#closed = true
    this.#error = error
    clearInterval(this.#keepAlive)
    this.#flows.delete(this.#native.flow)
    this.#native.close()
    for (const reader of this.#readers.splice(0)) {
      if (error === undefined) reader.resolve({ done: true, value: undefined })
      else reader.reject(error)
    }
    // Later, as sockets of Node do: a listener that throws must not keep the role from ending its other flows.
    process.nextTick(() => {
      try {
        if (error !== undefined && this.listenerCount('error') > 0) this.emit('error', error)
      } finally {
        this.emit('close')
      }
    })
  }
}

/** Takes a datagram flow whose caller gave up. */
export function discardDatagram(datagram: NativeDatagram): void {
  datagram.close()
}
