/** What agents, connectors and relays share: one life, its events, its identity. */
import { EventEmitter } from 'node:events'
import { countOf, fieldsOf, flagOf, functionOf, optionsOf, show } from './arguments.js'
import { ZtnaError, aborted, configError, fromNative } from './errors.js'
import type { DoctorCheck, Finding } from './doctor/check.js'
import { examineNode } from './doctor/doctor.js'
import { type EventMap, type EventOf, type EventTap, type EventsOptions, eventQueue } from './events.js'
import { LOG_LEVELS, type LogLevel, type Logger, bridged } from './logger.js'
import { journal } from './journal.js'
import { addLogger } from './log.js'
import { type NativeRole, called, native, whileRunning } from './native.js'
import { NetworkFeed, type NetworkConfig, type NetworkSource } from './network-source.js'
import { type RecentEvent, type Recordable, Recorder, entryOf } from './recorder.js'
import { tracing } from './otel.js'
import { DRAIN_MS, cancelOf, drainOf } from './ops.js'
import { StartAttempt } from './start-attempt.js'
import { type PlacedRole, testPlaceOf } from './test-place.js'
import { type Cancel, type Identity, type NativeIdentity, type Role, type State, deepFreeze, toIdentity } from './types.js'

/** Time `start()` waits for `online`, milliseconds. */
const START_TIMEOUT_MS = 15_000

/** How to make a role. */
export interface RoleOptions {
  /** Default: the folder named by `$ZTNA_NETWORK`. */
  network?: NetworkSource
  /**
   * Gets what the command `ztna` logs: the role's life, who was let in and who was not (docs/operations.md lists them), with `role`; and the native
   * side's lines, with `target`, which those who share a logger get once. pino and `console` as they are. One that throws harms nothing.
   * Default: none.
   */
  logger?: Logger | false
  /** Lines of this level and above. Default `info`. */
  logLevel?: LogLevel
  /** Packets under one key before a connection gets a successor. Default 2^27 (RFC 9001 B.1). */
  packetsPerKey?: number
  /**
   * Whether bursts of UDP packets are handed to the system as a whole (UDP segmentation offload), which is cheap. Default true; false
   * where the kernel loses them.
   */
  segmentationOffload?: boolean
}

/** What a reload found. */
export interface ReloadResult {
  /** Version of the snapshot in force. */
  readonly version: number
  /** Whether it is another one than before. */
  readonly changed: boolean
}

/** Events of every role. `error`: the role has died, and never thrown for want of a listener. `warning`: it recovers by itself. */
export type RoleEvents = {
  /** The role has gone from `prev` to `next`. */
  state: [next: State, prev: State]
  /** The identity is loaded and sockets are bound; `online` is still to come. */
  identity: [identity: Identity]
  /** Another snapshot is in force, whichever way the role heard of it. A refused one is a `warning`. */
  reloaded: [result: ReloadResult]
  /** Something went wrong that the role recovers from by itself. */
  warning: [error: ZtnaError]
  /** The role has died. */
  error: [error: ZtnaError]
}

/** One parsed native event. */
export interface NativeEvent {
  readonly event: string
  readonly [field: string]: unknown
}

const SHARED_OPTIONS: readonly (keyof RoleOptions)[] = ['network', 'logger', 'logLevel', 'packetsPerKey', 'segmentationOffload']

/** A role's options, read once. `own`: names of those that are not every role's. Errors: ERR_ZTNA_CONFIG. */
export function roleOptionsOf<T extends RoleOptions>(role: Role, options: T, own: readonly (keyof T & string)[]): T {
  return optionsOf(options, `options of the ${role}`, [...SHARED_OPTIONS, ...own])
}

/** A role's life. The constructor does no I/O; `start()` and `close()` are idempotent in any interleaving. */
export abstract class ZtnaRole<E extends RoleEvents & EventMap<E>, S> extends EventEmitter<E> implements AsyncDisposable {
  readonly #role: Role
  readonly #feed: NetworkFeed
  readonly #options: RoleOptions
  readonly #taps = new Set<EventTap<E>>()
  readonly #recorder = new Recorder()
  /** What the log is written from: not the public emitter, whose listeners are the program's. */
  readonly #heard: EventEmitter | undefined
  #state: State = 'new'
  #identity: Identity | undefined
  #listen: readonly string[] = []
  #native: NativeRole | undefined
  #running = false
  // Native may be online before what JavaScript reads for itself is there.
  #prepared = false
  #attempt: StartAttempt | undefined
  #closing: Promise<void> | undefined
  #stopLogging: (() => void) | undefined
  #following = new AbortController()
  #lastWarning: ZtnaError | undefined
  #died: ZtnaError | undefined
  #keepAlive: NodeJS.Timeout | undefined
  #onTurned: (() => void) | undefined
  #referenced = true

