/** What happened in a role of late: decisions, paths and warnings, for whoever has to find out why something failed. */
import type { OpenedFlow } from './connector.js'
import type { ZtnaDeniedError, ZtnaError } from './errors.js'
import type { FailedFlow } from './failed-flow.js'
import { given } from './given.js'
import type { RelaySession } from './relay.js'
import type { ReloadResult } from './role.js'
import type { Identity, PathInfo, PathKind, State } from './types.js'

/** Events a role remembers. What leads to one failure is a handful; of a role that fails all the time it is the last minutes. */
const RECENT = 256

/**
 * One thing that happened in a role. Names and IDs alone, as they stand in network.toml, policies and logs: no messages, no addresses, nothing
 * of certificates, keys, policies or what a flow carries.
 */
export type RecentEvent = {
  /** When. */
  readonly at: Date
} & (
  | {
      /** The role went from `prev` to `next`. */
      readonly event: 'state'
      /** What it became. */
      readonly next: State
      /** What it was. */
      readonly prev: State
    }
  | ({
      /** At an agent: `connect`, `createConnection` or `datagram` has opened a flow. */
      readonly event: 'permitted'
      /** Name of the connector. */
      readonly peer: string
      /** How it began to travel. */
      readonly path: PathKind
    } & RecentTarget)
  | ({
      /** At a connector: a flow was let in. */
      readonly event: 'flow'
      /** Joins this with log lines. */
      readonly id: string
      /** Name of the agent. */
      readonly peer: string
    } & RecentTarget)
  | ({
      /** Policy, a revocation or `authorize` said no. */
      readonly event: 'denied'
      /** Which end said no. */
      readonly by: string
      /** Joins this with the log of the end that said no. */
      readonly decisionId?: string
      /** The policy that decided, where one did. */
      readonly policyId?: string
      /** At a connector or relay: name of the node that asked. */
      readonly peer?: string
    } & Partial<RecentTarget>)
  | ({
      /** A flow was permitted and came to nothing. */
      readonly event: 'flow-failed'
      /** Joins this with log lines. */
      readonly id: string
      /** Code of the error. */
      readonly code: string
      /** `details.reason` of the error, where it is one of the known. */
      readonly reason?: string
      /** At a connector: name of the agent. */
      readonly peer?: string
    } & RecentTarget)
  | {
      /** The path to a peer changed. */
      readonly event: 'path'
      /** Name of the peer. */
      readonly peer: string
      /** What it became. */
      readonly next: PathKind
      /** What it was. */
      readonly prev: PathKind
    }
  | {
      /** Another snapshot came into force. */
      readonly event: 'reloaded'
      /** Its version. */
      readonly version: number
    }
  | {
      /** What the role recovers from by itself, and what it died of. */
      readonly event: 'warning' | 'error'
      /** Code of the error. */
      readonly code: string
      /** `details.reason` of the error, where it is one of the known. */
      readonly reason?: string
      /** Name of the service, where it is of one. */
      readonly service?: string
    }
  | {
      /** At a relay: an agent's tunnel to a connector began or ended. */
      readonly event: 'session' | 'session-end'
      /** Number of the session. */
      readonly id: string
      /** Name of the agent. */
      readonly agent: string
      /** Name of the connector. */
      readonly connector: string
    }
)

/** What a flow is or was to be to. */
export interface RecentTarget {
  /** Name of the service. */
  readonly service: string
  /** Absent where the caller named none. */
  readonly port?: number
  /** Of the flow. */
  readonly protocol?: 'tcp' | 'udp' | 'icmp'
}

type Untimed<E> = E extends RecentEvent ? Omit<E, 'at'> : never
/** One of {@link RecentEvent}, before it has its time. */
export type Recordable = Untimed<RecentEvent>

/** Entries written together. The smaller, the less an old error keeps alive that nobody else does. */
const CHUNK = 32
/** Longest text kept, characters: names are up to 63, policy IDs what their authors make them. */
const TEXT = 128
/** What `reason` looks like in errors whose reasons are a list; elsewhere it is prose, which may quote a policy. */
const REASON = /^[a-z][a-z-]{0,31}$/

type Chunk = RecentEvent[]

/** What had happened when an error was thrown. */
const moments = new WeakMap<ZtnaError, Moment>()

