/** A UDP flow: messages by event or by iteration, one by one or in batches, read from native only while somebody wants them. */
import { AsyncResource } from 'node:async_hooks'
import type { Socket as DgramSocket } from 'node:dgram'
import { EventEmitter } from 'node:events'
import { notAccepted } from './arguments.js'
import { DgramAdapter } from './dgram-adapter.js'
import { ZtnaError, fromNative } from './errors.js'
import type { Flow, FlowInfo, FlowTable } from './flows.js'
import type { NativeDatagram } from './native.js'
import { type Identity, type PathInfo, toIdentity, toPath } from './types.js'

/** One drain of native's ring, bytes, of which each message takes two more than it has: the largest batch. */
const RECV_BYTES = 65_536
/** One for all sockets of a thread, as each drain copies at once what it got. */
const drained = Buffer.allocUnsafeSlow(RECV_BYTES)
/** Drains in one turn of the event loop before others get theirs. */
const DRAINS_PER_TURN = 32

/** Events of a UDP socket. */
export type UdpEvents = {
  /** One datagram. */
  message: [message: Uint8Array]
  /** All datagrams that waited, up to 64 KB of them: at high rates several times cheaper than `message`. They share one ArrayBuffer. */
  messages: [batch: readonly Uint8Array[]]
  /** The flow has ended: either end has closed it, or `error` came first. Nothing follows. */
  close: []
  /** The flow was cut, by an end that failed or one that no longer permits it; `close` follows. */
  error: [error: ZtnaError]
}

/** Messages lost on our side, by cause. */
export interface UdpDrops {
  /** Larger than `maxDatagramSize` when they were sent, and what stood behind such a one in the same call. */
  readonly tooLarge: number
  /** Found the queue of what is to be sent full. */
  readonly sendQueue: number
  /** Later, in queues: read too slowly here, or taken by `send` and more than the connection or its path could carry. */
  readonly underway: number
}

/** Somebody who awaits the next message, or the next batch. */
interface Reader {
  /** Takes it from what is pending. */
  give(): void
  end(error: ZtnaError | undefined): void
}

/** Datagrams to a service's port, or from an agent. Unreliable and unordered, as UDP is. */
export class ZtnaUdpSocket extends EventEmitter<UdpEvents> implements AsyncDisposable, AsyncIterable<Uint8Array>, Flow {
  readonly #native: NativeDatagram
  readonly #flows: FlowTable
  readonly #peer: Identity
  readonly #info: FlowInfo
  readonly #pending: Uint8Array[] = []
  readonly #readers: Reader[] = []
  readonly #keepAlive: NodeJS.Timeout
  #path: PathInfo
  #closed = false
  #ended = 'the UDP socket is closed'
  #error: ZtnaError | undefined
  #scheduled = false
  #tooLarge = 0
  #sendQueue = 0
  #dgram: DgramAdapter | undefined

