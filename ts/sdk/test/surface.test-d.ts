// What programs may rely on, name by name. A change here is one that they notice: CHANGELOG.md, and docs/decisions/0021 where it departs from what was
// first sketched.
import type { Socket as DgramSocket } from 'node:dgram'
import type { EventEmitter } from 'node:events'
import type { Agent as HttpAgent, IncomingMessage, RequestListener, Server as HttpServer, ServerResponse } from 'node:http'
import type { AgentOptions as HttpsAgentOptions } from 'node:https'
import type { Http2Server, Http2ServerRequest } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import type { Logger as Pino } from 'pino'
import type { Dispatcher } from 'undici'
import { assertType, expectTypeOf, test } from 'vitest'
import type * as sdk from '../src/index.js'
import type * as testing from '../src/testing.js'

type Given = sdk.Cancel & { service: string; port?: number; path?: 'auto' | 'direct-only' | 'relay-only' }
type Seen<T> = { readonly [K in keyof T]: T[K] }

test('what identifies a node and gives up on a call is exactly this', () => {
  expectTypeOf<sdk.Cancel>().toEqualTypeOf<{ signal?: AbortSignal; timeoutMs?: number }>()
  expectTypeOf<sdk.Role>().toEqualTypeOf<'agent' | 'connector' | 'relay'>()
  expectTypeOf<sdk.State>().toEqualTypeOf<'new' | 'starting' | 'online' | 'degraded' | 'draining' | 'closed'>()
  expectTypeOf<sdk.PathKind>().toEqualTypeOf<'direct' | 'relay' | 'none'>()
  expectTypeOf<sdk.PathPolicy>().toEqualTypeOf<'auto' | 'direct-only' | 'relay-only'>()
  expectTypeOf<sdk.Identity>().toEqualTypeOf<
    Seen<{ id: `spiffe://${string}`; role: sdk.Role; name: string; groups: readonly string[]; serial: string; expiresAt: Date }>
  >()
})

test('a path and its explanation are plain, readonly and dated', () => {
  expectTypeOf<sdk.PathInfo>().toExtend<
    Seen<{ kind: sdk.PathKind; local?: string; remote?: string; relay?: string; rttMs: number; mtu: number; lossPct: number; since: Date }>
  >()
  expectTypeOf<
    'udp-blocked' | 'hard-nat-both' | 'check-timeout' | 'relay-only-by-policy' | 'no-candidates' | 'direct-lossy' | 'checking' | 'mtu'
  >().toExtend<sdk.PathReason>()
  expectTypeOf<sdk.PathObstacle>().toExtend<Seen<{ code: sdk.PathReason; detail: string; remedy?: string }>>()
  expectTypeOf<sdk.PathNat>().toEqualTypeOf<Seen<{ local: sdk.NatMapping; remote: sdk.NatMapping }>>()
  expectTypeOf<sdk.PathCheck>().toExtend<
    Seen<{ local: string; remote: string; via: 'host' | 'srflx' | 'prflx' | 'portmap'; rttMs?: number; at?: Date }>
  >()
  expectTypeOf<'ok' | 'timeout' | 'refused'>().toExtend<sdk.PathCheck['result']>()
  expectTypeOf<sdk.PathExplanation>().toExtend<
    Seen<{ path: sdk.PathInfo; reasons: readonly sdk.PathObstacle[]; nat: sdk.PathNat; checks: readonly sdk.PathCheck[] }>
  >()
  expectTypeOf<sdk.PathExplanation['portMapping']>().toEqualTypeOf<sdk.PortMapping>()
  expectTypeOf<sdk.PortMapping['state']>().toEqualTypeOf<sdk.PortMappingState>()
  expectTypeOf<NonNullable<sdk.PathExplanation['demand']>>().toEqualTypeOf<sdk.PathDemand>()
})

test('a network is a folder, its content, or content that keeps coming', () => {
  assertType<sdk.NetworkSource>('/etc/ztna/alice')
  assertType<sdk.NetworkSource>(new URL('file:///etc/ztna/alice'))
  expectTypeOf<sdk.NetworkContent>().toExtend<sdk.NetworkSource>()
  expectTypeOf<AsyncIterable<sdk.NetworkContent>>().toExtend<sdk.NetworkSource>()
  expectTypeOf<{
    certPem: string
    keyPem: string
    caPem: string
    network: sdk.NetworkConfig
    policy?: string
  }>().toExtend<sdk.NetworkContent>()
  expectTypeOf<{
    trustDomain: string
    zone: string
    relays: sdk.RelayEntry[]
    services: sdk.ServiceEntry[]
  }>().toExtend<sdk.NetworkConfig>()
  expectTypeOf<{ name: string; urls: string[]; region?: string }>().toExtend<sdk.RelayEntry>()
  expectTypeOf<{
    name: string
    connectors: string[]
    tcp?: (number | string)[]
    udp?: (number | string)[]
    icmp?: boolean
  }>().toExtend<sdk.ServiceEntry>()
  expectTypeOf<NonNullable<sdk.NetworkConfig['agents']>[number]>().toEqualTypeOf<sdk.AgentEntry>()
})

