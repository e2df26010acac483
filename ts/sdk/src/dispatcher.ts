/** undici through the tunnel: what `agent.dispatcher()` and `agent.fetch` send their requests with. */
import { isIP } from 'node:net'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import { Agent } from 'undici'
import { anyFieldsOf, countOf, flagOf, optionsOf, show } from './arguments.js'
import { ZtnaError, configError } from './errors.js'
import { CALL_TIMEOUT_MS } from './ops.js'
import type { ZtnaSocket } from './socket.js'
import { notOpened } from './system-error.js'

/** TLS of a service itself, within the tunnel: `ca` for a private CA, `cert` and `key` for a client certificate, and the like. */
export type ServiceTls = Omit<ConnectionOptions, 'socket' | 'host' | 'port' | 'path' | 'lookup' | 'timeout' | 'ALPNProtocols'>

/** How requests through the tunnel are made. */
export interface DispatcherOptions {
  /** For `https:` URLs. Default: Node's trusted CAs. */
  tls?: ServiceTls
  /** Speaks HTTP/2 with services that choose it in ALPN. Default false. */
  allowH2?: boolean
  /** Most connections to one service at once. Default: no limit. */
  connections?: number
  /** Requests that one connection may carry at once: more than one helps with HTTP/2 only. Default 1. */
  pipelining?: number
  /** Time for the headers of an answer, milliseconds; 0: no limit. Default 300,000. */
  headersTimeout?: number
  /** Time between two parts of an answer's body, milliseconds; 0: no limit. Default 300,000. */
  bodyTimeout?: number
  /** Time for which an idle connection is kept, milliseconds. Default 4,000; the service may ask for another in `keep-alive`. */
  keepAliveTimeout?: number
}

/** Where undici, or a Node agent, wants a connection to. */
export interface Destination {
  host?: string | null | undefined
  hostname?: string | null | undefined
  port?: number | string | null | undefined
  socketPath?: string | null | undefined
}

/** Opens a flow to a destination within the zone. Rejects as a library expects it. */
export type Dial = (to: Destination, defaultPort: number) => Promise<ZtnaSocket>

const NAMES: readonly (keyof DispatcherOptions)[] = [
  'tls',
  'allowH2',
  'connections',
  'pipelining',
  'headersTimeout',
  'bodyTimeout',
  'keepAliveTimeout',
]
/** The tunnel dials and chooses the protocol: these would lead elsewhere, or be left out. */
const NOT_TLS: ReadonlySet<string> = new Set(['socket', 'host', 'port', 'path', 'lookup', 'timeout', 'ALPNProtocols'])
const OWNER = Symbol('ztna.tunnel')

/** An undici `Agent` whose connections are flows. */
export class TunnelDispatcher extends Agent {
  readonly [OWNER]: Dial

  /** Errors: ERR_ZTNA_CONFIG when an option is not accepted. */
  constructor(dial: Dial, options: DispatcherOptions = {}) {
    const { tls = {}, allowH2 = false, ...rest } = checked(options)
    super({
      ...rest,
      allowH2,
      connect: (to, callback) => {
        // undici hangs when this calls back at once; a promise never does.
        connection(dial, to, tls, allowH2).then(
          (socket) => callback(null, socket),
          (error: Error) => callback(error, null),
        )
      },
    })
    this[OWNER] = dial
  }
}

/** Whether a dispatcher leads into the tunnel of `dial`, also when interceptors are composed around it. */
export function leadsInto(dial: Dial, dispatcher: object): boolean {
  return (dispatcher as Partial<TunnelDispatcher>)[OWNER] === dial
}

function checked(given: DispatcherOptions): DispatcherOptions {
  const options = optionsOf(given, 'options of the dispatcher', NAMES)
  const { allowH2, connections, pipelining, headersTimeout, bodyTimeout, keepAliveTimeout } = options
  flagOf(allowH2, 'allowH2')
  countOf(connections, 'connections')
  countOf(pipelining, 'pipelining')
  countOf(headersTimeout, 'headersTimeout', Infinity, 0)
  countOf(bodyTimeout, 'bodyTimeout', Infinity, 0)
  countOf(keepAliveTimeout, 'keepAliveTimeout')
  if (options.tls === undefined) return options
  const tls = anyFieldsOf(options.tls, 'tls', 'options of tls.connect(), such as { ca }', 'tls.')
  const wrong = Object.keys(tls).filter((name) => NOT_TLS.has(name))
  if (wrong.length > 0)
    throw configError(`tls: ${wrong.map(show).join(', ')} not accepted: the tunnel connects, and allowH2 says what ALPN offers`)
  return { ...options, tls }
}

interface UndiciConnect extends Destination {
  hostname: string
  protocol: string
  servername?: string | undefined
}

async function connection(dial: Dial, to: UndiciConnect, tls: ServiceTls, allowH2: boolean): Promise<ZtnaSocket | TLSSocket> {
  if (to.protocol !== 'https:') return dial(to, 80)
  const socket = await dial(to, 443)
  const name = to.servername || tls.servername || to.hostname
  return handshake({
    ...tls,
    socket,
    ALPNProtocols: allowH2 ? ['h2', 'http/1.1'] : ['http/1.1'],
    ...(isIP(name) === 0 ? { servername: name } : {}),
  })
}

function handshake(options: ConnectionOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const tls = tlsConnect(options)
    const late = setTimeout(() => {
      const message = `no TLS handshake of ${options.servername ?? 'the service'} within ${CALL_TIMEOUT_MS} ms`
      tls.destroy(notOpened(new ZtnaError('ERR_ZTNA_TIMEOUT', message)))
    }, CALL_TIMEOUT_MS)
    tls.once('close', () => clearTimeout(late))
    tls.once('error', reject)
    tls.once('secureConnect', () => {
      clearTimeout(late)
      tls.off('error', reject)
      resolve(tls)
    })
  })
}