interface Moment {
  readonly chunks: readonly Chunk[]
  /** Entries of the last chunk. */
  readonly filled: number
  list?: readonly RecentEvent[]
}

/** Remembers the last 256 events of one role. */
export class Recorder {
  // A full chunk is never written again, and its list is replaced when it grows: an error needs to hold no more than both.
  #chunks: readonly Chunk[] = [[]]

  /** Writes `entry` down, with the time. Only what stands in a {@link RecentEvent} may be in it. */
  record(entry: Recordable): void {
    const kept = Object.entries(entry).map(([name, value]) => [name, typeof value === 'string' ? value.slice(0, TEXT) : value])
    let last = this.#chunks.at(-1)
    if (last === undefined || last.length === CHUNK) {
      last = []
      this.#chunks = [...this.#chunks.slice(-RECENT / CHUNK), last]
    }
    last.push(Object.freeze({ at: new Date(), ...Object.fromEntries(kept) }) as RecentEvent)
  }

  /** The last 256, oldest first. */
  list(): readonly RecentEvent[] {
    return listOf(this.#now())
  }

  /** Has `details.recent` of `error` show what has happened until now. The first to mark an error counts. */
  mark<E extends ZtnaError>(error: E): E {
    if (!moments.has(error)) moments.set(error, this.#now())
    return error
  }

  #now(): Moment {
    return { chunks: this.#chunks, filled: this.#chunks.at(-1)?.length ?? 0 }
  }
}

/** What had happened in the role when it threw `error`; undefined for an error of no role. */
export function recentOf(error: ZtnaError): readonly RecentEvent[] | undefined {
  const moment = moments.get(error)
  if (moment === undefined) return undefined
  moment.list ??= listOf(moment)
  return moment.list
}

function listOf({ chunks, filled }: Moment): readonly RecentEvent[] {
  const last = chunks.length - 1
  return Object.freeze(chunks.flatMap((chunk, at) => (at === last ? chunk.slice(0, filled) : chunk)).slice(-RECENT))
}

/** What an event of a role leaves in its record; undefined where it is nothing that explains a failure. */
export function entryOf(event: string, args: readonly unknown[]): Recordable | undefined {
  switch (event) {
    case 'state': {
      const [next, prev] = args as [State, State]
      return { event, next, prev }
    }
    case 'denied': {
      const [error, peer] = args as [ZtnaDeniedError, Identity | undefined]
      const { by, decisionId, policyId } = error
      return { event, by, ...given({ decisionId, policyId, peer: peer?.name }), ...targetOf(error.details) }
    }
    case 'flow': {
      const [{ id, peer, service, protocol }] = args as [OpenedFlow]
      return { event, id, peer: peer.name, service, protocol }
    }
    case 'flow-failed': {
      const [error, { id, peer, service, port, protocol }] = args as [ZtnaError, FailedFlow]
      return { event, id, service, protocol, ...given({ port, peer: peer?.name }), ...codeOf(error) }
    }
    case 'path': {
      const [peer, next, prev] = args as [string, PathInfo, PathInfo]
      return { event, peer, next: next.kind, prev: prev.kind }
    }
    case 'reloaded': {
      const [{ version }] = args as [ReloadResult]
      return { event, version }
    }
    case 'warning':
    case 'error': {
      const [error] = args as [ZtnaError]
      return { event, ...codeOf(error), ...given({ service: targetOf(error.details).service }) }
    }
    case 'session':
    case 'session-end': {
      const [{ id, agent, connector }] = args as [RelaySession]
      return { event, id, agent, connector }
    }
  }
  return undefined
}

/** Never the message: it may quote a file. */
function codeOf(error: ZtnaError): { readonly code: string; readonly reason?: string } {
  const { reason } = error.details
  const known = error.code !== 'ERR_ZTNA_DENIED' && typeof reason === 'string' && REASON.test(reason)
  return { code: error.code, ...(known ? { reason } : {}) }
}

function targetOf({ service, port, protocol }: Readonly<Record<string, unknown>>): Partial<RecentTarget> {
  const isProtocol = protocol === 'tcp' || protocol === 'udp' || protocol === 'icmp'
  return {
    ...(typeof service === 'string' ? { service } : {}),
    ...(typeof port === 'number' ? { port } : {}),
    ...(isProtocol ? { protocol } : {}),
  }
}