test('errors are one family with a code, a cause and details', () => {
  type Code = 'CONFIG' | 'IDENTITY' | 'DENIED' | 'REFUSED' | 'UNREACHABLE' | 'TIMEOUT'
  type More = 'ABORTED' | 'STREAM_RESET' | 'CLOSED' | 'PERMISSION' | 'LIMIT' | 'NATIVE'
  expectTypeOf<sdk.ZtnaErrorCode>().toEqualTypeOf<`ERR_ZTNA_${Code | More}`>()
  expectTypeOf<sdk.ZtnaError>().toExtend<
    Error & Seen<{ code: sdk.ZtnaErrorCode; retryable: boolean; details: Readonly<Record<string, unknown>> }>
  >()
  expectTypeOf<sdk.ZtnaError['details']>().toEqualTypeOf<sdk.ErrorDetails>()
  expectTypeOf<sdk.ErrorDetails['recent']>().toEqualTypeOf<readonly sdk.RecentEvent[] | undefined>()
  expectTypeOf<sdk.ZtnaDeniedError>().toExtend<sdk.ZtnaError & Seen<{ decisionId?: string; policyId?: string; by: sdk.DeniedBy }>>()
  expectTypeOf<sdk.DeniedBy>().toEqualTypeOf<sdk.Role>()
  expectTypeOf<[sdk.ZtnaErrorCode, string] | [sdk.ZtnaErrorCode, string, sdk.ZtnaErrorOptions]>().toExtend<
    ConstructorParameters<typeof sdk.ZtnaError>
  >()
  expectTypeOf<sdk.PathReason>().toExtend<sdk.UnreachableReason>()
  expectTypeOf<sdk.SystemError>().toExtend<NodeJS.ErrnoException & { readonly cause: sdk.ZtnaError }>()
  expectTypeOf<typeof sdk.ztnaErrorOf>().toEqualTypeOf<(thrown: unknown) => sdk.ZtnaError | undefined>()
})

test('what is remembered is told apart by its event', () => {
  expectTypeOf<sdk.RecentEvent>().toExtend<Seen<{ at: Date; event: string }>>()
  expectTypeOf<Extract<sdk.RecentEvent, { event: 'permitted' }>>().toExtend<sdk.RecentTarget & Seen<{ peer: string; path: sdk.PathKind }>>()
  expectTypeOf<Extract<sdk.RecentEvent, { event: 'denied' }>>().toExtend<Seen<{ by: string; decisionId?: string; policyId?: string }>>()
})

test('pino and console are loggers', () => {
  expectTypeOf<Pino>().toExtend<sdk.Logger>()
  expectTypeOf<Console>().toExtend<sdk.Logger>()
  expectTypeOf<sdk.LogLevel>().toEqualTypeOf<'trace' | 'debug' | 'info' | 'warn' | 'error' | 'off'>()
  expectTypeOf<{ network?: sdk.NetworkSource; logger?: sdk.Logger | false; logLevel?: sdk.LogLevel }>().toExtend<sdk.RoleOptions>()
})

