/** A TCP flow as a real `net.Socket` on native's file descriptor. */
import { closeSync } from 'node:fs'
import { Socket, type SocketConstructorOpts, isIPv6 } from 'node:net'
import { constants } from 'node:os'
import { TLSSocket, type TLSSocketOptions, createSecureContext } from 'node:tls'
import { getSystemErrorName } from 'node:util'
import { ZtnaError } from './errors.js'
import type { Flow, FlowInfo, FlowTable } from './flows.js'
import { type NativeRole, whileRunning } from './native.js'
import { SELF, callers } from './shared.js'
import { cutOff, notOpened } from './system-error.js'
import { type Identity, type PathInfo, noPath, toIdentity, toPath } from './types.js'

/** What native says of a TCP flow, with its descriptor. */
export interface StreamInfo extends FlowInfo {
  readonly fd: number
  readonly flow: number
}

/** Node's handle of a stream socket. */
interface Handle {
  /** Takes a descriptor; a negative errno where it can't. */
  open(fd: number): number
  getpeername?(out: Record<string, unknown>): number
}

/** The internal fields of `net.Socket` that a late descriptor needs. */
interface Internals {
  readonly _handle: Handle | null
  connecting: boolean
}

/**
 * A stream to a service, or from an agent. A real `net.Socket`: pipe, pause, half close, setTimeout, pipeline and TLS over it
 * work. `remoteAddress` is the peer's virtual address, `remotePort` its flow. A reset by the peer is an `error`, never a clean end.
 */
export class ZtnaSocket extends Socket implements Flow {
  #role: NativeRole | undefined
  #flows: FlowTable | undefined
  #info: StreamInfo | undefined
  #peer: Identity | undefined
  #path: PathInfo = noPath()
  #giveUp: (() => void) | undefined
  #service: string
  #resetting = false
  /** @internal Whether what was written is a part that the peer must not take for the whole, now that the socket is destroyed with `error`. */
  isCut: (error: Error | null) => boolean = (error) => error !== null
  /** Listeners that Node itself puts on a socket. */
  readonly #ownListeners: number
  readonly #forLibrary: boolean

  /** @internal Made by `connect()`, `createConnection()` and `serve()`. `forLibrary`: its errors are those of a TCP socket (decision 0020). */
  constructor(service: string, allowHalfOpen: boolean, forLibrary = false) {
    // An async listener that rejects fails this flow, as a throw in a stream does, and not the process.
    super({ handle: newHandle(), manualStart: true, allowHalfOpen, captureRejections: true } as SocketConstructorOpts)
    this.#service = service
    this.#forLibrary = forLibrary
    this.#ownListeners = listenersOf(this)
    // Writes, reads and end() wait inside net.Socket until `connect`.
    ;(this as unknown as Internals).connecting = true
  }

