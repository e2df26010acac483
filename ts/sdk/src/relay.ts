/** The relay: a public meeting point that forwards what it can't read. */
import type { AddressInfo } from 'node:net'
import { countOf, fieldsOf, isObject, limitsOf, listOf, notAccepted, textOf } from './arguments.js'
import { ZtnaDeniedError, type ZtnaError, configError, fromNative } from './errors.js'
import type { Finding } from './doctor/check.js'
import { checkBinds } from './doctor/running.js'
import { type NativeEvent, type RoleEvents, type RoleOptions, ZtnaRole, roleOptionsOf } from './role.js'
import { type Cancel, type Identity, type NativeIdentity, type State, deepFreeze, toIdentity } from './types.js'

/** Events of a relay. */
export type RelayEvents = RoleEvents & {
  /** An agent has opened a tunnel to a connector. */
  session: [session: RelaySession]
  /** A node was refused: its certificate, or by policy what it asked for. The peer is absent when nobody was identified. */
  denied: [error: ZtnaDeniedError, peer: Identity | undefined]
  /** The session has ended, and why. */
  'session-end': [session: RelaySession, why: string]
}

/** One agent's tunnel to one connector. */
export interface RelaySession {
  /** Number of the session, unique in this run. */
  readonly id: string
  /** Name of the agent. */
  readonly agent: string
  /** Name of the connector. */
  readonly connector: string
  /** Bytes from the agent. */
  readonly rxBytes: number
  /** Bytes to the agent. */
  readonly txBytes: number
  /** Ends it; the agent may come back. */
  kick(): void
}

/** Counters of a relay. */
export interface RelayStats {
  /** Connections of nodes, open now. */
  readonly connections: number
  /** Connectors that are bound now. */
  readonly connectors: number
  /** Sessions that are open now. */
  readonly sessions: number
  /** Bytes relayed since the start, both ways. */
  readonly bytes: number
  /** By name of the queue. */
  readonly drops: Readonly<Record<string, number>>
}

/** What `ztna status --json` prints for a relay. */
export interface RelayStatus {
  /** Name of the node. */
  readonly name: string
  /** Where it is in its life. */
  readonly state: State
  /** Since when the trust folder can't be read, so that policy and revocations may be out of date; absent while it can. */
  readonly folderUnreadableSince?: Date
  /** `ip:port` */
  readonly listen: readonly string[]
  /** Connectors that are bound. */
  readonly connectors: readonly {
    /** Name of the node. */
    readonly name: string
    /** When it bound. */
    readonly since: Date
    /** Open sessions to it. */
    readonly sessions: number
  }[]
  /** Agents that are connected. */
  readonly agents: number
  /** Open sessions. */
  readonly sessions: number
}

/** What a relay allows; more is refused. */
export interface RelayLimits {
  /** Sessions at a time, of the whole relay. Default 65,536. */
  sessions?: number
  /**
   * Inner bits a second of one session, both directions together, at least 100,000; packets beyond it are dropped and counted as
   * `rate`. Bursts of 100 ms (at least 64 KB) pass. Default: no limit.
   */
  bpsPerSession?: number
  /** Handshakes a second, of everybody, once the address is proved. Default 2,000. */
  handshakesPerSecond?: number
  /** Handshakes a second of one /24 (IPv4) or /48 (IPv6). Default 200. */
  handshakesPerPrefixPerSecond?: number
  /** First packets answered with a Retry, a second: what is beyond is dropped, in the kernel where it can. Default 5,000. */
  retriesPerSecond?: number
}

/** How to make a relay. */
export interface RelayOptions extends RoleOptions {
  /** `ip:port` or `[ip]:port`; port 0 is any free one. Default `0.0.0.0:4433` and `[::]:4433`. */
  listen?: readonly {
    /** The address. */
    udp: string
  }[]
  /** Second STUN port (RFC 5780), such as `0.0.0.0:4434`: shows nodes what their NAT does, which a single relay can't tell without. Default: none. */
  stunAlt?: string
  /** Addresses to tell nodes when ours are behind a mapping. Default: those we listen on. */
  publicAddrs?: readonly string[]
  /** Default: those of the protocol. */
  limits?: RelayLimits
  /** Event loops, 1 to 64. Default: one per core. */
  loops?: number
}

/** Most event loops. */
export const MAX_LOOPS = 64
/** Where a relay listens when nothing is said: an IPv6 socket takes IPv6 alone. */
export const LISTEN: readonly string[] = ['0.0.0.0:4433', '[::]:4433']
const LIMITS: readonly (keyof RelayLimits)[] = [
  'sessions',
  'bpsPerSession',
  'handshakesPerSecond',
  'handshakesPerPrefixPerSecond',
  'retriesPerSecond',
]

type Counted = {
  readonly id: string
  readonly agent: string
  readonly connector: string
  rxBytes?: number
  txBytes?: number
}