test('every role has one life, its events twice, and lets go of itself', () => {
  type Any = sdk.ZtnaRole<sdk.RoleEvents, unknown>
  expectTypeOf<Any>().toExtend<EventEmitter<sdk.RoleEvents> & AsyncDisposable & Seen<{ state: sdk.State; identity: sdk.Identity }>>()
  expectTypeOf<[] | [cancel: sdk.Cancel]>().toExtend<Parameters<Any['start']>>()
  expectTypeOf<Any['close']>().toEqualTypeOf<(options?: { drainMs?: number }) => Promise<void>>()
  expectTypeOf<Any['metrics']>().toEqualTypeOf<() => string>()
  expectTypeOf<Any['recent']>().toEqualTypeOf<() => readonly sdk.RecentEvent[]>()
  expectTypeOf<Any['reload']>().toEqualTypeOf<() => Promise<sdk.ReloadResult>>()
  expectTypeOf<Any['doctor']>().toEqualTypeOf<(cancel?: sdk.Cancel) => Promise<readonly sdk.DoctorCheck[]>>()
  expectTypeOf<sdk.DoctorCheck>().toEqualTypeOf<
    Seen<{ check: string; status: 'ok' | 'warn' | 'fail'; detail: string; remedy?: string; ms: number }>
  >()
  expectTypeOf<Any['events']>().toEqualTypeOf<(options?: sdk.EventsOptions) => AsyncIterableIterator<sdk.EventOf<sdk.RoleEvents>>>()
  expectTypeOf<sdk.EventsOptions>().toEqualTypeOf<{ signal?: AbortSignal; highWaterMark?: number }>()
  expectTypeOf<sdk.RoleEvents>().toExtend<sdk.EventMap<sdk.RoleEvents>>()
  expectTypeOf<sdk.RoleEvents['state']>().toEqualTypeOf<[next: sdk.State, prev: sdk.State]>()
  expectTypeOf<sdk.RoleEvents['warning' | 'error']>().toEqualTypeOf<[error: sdk.ZtnaError]>()
  expectTypeOf<sdk.ZtnaAgent | sdk.ZtnaConnector | sdk.ZtnaRelay>().toHaveProperty('unref')
})

test('an agent opens sockets, datagrams, forwards and HTTP clients', () => {
  expectTypeOf<sdk.ZtnaAgent>().toExtend<sdk.ZtnaRole<sdk.AgentEvents, sdk.AgentStats>>()
  expectTypeOf<[] | [options: sdk.NodeOptions]>().toExtend<ConstructorParameters<typeof sdk.ZtnaAgent>>()
  expectTypeOf<sdk.NodeOptions>().toExtend<sdk.RoleOptions>()
  expectTypeOf<NonNullable<sdk.NodeOptions['limits']>>().toEqualTypeOf<sdk.NodeLimits>()
  expectTypeOf<sdk.ZtnaAgent['services']>().toEqualTypeOf<ReadonlyMap<string, sdk.ServiceEntry>>()
  expectTypeOf<Given>().toExtend<sdk.ConnectOptions>()
  expectTypeOf<sdk.ZtnaAgent['connect']>().toExtend<(target: string | Given) => Promise<sdk.ZtnaSocket>>()
  expectTypeOf<sdk.ZtnaAgent['connect']>().toExtend<(target: string, options?: sdk.FlowOptions) => Promise<sdk.ZtnaSocket>>()
  expectTypeOf<Omit<Given, 'service' | 'port'>>().toExtend<sdk.FlowOptions>()
  expectTypeOf<sdk.ZtnaAgent['createConnection']>().toExtend<(target: string | Given, onConnect?: () => void) => sdk.ZtnaSocket>()
  expectTypeOf<sdk.ZtnaAgent['datagram']>().toExtend<(target: string | Given) => Promise<sdk.ZtnaUdpSocket>>()
  expectTypeOf<sdk.ZtnaAgent['datagram']>().toExtend<(target: string, options?: sdk.FlowOptions) => Promise<sdk.ZtnaUdpSocket>>()
  expectTypeOf<sdk.ZtnaAgent['ping']>().toEqualTypeOf<(service: string, cancel?: sdk.Cancel) => Promise<sdk.PingResult>>()
  expectTypeOf<sdk.PingResult>().toEqualTypeOf<Seen<{ rttMs: number; path: sdk.PathInfo }>>()
  expectTypeOf<sdk.ZtnaAgent['explain']>().toExtend<(service: string, cancel?: sdk.Cancel) => Promise<sdk.PathExplanation>>()
  expectTypeOf<sdk.ZtnaAgent['check']>().toExtend<(service: string, cancel?: sdk.Cancel) => Promise<sdk.CheckResult>>()
  expectTypeOf<sdk.CheckResult>().toExtend<Seen<{ allowed: boolean; by: sdk.DeniedBy; policyId?: string; reason: string }>>()
  expectTypeOf<sdk.ZtnaAgent['httpAgent']>().toEqualTypeOf<() => HttpAgent>()
  expectTypeOf<sdk.ZtnaAgent['httpsAgent']>().toExtend<(options?: HttpsAgentOptions) => HttpAgent>()
  expectTypeOf<sdk.ZtnaAgent['dispatcher']>().toEqualTypeOf<(options?: sdk.DispatcherOptions) => Dispatcher>()
  expectTypeOf<NonNullable<sdk.DispatcherOptions['tls']>>().toEqualTypeOf<sdk.ServiceTls>()
  expectTypeOf<sdk.ZtnaAgent['fetch']>().toEqualTypeOf<typeof globalThis.fetch>()
  expectTypeOf<sdk.ZtnaAgent['status']>().toEqualTypeOf<() => sdk.AgentStatus>()
})

