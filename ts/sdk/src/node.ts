/** What agents and connectors share and relays have not: flows, and the paths to the peers at their other ends. */
import { type ZtnaError, fromNative } from './errors.js'
import type { EventMap } from './events.js'
import { type FailedFlow, toFailedFlow } from './failed-flow.js'
import { FlowTable } from './flows.js'
import type { NativeRole } from './native.js'
import { type NodeOptions, nodeOptionsOf } from './node-options.js'
import { type AgentStats, toAgentStats } from './node-status.js'
import { type NativeEvent, type RoleEvents, ZtnaRole } from './role.js'
import { type NativePath, type PathInfo, toPath } from './types.js'

/** Events of agents and connectors. */
export type NodeEvents = RoleEvents & {
  /** The way to a peer has changed: an agent's to a connector, a connector's to an agent. */
  path: [peer: string, next: PathInfo, prev: PathInfo]
  /**
   * A flow came to nothing for another reason than a refusal by policy. At an agent also one that a forward or proxy opened; at a connector one whose
   * service's address refused it, was silent or is full.
   */
  'flow-failed': [error: ZtnaError, flow: FailedFlow]
}

/** An agent or a connector. */
export abstract class ZtnaNode<E extends NodeEvents & EventMap<E>> extends ZtnaRole<E, AgentStats> {
  readonly #flows = new FlowTable((error) => this.failed(error))
  readonly #nodeOptions: Record<string, unknown>

  /** `options`: as `roleOptionsOf` gives them. */
  protected constructor(role: 'agent' | 'connector', options: NodeOptions) {
    super(role, options)
    this.#nodeOptions = nodeOptionsOf(options)
  }

  /** @internal */
  protected get flows(): FlowTable {
    return this.#flows
  }

  /** @internal */
  protected override nativeOptions(): Record<string, unknown> {
    return this.#nodeOptions
  }

  /** @internal */
  protected override convertStats(json: unknown): AgentStats {
    return toAgentStats(json)
  }

  /** @internal */
  protected override onNative(event: NativeEvent, role: NativeRole): void {
    switch (event.event) {
      case 'path': {
        const next = this.#flows.onPath(Number(event['connection']), event['next'] as NativePath)
        return this.fire('path', ...([String(event['peer']), next, toPath(event['prev'] as NativePath)] as E['path']))
      }
      case 'flow-failed':
        return this.fire('flow-failed', ...([fromNative(event['error']), toFailedFlow(event)] as E['flow-failed']))
      case 'flow-reset':
        return this.#flows.onReset(role, event['flow'] as number, event['error'], this.isClosing)
      case 'flow-end':
        return this.#flows.onEnd(event['flow'] as number)
    }
  }

  /** @internal */
  protected override onEnded(why: ZtnaError): void {
    this.#flows.clear(why, this.isClosing)
  }
}
