/** A UDP flow in the shape of a socket of `node:dgram`, for libraries that take one. */
import { Socket, type RemoteInfo } from 'node:dgram'
import type { AddressInfo } from 'node:net'
import { EventEmitter } from 'node:events'
import { notAccepted } from './arguments.js'
import type { ZtnaUdpSocket } from './datagram.js'
import { type ZtnaError, fromNative } from './errors.js'
import { cutOff, errnoError } from './system-error.js'

type Sent = (error: Error | null, bytes: number) => void
type Bytes = string | NodeJS.ArrayBufferView

/** Messages of native's send queue, which has no limit in bytes: io/ring.rs. */
const QUEUE = 1_024
/** Of IPv4's Time to Live. */
const MAX_TTL = 255

/** The constructor is that of an emitter, as a socket's own would open one of the kernel's. */
const Emitter = EventEmitter as unknown as new (options: { captureRejections: boolean }) => Socket

/** Has one peer and is bound from the beginning, as the flow is open. */
export class DgramAdapter extends Emitter {
  readonly #udp: ZtnaUdpSocket
  readonly #messages = (batch: readonly Uint8Array[]): void => this.#onMessages(batch)
  readonly #peer: AddressInfo
  #bound = false
  /** A listener of the program has failed. */
  #failed = false
  #connected = false
  /** Who has ended it: the program, which must not go on using it, or the flow, of which the program knows nothing yet. */
  #closed: 'program' | 'flow' | undefined