test('what an agent tells is told by type', () => {
  expectTypeOf<sdk.AgentEvents>().toExtend<sdk.RoleEvents>()
  expectTypeOf<sdk.AgentEvents['path']>().toEqualTypeOf<[connector: string, next: sdk.PathInfo, prev: sdk.PathInfo]>()
  expectTypeOf<sdk.AgentEvents['services']>().toEqualTypeOf<[added: string[], removed: string[]]>()
  expectTypeOf<sdk.AgentEvents['denied']>().toEqualTypeOf<[error: sdk.ZtnaDeniedError]>()
  expectTypeOf<sdk.AgentEvents['flow-failed']>().toEqualTypeOf<[error: sdk.ZtnaError, flow: sdk.FailedFlow]>()
  expectTypeOf<sdk.AgentStats>().toExtend<
    Seen<{ rxBytes: number; txBytes: number; flows: { tcp: number; udp: number }; paths: Readonly<Record<string, sdk.PathInfo>> }>
  >()
  type Relay = Seen<{ name: string; state: sdk.State; rttMs: number; observed: readonly string[] }>
  type Connector = Seen<{ name: string; path: sdk.PathInfo; flows: number; services: readonly string[] }>
  expectTypeOf<sdk.AgentStatus>().toExtend<
    Seen<{ name: string; state: sdk.State; relays: readonly Relay[]; connectors: readonly Connector[]; certificate: { expiresAt: Date } }>
  >()
})

test('a socket is one of Node and knows its peer', () => {
  expectTypeOf<sdk.ZtnaSocket>().toExtend<Socket & Seen<{ peer: sdk.Identity; service: string; path: sdk.PathInfo }>>()
  expectTypeOf<sdk.ZtnaSocket['reset']>().toEqualTypeOf<() => void>()
  expectTypeOf<sdk.ZtnaUdpSocket>().toExtend<EventEmitter<sdk.UdpEvents> & AsyncDisposable & AsyncIterable<Uint8Array>>()
  expectTypeOf<sdk.UdpEvents>().toExtend<{ message: [message: Uint8Array]; close: []; error: [error: sdk.ZtnaError] }>()
  expectTypeOf<sdk.UdpEvents['messages']>().toEqualTypeOf<[batch: readonly Uint8Array[]]>()
  expectTypeOf<sdk.ZtnaUdpSocket['batches']>().toEqualTypeOf<() => AsyncIterable<readonly Uint8Array[]>>()
  expectTypeOf<sdk.ZtnaUdpSocket['asDgramSocket']>().toEqualTypeOf<() => DgramSocket>()
  expectTypeOf<sdk.UdpDrops>().toEqualTypeOf<Seen<{ tooLarge: number; sendQueue: number; underway: number }>>()
  expectTypeOf<sdk.ZtnaUdpSocket>().toExtend<Seen<{ drops: sdk.UdpDrops }>>()
  expectTypeOf<sdk.ZtnaUdpSocket['send']>().toEqualTypeOf<(messages: Uint8Array | readonly Uint8Array[]) => number>()
  expectTypeOf<sdk.ZtnaUdpSocket>().toExtend<Seen<{ maxDatagramSize: number; dropped: number; traceparent: string | undefined }>>()
})

test('a forward listens on a port, on a unix socket or as a proxy', () => {
  assertType<sdk.ForwardOptions>({ service: 'db', port: 5432, listen: { port: 0, host: '127.0.0.1' } })
  assertType<sdk.ForwardOptions>({ service: 'dns', protocol: 'udp', listen: {} satisfies sdk.ListenAt, timeoutMs: 5 })
  assertType<sdk.ForwardOptions>({ service: 'db', listen: { unix: '/run/db.sock' } })
  assertType<sdk.ForwardOptions>({ socks5: { port: 1080 } satisfies sdk.SocksOptions })
  expectTypeOf<sdk.ZtnaAgent['forward']>().toEqualTypeOf<(options: sdk.ForwardOptions) => Promise<sdk.Forward>>()
  expectTypeOf<sdk.Forward>().toExtend<AsyncDisposable & Seen<{ connections: number }>>()
  expectTypeOf<sdk.Forward['address']>().toEqualTypeOf<() => AddressInfo | string>()
})

