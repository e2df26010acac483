// Why a path is what it is: what both ends have tried, and what an operator can do about it.

import { type NativePath, type PathInfo, deepFreeze, toPath } from './types.js'

/** What stands in the way of a direct path. */
export type PathReason =
  | 'udp-blocked'
  | 'hard-nat-both'
  | 'hard-nat-one'
  | 'check-timeout'
  | 'check-limit'
  | 'relay-only-by-policy'
  | 'no-candidates'
  | 'direct-lossy'
  | 'checking'
  | 'mtu'

/** How a NAT gives out addresses (RFC 4787 §4.1); `none`: there is no NAT. */
export type NatMapping = 'unknown' | 'none' | 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent'

/** What became of checks from one address to another. */
export interface PathCheck {
  /** Where the check came from: an address, or `this end` where the system's routes choose one. */
  readonly local: string
  /** Where it went: an address of the other end, or its name where it checked one of ours. */
  readonly remote: string
  /** How the checked address came to be known: of an interface, as a relay saw it, as the other end saw it, or opened at the router. */
  readonly via: 'host' | 'srflx' | 'prflx' | 'portmap'
  /**
   * `narrow`: it answers, but does not carry the largest packet. `refused`: not an address to send to. `held`: too many addresses were named, its check
   * waits.
   */
  readonly result: 'ok' | 'checking' | 'narrow' | 'timeout' | 'refused' | 'held'
  /** Round trip, milliseconds, where it has answered. */
  readonly rttMs?: number
  /** Of the last check; the other end does not tell. */
  readonly at?: Date
}

/** One thing that stands in the way. */
export interface PathObstacle {
  /** Stable code. */
  readonly code: PathReason
  /** What was found, in words. */
  readonly detail: string
  /** What an operator can do about it. */
  readonly remedy?: string
}

/** The NATs in front of the two ends. */
export interface PathNat {
  /** In front of this end. */
  readonly local: NatMapping
  /** In front of the other end, as it found. */
  readonly remote: NatMapping
}

/**
 * What came of asking the router for a port. `off`: switched off. `unneeded`: no NAT, or no gateway to ask. `double-nat`: the router's own address is
 * private, so nothing is offered to the other end. `failed`: no protocol led to a port.
 */
export type PortMappingState = 'off' | 'unneeded' | 'asking' | 'mapped' | 'double-nat' | 'failed'

/** A port of the router's that leads to this node, so that the other end can begin. */
export interface PortMapping {
  /** What came of asking for it. */
  readonly state: PortMappingState
  /** Which of the three protocols the router speaks, once it has answered. */
  readonly protocol?: 'pcp' | 'nat-pmp' | 'upnp'
  /** What the other end is told, `address:port`, while `mapped`. */
  readonly external?: string
  /** The same in words, with the answer to each protocol where it failed. */
  readonly detail: string
}

/** Who leaves such flows one kind of path only. */
export interface PathDemand {
  /** The only kind. */
  readonly path: 'direct' | 'relay'
  /** `policy`: that of the connector, which reads `context.path`. `caller`: the `path` of the call. */
  readonly by: 'policy' | 'caller'
  /** The policy that settles it, where the connector has said: one that forbids the other kind, else the one that permits this. */
  readonly policyId?: string
  /** The same in words. */
  readonly detail: string
}

/** Why the path is what it is, from both ends' evidence. */
export interface PathExplanation {
  /** The path now. Its kind is `none` where only a direct one will do, and there is none. */
  readonly path: PathInfo
  /** Absent where any path will do. */
  readonly demand?: PathDemand
  /** Why it is not direct: what can be acted on first, what only takes time (`checking`) last. Empty while it is. */
  readonly reasons: readonly PathObstacle[]
  /** The NAT in front of each end. */
  readonly nat: PathNat
  /** Whether the router of this end has opened a port. What the other end's has opened is among the checks, as `portmap`. */
  readonly portMapping: PortMapping
  /** What was tried. */
  readonly checks: readonly PathCheck[]
}

interface NativeObstacle extends Omit<PathObstacle, 'remedy'> {
  readonly remedy: string | null
}

interface NativeCheck extends Omit<PathCheck, 'rttMs' | 'at'> {
  readonly rttMs: number | null
  readonly at: number | null
}

interface NativePortMapping extends Omit<PortMapping, 'protocol' | 'external'> {
  readonly protocol: NonNullable<PortMapping['protocol']> | null
  readonly external: string | null
}

interface NativeDemand extends Omit<PathDemand, 'policyId'> {
  readonly policyId: string | null
}

interface NativeExplanation {
  readonly path: NativePath
  readonly demand: NativeDemand | null
  readonly reasons: readonly NativeObstacle[]
  readonly nat: PathNat
  readonly portMapping: NativePortMapping
  readonly checks: readonly NativeCheck[]
}

/** From the native side's JSON. */
export function toExplanation(json: string): PathExplanation {
  const native = JSON.parse(json) as NativeExplanation
  const reasons = native.reasons.map(toObstacle)
  const portMapping = toPortMapping(native.portMapping)
  const demand = native.demand === null ? {} : { demand: toDemand(native.demand) }
  return deepFreeze({ path: toPath(native.path), ...demand, reasons, nat: native.nat, portMapping, checks: native.checks.map(toCheck) })
}

function toDemand({ policyId, ...rest }: NativeDemand): PathDemand {
  return { ...rest, ...(policyId === null ? {} : { policyId }) }
}

function toObstacle({ remedy, ...rest }: NativeObstacle): PathObstacle {
  return remedy === null ? rest : { ...rest, remedy }
}

function toPortMapping({ protocol, external, ...rest }: NativePortMapping): PortMapping {
  return { ...rest, ...(protocol === null ? {} : { protocol }), ...(external === null ? {} : { external }) }
}

function toCheck({ rttMs, at, ...rest }: NativeCheck): PathCheck {
  return { ...rest, ...(rttMs === null ? {} : { rttMs }), ...(at === null ? {} : { at: new Date(at) }) }
}
