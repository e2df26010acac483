/** What `status()` and `stats()` of agents and connectors tell, and how native's words become it. */
import { type NativeErrorJson, type ZtnaError, fromNative } from './errors.js'
import type { FlowList } from './flow-list.js'
import { type NativePath, type PathInfo, type PathPolicy, type State, deepFreeze, toPath } from './types.js'

/** Counters of an agent or connector. */
export interface AgentStats {
  /** Bytes received on all paths. */
  readonly rxBytes: number
  /** Bytes sent on all paths. */
  readonly txBytes: number
  /** Open now. */
  readonly flows: {
    /** Streams. */
    readonly tcp: number
    /** UDP flows. */
    readonly udp: number
  }
  /** By name of the peer: of the connection that may take any path, where there is one. */
  readonly paths: Readonly<Record<string, PathInfo>>
}

/** What the status of an agent and that of a connector have in common. */
export interface NodeStatus extends FlowList {
  /** Name of the node. */
  readonly name: string
  /** Where it is in its life. */
  readonly state: State
  /** Since when the trust folder can't be read, so that policy and revocations may be out of date; absent while it can. */
  readonly folderUnreadableSince?: Date
  /** Every relay of the network. */
  readonly relays: readonly RelayStanding[]
  /** Why no relay serves this node, and what to do about it; absent while one does. */
  readonly outage?: Outage
  /** This node's certificate. */
  readonly certificate: {
    /** End of the certificate. */
    readonly expiresAt: Date
  }
  /** Version of the snapshot in force. */
  readonly version: number
}

/** An ERR_ZTNA_UNREACHABLE as a log shows it, with `details.reason` where the cause is known and a line for each relay in `details.tried`. */
export type Outage = ReturnType<ZtnaError['toJSON']>

/** How an agent or a connector stands with a relay. */
export interface RelayStanding {
  /** Name of the relay. */
  readonly name: string
  /** `online`: the connection stands. */
  readonly state: State
  /** Round trip, milliseconds; 0 while there is no connection. */
  readonly rttMs: number
  /** Our addresses as the relay sees them. */
  readonly observed: readonly string[]
  /** Where it was tried, and what went wrong; absent while online. */
  readonly detail?: string
}

/** What `ztna status --json` prints for an agent. */
export interface AgentStatus extends NodeStatus {
  /** Connections to connectors: one for each connector and path policy. */
  readonly connectors: readonly {
    /** Name of the connector. */
    readonly name: string
    /** How flows to it travel; kind `none` where only a direct path will do, and there is none. */
    readonly path: PathInfo
    /** Which flows it is for: those that may take any path, or those that policy or their caller leaves one kind only. */
    readonly pathPolicy: PathPolicy
    /** Flows that are open. */
    readonly flows: number
    /** Services it may serve. */
    readonly services: readonly string[]
  }[]
}

/** What `ztna status --json` prints for a connector. */
export interface ConnectorStatus extends NodeStatus {
  /** Every relay of the network; `bound` where agents reach this connector. */
  readonly relays: readonly (RelayStanding & {
    /** Whether agents reach this connector there. */
    readonly bound: boolean
  })[]
  /** Agents with a connection to this connector, and their open flows. */
  readonly agents: readonly {
    /** Name of the agent. */
    readonly name: string
    /** How packets to it travel. */
    readonly path: PathInfo
    /** Which of its flows this connection is for. */
    readonly pathPolicy: PathPolicy
    /** Its open flows. */
    readonly flows: number
  }[]
}

/** `status`: what native says of `role`, parsed. Errors: ERR_ZTNA_CLOSED. */
export function toAgentStatus(status: object, flows: FlowList): AgentStatus {
  const { stats: _stats, outage, ...rest } = status as NativeStatus & { readonly connectors: readonly NativePeer[] }
  return deepFreeze({
    ...rest,
    ...toOutage(outage),
    // Only connectors bind.
    relays: rest.relays.map(({ bound: _bound, ...relay }) => toStanding(relay)),
    connectors: rest.connectors.map((connector) => ({ ...connector, path: toPath(connector.path) })),
    certificate: { expiresAt: new Date(rest.certificate.expiresAt) },
    ...flows,
  })
}

/** The same for a connector. */
export function toConnectorStatus(status: object, flows: FlowList): ConnectorStatus {
  const { stats: _stats, certificate, agents, outage, ...rest } = status as NativeStatus & { readonly agents: readonly NativePeer[] }
  return deepFreeze({
    ...rest,
    ...toOutage(outage),
    relays: rest.relays.map(toStanding),
    agents: agents.map(({ name, path, pathPolicy, flows }) => ({ name, path: toPath(path), pathPolicy, flows })),
    certificate: { expiresAt: new Date(certificate.expiresAt) },
    ...flows,
  })
}

/** The counters in a parsed status. */
export function toAgentStats(json: unknown): AgentStats {
  const stats = json as Omit<AgentStats, 'paths'> & { paths: Record<string, NativePath> }
  const paths = Object.fromEntries(Object.entries(stats.paths).map(([peer, path]) => [peer, toPath(path)]))
  return { ...stats, paths }
}

interface NativeStatus extends Pick<NodeStatus, 'name' | 'state' | 'folderUnreadableSince' | 'version'> {
  readonly stats: unknown
  readonly relays: readonly (Omit<RelayStanding, 'detail'> & { readonly bound: boolean; readonly detail: string | null })[]
  readonly outage: NativeErrorJson | null
  readonly certificate: { readonly expiresAt: number }
}

interface NativePeer {
  readonly name: string
  readonly path: NativePath
  readonly pathPolicy: PathPolicy
  readonly flows: number
  readonly services: readonly string[]
}

function toStanding<T extends { readonly detail: string | null }>({ detail, ...relay }: T): Omit<T, 'detail'> & { detail?: string } {
  return { ...relay, ...(detail === null ? {} : { detail }) }
}

function toOutage(outage: NativeErrorJson | null | undefined): { outage?: Outage } {
  return outage ? { outage: fromNative(outage).toJSON() } : {}
}
