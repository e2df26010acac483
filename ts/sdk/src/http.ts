/** HTTP clients through the tunnel: `node:http`, `node:https`, undici and `fetch`. Nothing here dials the open network. */
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent, type AgentOptions as HttpsAgentOptions, type RequestOptions } from 'node:https'
import type { Duplex } from 'node:stream'
import { isIP } from 'node:net'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import { Agent as UndiciAgent, type Dispatcher } from 'undici'
import { ZtnaDeniedError, ZtnaError } from './errors.js'
import type { ZtnaSocket } from './socket.js'
import { type ConnectOptions, serviceOfHost } from './target.js'

/** What the HTTP clients need of an agent. */
export interface Tunnel {
  /** The zone, once known. */
  zone(): string | undefined
  connect(options: ConnectOptions): Promise<ZtnaSocket>
}

type Created = (error: Error | null, stream: Duplex) => void

interface Destination {
  host?: string | null | undefined
  hostname?: string | null | undefined
  port?: number | string | null | undefined
  socketPath?: string | null | undefined
}

/** The HTTP clients of one agent; they close with it. */
export class TunnelHttp {
  readonly #tunnel: Tunnel
  readonly #agents = new Set<HttpAgent>()
  #dispatcher: UndiciAgent | undefined

  constructor(tunnel: Tunnel) {
    this.#tunnel = tunnel
  }

  httpAgent(): HttpAgent {
    const agent = new TunnelHttpAgent({ keepAlive: true })
    agent.dial = (to) => this.#dial(to, 80)
    this.#agents.add(agent)
    return agent
  }

  httpsAgent(options: HttpsAgentOptions): HttpsAgent {
    const agent = new TunnelHttpsAgent({ keepAlive: true, ...options })
    agent.dial = (to) => this.#dial(to, 443)
    this.#agents.add(agent)
    return agent
  }

  dispatcher(): Dispatcher {
    this.#dispatcher ??= new UndiciAgent({
      connect: (options, callback) => {
        // undici hangs when this calls back at once; a promise never does.
        this.#dialUndici(options).then(
          (socket) => callback(null, socket),
          (error: Error) => callback(error, null),
        )
      },
    })
    return this.#dispatcher
  }

  fetch(input: Parameters<typeof fetch>[0], init: RequestInit | undefined): Promise<Response> {
    // Ours last: a caller's own dispatcher would leave the tunnel.
    return globalThis.fetch(input, { ...init, dispatcher: this.dispatcher() } as unknown as RequestInit)
  }

  /** Lets requests finish and their connections go: an idle connection in a pool is nothing that a drain waits for. */
  drain(): void {
    for (const agent of this.#agents) {
      agent.maxFreeSockets = 0
      for (const sockets of Object.values(agent.freeSockets)) sockets?.forEach((socket) => socket.destroy())
    }
    this.#dispatcher?.close().catch(() => {})
  }

  /** Drops pooled connections. */
  close(): void {
    for (const agent of this.#agents) agent.destroy()
    const dispatcher = this.#dispatcher
    this.#dispatcher = undefined
    dispatcher?.destroy().catch(() => {})
  }

  async #dial(to: Destination, defaultPort: number): Promise<ZtnaSocket> {
    const host = to.hostname ?? to.host ?? ''
    if (to.socketPath) throw outside(`unix socket ${to.socketPath}`)
    const zone = this.#tunnel.zone()
    if (zone === undefined) throw new ZtnaError('ERR_ZTNA_CLOSED', 'the agent has not been started')
    const service = serviceOfHost(host, zone)
    if (service === undefined) throw outside(`host "${host}"`, zone)
    return this.#tunnel.connect({ service, port: Number(to.port || defaultPort) })
  }

  async #dialUndici(options: UndiciConnect): Promise<ZtnaSocket | TLSSocket> {
    const secure = options.protocol === 'https:'
    const socket = await this.#dial(options, secure ? 443 : 80)
    if (!secure) return socket
    const name = options.servername || options.hostname
    const tls = tlsConnect({ socket, ALPNProtocols: ['http/1.1'], ...(isIP(name) === 0 ? { servername: name } : {}) })
    return new Promise((resolve, reject) => {
      tls.once('error', reject)
      tls.once('secureConnect', () => {
        tls.off('error', reject)
        resolve(tls)
      })
    })
  }
}

interface UndiciConnect extends Destination {
  hostname: string
  protocol: string
  servername?: string | undefined
}

class TunnelHttpAgent extends HttpAgent {
  dial!: (to: Destination) => Promise<ZtnaSocket>

  override createConnection(options: Destination, created?: Created): undefined {
    this.dial(options).then(
      (socket) => created?.(null, socket),
      (error: Error) => created?.(error, undefined as unknown as Duplex),
    )
  }
}

class TunnelHttpsAgent extends HttpsAgent {
  dial!: (to: Destination) => Promise<ZtnaSocket>

  override createConnection(options: RequestOptions, created?: Created): undefined {
    const host = options.host ?? ''
    this.dial(options).then(
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
    details: { reason: 'outside-zone' },
  })
}
