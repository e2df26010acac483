/** What `ztna top` shows of a role at one moment, and how fast that moves. */
import type { FlowStatus } from '../flow-list.js'
import type { PathKind, PathPolicy, Role, State } from '../types.js'

/** Bytes a second, both ways; null while there is only one look to tell from. */
export interface Rates {
  /** Received. */
  readonly rxPerSecond: number | null
  /** Sent. */
  readonly txPerSecond: number | null
}

/** What a role answers, by its control socket; dates are text there. */
export interface TopAnswer {
  readonly role: Role
  /** Milliseconds of a clock that only goes forward. */
  readonly at: number
  readonly status: {
    readonly name: string
    readonly state: State
    readonly relays?: readonly { readonly name: string; readonly state: State; readonly rttMs: number }[]
    readonly connectors?: readonly Peer[] | readonly { readonly name: string; readonly sessions: number }[]
    readonly agents?: readonly Peer[] | number
    readonly flows?: readonly (Omit<FlowStatus, 'since'> & { readonly since: string })[]
    readonly flowsOmitted?: number
  }
  /** Of agents and connectors: bytes of inner packets. */
  readonly bytes?: { readonly rx: number; readonly tx: number }
  /** Of relays. */
  readonly sessions?: readonly SessionBytes[]
}

interface Peer {
  readonly name: string
  readonly path: { readonly kind: PathKind; readonly relay?: string; readonly rttMs: number; readonly lossPct: number }
  readonly pathPolicy: PathPolicy
  readonly flows: number
}

interface SessionBytes {
  readonly id: string
  readonly agent: string
  readonly connector: string
  readonly rxBytes: number
  readonly txBytes: number
}

/** A flow, or at a relay a session, and its rates. */
export interface TopFlow extends Rates {
  readonly id: string
  readonly rxBytes: number
  readonly txBytes: number
  /** At agents and connectors. */
  readonly service?: string
  readonly port?: number
  readonly protocol?: 'tcp' | 'udp' | 'icmp'
  readonly peer?: string
  readonly open?: boolean
  readonly path?: PathKind
  readonly relay?: string
  readonly since?: Date
  /** At relays. */
  readonly agent?: string
  readonly connector?: string
}

/** One line of `ztna top --json`. */
export interface TopSample extends Rates {
  readonly at: Date
  readonly role: Role
  readonly name: string
  readonly state: State
  /** Of agents and connectors. */
  readonly relays: readonly { readonly name: string; readonly state: State; readonly rttMs: number }[]
  /** Nodes at the other end of inner connections, of agents and connectors. */
  readonly peers: readonly Peer[]
  /** The fastest first. */
  readonly flows: readonly TopFlow[]
  readonly flowsOmitted: number
}

/** How flows are ordered. */
export type Order = 'rate' | 'bytes' | 'age'
export const ORDERS: readonly Order[] = ['rate', 'bytes', 'age']

/** The sample of `answer`, with rates since `before` of the same role. `now`: the wall clock, milliseconds. */
export function toSample(answer: TopAnswer, before: TopAnswer | undefined, now: number): TopSample {
  const seconds = before === undefined ? 0 : (answer.at - before.at) / 1_000
  const { status, bytes } = answer
  const earlier = new Map(before === undefined ? [] : flowsOf(before).map((flow) => [flow.id, flow]))
  const flows = flowsOf(answer).map((flow): TopFlow => {
    // One that was not there has moved all its bytes since.
    const from = earlier.get(flow.id) ?? { rxBytes: 0, txBytes: 0 }
    return Object.assign(flow, {
      rxPerSecond: rate(flow.rxBytes, from.rxBytes, seconds),
      txPerSecond: rate(flow.txBytes, from.txBytes, seconds),
    })
  })
  const sum = (pick: (flow: TopFlow) => number | null): number | null =>
    seconds > 0 ? flows.reduce((all, flow) => all + (pick(flow) ?? 0), 0) : null
  const own = bytes === undefined || before?.bytes === undefined ? undefined : { now: bytes, from: before.bytes }
  return {
    at: new Date(now),
    role: answer.role,
    name: status.name,
    state: status.state,
    rxPerSecond: own === undefined ? sum((flow) => flow.rxPerSecond) : rate(own.now.rx, own.from.rx, seconds),
    txPerSecond: own === undefined ? sum((flow) => flow.txPerSecond) : rate(own.now.tx, own.from.tx, seconds),
    relays: status.relays?.map(({ name, state, rttMs }) => ({ name, state, rttMs })) ?? [],
    peers: peersOf(answer),
    flows: inOrder(flows, 'rate'),
    flowsOmitted: status.flowsOmitted ?? 0,
  }
}

/** The same flows, the greatest first; equal ones by their age. */
export function inOrder(flows: readonly TopFlow[], order: Order): readonly TopFlow[] {
  const weight = (flow: TopFlow): number => {
    if (order === 'age') return 0
    const [rx, tx] = order === 'rate' ? [flow.rxPerSecond ?? 0, flow.txPerSecond ?? 0] : [flow.rxBytes, flow.txBytes]
    return rx + tx
  }
  const begun = ({ since }: TopFlow): number => since?.getTime() ?? 0
  // Of one kind of flow numbers grow, and are too large for some numbers of JavaScript.
  const byAge = (a: TopFlow, b: TopFlow): number => begun(a) - begun(b) || a.id.length - b.id.length || (a.id < b.id ? -1 : 1)
  return flows.toSorted((a, b) => weight(b) - weight(a) || byAge(a, b))
}

type Counted = Omit<TopFlow, keyof Rates>

function flowsOf({ status, sessions }: TopAnswer): readonly Counted[] {
  if (sessions !== undefined)
    return sessions.map(({ id, agent, connector, rxBytes, txBytes }) => ({ id, agent, connector, rxBytes, txBytes }))
  return (status.flows ?? []).map((flow) => Object.assign({}, flow, { since: new Date(flow.since) }))
}

function peersOf({ role, status }: TopAnswer): readonly Peer[] {
  const peers = role === 'agent' ? status.connectors : role === 'connector' ? status.agents : undefined
  return Array.isArray(peers) ? (peers as readonly Peer[]) : []
}

// A counter that went back is another role's.
function rate(now: number, before: number, seconds: number): number | null {
  return seconds > 0 ? Math.max(0, Math.round((now - before) / seconds)) : null
}