test('a connector serves whatever Node serves with', () => {
  expectTypeOf<sdk.ZtnaConnector>().toExtend<sdk.ZtnaRole<sdk.ConnectorEvents, sdk.AgentStats>>()
  expectTypeOf<[] | [options: sdk.ConnectorOptions]>().toExtend<ConstructorParameters<typeof sdk.ZtnaConnector>>()
  expectTypeOf<{ http: RequestListener | HttpServer | Http2Server }>().toExtend<sdk.Handler>()
  expectTypeOf<{ fetch: (request: Request) => Response | Promise<Response> }>().toExtend<sdk.Handler>()
  expectTypeOf<(request: Request) => Response>().toExtend<sdk.FetchHandler>()
  expectTypeOf<(request: Request, env: sdk.FetchEnv) => Promise<Response>>().toExtend<sdk.FetchHandler>()
  expectTypeOf<sdk.FetchEnv>().toEqualTypeOf<{ readonly incoming: IncomingMessage; readonly outgoing: ServerResponse }>()
  expectTypeOf<{ http: (request: IncomingMessage, response: ServerResponse) => Promise<void> }>().toExtend<sdk.Handler>()
  expectTypeOf<{ socket: (socket: sdk.ZtnaSocket) => Promise<void>; allowHalfOpen: boolean }>().toExtend<sdk.Handler>()
  expectTypeOf<{ socket: (socket: sdk.ZtnaSocket) => void }>().toExtend<sdk.Handler>()
  expectTypeOf<{ udp: (socket: sdk.ZtnaUdpSocket) => void }>().toExtend<sdk.Handler>()
  expectTypeOf<{ target: `tcp://${string}` | `udp://${string}` | `unix:${string}` }>().toExtend<sdk.Handler>()
  expectTypeOf<sdk.ZtnaConnector['serve']>().toEqualTypeOf<
    (service: string, handler: sdk.Handler, options?: sdk.ServeOptions) => Promise<sdk.Served>
  >()
  expectTypeOf<sdk.Cancel & { port?: number; maxConnections?: number }>().toExtend<sdk.ServeOptions>()
  expectTypeOf<sdk.Served>().toExtend<AsyncDisposable & Seen<{ service: string; connections: number }>>()
  expectTypeOf<sdk.ConnectorOptions['authorize']>().toEqualTypeOf<sdk.Authorize | undefined>()
  expectTypeOf<NonNullable<sdk.ConnectorOptions['services']>>().toEqualTypeOf<readonly sdk.StaticService[]>()
  expectTypeOf<
    (peer: sdk.Identity, flow: { service: string; port: number; path: sdk.PathInfo }) => Promise<boolean>
  >().toExtend<sdk.Authorize>()
  expectTypeOf<IncomingMessage | Http2ServerRequest | Request | Socket>().toExtend<Parameters<typeof sdk.identityOf>[0]>()
  expectTypeOf<typeof sdk.identityOf>().returns.toEqualTypeOf<sdk.Identity>()
})

test('what a connector tells is told by type', () => {
  expectTypeOf<sdk.ConnectorEvents>().toExtend<sdk.RoleEvents>()
  expectTypeOf<sdk.ConnectorEvents['flow']>().toEqualTypeOf<[flow: sdk.OpenedFlow]>()
  expectTypeOf<sdk.OpenedFlow>().toEqualTypeOf<
    Seen<{ id: string; peer: sdk.Identity; service: string; protocol: 'tcp' | 'udp' | 'icmp' }>
  >()
  expectTypeOf<sdk.ConnectorEvents['denied']>().toEqualTypeOf<[error: sdk.ZtnaDeniedError, peer: sdk.Identity | undefined]>()
  expectTypeOf<sdk.ConnectorEvents['path']>().toEqualTypeOf<[agent: string, next: sdk.PathInfo, prev: sdk.PathInfo]>()
  expectTypeOf<sdk.ZtnaConnector['status']>().toEqualTypeOf<() => sdk.ConnectorStatus>()
  expectTypeOf<sdk.ConnectorStatus['relays'][number]>().toExtend<sdk.RelayStanding & Seen<{ bound: boolean }>>()
  expectTypeOf<sdk.AgentEvents | sdk.ConnectorEvents>().toExtend<sdk.NodeEvents>()
  expectTypeOf<sdk.ZtnaConnector>().toExtend<sdk.ZtnaNode<sdk.ConnectorEvents>>()
  expectTypeOf<sdk.AgentStatus | sdk.ConnectorStatus>().toExtend<sdk.NodeStatus>()
  expectTypeOf<sdk.NodeStatus>().toExtend<sdk.FlowList & Seen<{ relays: readonly sdk.RelayStanding[]; version: number }>>()
  expectTypeOf<NonNullable<sdk.NodeStatus['outage']>>().toEqualTypeOf<sdk.Outage>()
  expectTypeOf<sdk.Outage>().toExtend<Seen<{ code: sdk.ZtnaErrorCode; message: string; retryable: boolean; details: sdk.ErrorDetails }>>()
  expectTypeOf<sdk.FlowList['flows'][number]>().toEqualTypeOf<sdk.FlowStatus>()
})

