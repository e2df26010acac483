/** Local listeners whose connections go through the tunnel. The bytes never enter JavaScript. */
import type { AddressInfo } from 'node:net'
import { fieldsOf, isObject, keysOf, notAccepted, optionsOf, textOf } from './arguments.js'
import { aborted, configError, fromNative } from './errors.js'
import type { NativeRole } from './native.js'
import { timeoutOf } from './ops.js'
import { checkPath, checkPort, checkProtocol, toTarget } from './target.js'
import type { Cancel, PathPolicy } from './types.js'

/** Where a forward listens. */
export type ListenAt =
  | {
      /** Default 0: any free one. */
      port?: number
      /** Default 127.0.0.1. */
      host?: string
    }
  | {
      /** Path of a unix socket. */
      unix: string
    }

/** A proxy's address, and what it asks of its clients. */
export interface SocksOptions {
  /** Default 1080. */
  port?: number
  /** Default 127.0.0.1. */
  host?: string
  /** RFC 1929; given with `password` or not at all. */
  username?: string
  /** RFC 1929. */
  password?: string
}

/** A service on a local port or unix socket, or a SOCKS5 (and HTTP CONNECT) proxy for the whole zone. */
export type ForwardOptions = Cancel & {
  /** Where packets can go for each of its flows. Default `auto`. */
  path?: PathPolicy
} & (
    | {
        /** Name of the service. */
        service: string
        /** May be left out when the service has exactly one port of the protocol. */
        port?: number
        /** Default `tcp`. */
        protocol?: 'tcp' | 'udp'
        /** Default host 127.0.0.1, port 0: any free one. */
        listen: ListenAt
      }
    | {
        /** Default host 127.0.0.1, port 1080. Other than loopback needs `username` and `password`. */
        socks5: SocksOptions
      }
  )

/** A running forward. */
export interface Forward extends AsyncDisposable {
  /** Where it listens; the path, for a unix socket. */
  address(): AddressInfo | string
  /** Stops listening. TCP connections go on to their own end, UDP flows end now. Rejects nothing. */
  close(): Promise<void>
  /** Open connections now. */
  readonly connections: number
}

const SERVICE_OPTIONS = ['service', 'port', 'protocol', 'listen', 'path', 'signal', 'timeoutMs']
const SOCKS_OPTIONS = ['socks5', 'path', 'signal', 'timeoutMs']
const FORWARDS = '{ service, port?, listen } or { socks5 }'
/** SOCKS port when none is named (RFC 1928 §3). */
const SOCKS_PORT = 1080

/** Starts listening. Errors: ERR_ZTNA_CONFIG when the address can't be used, ERR_ZTNA_PERMISSION. */
export async function openForward(role: NativeRole, given: ForwardOptions): Promise<Forward> {
  const what = 'options of forward()'
  if (!isObject(given)) throw notAccepted(given, what, FORWARDS)
  const kinds = keysOf(given, what).filter((name) => name === 'service' || name === 'socks5')
  if (kinds.length > 1) throw configError(`${what}: either ${FORWARDS}, not both`)
  const options = optionsOf<ForwardOptions>(given, what, kinds[0] === 'socks5' ? SOCKS_OPTIONS : SERVICE_OPTIONS)
  const { signal } = options
  timeoutOf(options, Infinity)
  if (signal?.aborted) throw aborted(signal)
  const path = checkPath(options.path)
  const request = JSON.stringify({ ...('socks5' in options ? socksRequest(options.socks5) : serviceRequest(options)), path })
  let answer: { id: number; address: AddressInfo | string }
  try {
    answer = JSON.parse(await role.forward(request)) as typeof answer
  } catch (error) {
    throw fromNative(error)
  }
  const forward = new NativeForward(role, answer.id, answer.address)
  if (!signal?.aborted) return forward
  await forward.close()
  throw aborted(signal)
}

function serviceRequest(options: Extract<ForwardOptions, { service: string }>): object {
  if (options.service === undefined) throw configError(`forward() needs ${FORWARDS}`)
  const { service, port } = toTarget(options.port === undefined ? options.service : { service: options.service, port: options.port })
  const protocol = checkProtocol(options.protocol)
  const listen = fieldsOf(options.listen, 'listen', '{ host?, port? } or { unix: "/PATH" }', ['host', 'port', 'unix'], 'listen.')
  if ('unix' in listen) {
    if (textOf(listen.unix, 'listen.unix', 'the path of a unix socket') === undefined) {
      throw notAccepted(undefined, 'listen.unix', 'the path of a unix socket')
    }
    if (protocol === 'udp') throw configError('a UDP service can be forwarded to a port only, not to a unix socket')
    return { service, port: port ?? null, protocol, listen: { unix: listen.unix } }
  }
  const at = { host: hostOf(listen.host, 'listen.host'), port: listenPort(listen.port ?? 0) }
  return { service, port: port ?? null, protocol, listen: at }
}

function socksRequest(socks: Extract<ForwardOptions, { socks5: object }>['socks5']): object {
  const names = ['host', 'port', 'username', 'password']
  const { host, port, username, password } = fieldsOf(socks, 'socks5', '{ host?, port?, username?, password? }', names, 'socks5.')
  textOf(username, 'socks5.username', 'a string')
  // Its value stays out of the message.
  if (password !== undefined && typeof password !== 'string') throw configError('socks5.password is not a string')
  if ((username === undefined) !== (password === undefined)) throw configError('socks5 needs both username and password')
  const credentials = username === undefined ? {} : { username, password }
  return { socks5: { host: hostOf(host, 'socks5.host'), port: listenPort(port ?? SOCKS_PORT), ...credentials } }
}

function hostOf(host: string | undefined, of: string): string {
  return textOf(host, of, 'an IP address or localhost') ?? '127.0.0.1'
}

function listenPort(port: number): number {
  return port === 0 ? 0 : checkPort(port, 'listen')
}

class NativeForward implements Forward {
  readonly #role: NativeRole
  readonly #id: number
  readonly #address: AddressInfo | string
  #closing: Promise<void> | undefined

  constructor(role: NativeRole, id: number, address: AddressInfo | string) {
    this.#role = role
    this.#id = id
    this.#address = address
  }

  address(): AddressInfo | string {
    return this.#address
  }

  get connections(): number {
    if (this.#closing !== undefined) return 0
    try {
      return this.#role.forwardConnections(this.#id)
    } catch {
      // The role has closed, and its forwards with it.
      return 0
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    try {
      await this.#role.forwardClose(this.#id)
    } catch {
      // The role has closed, and its forwards with it.
    }
  }
}