  /** @internal Made by `datagram()` and `serve()`. */
  constructor(datagram: NativeDatagram, flows: FlowTable) {
    super({ captureRejections: true })
    this.#native = datagram
    this.#flows = flows
    this.#info = JSON.parse(datagram.infoJson) as FlowInfo
    this.#peer = toIdentity(this.#info.peer)
    this.#path = toPath(this.#info.path)
    this.#keepAlive = setInterval(() => {}, 0x7fff_ffff)
    flows.add(datagram.flow, this)
    // In the context that the flow was made in: from Node 24 on, a call that comes from native has none of its own.
    datagram.onReadable(AsyncResource.bind(() => this.#drain()))
    ;(this as NodeJS.EventEmitter).on('newListener', (name) => {
      if (name === 'message' || name === 'messages') this.#schedule()
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

  /** Messages lost on our side, the sum of `drops`. What the network loses, nobody can count here. */
  get dropped(): number {
    const { tooLarge, sendQueue, underway } = this.drops
    return tooLarge + sendQueue + underway
  }

  /** Messages lost on our side, by cause. */
  get drops(): UdpDrops {
    // Native counts all of them together; those that `send` was refused are told apart there.
    const underway = Math.max(0, this.#native.dropped() - this.#tooLarge - this.#sendQueue)
    return { tooLarge: this.#tooLarge, sendQueue: this.#sendQueue, underway }
  }

  /**
   * Queues messages up to the first that does not fit, because it is larger than `maxDatagramSize` or the queue (1,024 messages) is full;
   * returns how many. The rest counts in `drops`. An array costs one call into native code, however long it is. Errors: ERR_ZTNA_CLOSED.
   */
  send(messages: Uint8Array | readonly Uint8Array[]): number {
    if (this.#closed) throw this.#error ?? new ZtnaError('ERR_ZTNA_CLOSED', this.#ended)
    const list: readonly unknown[] = Array.isArray(messages) ? messages : [messages]
    const wrong = list.findIndex((message) => !(message instanceof Uint8Array))
    if (wrong >= 0) throw notAccepted(list[wrong], 'message', 'a Uint8Array (Buffer), or an array of them')
    try {
      const taken = this.#native.send(list as Uint8Array[])
      if (taken < list.length) this.#refused(list.length - taken, list[taken] as Uint8Array)
      return taken
    } catch (error) {
      throw fromNative(error)
    }
  }

  /**
   * This flow as a socket of `node:dgram`, for libraries that take one; the same at every call. It is bound already, has one peer, and refuses
   * to send to any other address. docs/guides/udp.md says what differs from Node's.
   */
  asDgramSocket(): DgramSocket {
    this.#dgram ??= new DgramAdapter(this)
    return this.#dgram
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
    return this.#iterator(() => this.#takeOne())
  }

  /**
   * As iterating the socket, and each step takes all that has arrived, up to 64 KB. The messages of a batch share one ArrayBuffer: copy the
   * one (`slice()`) that you keep for long. Leaving the loop closes the socket.
   */
  batches(): AsyncIterable<readonly Uint8Array[]> {
    return { [Symbol.asyncIterator]: () => this.#iterator(() => this.#pending.splice(0)) }
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

  /** @internal The peer has closed the flow: what arrived before is still handed out. */
  onFlowEnd(): void {
    try {
      this.#deliver()
      // A listener may close the socket.
      while (!this.#closed && this.#pull() > 0) this.#deliver()
    } finally {
      this.#ended = 'the peer has closed the UDP flow'
      this.#finish(undefined)
    }
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

  #refused(count: number, first: Uint8Array): void {
    if (first.length > this.#native.maxDatagramSize) this.#tooLarge += count
    else this.#sendQueue += count
  }

  #iterator<T>(take: () => T): AsyncIterator<T, undefined> {
    return {
      next: () => this.#next(take),
      return: async () => {
        await this.close()
        return { done: true, value: undefined }
      },
    }
  }

  #next<T>(take: () => T): Promise<IteratorResult<T, undefined>> {
    if (this.#pending.length === 0 && !this.#closed) this.#pull()
    if (this.#pending.length > 0) return Promise.resolve({ done: false, value: take() })
    if (this.#error !== undefined) return Promise.reject(this.#error)
    if (this.#closed) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => {
      const end = (error: ZtnaError | undefined): void => (error === undefined ? resolve({ done: true, value: undefined }) : reject(error))
      this.#readers.push({ give: () => resolve({ done: false, value: take() }), end })
    })
  }

  /** In memory of its own: one message that is kept must not keep a batch. */
  #takeOne(): Uint8Array {
    const message = this.#pending.shift() ?? new Uint8Array(0)
    return message.byteLength === message.buffer.byteLength ? message : message.slice()
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#drain()
    })
  }

  get #listening(): boolean {
    return this.listenerCount('message') > 0 || this.listenerCount('messages') > 0
  }

  // Nobody listening leaves messages in native's bounded ring, which then takes no more.
  #drain(): void {
    let fair = false
    try {
      for (let turn = 0; turn < DRAINS_PER_TURN; turn++) {
        if (this.#closed || (!this.#listening && this.#readers.length === 0) || (this.#pending.length === 0 && this.#pull() === 0)) {
          fair = true
          return
        }
        this.#deliver()
      }
    } finally {
      // Also when a listener threw: what is left must not wait for the next bell.
      if (!fair) this.#schedule()
    }
  }

  #deliver(): void {
    while (this.#pending.length > 0) {
      const reader = this.#readers.shift()
      if (reader !== undefined) reader.give()
      else if (this.#closed || !this.#listening) return
      else if (this.listenerCount('messages') > 0) this.#emitBatch(this.#pending.splice(0))
      else this.emit('message', this.#takeOne())
    }
  }

  #emitBatch(batch: readonly Uint8Array[]): void {
    this.emit('messages', batch)
    for (const message of batch) {
      if (this.#closed || this.listenerCount('message') === 0) return
      this.emit('message', message.slice())
    }
  }

  // One copy for the whole drain, as the next one overwrites it; a message that came alone gets memory of its own size.
  #pull(): number {
    const filled = this.#native.recv(drained)
    if (filled === 0) return 0
    if (2 + drained.readUInt16LE(0) === filled) {
      this.#pending.push(new Uint8Array(drained.subarray(2, filled)))
      return filled
    }
    const { buffer } = new Uint8Array(drained.subarray(0, filled))
    for (let at = 0; at + 2 <= filled;) {
      const length = drained.readUInt16LE(at)
      this.#pending.push(new Uint8Array(buffer, at + 2, length))
      at += 2 + length
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
    for (const reader of this.#readers.splice(0)) reader.end(error)
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
