/** What `serve()` gives: the way to end a service. */
import { fromNative } from './errors.js'
import type { NativeRole } from './native.js'
import { drainOf } from './ops.js'
import type { ServiceFlows } from './service-flows.js'

/** A service with a handler. */
export interface Served extends AsyncDisposable {
  /** Name of the service. */
  readonly service: string
  /** Open flows. */
  readonly connections: number
  /**
   * Takes no more flows, lets open ones finish for `drainMs` (default 10,000), then resets them. An HTTP service ends idle connections at
   * once, and the others with the answer to their last request. Rejects nothing but a `drainMs` that is no number of milliseconds
   * (ERR_ZTNA_CONFIG).
   */
  close(options?: { drainMs?: number }): Promise<void>
}

/** The service that native numbers `id`. */
export class NativeServed implements Served {
  readonly service: string
  readonly #flows: ServiceFlows
  readonly #role: NativeRole
  readonly #id: number
  readonly #forget: () => void
  #closing: Promise<void> | undefined

  /** `forget`: runs when the last flow has ended. */
  constructor(flows: ServiceFlows, role: NativeRole, id: number, forget: () => void) {
    this.service = flows.service
    this.#flows = flows
    this.#role = role
    this.#id = id
    this.#forget = forget
  }

  get connections(): number {
    // What has a handler is counted until its socket is closed here.
    if (this.#flows.sink.kind !== 'target') return this.#flows.open
    try {
      return this.#role.serveConnections(this.#id)
    } catch {
      // The connector has closed, and its services with it.
      return 0
    }
  }

  close(options: { drainMs?: number } = {}): Promise<void> {
    if (this.#closing === undefined) {
      try {
        this.#closing = this.#close(drainOf(options))
      } catch (error) {
        return Promise.reject(fromNative(error))
      }
    }
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(drainMs: number): Promise<void> {
    try {
      const drained = this.#role.unserve(this.#id, drainMs)
      this.#flows.drain()
      await drained
    } catch {
      // The connector has closed, and its services with it.
    }
    this.#forget()
    this.#flows.close()
  }
}
