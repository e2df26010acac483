/** The flows of one role: who hears that native has reset one. */
import type { ZtnaError } from './errors.js'
import { type NativeRole, whileRunning } from './native.js'
import { type NativeIdentity, type NativePath, type PathInfo, toPath } from './types.js'

/** What native says of a flow of either kind when it is open. */
export interface FlowInfo {
  readonly peer: NativeIdentity
  readonly service: string
  readonly port: number
  readonly path: NativePath
  readonly connection: number
  readonly remoteAddress: string
  readonly remotePort: number
  readonly traceparent?: string | null
}

/** A socket of either kind, as its role sees it. */
export interface Flow {
  /** The inner connection that carries it, as native numbers them. Undefined before there is one. */
  readonly connection: number | undefined
  /** Native has reset the flow: destroy with `error`, then call `done`. `ours`: because the program closed its role. */
  onFlowReset(error: ZtnaError, done: () => void, ours: boolean): void
  /** The peer has ended a UDP flow. A stream's end comes by its descriptor. */
  onFlowEnd?(): void
  /** The role drains, because of `why`: a flow that nobody can be using is let go. */
  onDraining(why: ZtnaError): void
  /** The role has ended, because of `why`, and native has not reset the flow. `ours`: because the program closed its role. */
  onEnded(why: ZtnaError, ours: boolean): void
  onPath(path: PathInfo): void
}

/**
 * Resets and ends kept of flows that are not in the table yet. More than one turn of the event loop brings; one that is dropped is acknowledged, and its flow
 * then ends without the error.
 */
const MAX_EARLY = 1_024

/** What to do with a reset or an end when its flow comes, and when it never does. */
interface Early {
  readonly end: (flow: Flow) => void
  readonly forget: () => void
}

/** Flow numbers to sockets. */
export class FlowTable {
  readonly #flows = new Map<number, Flow>()
  /** What to do with the reset or end of a flow whose opening is still on its way to us, by another queue of native's. */
  readonly #early = new Map<number, Early>()
  #opening = 0
  readonly #failed: (error: unknown) => ZtnaError

  /** `failed`: makes what native tells an error of the role. */
  constructor(failed: (error: unknown) => ZtnaError) {
    this.#failed = failed
  }

  /** A flow may be added soon; until what this returns is called, a reset of an unknown one is kept for it. */
  opening(): () => void {
    this.#opening += 1
    return () => {
      this.#opening -= 1
      if (this.#opening > 0) return
      for (const { forget } of this.#early.values()) forget()
      this.#early.clear()
    }
  }

  add(id: number, flow: Flow): void {
    this.#flows.set(id, flow)
    const early = this.#early.get(id)
    if (early === undefined) return
    this.#early.delete(id)
    // Not before who asked for the flow has it, and listens.
    setImmediate(() => {
      if (this.#flows.get(id) !== flow) return early.forget()
      this.#flows.delete(id)
      early.end(flow)
    })
  }

  delete(id: number): void {
    this.#flows.delete(id)
  }

  /** The `flow-reset` event. A flow that JavaScript has closed already is acknowledged at once. */
  onReset(role: NativeRole, id: number, error: unknown, ours: boolean): void {
    const forget = (): void => whileRunning(() => role.flowDone(id))
    this.#settle(id, { end: (flow) => flow.onFlowReset(this.#failed(error), forget, ours), forget })
  }

  /** The `flow-end` event. */
  onEnd(id: number): void {
    this.#settle(id, { end: (flow) => flow.onFlowEnd?.(), forget: () => {} })
  }

  /** Tells the flow now, or once it is known here: an end may overtake the promise that opens its flow. */
  #settle(id: number, early: Early): void {
    const flow = this.#flows.get(id)
    if (flow !== undefined) {
      this.#flows.delete(id)
      return early.end(flow)
    }
    if (this.#opening === 0 || this.#early.size >= MAX_EARLY) return early.forget()
    this.#early.set(id, early)
  }

  /** The `path` event, for every flow of that inner connection: a peer may have several, on paths of their own. */
  onPath(connection: number, next: NativePath): PathInfo {
    const path = toPath(next)
    for (const flow of this.#flows.values()) if (flow.connection === connection) flow.onPath(path)
    return path
  }

  /** Lets go of what nobody uses, at the start of a drain. */
  release(why: ZtnaError): void {
    for (const flow of this.#flows.values()) flow.onDraining(why)
  }

  /** The role has ended: what is left never takes the end of its descriptor for the peer's. */
  clear(why: ZtnaError, ours: boolean): void {
    const left = [...this.#flows.values()]
    this.#flows.clear()
    this.#early.clear()
    for (const flow of left) flow.onEnded(why, ours)
  }
}