/** Forwards packets between agents and connectors. */
export class ZtnaRelay extends ZtnaRole<RelayEvents, RelayStats> {
  readonly #relay: Omit<RelayOptions, keyof RoleOptions> & Required<Pick<RelayOptions, 'listen'>>
  readonly #sessions = new Map<string, RelaySession>()

  /** Errors: ERR_ZTNA_CONFIG when an option is not accepted. */
  constructor(given: RelayOptions = {}) {
    const options = roleOptionsOf('relay', given, ['listen', 'stunAlt', 'publicAddrs', 'limits', 'loops'])
    super('relay', options)
    const accepted = 'an array of { udp: "ADDRESS:PORT" }, such as [{ udp: "0.0.0.0:4433" }]'
    const listen = listOf(options.listen ?? LISTEN.map((udp) => ({ udp })), 'listen', accepted).map((entry: unknown, at) => {
      const { udp } = isObject(entry) ? fieldsOf<{ udp?: unknown }>(entry, 'listen', accepted, ['udp'], `listen[${at}].`) : {}
      if (typeof udp === 'string') return { udp }
      throw notAccepted(entry, 'listen', accepted)
    })
    const publicAddrs = listOf(options.publicAddrs ?? [], 'publicAddrs', 'an array of "ADDRESS:PORT"')
    const isText = publicAddrs.every((at: unknown) => typeof at === 'string')
    if (!isText) throw notAccepted(publicAddrs, 'publicAddrs', 'an array of "ADDRESS:PORT"')
    textOf(options.stunAlt, 'stunAlt', '"ADDRESS:PORT"')
    countOf(options.loops, 'loops', MAX_LOOPS)
    const limits = limitsOf(options.limits, LIMITS)
    if (listen.length === 0) throw configError('a relay needs at least one listen address, such as { udp: "0.0.0.0:4433" }')
    this.#relay = { ...options, listen, publicAddrs, ...(limits === undefined ? {} : { limits }) }
  }

  /** Connectors, agents and sessions now. Errors: ERR_ZTNA_CLOSED when not running. */
  status(): RelayStatus {
    const { stats: _stats, sessionList: _list, ...rest } = this.nativeStatus()
    const status = rest as unknown as Omit<RelayStatus, 'connectors'> & {
      connectors: { name: string; since: number; sessions: number }[]
    }
    const connectors = status.connectors.map((connector) => ({ ...connector, since: new Date(connector.since) }))
    return deepFreeze({ ...status, connectors })
  }

  /** Where it listens. Empty before `start()`. */
  address(): readonly AddressInfo[] {
    return this.listening.map(toAddressInfo)
  }

  /** Open sessions, with their bytes so far. Errors: ERR_ZTNA_CLOSED when not running. */
  sessions(): IterableIterator<RelaySession> {
    const { sessionList } = this.nativeStatus() as unknown as { sessionList: readonly Counted[] }
    return sessionList.map((json) => this.#session(json)).values()
  }

  /** @internal */
  override async examine(_cancel: Cancel, _version: number | undefined): Promise<readonly Finding[]> {
    const { services } = await this.network()
    return checkBinds(services, new Set(this.status().connectors.map(({ name }) => name)))
  }

  /** @internal */
  protected override nativeOptions(): Record<string, unknown> {
    const { listen, stunAlt, publicAddrs, limits, loops } = this.#relay
    return {
      listen: listen.map(({ udp }) => udp),
      stunAlt: stunAlt ?? null,
      publicAddrs: publicAddrs ?? [],
      limits: limits ?? {},
      loops: loops ?? null,
    }
  }

  /** @internal */
  protected override onNative(event: NativeEvent): void {
    if (event.event === 'session') {
      const session = this.#session(event as unknown as Counted)
      this.#sessions.set(session.id, session)
      this.fire('session', session)
    } else if (event.event === 'session-end') {
      const session = this.#sessions.get(String(event['id']))
      if (session === undefined) return
      this.#sessions.delete(session.id)
      this.fire('session-end', session, String(event['why']))
    } else if (event.event === 'denied') {
      const error = fromNative(event['error'])
      const peer = event['peer'] as NativeIdentity | null | undefined
      if (error instanceof ZtnaDeniedError) this.fire('denied', error, peer ? toIdentity(peer) : undefined)
    }
  }

  /** @internal */
  protected override onEnded(_why: ZtnaError): void {
    this.#sessions.clear()
  }

  #session(json: Counted): RelaySession {
    const { id, agent, connector, rxBytes = 0, txBytes = 0 } = json
    return Object.freeze({ id, agent, connector, rxBytes, txBytes, kick: () => this.ask((role) => role.kick(id)) })
  }
}

/** `1.2.3.4:5` or `[::1]:5` as Node shows addresses. */
function toAddressInfo(text: string): AddressInfo {
  const colon = text.lastIndexOf(':')
  const address = text.slice(0, colon).replace(/^\[|\]$/g, '')
  return { address, port: Number(text.slice(colon + 1)), family: address.includes(':') ? 'IPv6' : 'IPv4' }
}
