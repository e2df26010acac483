// Why a path is what it is: what both ends have tried, and what an operator can do about it.

import { type NativePath, type PathInfo, deepFreeze, toPath } from './types.js'

/** What stands in the way of a direct path. */
export type PathReason =
  'udp-blocked' | 'hard-nat-both' | 'check-timeout' | 'relay-only-by-policy' | 'no-candidates' | 'direct-lossy' | 'checking' | 'mtu'

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
  /** `narrow`: it answers, but does not carry the largest packet. `refused`: not an address to send to. */
  readonly result: 'ok' | 'checking' | 'narrow' | 'timeout' | 'refused'
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

/** Why the path is what it is, from both ends' evidence. */
export interface PathExplanation {
  /** The path now. */
  readonly path: PathInfo
  /** Why it is not direct, each reason with a remedy where there is one. Empty while it is. */
  readonly reasons: readonly PathObstacle[]
  /** The NAT in front of each end. */
  readonly nat: PathNat
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

interface NativeExplanation {
  readonly path: NativePath
  readonly reasons: readonly NativeObstacle[]
  readonly nat: PathNat
  readonly checks: readonly NativeCheck[]
}

/** From the native side's JSON. */
export function toExplanation(json: string): PathExplanation {
  const native = JSON.parse(json) as NativeExplanation
  const reasons = native.reasons.map(toObstacle)
  return deepFreeze({ path: toPath(native.path), reasons, nat: native.nat, checks: native.checks.map(toCheck) })
}

function toObstacle({ remedy, ...rest }: NativeObstacle): PathObstacle {
  return remedy === null ? rest : { ...rest, remedy }
}

function toCheck({ rttMs, at, ...rest }: NativeCheck): PathCheck {
  return { ...rest, ...(rttMs === null ? {} : { rttMs }), ...(at === null ? {} : { at: new Date(at) }) }
}
