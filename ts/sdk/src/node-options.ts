/** Options that agents and connectors have and relays have not. */
import { countOf, flagOf, optionsOf } from './arguments.js'
import type { RoleOptions } from './role.js'

/** What an agent or a connector allows. */
export interface NodeLimits {
  /**
   * Bytes received and not yet read by local programs, over all flows, at least 1,048,576. Past it the slowest reader is reset
   * with ERR_ZTNA_LIMIT. Default 268,435,456. One connection may hold 42 MiB of them.
   */
  unreadBytes?: number
  /**
   * Sockets that a port burst opens where this end's NAT gives each destination another port, 0 to 256. Default 256; 0: no bursts.
   * A burst lasts for seconds and comes every ten minutes at most.
   */
  burstSockets?: number
  /** Ports of the other end's NAT that a port burst guesses, one small packet each, 0 to 2,048. Default 1,024; 0: no bursts. */
  burstChecks?: number
}

/** How to make an agent. A connector has more. */
export interface NodeOptions extends RoleOptions {
  /** Default: those of the protocol. */
  limits?: NodeLimits
  /**
   * Whether a router with a NAT is asked to open a port for this node (PCP, NAT-PMP, UPnP), so that the other end reaches it directly. Default
   * true. The port is given back by `close()`.
   */
  portMapping?: boolean
  /** Bytes cost money on this node's network: no port bursts are made or joined. Default false. */
  metered?: boolean
}

/** Names of the options that agents and connectors have. */
export const NODE_OPTIONS: readonly (keyof NodeOptions)[] = ['limits', 'portMapping', 'metered']
/** Most sockets of a port burst, and most checks (docs/nat.md). */
export const MOST_BURST = { sockets: 256, checks: 2_048 } as const

const NODE_LIMITS: readonly (keyof NodeLimits)[] = ['unreadBytes', 'burstSockets', 'burstChecks']

/** Checked, as the native role takes them. Errors: ERR_ZTNA_CONFIG naming what is not accepted. */
export function nodeOptionsOf(options: NodeOptions): Record<string, unknown> {
  const portMapping = flagOf(options.portMapping, 'portMapping') ?? true
  const metered = flagOf(options.metered, 'metered') ?? false
  const limits = options.limits === undefined ? {} : optionsOf(options.limits, 'limits', NODE_LIMITS, 'limits.')
  countOf(limits.unreadBytes, 'limits.unreadBytes')
  countOf(limits.burstSockets, 'limits.burstSockets', MOST_BURST.sockets, 0)
  countOf(limits.burstChecks, 'limits.burstChecks', MOST_BURST.checks, 0)
  return { limits, portMapping, metered }
}
