import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, type ZtnaError, ZtnaRelay } from '../src/index.js'
import { CONTENT, FakeDatagram, FakeRole, INFO, PATH, PEER, nativeError, socketPair, useFake } from './fake-native.js'

type Listener = (error: unknown) => void
const escaped: unknown[] = []
const spoken: Error[] = []
const take: Listener = (error) => void escaped.push(error)
const hear = (warning: Error): void => void spoken.push(warning)
const events: NodeJS.EventEmitter = process
let others: [name: string, listeners: Listener[]][]

beforeEach(() => {
  useFake()
  escaped.length = 0
  spoken.length = 0
  // The runner's own would fail the test for what is asserted here, and Node's would print it.
  others = ['unhandledRejection', 'uncaughtException', 'warning'].map((name) => [name, process.listeners(name as 'exit') as Listener[]])
  for (const [name] of others) events.removeAllListeners(name).on(name, name === 'warning' ? hear : take)
})
afterEach(() => {
  for (const [name, listeners] of others) {
    events.removeAllListeners(name)
    for (const listener of listeners) events.on(name, listener)
  }
})

const DENIED = { code: 'ERR_ZTNA_DENIED', message: 'no', details: { by: 'connector' } }
const NODE_EVENTS: readonly object[] = [
  { event: 'path', connection: 1, peer: 'c1', next: PATH, prev: PATH },
  { event: 'denied', error: DENIED, peer: PEER },
  { event: 'flow-failed', id: '1', peer: PEER, service: 'db', port: 1, protocol: 'tcp', error: DENIED },
  { event: 'reloaded', version: 2 },
  { event: 'warning', error: { code: 'ERR_ZTNA_LIMIT', message: 'full' } },
]
const ROLES = {
  agent: [() => new ZtnaAgent({ network: CONTENT }), [...NODE_EVENTS, { event: 'services', added: [], removed: [] }]],
  connector: [
    () => new ZtnaConnector({ network: CONTENT }),
    [...NODE_EVENTS, { event: 'flow', id: '1', peer: PEER, service: 'db', protocol: 'tcp' }],
  ],
  relay: [
    () => new ZtnaRelay({ network: CONTENT }),
    [
      { event: 'session', id: '1', agent: 'alice', connector: 'c1' },
      { event: 'denied', error: DENIED },
      { event: 'session-end', id: '1', why: 'over' },
    ],
  ],
} as const
const KINDS = [
  'state',
  'identity',
  'reloaded',
  'warning',
  'error',
  'path',
  'services',
  'flow',
  'denied',
  'flow-failed',
  'session',
  'session-end',
]

test.each(Object.entries(ROLES))('an async listener of any event of the %s may reject', async (_name, [make, events]) => {
  const role = make() as NodeJS.EventEmitter & ZtnaAgent
  const failed = new Set<string>()
  for (const kind of KINDS) {
    const listener: () => unknown = async () => {
      failed.add(kind)
      await sleep(1)
      throw new Error(`listener of ${kind}`)
    }
    role.on(kind, listener)
  }
  await role.start()
  for (const event of events) FakeRole.last.emit(event)
  FakeRole.last.emit({ event: 'error', error: { code: 'ERR_ZTNA_IDENTITY', message: 'taken over' } })
  await expect.poll(() => role.state).toBe('closed')
  await sleep(20)
  expect(escaped).toEqual([])
  const native = events.map((event) => (event as { event: string }).event)
  expect(failed).toEqual(new Set(['state', 'identity', 'error', 'warning', ...native]))
  const warnings = role.recent().filter(({ event }) => event === 'warning').length
  expect(warnings).toBeGreaterThanOrEqual(native.length)
  // Of all of them, the listener of `warning` alone has nobody to tell.
  expect(spoken.every(({ message }) => message.startsWith('a listener of `warning` rejected: '))).toBe(true)
})

test('a rejected listener is on stderr where nobody listens for warnings', async () => {
  await using agent = new ZtnaAgent({ network: CONTENT })
  agent.on('identity', () => Promise.reject(new Error('not written')) as unknown as void)
  await agent.start()
  await expect.poll(() => spoken.map(({ message }) => message)).toEqual(['a listener of `identity` rejected: not written'])
  expect(escaped).toEqual([])
})

test('a listener that throws is an uncaught exception, and the role starts, works and closes as if it had not', async () => {
  const agent = new ZtnaAgent({ network: CONTENT })
  const bad = new Error('listener')
  const throwing = (): never => {
    throw bad
  }
  agent.on('state', throwing).on('services', throwing).on('path', throwing)
  await agent.start()
  FakeRole.last.emit({ event: 'services', added: [], removed: [] })
  FakeRole.last.emit({ event: 'path', connection: 1, peer: 'c1', next: PATH, prev: PATH })
  await agent.close()
  expect(agent.state).toBe('closed')
  await sleep(5)
  expect(escaped).toEqual([bad, bad, bad, bad, bad, bad])
})

