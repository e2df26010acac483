/** How a role learns that it is to run on a test network of this process, and the network that it does. */
import type { NetworkSource } from './network-source.js'

/** Marks a network source. The same in every copy of this module, so that the SDK's ES and CommonJS builds know each other's. */
export const TEST_PLACE: unique symbol = Symbol.for('@ztna/sdk test place') as never

/** A node of a test network. */
export interface TestPlace {
  /** Number of the network in this process. */
  readonly network: number
  /** Name of the node. */
  readonly node: string
  /** A role begins to run there. */
  joined(role: PlacedRole): void
  /** It has ended. */
  left(role: PlacedRole): void
}

/** As much of a role as a test network needs: its end, and its events. */
export type PlacedRole = NodeJS.EventEmitter & { close(options: { drainMs: number }): Promise<void> }

/** Undefined: the source is of a node on the system's network. */
export function testPlaceOf(source: NetworkSource | undefined): TestPlace | undefined {
  if (typeof source !== 'object' || !(TEST_PLACE in source)) return undefined
  return (source as { readonly [TEST_PLACE]: TestPlace })[TEST_PLACE]
}
