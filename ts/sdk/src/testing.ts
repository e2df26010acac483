/**
 * A network in memory for tests: `createTestNetwork()` makes homes with NATs and lines that delay and lose, a relay, certificates and a
 * policy. Roles that run on it open no UDP socket; no root, no container, no configuration of the machine is needed.
 *
 * @module
 */
export { createTestNetwork, type TestNetwork } from './testing/network.js'
export type { AwaitedPath } from './testing/until.js'
export type {
  AgentPlace,
  ConnectorPlace,
  Filtering,
  HomeOptions,
  LineOptions,
  Mapping,
  Nat,
  NatDetails,
  NatKind,
  Ports,
  TestNetworkOptions,
  TestService,
} from './testing/options.js'
