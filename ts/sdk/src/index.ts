/** Zero-trust network access for Node: `ZtnaAgent` reaches services, `ZtnaConnector` serves them, `ZtnaRelay` joins the two. */
export { ZtnaAgent, type AgentEvents, type CheckResult, type PingResult } from './agent.js'
export {
  ZtnaConnector,
  type Authorize,
  type ConnectorEvents,
  type ConnectorOptions,
  type OpenedFlow,
  type ServeOptions,
} from './connector.js'
export { type Served } from './served.js'
export { type StaticService } from './static-service.js'
export {
  ZtnaRelay,
  type RelayEvents,
  type RelayLimits,
  type RelayOptions,
  type RelaySession,
  type RelayStats,
  type RelayStatus,
} from './relay.js'
export { type NodeEvents, type ZtnaNode } from './node.js'
export { type NodeLimits, type NodeOptions } from './node-options.js'
export { type AgentStats, type AgentStatus, type ConnectorStatus, type NodeStatus, type Outage, type RelayStanding } from './node-status.js'
export { ZtnaRole, type ReloadResult, type RoleEvents, type RoleOptions } from './role.js'
export { ZtnaSocket } from './socket.js'
export { ZtnaUdpSocket, type UdpDrops, type UdpEvents } from './datagram.js'
export { type Forward, type ForwardOptions, type ListenAt, type SocksOptions } from './forward.js'
export { type Handler } from './handlers.js'
export { type FetchEnv, type FetchHandler } from './fetch-handler.js'
export { identityOf } from './identity-of.js'
export { type ConnectOptions, type FlowOptions } from './target.js'
export {
  ZtnaDeniedError,
  ZtnaError,
  type DeniedBy,
  type ErrorDetails,
  type UnreachableReason,
  type ZtnaErrorCode,
  type ZtnaErrorOptions,
} from './errors.js'
export { type RecentEvent, type RecentTarget } from './recorder.js'
export { ztnaErrorOf, type SystemError } from './system-error.js'
export { type DispatcherOptions, type ServiceTls } from './dispatcher.js'
export { type DoctorCheck } from './doctor/check.js'
export { type FlowList, type FlowStatus } from './flow-list.js'
export { type FailedFlow } from './failed-flow.js'
export { type EventMap, type EventOf, type EventsOptions } from './events.js'
export { type LogLevel, type Logger } from './logger.js'
export {
  type AgentEntry,
  type NetworkConfig,
  type NetworkContent,
  type NetworkSource,
  type RelayEntry,
  type ServiceEntry,
} from './network-source.js'
export {
  type NatMapping,
  type PathCheck,
  type PathDemand,
  type PathExplanation,
  type PathNat,
  type PathObstacle,
  type PathReason,
  type PortMapping,
  type PortMappingState,
} from './explain.js'
export { type Cancel, type Identity, type PathInfo, type PathKind, type PathPolicy, type Role, type State } from './types.js'