  /** `options`: as `roleOptionsOf` gives them. */
  protected constructor(role: Role, options: RoleOptions) {
    super({ captureRejections: true })
    this.#role = role
    this.#options = options
    this.#feed = new NetworkFeed(options.network)
    const level = options.logLevel ?? 'info'
    if (!LOG_LEVELS.includes(level)) {
      throw configError(`logLevel ${show(level)} is not accepted; one of ${LOG_LEVELS.join(', ')}`)
    }
    countOf(options.packetsPerKey, 'packetsPerKey')
    flagOf(options.segmentationOffload, 'segmentationOffload')
    checkLogger(options.logger)
    if (!options.logger) return
    this.#heard = new EventEmitter()
    journal(this.#heard, bridged(options.logger, level, { role }))
  }

  /** @internal Options of the native role beyond the network. */
  protected abstract nativeOptions(): Record<string, unknown>
  /** @internal Handles the events that are not every role's. */
  protected abstract onNative(event: NativeEvent, role: NativeRole): void
  /** @internal The native thread has ended: let go of everything that lived on it. */
  protected abstract onEnded(why: ZtnaError): void

  /** Where the role is in its life. */
  get state(): State {
    return this.#state
  }

  /** Who this node is. Errors: ERR_ZTNA_CLOSED before `start()` has read it. */
  get identity(): Identity {
    if (this.#identity !== undefined) return this.#identity
    throw this.failed(new ZtnaError('ERR_ZTNA_CLOSED', 'the identity is known once start() has read it'))
  }

  /**
   * Resolves when online. Default `timeoutMs` 15,000. Bad configuration or identity rejects at once; on timeout or abort it
   * rejects and the role is `new` again. Callers that overlap share one attempt, which ends when the last has given up.
   */
  async start(cancel: Cancel = {}): Promise<this> {
    return this.telling(() => this.#start(cancel))
  }

  async #start(cancel: Cancel): Promise<this> {
    const { timeoutMs, signal } = cancelOf(cancel, START_TIMEOUT_MS)
    if (signal?.aborted) throw aborted(signal)
    if (this.#closing !== undefined || this.#state === 'draining' || this.#state === 'closed') throw this.#closedError()
    if (this.#attempt === undefined && this.#state !== 'new') return this
    while (this.#attempt?.over === true) await this.#attempt.ended
    if (this.#closing !== undefined) throw this.#closedError()
    this.#attempt ??= this.#begin()
    await this.#attempt.wait(timeoutMs, signal)
    return this
  }

  /**
   * Takes nothing new, lets open flows finish for `drainMs` (default 10,000; 0: at once), resets those that are left, and ends. An
   * open TCP connection is waited for although it idles: end it first, or give a shorter `drainMs`. Not waited for are an agent's
   * UDP sockets, and its TCP sockets that nobody reads, writes or listens to. Sockets that are reset then fail with ERR_ZTNA_CLOSED
   * where somebody listens for `error`, and close without one where nobody does; one that was ended, and whose bytes have all been
   * delivered, closes without one. Rejects nothing but a `drainMs` that is no
   * number of milliseconds (ERR_ZTNA_CONFIG); a closed role stays closed.
   */
  close(options: { drainMs?: number } = {}): Promise<void> {
    if (this.#closing === undefined) {
      try {
        this.#closing = this.#close(drainOf(options))
      } catch (error) {
        return Promise.reject(fromNative(error))
      }
    }
    return this.#closing
  }

  /** `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** A running role keeps the process alive: the default. */
  ref(): this {
    this.#referenced = true
    this.#keepAlive?.ref()
    return this
  }

  /** Lets the process end although the role runs. */
  unref(): this {
    this.#referenced = false
    this.#keepAlive?.unref()
    return this
  }

  /** Counters now: one synchronous native call. Errors: ERR_ZTNA_CLOSED when not running. */
  stats(): S {
    return deepFreeze(this.convertStats(this.nativeStatus()['stats']))
  }

  /** OpenMetrics text. Errors: ERR_ZTNA_CLOSED when not running. */
  metrics(): string {
    return this.ask((role) => role.metrics())
  }

  /** Reads the folder again now. Rejects with the reason when it is refused; the old snapshot then stays. */
  async reload(): Promise<ReloadResult> {
    return this.telling(async () => JSON.parse(await this.running().reload()) as ReloadResult)
  }

  /**
   * Looks this node over: its folder, certificate and key, the relays by UDP, what the running role can reach, and the machine. A role that does not run is
   * looked at from outside. Each check tells what to do where something is wrong: docs/operations.md lists them. Default `timeoutMs` 10,000, for each
   * question to the network. Rejects with ERR_ZTNA_ABORTED and ERR_ZTNA_CONFIG (the options) alone: what is wrong is in the checks.
   */
  async doctor(cancel: Cancel = {}): Promise<readonly DoctorCheck[]> {
    return this.telling(async () => {
      const bounded = cancelOf(cancel)
      const { signal } = bounded
      if (signal?.aborted) throw aborted(signal)
      const running = this.#running ? { running: (version?: number) => this.examine(bounded, version) } : {}
      // Relays of a network in memory are not on this machine's.
      const probe = testPlaceOf(this.#options.network) === undefined
      const checks = await examineNode({ source: await this.#feed.open(), probe, ...running }, bounded)
      if (signal?.aborted) throw aborted(signal)
      return Object.freeze(checks)
    })
  }

  /** @internal What the running role can reach. `version`: of its folder. */
  abstract examine(cancel: Cancel, version: number | undefined): Promise<readonly Finding[]>

  /**
   * The last 256 decisions, path changes and warnings of this role, oldest first: what `details.recent` of its errors is taken from. Names and IDs
   * alone, never a secret; also after `close()`.
   */
  recent(): readonly RecentEvent[] {
    return this.#recorder.list()
  }

  /** Every event from now on, until the role has closed, `signal` fires or the reader stops. */
  events(options: EventsOptions = {}): AsyncIterableIterator<EventOf<E>> {
    const { tap, iterator } = eventQueue<E>(options, (ended) => this.#taps.delete(ended))
    if (this.#state === 'closed') tap.end()
    else if (options.signal?.aborted !== true) this.#taps.add(tap)
    return iterator
  }

  /** @internal Calls `then` once every packet loop of the role has taken a turn: proof that none hangs. The latest call counts. */
  turn(then: () => void): void {
    this.#onTurned = then
    whileRunning(() => this.#native?.turn())
  }

  /** @internal Where the native side listens, `ip:port`. */
  protected get listening(): readonly string[] {
    return this.#listen
  }

  /** @internal The native role, once its thread runs. Errors: ERR_ZTNA_CLOSED. */
  protected running(): NativeRole {
    if (this.#native !== undefined && this.#running) return this.#native
    throw this.failed(this.#closedError())
  }

  /** @internal What `call` gives. Errors: as errors of this role; ERR_ZTNA_CLOSED also where the native role alone knows yet that it has ended. */
  protected ask<T>(call: (role: NativeRole) => T): T {
    const role = this.running()
    try {
      return called(() => call(role))
    } catch (error) {
      throw this.failed(error)
    }
  }

  /** @internal Whether the program has closed the role, rather than a failure. */
  protected get isClosing(): boolean {
    return this.#closing !== undefined && this.#died === undefined
  }

  /** @internal */
  protected nativeStatus(): Record<string, unknown> {
    const status = JSON.parse(this.ask((role) => role.status())) as Record<string, unknown>
    const since = status['folderUnreadableSince']
    return since === undefined ? status : { ...status, folderUnreadableSince: new Date(since as number) }
  }

  /** @internal */
  protected convertStats(json: unknown): S {
    return json as S
  }

  /** @internal */
  protected network(): Promise<NetworkConfig> {
    return this.#feed.config()
  }

  /** @internal Writes down what no event tells of. */
  protected record(entry: Recordable): void {
    this.#recorder.record(entry)
  }

  /** @internal What was thrown, as an error of this role. */
  protected failed(thrown: unknown): ZtnaError {
    return this.#recorder.mark(fromNative(thrown))
  }

  /** @internal What `call` gives; what it throws or rejects with, as an error of this role. */
  protected async telling<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (error) {
      throw this.failed(error)
    }
  }

  /** @internal Emits, to listeners and to `events()`. */
  protected fire<K extends keyof E & string>(type: K, ...args: E[K]): void {
    const entry = entryOf(type, args)
    if (entry !== undefined) this.#recorder.record(entry)
    for (const arg of args) if (arg instanceof ZtnaError) this.#recorder.mark(arg)
    this.#heard?.emit(type, ...args)
    for (const tap of this.#taps) tap.push({ type, args, at: new Date() })
    if (type === 'error' && (this as NodeJS.EventEmitter).listenerCount('error') === 0) return
    try {
      ;(this.emit as (type: string, ...args: unknown[]) => boolean).call(this, type, ...args)
    } catch (error) {
      // A listener's own failure is the program's, as with any emitter; the role's life goes on undisturbed.
      process.nextTick(() => {
        throw error
      })
    }
  }

  /** @internal An async listener has rejected, which Node would end the process for. */
  override [EventEmitter.captureRejectionSymbol](thrown: unknown, event: unknown, ..._args: unknown[]): void {
    const why = fromNative(thrown)
    const warning = new ZtnaError(why.code, `a listener of \`${String(event)}\` rejected: ${why.message}`, { cause: thrown })
    // Where nobody would hear of it, or the one to hear is the one that failed, Node says it on stderr.
    const heard = event !== 'warning' && ((this as NodeJS.EventEmitter).listenerCount('warning') > 0 || this.#heard !== undefined)
    if (!heard) process.emitWarning(warning)
    if (event !== 'warning') this.warn(warning)
  }

  /** @internal */
  protected warn(error: ZtnaError): void {
    this.#lastWarning = error
    this.fire('warning', ...([error] as E['warning']))
  }

  #begin(): StartAttempt {
    this.#setState('starting')
    this.#lastWarning = undefined
    this.#died = undefined
    const attempt: StartAttempt = new StartAttempt({
      run: () => this.#run(attempt),
      undo: async () => {
        await this.#end(0, new ZtnaError('ERR_ZTNA_CLOSED', 'start() was given up'))
        if (this.#attempt === attempt) this.#attempt = undefined
        if (this.#closing === undefined) this.#setState('new')
      },
      onTimeout: (timeoutMs) => this.#notOnline(timeoutMs),
    })
    attempt.begin()
    return attempt
  }

  async #run(attempt: StartAttempt): Promise<void> {
    const network = await this.#feed.open()
    if (attempt.over) return
    // Looked for now, so that no flow waits for it.
    tracing()
    const { logger, logLevel, packetsPerKey, segmentationOffload = true } = this.#options
    if (logger) this.#stopLogging = addLogger(logger, logLevel ?? 'info')
    const own = this.nativeOptions()
    const limits = {
      ...(own['limits'] as object | undefined),
      ...(packetsPerKey === undefined ? {} : { packetsPerKey }),
    }
    const place = testPlaceOf(this.#options.network)
    const testPlace = place === undefined ? null : { network: place.network, node: place.node }
    const options = JSON.stringify({ ...own, limits, segmentationOffload, network, testPlace })
    const role = new (native().NativeRole)(this.#role, options, (json) => {
      if (this.#native !== role) return
      try {
        this.#handle(JSON.parse(json) as NativeEvent, role)
      } catch (error) {
        // An event that comes as the role ends finds nothing left to act on.
        this.warn(fromNative(error))
      }
    })
    this.#native = role
    this.#prepared = false
    place?.joined(this as PlacedRole)
    const answer = JSON.parse(await role.start()) as { identity: NativeIdentity; listen: string[] }
    if (attempt.over) return
    this.#running = true
    this.#identity = toIdentity(answer.identity)
    this.#listen = Object.freeze([...answer.listen])
    // Timers are the only thing that keeps the process alive: native callbacks are weak.
    this.#keepAlive = setInterval(() => {}, 0x7fff_ffff)
    if (!this.#referenced) this.#keepAlive.unref()
    this.#follow()
    await this.onStarted()
    if (attempt.over) return
    this.#prepared = true
    this.fire('identity', ...([this.#identity] as E['identity']))
    this.#settleOnline()
  }

  /** @internal Runs when the native thread does, before `online` is reported. */
  protected async onStarted(): Promise<void> {}

  /** @internal The drain begins: let go of what is idle. */
  protected onDraining(_why: ZtnaError): void {}

  #follow(): void {
    this.#following = new AbortController()
    const role = this.running()
    this.#feed
      .follow(this.#following.signal, (files) => role.update(JSON.stringify(files)).catch((error: unknown) => this.warn(fromNative(error))))
      .catch((error: unknown) => this.warn(fromNative(error)))
  }

  #handle(event: NativeEvent, role: NativeRole): void {
    switch (event.event) {
      case 'state':
        return this.#onNativeState(event['next'] as State)
      case 'warning':
        return this.warn(fromNative(event['error']))
      case 'reloaded':
        return this.fire('reloaded', ...([{ version: event['version'] as number, changed: true }] as E['reloaded']))
      case 'error':
        return this.#onDeath(fromNative(event['error']))
      case 'turned':
        return this.#onTurned?.()
      case 'closed':
        return this.#onNativeClosed()
      default:
        return this.onNative(event, role)
    }
  }

  #onNativeState(next: State): void {
    // `closed` follows as an event of its own; once we drain, only our own transitions count.
    if (next === 'new' || next === 'starting' || next === 'closed' || this.#closing !== undefined) return
    this.#setState(next)
    this.#settleOnline()
  }

  #settleOnline(): void {
    if (this.#state !== 'online' || !this.#prepared || this.#attempt === undefined || this.#attempt.over) return
    this.#attempt.succeed()
    this.#attempt = undefined
  }

  #onDeath(error: ZtnaError): void {
    if (this.#attempt !== undefined && !this.#attempt.over) return this.#attempt.fail(error)
    if (this.#closing !== undefined) return
    this.#died = error
    this.fire('error', ...([error] as E['error']))
    void this.close({ drainMs: error.code === 'ERR_ZTNA_IDENTITY' ? DRAIN_MS : 0 })
  }

  #onNativeClosed(): void {
    const why = this.#lastWarning ?? new ZtnaError('ERR_ZTNA_NATIVE', 'the native role ended by itself')
    if (this.#attempt !== undefined && !this.#attempt.over) this.#attempt.fail(why)
    else if (this.#closing === undefined) void this.close({ drainMs: 0 })
  }

  async #close(drainMs: number): Promise<void> {
    const attempt = this.#attempt
    if (attempt !== undefined && !attempt.over) attempt.fail(this.#closedError())
    if (this.#state !== 'new' && this.#state !== 'closed') this.#setState('draining')
    await attempt?.ended
    this.onDraining(this.#closedError())
    await this.#end(drainMs, this.#closedError())
    this.#feed.close()
    this.#setState('closed')
    for (const tap of this.#taps) tap.end()
  }

  async #end(drainMs: number, why: ZtnaError): Promise<void> {
    const role = this.#native
    this.#following.abort()
    try {
      await role?.close(drainMs)
      // Resets that native told of before its end may stand in another queue than the end itself.
      if (this.#closing !== undefined) await new Promise<void>((resolve) => setImmediate(resolve))
    } catch (error) {
      this.warn(fromNative(error))
    }
    this.#running = false
    this.#prepared = false
    this.#native = undefined
    this.#stopLogging?.()
    this.#stopLogging = undefined
    clearInterval(this.#keepAlive)
    this.#keepAlive = undefined
    testPlaceOf(this.#options.network)?.left(this as PlacedRole)
    this.onEnded(why)
  }

  #setState(next: State): void {
    const prev = this.#state
    if (prev === next) return
    this.#state = next
    this.fire('state', ...([next, prev] as E['state']))
  }

  #closedError(): ZtnaError {
    if (this.#died !== undefined) return this.#died
    const state = this.#closing !== undefined && this.#state !== 'closed' ? 'closing' : this.#state
    return new ZtnaError('ERR_ZTNA_CLOSED', `the ${this.#role} is ${state}`)
  }

  /** Why no relay serves this node, in native's words. */
  #outage(): ZtnaError | undefined {
    const outage = this.#running ? whileRunning(() => this.nativeStatus()['outage']) : undefined
    return outage ? fromNative(outage) : undefined
  }

  #notOnline(timeoutMs: number): ZtnaError {
    const warned = this.#lastWarning
    const message = `not online within ${timeoutMs} ms`
    if (timeoutMs === 0) return new ZtnaError('ERR_ZTNA_TIMEOUT', message)
    // A warning may be of one relay; the outage is of all, with what to do.
    const last = warned === undefined || warned.code === 'ERR_ZTNA_UNREACHABLE' ? (this.#outage() ?? warned) : warned
    if (last === undefined) return new ZtnaError('ERR_ZTNA_TIMEOUT', message)
    const code = ['ERR_ZTNA_UNREACHABLE', 'ERR_ZTNA_IDENTITY'].includes(last.code) ? last.code : 'ERR_ZTNA_TIMEOUT'
    return new ZtnaError(code, `${message}: ${last.message}`, { cause: last.cause, details: last.details })
  }
}

function checkLogger(logger: Logger | false | undefined): void {
  if (logger === undefined || logger === false) return
  const accepted = 'false, or an object with the methods debug, info, warn and error'
  const names = ['debug', 'info', 'warn', 'error'] as const
  const methods = fieldsOf(logger, 'logger', accepted, names, 'logger.')
  for (const name of names) functionOf(methods[name], `logger.${name}`, accepted)
}
