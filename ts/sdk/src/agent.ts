/** The agent: reaches services. */
import type { Agent as HttpAgent } from 'node:http'
import type { AgentOptions as HttpsAgentOptions, Agent as HttpsAgent } from 'node:https'
import type { Dispatcher } from 'undici'
import { functionOf, isObject } from './arguments.js'
import { ZtnaDeniedError, type ZtnaError, fromNative } from './errors.js'
import type { Finding } from './doctor/check.js'
import { checkReloaded, checkServices } from './doctor/running.js'
import type { DispatcherOptions } from './dispatcher.js'
import type { FlowInfo } from './flows.js'
import { listFlows } from './flow-list.js'
import { type Forward, type ForwardOptions, openForward } from './forward.js'
import { TunnelHttp } from './http.js'
import type { ServiceEntry } from './network-source.js'
import { type ConnectSpan, connectSpan } from './otel.js'
import type { NativeRole } from './native.js'
import { type Asked, CALL_TIMEOUT_MS, callNative, cancelOf, nativeMs, timeoutOf } from './ops.js'
import { type NodeEvents, ZtnaNode } from './node.js'
import { NODE_OPTIONS, type NodeOptions } from './node-options.js'
import { type AgentStatus, toAgentStatus } from './node-status.js'
import { type NativeEvent, roleOptionsOf } from './role.js'
import { type StreamInfo, ZtnaSocket, discard } from './socket.js'
import { ZtnaUdpSocket, discardDatagram } from './datagram.js'
import { type ConnectOptions, type FlowOptions, checkPath, checkProtocol, checkService, toTarget } from './target.js'
import { type PathExplanation, toExplanation } from './explain.js'
import { type Cancel, type NativePath, type PathInfo, type PathPolicy, deepFreeze, toPath } from './types.js'

/** Events of an agent. */
export type AgentEvents = NodeEvents & {
  /** The network has gained or lost services. */
  services: [added: string[], removed: string[]]
  /** A flow was refused, also one that a forward or proxy opened, or a request to a host outside the zone. */
  denied: [error: ZtnaDeniedError]
}

/** One round trip. */
export interface PingResult {
  /** Milliseconds. */
  readonly rttMs: number
  /** The way it took. */
  readonly path: PathInfo
}

/** The answer of policy, without a flow being opened. */
export interface CheckResult {
  /** Whether a flow would be permitted. */
  readonly allowed: boolean
  /** The only kind of path on which it would be; absent where that does not matter. */
  readonly path?: 'direct' | 'relay'
  /** Which end decided. */
  readonly by: 'agent' | 'relay' | 'connector'
  /** The policy that decided; absent when none did. */
  readonly policyId?: string
  /** Why, in words. */
  readonly reason: string
}

interface NativeCheck extends Omit<CheckResult, 'policyId' | 'path'> {
  readonly policyId: string | null
  readonly path: 'direct' | 'relay' | null
}