test('a relay shows its sessions and lets them be ended', () => {
  expectTypeOf<sdk.ZtnaRelay>().toExtend<sdk.ZtnaRole<sdk.RelayEvents, sdk.RelayStats>>()
  expectTypeOf<[] | [options: sdk.RelayOptions]>().toExtend<ConstructorParameters<typeof sdk.ZtnaRelay>>()
  assertType<sdk.RelayOptions>({ listen: [{ udp: '0.0.0.0:4433' }], stunAlt: '0.0.0.0:4434', publicAddrs: ['192.0.2.1:4433'] })
  expectTypeOf<{ sessions?: number; bpsPerSession?: number; handshakesPerSecond?: number }>().toExtend<sdk.RelayLimits>()
  expectTypeOf<sdk.RelaySession>().toExtend<
    Seen<{ id: string; agent: string; connector: string; rxBytes: number; txBytes: number; kick(): void }>
  >()
  expectTypeOf<sdk.RelayEvents['session']>().toEqualTypeOf<[session: sdk.RelaySession]>()
  expectTypeOf<sdk.RelayEvents['session-end']>().toEqualTypeOf<[session: sdk.RelaySession, why: string]>()
  expectTypeOf<sdk.RelayEvents['denied']>().toEqualTypeOf<[error: sdk.ZtnaDeniedError, peer: sdk.Identity | undefined]>()
  expectTypeOf<sdk.ZtnaRelay['sessions']>().toEqualTypeOf<() => IterableIterator<sdk.RelaySession>>()
  expectTypeOf<sdk.ZtnaRelay['address']>().toEqualTypeOf<() => readonly AddressInfo[]>()
  expectTypeOf<sdk.ZtnaRelay['status']>().toEqualTypeOf<() => sdk.RelayStatus>()
  expectTypeOf<sdk.RelayStats>().toExtend<
    Seen<{ connections: number; sessions: number; bytes: number; drops: Readonly<Record<string, number>> }>
  >()
})

test('a test network is described by homes, lines and NATs', () => {
  expectTypeOf<typeof testing.createTestNetwork>().toEqualTypeOf<(options?: testing.TestNetworkOptions) => Promise<testing.TestNetwork>>()
  expectTypeOf<Parameters<testing.TestNetwork['until']>[2]>().toEqualTypeOf<testing.AwaitedPath>()
  expectTypeOf<Parameters<testing.TestNetwork['setNat']>[1]>().toEqualTypeOf<testing.Nat>()
  expectTypeOf<testing.Nat>().toEqualTypeOf<testing.NatKind | testing.NatDetails>()
  type Details = { mapping?: testing.Mapping; filtering?: testing.Filtering; ports?: testing.Ports; hairpin?: boolean }
  expectTypeOf<testing.NatDetails>().toEqualTypeOf<Seen<Details>>()
  type Line = {
    delay?: number
    jitter?: number
    loss?: number
    burst?: number
    reorder?: number
    rate?: number
    queue?: number
    mtu?: number
  }
  expectTypeOf<testing.LineOptions>().toEqualTypeOf<Seen<Line>>()
  expectTypeOf<testing.HomeOptions>().toExtend<testing.LineOptions & Seen<{ nat?: testing.Nat; ip?: 'ipv4' | 'ipv6' | 'dual' }>>()
  expectTypeOf<testing.ConnectorPlace>().toExtend<testing.HomeOptions & Seen<{ home?: string }>>()
  expectTypeOf<testing.AgentPlace>().toExtend<testing.ConnectorPlace & Seen<{ groups?: readonly string[] }>>()
  expectTypeOf<NonNullable<testing.TestNetworkOptions['services']>[string]>().toEqualTypeOf<testing.TestService>()
})
