import type { Agent as HttpAgent } from 'node:http'
import type { Agent as HttpsAgent } from 'node:https'
import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import { assertType, expectTypeOf, test } from 'vitest'
import type { TestNetwork, TestNetworkOptions } from '../src/testing.js'
import { type DispatcherOptions, type SystemError, type ZtnaError, ztnaErrorOf } from '../src/index.js'
import type { EventOf, AgentEvents, NodeOptions, PathInfo, RelayOptions, ZtnaAgent, ZtnaConnector, ZtnaSocket } from '../src/index.js'

test('sockets are net sockets and events are tagged', () => {
  expectTypeOf<ZtnaSocket>().toExtend<Socket>()
  expectTypeOf<Extract<EventOf<AgentEvents>, { type: 'path' }>['args']>().toEqualTypeOf<
    [connector: string, next: PathInfo, prev: PathInfo]
  >()
  expectTypeOf<ZtnaAgent['start']>().returns.resolves.toEqualTypeOf<ZtnaAgent>()
})

test('a handler is one of the kinds', () => {
  assertType<Parameters<ZtnaConnector['serve']>[1]>({ socket: (socket) => socket.end() })
  // @ts-expect-error a target needs its scheme
  assertType<Parameters<ZtnaConnector['serve']>[1]>({ target: '127.0.0.1:80' })
})

test('clients take what an agent gives, and errors come back as ours', () => {
  expectTypeOf<ReturnType<ZtnaAgent['httpAgent']>>().toExtend<HttpAgent>()
  expectTypeOf<ReturnType<ZtnaAgent['httpsAgent']>>().toExtend<HttpsAgent>()
  expectTypeOf<ReturnType<ZtnaAgent['dispatcher']>>().toExtend<Dispatcher>()
  expectTypeOf<ReturnType<ZtnaAgent['fetcher']>>().toEqualTypeOf<typeof fetch>()
  expectTypeOf<ReturnType<ZtnaAgent['createConnection']>>().toEqualTypeOf<ZtnaSocket>()
  expectTypeOf(ztnaErrorOf).returns.toEqualTypeOf<ZtnaError | undefined>()
  expectTypeOf<SystemError['cause']>().toEqualTypeOf<ZtnaError>()
  assertType<DispatcherOptions>({ tls: { ca: 'PEM', rejectUnauthorized: true }, allowH2: true, connections: 4 })
  // @ts-expect-error the tunnel connects
  assertType<DispatcherOptions>({ tls: { host: 'elsewhere' } })
})

test('what a test network hands out is what roles take', () => {
  expectTypeOf<ReturnType<TestNetwork['agent']>>().toExtend<NodeOptions>()
  expectTypeOf<ConstructorParameters<typeof ZtnaConnector>[0]>().toEqualTypeOf<ReturnType<TestNetwork['connector']> | undefined>()
  expectTypeOf<ReturnType<TestNetwork['relay']>>().toExtend<RelayOptions>()
  expectTypeOf<TestNetwork>().toExtend<AsyncDisposable>()
  expectTypeOf<TestNetwork['until']>().returns.resolves.toEqualTypeOf<PathInfo>()
})

test('a network is described with names that it knows', () => {
  assertType<TestNetworkOptions>({
    nat: { mapping: 'address-dependent' },
    agents: { alice: { home: 'office' } },
    services: { web: { tcp: [80] } },
  })
  // @ts-expect-error no such NAT
  assertType<TestNetworkOptions>({ nat: 'symmetric' })
  // @ts-expect-error a connector has no groups
  assertType<TestNetworkOptions>({ connectors: { c1: { groups: ['eng'] } } })
})