/** Reaches services from Node (`connect`, `fetch`), and from local ports (`forward`). */
export class ZtnaAgent extends ZtnaNode<AgentEvents> {
  readonly #http = new TunnelHttp({
    zone: () => this.#zone,
    connect: async (options) => this.#connected(toTarget(options), true),
    refused: (error) => {
      this.fire('denied', error)
      return error
    },
  })
  #services: ReadonlyMap<string, ServiceEntry> = new Map()
  #zone: string | undefined

  /**
   * `fetch` through the tunnel: `http://<service>.<zone>/…`. Rejects as `fetch` does, with a TypeError whose `cause` is what went wrong: a
   * `ZtnaDeniedError` for any other host and wherever policy says no, an error with a system code such as ECONNREFUSED and the `ZtnaError` as its
   * own `cause` for what may pass. `ztnaErrorOf(error)` finds the `ZtnaError` in both.
   */
  readonly fetch: typeof globalThis.fetch = this.#http.fetcher(undefined)

  constructor(options: NodeOptions = {}) {
    super('agent', roleOptionsOf('agent', options, NODE_OPTIONS))
  }

  /** Services of the network, by name. Empty until started. */
  get services(): ReadonlyMap<string, ServiceEntry> {
    return this.#services
  }

  /**
   * Opens a TCP flow: `'db:5432'`, or `'db'` when it has exactly one TCP port, with options beside it or all in one object. Default `timeoutMs` 10,000.
   * Errors: ERR_ZTNA_DENIED, REFUSED, UNREACHABLE, TIMEOUT, ABORTED, LIMIT, CONFIG, CLOSED.
   */
  connect(target: string | ConnectOptions): Promise<ZtnaSocket>
  connect(target: string, options?: FlowOptions): Promise<ZtnaSocket>
  async connect(target: string | ConnectOptions, options?: FlowOptions): Promise<ZtnaSocket> {
    return this.#connected(toTarget(target, options), false)
  }

  /**
   * The same, at once: a socket that is `connecting` and emits `connect`. What pg, mysql2 and ioredis ask for; a wrong target throws. Failures are
   * its `error` event, with the code that a TCP socket would have (ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT, ECONNRESET, …) and the `ZtnaError` as
   * `cause`, so that libraries retry; denials and whatever else does not pass are the `ZtnaError` itself. `ztnaErrorOf` gives it for both.
   */
  createConnection(target: string | ConnectOptions, onConnect?: () => void): ZtnaSocket
  createConnection(target: string, options?: FlowOptions, onConnect?: () => void): ZtnaSocket
  createConnection(target: string | ConnectOptions, ...rest: readonly unknown[]): ZtnaSocket {
    const [first, second] = rest
    const [options, onConnect] = isObject(first) || second !== undefined ? [first as FlowOptions, second] : [undefined, first]
    const flow = toTarget(target, options)
    return this.#dial(flow, true, onConnect === undefined ? undefined : functionOf(onConnect as () => void, 'onConnect', 'a function'))
  }

  /** Opens a UDP flow. The target, defaults and errors are those of `connect`. */
  datagram(target: string | ConnectOptions): Promise<ZtnaUdpSocket>
  datagram(target: string, options?: FlowOptions): Promise<ZtnaUdpSocket>
  datagram(target: string | ConnectOptions, more?: FlowOptions): Promise<ZtnaUdpSocket> {
    return this.telling(async () => {
      const options = toTarget(target, more)
      const timeoutMs = nativeMs(timeoutOf(options))
      const asked = askedOf(options, 'udp')
      const span = connectSpan(asked, options.traceparent)
      try {
        const request = flowRequest({ ...options, ...sent(span) }, timeoutMs)
        const role = this.running()
        const opened = this.flows.opening()
        const opening = callNative(role, options, asked, (op) => role.datagram(op, request), discardDatagram)
        const socket = await opening.then((datagram) => new ZtnaUdpSocket(datagram, this.flows)).finally(opened)
        const { peer, port, path } = socket
        this.record({ event: 'permitted', ...asked, port, peer: peer.name, path: path.kind })
        span?.connected(port, peer.name, path.kind)
        return socket
      } catch (error) {
        span?.failed(fromNative(error))
        throw error
      }
    })
  }

  /** Round trip to the service's connector, milliseconds. Default `timeoutMs` 10,000. */
  ping(service: string, cancel: Cancel = {}): Promise<PingResult> {
    return this.telling(async () => {
      const options = cancelOf(cancel)
      const request = JSON.stringify({ service: checkService(service), timeoutMs: nativeMs(options.timeoutMs) })
      const role = this.running()
      const answer = JSON.parse(await callNative(role, options, { service }, (op) => role.ping(op, request))) as {
        rttMs: number
        path: NativePath
      }
      return Object.freeze({ rttMs: answer.rttMs, path: toPath(answer.path) })
    })
  }

  /**
   * Why the path that flows to `'web'` or `'web:80'` take is what it is, from both ends' evidence. Opens a connection where there is none: the one
   * that keeps to the kind of path that policy, or `path`, leaves them. Answers within two seconds of having it. Default `timeoutMs` 10,000.
   * Errors: as for `ping`.
   */
  explain(target: string, options: Cancel & { path?: PathPolicy } = {}): Promise<PathExplanation> {
    return this.telling(async () => {
      const given = cancelOf(options, CALL_TIMEOUT_MS, 'path')
      const timeoutMs = nativeMs(given.timeoutMs)
      const flow = { ...toTarget(target), path: checkPath(given.path) }
      const role = this.running()
      return toExplanation(await callNative(role, given, askedOf(flow), (op) => role.explain(op, flowRequest(flow, timeoutMs))))
    })
  }

  /** Asks whether a flow would be permitted: `'web:80'`. Default protocol `tcp`, `timeoutMs` 10,000. */
  check(target: string, options: Cancel & { protocol?: 'tcp' | 'udp' } = {}): Promise<CheckResult> {
    return this.telling(async () => {
      const flow = toTarget(target)
      const { service, port } = flow
      const given = cancelOf(options, CALL_TIMEOUT_MS, 'protocol')
      const protocol = checkProtocol(given.protocol)
      const request = JSON.stringify({ service, port: port ?? null, protocol, timeoutMs: nativeMs(given.timeoutMs) })
      const role = this.running()
      const answer = await callNative(role, given, askedOf(flow, protocol), (op) => role.check(op, request))
      const { policyId, path, ...rest } = JSON.parse(answer) as NativeCheck
      return Object.freeze({ ...rest, ...(path === null ? {} : { path }), ...(policyId === null ? {} : { policyId }) })
    })
  }

  /** A service on a local port or unix socket, or a SOCKS5 proxy. Works before `online`: connections wait. */
  forward(options: ForwardOptions): Promise<Forward> {
    return this.telling(() => openForward(this.running(), options))
  }

  /**
   * For `http.request({ agent })` to `http://<service>.<zone>/…`. Any other host is ERR_ZTNA_DENIED, never the open network. One for the agent's life.
   * A client that follows redirects needs {@link httpsAgent} beside it: without an agent for `https:` it leaves the tunnel by itself.
   */
  httpAgent(): HttpAgent {
    return this.#http.httpAgent()
  }

  /** The same with TLS to the service itself, over the tunnel. With `options` a new one each time: keep it. Errors: ERR_ZTNA_CONFIG. */
  httpsAgent(options?: HttpsAgentOptions): HttpsAgent {
    return this.#http.httpsAgent(options)
  }

  /**
   * For undici 7 and for the `dispatcher` of Node's own `fetch`. Without `options` one for the agent's life, with them a new one each time: keep
   * it. Errors: ERR_ZTNA_CONFIG.
   */
  dispatcher(options?: DispatcherOptions): Dispatcher {
    return this.#http.dispatcher(options)
  }

  /** A `fetch` as {@link fetch} with options of its own, such as `{ tls: { ca } }`: keep it. Errors: ERR_ZTNA_CONFIG. */
  fetcher(options: DispatcherOptions = {}): typeof globalThis.fetch {
    return this.#http.fetcher(options)
  }

  /** Relays, connectors and the certificate now. Errors: ERR_ZTNA_CLOSED when not running. */
  status(): AgentStatus {
    return toAgentStatus(this.nativeStatus(), this.ask(listFlows))
  }

  /** @internal */
  override async examine(cancel: Cancel, version: number | undefined): Promise<readonly Finding[]> {
    const { version: inForce, folderUnreadableSince } = this.status()
    const services = await checkServices(this.services.values(), (target, protocol) => this.check(target, { ...cancel, protocol }))
    return [...checkReloaded(inForce, version, folderUnreadableSince), ...services]
  }

  /** @internal */
  protected override async onStarted(): Promise<void> {
    await this.#readServices()
  }

  /** @internal */
  protected override onNative(event: NativeEvent, role: NativeRole): void {
    switch (event.event) {
      case 'services':
        this.#readServices()
          .catch((error: unknown) => this.warn(fromNative(error)))
          .finally(() => this.fire('services', event['added'] as string[], event['removed'] as string[]))
        return
      case 'denied': {
        const error = fromNative(event['error'])
        return error instanceof ZtnaDeniedError ? this.fire('denied', error) : undefined
      }
      default:
        return super.onNative(event, role)
    }
  }

  /** @internal */
  protected override onDraining(why: ZtnaError): void {
    this.#http.drain()
    this.flows.release(why)
  }

  /** @internal */
  protected override onEnded(why: ZtnaError): void {
    super.onEnded(why)
    this.#http.close()
  }

  #connected(options: ConnectOptions, forLibrary: boolean): Promise<ZtnaSocket> {
    return new Promise((resolve, reject) => {
      const socket = this.#dial(options, forLibrary, () => {
        socket.off('error', reject)
        resolve(socket)
      })
      socket.once('error', reject)
    })
  }

  #dial(options: ConnectOptions, forLibrary: boolean, onConnect?: () => void): ZtnaSocket {
    const timeoutMs = nativeMs(timeoutOf(options))
    const wasOpen = !this.isClosing
    const socket = new ZtnaSocket(options.service, options.allowHalfOpen ?? false, forLibrary)
    if (onConnect !== undefined) socket.once('connect', onConnect)
    const span = connectSpan(askedOf(options, 'tcp'), options.traceparent)
    this.#open(socket, { ...options, ...sent(span) }, timeoutMs, span).catch((thrown: unknown) => {
      const error = this.failed(thrown)
      span?.failed(error)
      socket.endBy(error, wasOpen && this.isClosing)
    })
    return socket
  }

  async #open(socket: ZtnaSocket, options: ConnectOptions, timeoutMs: number, span: ConnectSpan | undefined): Promise<void> {
    const role = this.running()
    const given = new AbortController()
    // Not AbortSignal.any: on Node 20 a signal keeps something of every one that was made from it.
    const abort = (): void => given.abort(options.signal?.reason)
    if (options.signal?.aborted) abort()
    options.signal?.addEventListener('abort', abort, { once: true })
    socket.onGiveUp(() => given.abort())
    const asked = askedOf(options, 'tcp')
    const opened = this.flows.opening()
    try {
      const flow = await callNative(
        role,
        { signal: given.signal, timeoutMs },
        asked,
        (op) => role.connect(op, flowRequest(options, timeoutMs)),
        (late) => discard(role, late),
      )
      const info: StreamInfo = { ...(JSON.parse(flow.infoJson) as FlowInfo), fd: flow.fd, flow: flow.flow }
      const { peer, port } = info
      const path = toPath(info.path).kind
      this.record({ event: 'permitted', ...asked, port, peer: peer.name, path })
      span?.connected(port, peer.name, path)
      socket.attach(role, this.flows, info)
    } finally {
      opened()
      options.signal?.removeEventListener('abort', abort)
    }
  }

  async #readServices(): Promise<void> {
    const config = await this.network()
    this.#zone = config.zone
    this.#services = new Map(config.services.map((service) => [service.name, deepFreeze(service)]))
  }
}

function flowRequest(options: ConnectOptions, timeoutMs: number): string {
  return JSON.stringify({
    service: options.service,
    port: options.port ?? null,
    path: options.path ?? 'auto',
    timeoutMs,
    traceparent: options.traceparent ?? null,
  })
}

function sent(span: ConnectSpan | undefined): { traceparent?: string } {
  return span?.traceparent === undefined ? {} : { traceparent: span.traceparent }
}

function askedOf({ service, port }: ConnectOptions, protocol?: 'tcp' | 'udp'): Asked {
  return { service, ...(port === undefined ? {} : { port }), ...(protocol === undefined ? {} : { protocol }) }
}