  /** The verified identity at the other end. Errors: ERR_ZTNA_IDENTITY while connecting. */
  get peer(): Identity {
    if (this.#peer !== undefined) return this.#peer
    throw new ZtnaError('ERR_ZTNA_IDENTITY', 'the peer is known once the socket is connected')
  }

  /** Name of the service. */
  get service(): string {
    return this.#service
  }

  /** How this flow travels now; kind `none` while connecting. */
  get path(): PathInfo {
    return this.#path
  }

  /** W3C trace context the agent sent, if any. */
  get traceparent(): string | undefined {
    return this.#info?.traceparent ?? undefined
  }

  /** Resets both directions: the peer sees ECONNRESET rather than an end. */
  reset(): void {
    this.#sendReset()
    this.destroy()
  }

  override resetAndDestroy(): this {
    this.reset()
    return this
  }

  /** Harmless: this socket connects by itself. The callback runs once it has. */
  override connect(...args: unknown[]): this {
    const callback = args.at(-1)
    if (typeof callback !== 'function') return this
    if (this.connecting) this.once('connect', callback as () => void)
    else process.nextTick(callback)
    return this
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#giveUp?.()
    this.#giveUp = undefined
    // Before the descriptor closes, or native would take the end of it for a clean one.
    if (this.isCut(error)) this.#sendReset()
    if (this.#info !== undefined) this.#flows?.delete(this.#info.flow)
    super._destroy(error, callback)
  }

  /** @internal */
  get [SELF](): this {
    return this
  }

  /** @internal */
  get connection(): number | undefined {
    return this.#info?.connection
  }

  /** @internal What `destroy()` before `connect` does. */
  onGiveUp(giveUp: () => void): void {
    this.#giveUp = giveUp
  }

  /** @internal Puts native's descriptor under this socket and emits `connect`. */
  attach(role: NativeRole, flows: FlowTable, info: StreamInfo): void {
    this.#giveUp = undefined
    if (this.destroyed) return discard(role, info)
    this.#role = role
    this.#flows = flows
    this.#info = info
    this.#service = info.service
    this.#peer = toIdentity(info.peer)
    this.#path = toPath(info.path)
    callers.set(this, this.#peer)
    const remote = remoteOf(info)
    open(this, info.fd, remote)
    flows.add(info.flow, this)
    defineRemote(this, remote)
    this.emit('connect')
    this.emit('ready')
    // As net.Socket does after connecting: without it a peer's end would go unseen until somebody reads.
    if (!this.isPaused()) this.read(0)
  }

  /** @internal */
  onFlowReset(error: ZtnaError, done: () => void, ours: boolean): void {
    this.#resetting = true
    if (this.closed) return done()
    this.once('close', done)
    this.endBy(error, ours)
  }

  /**
   * @internal Destroys the socket. What the program does itself (`ours`) is an `error` to those who listen and none to those who
   * don't, as in `net.Socket`; whoever reads or pipes hears of a premature close either way.
   */
  endBy(error: ZtnaError, ours: boolean): void {
    if (ours && this.listenerCount('error') === 0) this.destroy()
    else if (!this.#forLibrary) this.destroy(error)
    else this.destroy(this.#info === undefined ? notOpened(error) : cutOff(error))
  }

  /** @internal The role has ended. What had finished here, native has delivered, or it would have reset the flow. */
  onEnded(error: ZtnaError, ours: boolean): void {
    this.#resetting = true
    if (ours && this.writableFinished) this.destroy()
    else this.endBy(error, ours)
  }

  /** @internal Nobody reads it or could learn of its end, and all that was written is on its way. */
  onDraining(): void {
    const used = this.readableFlowing !== null || this.writableLength > 0 || listenersOf(this) > this.#ownListeners
    if (!used) this.destroy()
    // Ended and never read: reading to the peer's end is all that is left to do.
    else if (this.writableEnded && this.readableFlowing === null) this.resume()
  }

  /** @internal */
  onPath(path: PathInfo): void {
    this.#path = path
  }

  #sendReset(): void {
    if (this.#resetting || this.#info === undefined || this.closed) return
    this.#resetting = true
    this.#flows?.delete(this.#info.flow)
    const { flow } = this.#info
    whileRunning(() => this.#role?.flowReset(flow))
  }
}

function listenersOf(socket: Socket): number {
  return socket.eventNames().reduce((sum, name) => sum + socket.listenerCount(name), 0)
}

/** Gives back a flow nobody wants any more. */
export function discard(role: NativeRole, info: Pick<StreamInfo, 'fd' | 'flow'>): void {
  whileRunning(() => role.flowReset(info.flow))
  closeSync(info.fd)
}

let HandleClass: (new (type: 0) => Handle) | undefined

// As `net.connect` makes it: there from the beginning, so that TLS over a socket that is still connecting sits on the handle, as over TCP. Without one
// Node would pass every byte through a stream of JavaScript, which knows no addresses. The class is Node's own; a TLS socket that is to be for
// a pipe has a handle of it, and does no I/O.
function newHandle(): Handle {
  if (HandleClass === undefined) {
    const tls = new TLSSocket(undefined as never, { pipe: true, secureContext: createSecureContext({ ca: [] }) } as TLSSocketOptions)
    const pipe = (tls as unknown as { readonly _handle?: { readonly _parent?: Partial<Handle> } })._handle?._parent
    tls.destroy()
    if (typeof pipe?.open !== 'function')
      throw new ZtnaError('ERR_ZTNA_NATIVE', `Node ${process.version} gives no access to a socket's handle`)
    HandleClass = pipe.constructor as new (type: 0) => Handle
  }
  // `SOCKET` of Node's constants for pipes.
  return new HandleClass(0)
}

function open(socket: ZtnaSocket, fd: number, remote: Remote): void {
  const internals = socket as unknown as Internals
  const failed = internals._handle?.open(fd) ?? -constants.errno.EBADF
  if (failed < 0 || internals._handle === null) {
    throw new ZtnaError('ERR_ZTNA_NATIVE', `Node ${process.version} takes no descriptor: ${getSystemErrorName(failed)}`)
  }
  // A TLSSocket over this one asks the handle for its own remoteAddress.
  internals._handle.getpeername = (out) => {
    Object.assign(out, { address: remote.remoteAddress, port: remote.remotePort, family: remote.remoteFamily })
    return 0
  }
  internals.connecting = false
}

interface Remote {
  readonly remoteAddress: string
  readonly remotePort: number
  readonly remoteFamily: 'IPv4' | 'IPv6'
}

function remoteOf({ remoteAddress, remotePort }: FlowInfo): Remote {
  return { remoteAddress, remotePort, remoteFamily: isIPv6(remoteAddress) ? 'IPv6' : 'IPv4' }
}

// As fields, and not by the handle, which is gone once the socket has closed.
function defineRemote(socket: ZtnaSocket, remote: Remote): void {
  for (const [name, value] of Object.entries(remote)) Object.defineProperty(socket, name, { value, configurable: true, enumerable: false })
}
