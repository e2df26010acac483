/** A flow that came to nothing, as the event `flow-failed` of agents and connectors names it. */
import { type Identity, type NativeIdentity, toIdentity } from './types.js'

/** What was to be opened, and for whom. */
export interface FailedFlow {
  /** Joins this event with log lines of the same end. */
  readonly id: string
  /** At a connector: the agent that asked. */
  readonly peer?: Identity
  /** Name of the service. */
  readonly service: string
  /** Absent at an agent whose caller named none. */
  readonly port?: number
  /** Of the flow. */
  readonly protocol: 'tcp' | 'udp' | 'icmp'
}

interface NativeFailedFlow {
  readonly id: string
  readonly peer?: NativeIdentity | null
  readonly service: string
  readonly port?: number | null
  readonly protocol: 'tcp' | 'udp' | 'icmp'
}

export function toFailedFlow(json: object): FailedFlow {
  const { id, peer, service, port, protocol } = json as NativeFailedFlow
  return Object.freeze({
    id,
    ...(peer ? { peer: toIdentity(peer) } : {}),
    service,
    ...(typeof port === 'number' ? { port } : {}),
    protocol,
  })
}
