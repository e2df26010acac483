/** HTTP clients through the tunnel: `node:http`, `node:https`, undici and `fetch`. Nothing here dials the open network. */
import { randomBytes } from 'node:crypto'
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent, type AgentOptions as HttpsAgentOptions, type RequestOptions } from 'node:https'
import type { Duplex } from 'node:stream'
import { isIP } from 'node:net'
import { type ConnectionOptions, connect as tlsConnect } from 'node:tls'
import type { Dispatcher } from 'undici'
import { anyFieldsOf } from './arguments.js'
import { type Destination, type Dial, type DispatcherOptions, TunnelDispatcher, leadsInto } from './dispatcher.js'
import { ZtnaDeniedError, ZtnaError, configError } from './errors.js'
import type { ZtnaSocket } from './socket.js'
import { notOpened } from './system-error.js'
import { type ConnectOptions, serviceOfHost } from './target.js'

/** What the HTTP clients need of an agent. */
export interface Tunnel {
  /** The zone, once known. */
  zone(): string | undefined
  /** Opens a flow. Rejects as a library expects it. */
  connect(options: ConnectOptions): Promise<ZtnaSocket>
  /** Tells of what is refused before it is a flow; gives it back. */
  refused(error: ZtnaDeniedError): ZtnaDeniedError
}

type Created = (error: Error | null, stream: Duplex) => void

/** The HTTP clients of one agent; they close with it. */
export class TunnelHttp {
  readonly #agents = new Set<HttpAgent>()
  readonly #dispatchers = new Set<TunnelDispatcher>()
  readonly #dial: Dial
  #httpAgent: HttpAgent | undefined
  #httpsAgent: HttpsAgent | undefined
  #dispatcher: TunnelDispatcher | undefined

  constructor(tunnel: Tunnel) {
    this.#dial = (to, defaultPort) => dial(tunnel, to, defaultPort)
  }

  httpAgent(): HttpAgent {
    if (this.#httpAgent === undefined) {
      this.#httpAgent = new TunnelHttpAgent(this.#dial)
      this.#agents.add(this.#httpAgent)
    }
    return this.#httpAgent
  }

  httpsAgent(options: HttpsAgentOptions | undefined): HttpsAgent {
    if (options === undefined && this.#httpsAgent !== undefined) return this.#httpsAgent
    const given = options && anyFieldsOf(options, 'options of httpsAgent()', 'options of https.Agent, such as { ca }')
    const agent = new TunnelHttpsAgent(this.#dial, given ?? {})
    this.#agents.add(agent)
    if (options === undefined) this.#httpsAgent = agent
    return agent
  }

  dispatcher(options: DispatcherOptions | undefined): Dispatcher {
    if (options !== undefined) return this.#newDispatcher(options)
    // `start()` that was given up destroys the one that was there.
    if (this.#dispatcher === undefined || this.#dispatcher.destroyed) this.#dispatcher = this.#newDispatcher()
    return this.#dispatcher
  }

  /** A `fetch` that sends with a dispatcher of its own, or with the agent's. */
  fetcher(options: DispatcherOptions | undefined): typeof fetch {
    let own = options === undefined ? undefined : this.#newDispatcher(options)
    return async (input, init) => {
      if (own?.destroyed) own = this.#newDispatcher(options)
      const given = (init as { dispatcher?: object | null } | undefined)?.dispatcher ?? undefined
      if (given !== undefined && !leadsInto(this.#dial, given)) {
        throw configError('dispatcher of fetch() leads past the tunnel; accepted: what dispatcher() of the same agent gives')
      }
      const dispatcher = given ?? own ?? this.dispatcher(undefined)
      return globalThis.fetch(input, { ...init, dispatcher } as unknown as RequestInit)
    }
  }

  /** Lets requests finish and their connections go: an idle connection in a pool is nothing that a drain waits for. */
  drain(): void {
    for (const agent of this.#agents) {
      agent.maxFreeSockets = 0
      for (const sockets of Object.values(agent.freeSockets)) sockets?.forEach((socket) => socket.destroy())
    }
    for (const dispatcher of this.#dispatchers) dispatcher.close().catch(() => {})
  }

  /** Drops pooled connections. */
  close(): void {
    for (const agent of this.#agents) agent.destroy()
    for (const dispatcher of this.#dispatchers) dispatcher.destroy().catch(() => {})
    this.#dispatchers.clear()
  }

  #newDispatcher(options?: DispatcherOptions): TunnelDispatcher {
    const dispatcher = new TunnelDispatcher(this.#dial, options)
    this.#dispatchers.add(dispatcher)
    return dispatcher
  }
}

async function dial(tunnel: Tunnel, to: Destination, defaultPort: number): Promise<ZtnaSocket> {
  const host = to.hostname ?? to.host ?? ''
  if (to.socketPath) throw tunnel.refused(outside(`unix socket ${to.socketPath}`))
  const zone = tunnel.zone()
  if (zone === undefined) throw notOpened(new ZtnaError('ERR_ZTNA_CLOSED', 'the agent has not been started'))
  const service = serviceOfHost(host, zone)
  if (service === undefined) throw tunnel.refused(outside(`host "${host}"`, zone))
  return tunnel.connect({ service, port: Number(to.port || defaultPort) })
}

class TunnelHttpAgent extends HttpAgent {
  readonly #dial: Dial

  constructor(dial: Dial) {
    super({ keepAlive: true })
    this.#dial = dial
  }

  override createConnection(options: Destination, created?: Created): undefined {
    this.#dial(options, 80).then(
      (socket) => created?.(null, socket),
      (error: Error) => created?.(error, undefined as unknown as Duplex),
    )
  }
}

class TunnelHttpsAgent extends HttpsAgent {
  readonly #dial: Dial

  constructor(dial: Dial, options: HttpsAgentOptions) {
    super({ keepAlive: true, ...options })
    this.#dial = dial
  }

  override createConnection(options: RequestOptions, created?: Created): undefined {
    const host = options.host ?? ''
    this.#dial(options, 443).then(
      (socket) => {
        // Not `path`, `host` or `port`: by those tls.connect would dial for itself.
        const { path: _path, host: _host, port: _port, ...tls } = options as ConnectionOptions & { path?: unknown }
        const name = options.servername || host
        created?.(null, tlsConnect({ ...tls, socket, ...(isIP(name) === 0 ? { servername: name } : {}) }))
      },
      (error: Error) => created?.(error, undefined as unknown as Duplex),
    )
  }
}

function outside(what: string, zone?: string): ZtnaDeniedError {
  const accepted = zone === undefined ? '' : `; accepted: <service>.${zone}`
  return new ZtnaDeniedError(`${what} is outside the zone and the tunnel does not lead there${accepted}`, 'agent', {
    // As native's, so that the log line can be found.
    details: { reason: 'outside-zone', decisionId: `d${randomBytes(6).toString('hex')}` },
  })
}