test.each<[string, (agent: ZtnaAgent) => unknown]>([
  ['never read', (agent) => agent.events()],
  [
    'left after one event',
    async (agent) => {
      for await (const _ of agent.events()) break
    },
  ],
  ['waited for and forgotten', (agent) => void agent.events().next()],
  [
    'aborted',
    (agent) => {
      const given = new AbortController()
      void agent.events({ signal: given.signal }).next()
      given.abort()
    },
  ],
])('an iterator of events that is %s leaves nothing unhandled', async (_name, use) => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  void use(agent)
  FakeRole.last.emit({ event: 'reloaded', version: 2 })
  await agent.close()
  await sleep(5)
  expect(escaped).toEqual([])
})

test('an async listener on a socket of the agent fails that socket and no other', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const [one, two] = await Promise.all([socketPair(), socketPair()])
  const pairs = [one, two]
  FakeRole.last.onConnect = async () => ({ fd: pairs.shift()?.fd ?? -1, flow: 10 + pairs.length, infoJson: JSON.stringify(INFO) })
  const bad = await agent.connect('db')
  const good = await agent.connect('db')
  const failed = new Promise<Error>((resolve) => bad.once('error', resolve))
  bad.on('data', () => Promise.reject(new Error('not stored')) as unknown as void)
  one.far.write('x')
  expect((await failed).message).toBe('not stored')
  const heard = new Promise<string>((resolve) => good.once('data', (chunk: Buffer) => resolve(chunk.toString())))
  two.far.write('y')
  expect(await heard).toBe('y')
  good.destroy()
  expect(escaped).toEqual([])
})

test('an async listener of a served flow fails that flow and nothing else', async () => {
  await using connector = await new ZtnaConnector({ network: CONTENT }).start()
  await connector.serve('db', { socket: (socket) => socket.on('data', () => Promise.reject(new Error('not stored')) as unknown as void) })
  const { fd, far } = await socketPair()
  FakeRole.last.emit({ event: 'incoming', flow: 3, fd, serve: 7, ...INFO, traceparent: null })
  const ended = new Promise((resolve) => far.resume().once('end', resolve))
  far.write('x')
  await ended
  expect(FakeRole.last.calls).toContainEqual(['flowReset', 3])
  expect(escaped).toEqual([])
})

test('an async listener of datagrams fails its flow, and its iterator may be forgotten', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const native = new FakeDatagram()
  FakeRole.last.nextDatagram = native
  const udp = await agent.datagram('db')
  const failed = new Promise<ZtnaError>((resolve) => udp.once('error', resolve))
  udp.on('message', () => Promise.reject(new Error('not stored')) as unknown as void)
  native.put('x')
  expect((await failed).message).toBe('not stored')
  expect(native.closed).toBe(true)
  void udp[Symbol.asyncIterator]()
  expect(escaped).toEqual([])
})

test('listeners that throw when their UDP flows end do not keep the agent from ending them all', async () => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  const natives = [new FakeDatagram(5), new FakeDatagram(6)]
  const bad = new Error('listener')
  const throwing = (): never => {
    throw bad
  }
  for (const native of natives) {
    FakeRole.last.nextDatagram = native
    ;(await agent.datagram('db')).on('error', throwing).on('close', throwing)
  }
  await agent.close()
  expect(agent.state).toBe('closed')
  expect(natives.map(({ closed }) => closed)).toEqual([true, true])
  await sleep(5)
  expect(new Set(escaped)).toEqual(new Set([bad]))
})

test('what native rejects after its caller has given up is heard by nobody', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  let fail: (error: Error) => void = () => {}
  FakeRole.last.onConnect = () => new Promise((_, reject) => (fail = reject))
  const given = new AbortController()
  const connect = agent.connect({ service: 'db', signal: given.signal })
  given.abort()
  await expect(connect).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED' })
  fail(nativeError('ERR_ZTNA_ABORTED', 'late'))
  await sleep(5)
  expect(escaped).toEqual([])
})

test('an answer of authorize that comes when the connector has closed is heard by nobody', async () => {
  let answer: (allow: boolean) => void = () => {}
  const authorize = (): Promise<boolean> => new Promise((resolve) => (answer = resolve))
  const connector = await new ZtnaConnector({ network: CONTENT, authorize }).start()
  const role = FakeRole.last
  role.authorizeReply = () => {
    throw nativeError('ERR_ZTNA_CLOSED', 'closed')
  }
  role.emit({ event: 'authorize', flow: 1, peer: PEER, service: 'db', port: 1, protocol: 'tcp', path: PATH })
  await connector.close()
  answer(true)
  await sleep(5)
  expect(escaped).toEqual([])
})

test('a flow that is over before its service is known is a warning', async () => {
  await using connector = await new ZtnaConnector({ network: CONTENT }).start()
  const told = new Promise<ZtnaError>((resolve) => connector.once('warning', resolve))
  const served = connector.serve('db', { udp: () => {} })
  FakeRole.last.emit({ event: 'incoming-datagram', flow: 5, serve: 7, ...INFO, traceparent: null })
  await served
  expect(await told).toMatchObject({ code: 'ERR_ZTNA_CLOSED', message: 'gone' })
  expect(escaped).toEqual([])
})

test('an event that native tells as it ends can not harm', async () => {
  const connector = await new ZtnaConnector({ network: CONTENT }).start()
  const role = FakeRole.last
  await connector.close()
  for (const event of NODE_EVENTS) role.emit(event)
  role.emit({ event: 'flow-reset', flow: 9, error: DENIED })
  expect(escaped).toEqual([])
})
