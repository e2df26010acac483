/** The flows of an agent or a connector, as `status()` tells of them. */
import type { NativeRole } from './native.js'
import type { PathKind } from './types.js'

/** One flow, now. */
export interface FlowStatus {
  /** Number of the flow, unique in this run: events, errors and logs name it too. */
  readonly id: string
  /** Name of the service. */
  readonly service: string
  /** Port of the service; absent for ICMP. */
  readonly port?: number
  /** What it carries. */
  readonly protocol: 'tcp' | 'udp' | 'icmp'
  /** Name of the node at the other end: the connector, or the agent. */
  readonly peer: string
  /** Whether it carries bytes; else it has been asked for and not been answered. */
  readonly open: boolean
  /** How its packets travel. */
  readonly path: PathKind
  /** Name of the relay, when `path` is `relay`. */
  readonly relay?: string
  /** Payload bytes from the peer that the local side has read, and of datagrams those that have arrived. */
  readonly rxBytes: number
  /** Payload bytes taken from the local side to be sent. */
  readonly txBytes: number
  /** When it came to be. */
  readonly since: Date
}

/** The flows in `status()`. */
export interface FlowList {
  /**
   * Flows that are open or being opened, the oldest first, 1,000 at most. Of more, half are the oldest, and half those of the rest that have
   * carried most.
   */
  readonly flows: readonly FlowStatus[]
  /** How many more there are. */
  readonly flowsOmitted: number
}

interface NativeFlowStatus extends Omit<FlowStatus, 'port' | 'relay' | 'since'> {
  readonly port: number | null
  readonly relay: string | null
  readonly since: number
}

/** One synchronous native call. Errors: ERR_ZTNA_CLOSED. */
export function listFlows(role: NativeRole): FlowList {
  const { flows, more } = JSON.parse(role.flows()) as { flows: readonly NativeFlowStatus[]; more: number }
  return { flows: flows.map(toFlowStatus), flowsOmitted: more }
}

function toFlowStatus({ port, relay, since, ...flow }: NativeFlowStatus): FlowStatus {
  return { ...flow, ...(port === null ? {} : { port }), ...(relay === null ? {} : { relay }), since: new Date(since) }
}
