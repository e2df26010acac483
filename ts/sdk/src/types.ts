/** Values that cross the public surface: readonly, dates as `Date`, absent rather than null. */

/** How to give up on a call. */
export interface Cancel {
  /** The call rejects with ERR_ZTNA_ABORTED when it fires. */
  signal?: AbortSignal
  /** Milliseconds; the default stands with each call. `Infinity` waits for ever. */
  timeoutMs?: number
}

/** What a node is, as its certificate says. */
export type Role = 'agent' | 'connector' | 'relay'

/** All of them. */
export const ROLES: readonly Role[] = ['agent', 'connector', 'relay']

export function isRole(value: unknown): value is Role {
  return ROLES.some((role) => role === value)
}

/** Who a node is, as its verified certificate says. */
export interface Identity {
  /** SPIFFE ID: `spiffe://<trust domain>/<role>/<name>`. */
  readonly id: `spiffe://${string}`
  /** The role in the ID. */
  readonly role: Role
  /** The name in the ID. */
  readonly name: string
  /** An agent's groups in `network.toml`; empty for the other roles. */
  readonly groups: readonly string[]
  /** Certificate serial number, hexadecimal. */
  readonly serial: string
  /** End of the certificate, which ends connections too. */
  readonly expiresAt: Date
}

/** `direct`: straight between the two ends; `relay`: through a relay; `none`: there is no path now. */
export type PathKind = 'direct' | 'relay' | 'none'

/** How packets to one peer travel now. */
export interface PathInfo {
  /** Which way. */
  readonly kind: PathKind
  /** Our address and port, where the kind has one. */
  readonly local?: string
  /** The far end's address and port, where the kind has one. */
  readonly remote?: string
  /** Name of the relay, when kind is `relay`. */
  readonly relay?: string
  /** Smoothed round trip, milliseconds. */
  readonly rttMs: number
  /** Largest inner packet, bytes. */
  readonly mtu: number
  /** Recent loss, per cent. */
  readonly lossPct: number
  /** When this became the path. */
  readonly since: Date
}

/** Where a role is in its life. `degraded`: it was online and no relay answers now. */
export type State = 'new' | 'starting' | 'online' | 'degraded' | 'draining' | 'closed'

/**
 * Where packets can go for the flow. Default `auto`: the best path there is. `direct-only` waits for a direct path until its timeout, and
 * is reset when that is lost; `relay-only` takes no other.
 */
export type PathPolicy = 'auto' | 'direct-only' | 'relay-only'

export interface NativeIdentity {
  readonly id: string
  readonly role: string
  readonly name: string
  readonly groups: readonly string[]
  readonly serial: string
  readonly expiresAt: number
}

export interface NativePath {
  readonly kind: string
  readonly local: string | null
  readonly remote: string | null
  readonly relay: string | null
  readonly rttMs: number
  readonly mtu: number
  readonly lossPct: number
  readonly since: number
}

export function toIdentity(json: NativeIdentity): Identity {
  return Object.freeze({
    id: json.id as `spiffe://${string}`,
    role: json.role as Role,
    name: json.name,
    groups: Object.freeze([...json.groups]),
    serial: json.serial,
    expiresAt: new Date(json.expiresAt),
  })
}

export function toPath(json: NativePath): PathInfo {
  return Object.freeze({
    kind: json.kind as PathKind,
    ...(json.local === null ? {} : { local: json.local }),
    ...(json.remote === null ? {} : { remote: json.remote }),
    ...(json.relay === null ? {} : { relay: json.relay }),
    rttMs: json.rttMs,
    mtu: json.mtu,
    lossPct: json.lossPct,
    since: new Date(json.since),
  })
}

/** The path of something that has none yet. */
export function noPath(): PathInfo {
  return Object.freeze({ kind: 'none', rttMs: 0, mtu: 0, lossPct: 0, since: new Date(0) })
}

export function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    for (const inner of Object.values(value)) deepFreeze(inner)
  }
  return value
}