  constructor(udp: ZtnaUdpSocket) {
    super({ captureRejections: true })
    this.#udp = udp
    // A client asks the port of the service and looks for it in answers; a service answers the port that it was asked from.
    this.#peer = { address: udp.remoteAddress, family: 'IPv6', port: udp.peer.role === 'agent' ? udp.remotePort : udp.port }
    udp.once('close', () => this.#onClose())
    udp.once('error', (error) => this.#onError(error))
    const emitter = (): NodeJS.EventEmitter => this
    emitter().on('newListener', (name) => {
      if (name === 'message' && !udp.listeners('messages').includes(this.#messages)) udp.on('messages', this.#messages)
    })
    emitter().on('removeListener', (name) => {
      if (name === 'message' && this.listenerCount('message') === 0) udp.off('messages', this.#messages)
    })
  }

  override send(message: Bytes | readonly Bytes[], ...rest: unknown[]): void {
    if (this.#closed === 'program') throw notRunning()
    const { bytes, port, address, callback } = parse(message, rest)
    if (this.#connected && port !== undefined) throw failed('ERR_SOCKET_DGRAM_IS_CONNECTED', 'send: a connected socket takes no address')
    if (port !== undefined) this.#reach('send', port, address)
    this.#listen()
    const error = this.#pass(bytes)
    if (callback !== undefined) process.nextTick(() => callback(error ?? null, error === undefined ? bytes.length : 0))
    // Without a callback a full queue is as a network that drops, and of an ended flow `error` or `close` tell.
    else if (error?.code === 'EMSGSIZE') process.nextTick(() => this.emit('error', error))
  }

  /** @internal The old name of the long form, which Node still has. */
  sendto(message: Bytes, ...rest: unknown[]): void {
    this.send(message, ...rest)
  }

  override bind(...args: unknown[]): this {
    this.#running()
    if (this.#bound) throw failed('ERR_SOCKET_ALREADY_BOUND', 'bind: the socket is bound')
    const callback = args.find((each) => typeof each === 'function') as (() => void) | undefined
    if (callback !== undefined) this.once('listening', callback)
    this.#listen()
    return this
  }

  override connect(port: number, ...rest: unknown[]): void {
    this.#running()
    if (this.#connected) throw failed('ERR_SOCKET_DGRAM_IS_CONNECTED', 'connect: the socket is connected')
    const [address, callback] = typeof rest[0] === 'function' ? [undefined, rest[0]] : rest
    this.#reach('connect', portOf(port), address)
    if (typeof callback === 'function') this.once('connect', callback as () => void)
    this.#connected = true
    this.#listen()
    process.nextTick(() => this.emit('connect'))
  }

  /** @internal Of Node 24 and later, whose types are not those this is built with. */
  bindSync(): AddressInfo {
    return this.bind().address()
  }

  /** @internal Of Node 24 and later. */
  connectSync(port: number, address?: unknown): void {
    this.connect(port, address)
  }

  override disconnect(): void {
    if (!this.#connected) throw notConnected()
    this.#connected = false
  }

  override close(callback?: () => void): this {
    if (this.#closed === 'program') throw notRunning()
    if (callback !== undefined) {
      if (this.#closed === undefined) this.once('close', callback)
      else process.nextTick(callback)
    }
    const ended = this.#closed === 'flow'
    this.#closed = 'program'
    if (!ended) void this.#udp.close()
    return this
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed === undefined) await new Promise<void>((resolve) => this.close(resolve))
  }

  /** The port by which the peer knows this end; the address is any, as the flow has none here. */
  override address(): AddressInfo {
    this.#running()
    return { address: '::', family: 'IPv6', port: this.#udp.peer.role === 'agent' ? this.#udp.port : this.#udp.remotePort }
  }

  override remoteAddress(): AddressInfo {
    this.#running()
    if (!this.#connected) throw notConnected()
    return { ...this.#peer }
  }

  override ref(): this {
    this.#udp.ref()
    return this
  }

  override unref(): this {
    this.#udp.unref()
    return this
  }

  override getRecvBufferSize(): number {
    return QUEUE * this.#udp.maxDatagramSize
  }

  override getSendBufferSize(): number {
    return QUEUE * this.#udp.maxDatagramSize
  }

  override getSendQueueSize(): number {
    return 0
  }

  override getSendQueueCount(): number {
    return 0
  }

  // What only tunes a kernel's socket is taken and does nothing: a flow has queues of a fixed size, and no hops.

  override setRecvBufferSize(): void {}

  override setSendBufferSize(): void {}

  override setBroadcast(): void {}

  override setTTL(ttl: number): number {
    return hops('setTTL', ttl)
  }

  override setMulticastTTL(ttl: number): number {
    return hops('setMulticastTTL', ttl)
  }

  override setMulticastLoopback(flag: boolean): boolean {
    return flag
  }

  // What would have it reach others than its peer fails.

  override setMulticastInterface(): void {
    throw noGroups('setMulticastInterface')
  }

  override addMembership(): void {
    throw noGroups('addMembership')
  }

  override dropMembership(): void {
    throw noGroups('dropMembership')
  }

  override addSourceSpecificMembership(): void {
    throw noGroups('addSourceSpecificMembership')
  }

  override dropSourceSpecificMembership(): void {
    throw noGroups('dropSourceSpecificMembership')
  }

  /** An async listener has rejected: the flow has failed, and no other. */
  override [EventEmitter.captureRejectionSymbol](thrown: unknown, event: unknown, ...args: unknown[]): void {
    this.#failed = true
    this.#udp[EventEmitter.captureRejectionSymbol](thrown, event, ...args)
  }

  #listen(): void {
    if (this.#bound) return
    this.#bound = true
    process.nextTick(() => this.#closed === undefined && this.emit('listening'))
  }

  #pass(bytes: Uint8Array): NodeJS.ErrnoException | undefined {
    const most = this.#udp.maxDatagramSize
    try {
      if (this.#udp.send(bytes) > 0) return undefined
    } catch (error) {
      return cutOff(fromNative(error))
    }
    if (bytes.length > most) return errnoError('EMSGSIZE', 'send', `${bytes.length} bytes, of which the path takes ${most}`)
    return errnoError('ENOBUFS', 'send', 'the queue is full')
  }

  #running(): void {
    if (this.#closed !== undefined) throw notRunning()
  }

  /** A packet for somebody else must not reach this peer, and can't reach the other. */
  #reach(what: string, port: number | undefined, address: unknown): void {
    const { service } = this.#udp
    const host = typeof address === 'string' ? address.toLowerCase().replace(/\.$/, '') : address
    const name = typeof host === 'string' && (host === service || host.startsWith(`${service}.`)) && this.#udp.peer.role === 'connector'
    const known = address === undefined || address === null || address === '' || host === this.#peer.address || name
    if (known && port === this.#peer.port) return
    const names = this.#udp.peer.role === 'connector' ? `${service} (by its name or as ${this.#peer.address})` : this.#peer.address
    const asked = `${what} ${typeof address === 'string' ? `${address} ` : ''}port ${port ?? 'none'}`
    throw notAccepted(asked, 'destination', `${names} at port ${this.#peer.port}, to which this flow leads`)
  }

  #onMessages(batch: readonly Uint8Array[]): void {
    for (const { buffer, byteOffset, length } of batch) {
      if (this.#closed !== undefined) return
      const from: RemoteInfo = { address: this.#peer.address, family: 'IPv6', port: this.#peer.port, size: length }
      this.emit('message', Buffer.from(buffer, byteOffset, length), from)
    }
  }

  // As with the kernel's, a socket that is not connected hears nothing of a peer that went: many a library ends its process by an `error` of a
  // server's socket, and a caller must not have that in its hands.
  #onError(error: ZtnaError): void {
    if ((this.#connected || this.#failed) && this.listenerCount('error') > 0) this.emit('error', cutOff(error))
  }

  #onClose(): void {
    this.#closed ??= 'flow'
    this.emit('close')
  }
}

// Libraries ask whether it is one.
Object.setPrototypeOf(DgramAdapter.prototype, Socket.prototype)

/** `send(message[, offset, length][, port[, address]][, callback])`. */
function parse(
  message: Bytes | readonly Bytes[],
  given: readonly unknown[],
): { bytes: Uint8Array; port: number | undefined; address: unknown; callback: Sent | undefined } {
  const rest = [...given]
  let bytes = Array.isArray(message) ? Buffer.concat((message as readonly Bytes[]).map(toBytes)) : toBytes(message)
  if (typeof rest[0] === 'number' && typeof rest[1] === 'number') {
    const [offset, length] = rest.splice(0, 2) as [number, number]
    if (offset < 0 || length < 0 || !(offset + length <= bytes.length))
      throw notAccepted(`${offset}, ${length}`, 'offset, length', `a part of the message, which has ${bytes.length} bytes`)
    bytes = bytes.subarray(offset, offset + length)
  }
  const at = rest.findIndex((each) => typeof each === 'function')
  const callback = at < 0 ? undefined : (rest.splice(at)[0] as Sent)
  const [port, address] = rest
  return { bytes, port: port === undefined || port === null ? undefined : portOf(port), address, callback }
}

function toBytes(message: unknown): Uint8Array {
  if (typeof message === 'string') return Buffer.from(message)
  if (ArrayBuffer.isView(message)) return new Uint8Array(message.buffer, message.byteOffset, message.byteLength)
  throw notAccepted(message, 'message', 'a string, a Buffer, another view of bytes, or an array of them')
}

function portOf(given: unknown): number {
  const port = typeof given === 'string' && given.trim() !== '' ? Number(given) : given
  if (typeof port === 'number' && Number.isInteger(port) && port > 0 && port < 65_536) return port
  throw notAccepted(given, 'port', 'a whole number from 1 to 65535')
}

function hops(what: string, ttl: unknown): number {
  if (typeof ttl === 'number' && Number.isInteger(ttl) && ttl > 0 && ttl <= MAX_TTL) return ttl
  throw notAccepted(ttl, what, `a whole number from 1 to ${MAX_TTL}`)
}

/** As errors of Node, which libraries know by these codes. */
function failed(code: string, message: string): NodeJS.ErrnoException {
  return Object.assign(new Error(message), { code })
}

function notRunning(): Error {
  return failed('ERR_SOCKET_DGRAM_NOT_RUNNING', 'Not running')
}

function notConnected(): Error {
  return failed('ERR_SOCKET_DGRAM_NOT_CONNECTED', 'Not connected')
}

function noGroups(syscall: string): Error {
  return errnoError('ENOPROTOOPT', syscall, 'a flow has one peer and joins no group')
}
