import type { Socket } from 'node:net'
import { assertType, expectTypeOf, test } from 'vitest'
import type { EventOf, AgentEvents, PathInfo, ZtnaAgent, ZtnaConnector, ZtnaSocket } from '../src/index.js'

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
