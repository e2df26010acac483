import { once } from 'node:events'
import { beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, ZtnaError, ZtnaRelay, identityOf, ztnaErrorOf } from '../src/index.js'
import { CONTENT, FakeDatagram, FakeRole, nativeError, useFake } from './fake-native.js'

beforeEach(() => useFake())

type Call = (...args: never[]) => unknown
/** What JavaScript lets through and types don't. */
const wrong = (value: unknown): never => value as never
type Loose = Record<'connect' | 'datagram', (target: string, more: object) => Promise<unknown>>
const untyped = (agent: ZtnaAgent): Loose => agent

async function refusal(call: () => unknown): Promise<ZtnaError> {
  try {
    await call()
  } catch (error) {
    if (error instanceof ZtnaError) return error
    throw error
  }
  throw new Error('was not refused')
}

test.each<[string, () => unknown, string]>([
  ['new ZtnaAgent(null)', () => new ZtnaAgent(wrong(null)), 'options of the agent: null is not accepted'],
  ['new ZtnaAgent("x")', () => new ZtnaAgent(wrong('x')), 'options of the agent: "x" is not accepted'],
  ['new ZtnaAgent()', () => new ZtnaAgent(), 'no network: give the option `network`'],
  ['an agent of network 5', () => new ZtnaAgent({ network: wrong(5) }), 'network: 5 is not accepted; accepted: a folder'],
  ['an agent with a wrong logger', () => new ZtnaAgent({ network: CONTENT, logger: wrong({ info: 1 }) }), 'logger.debug: undefined'],
  ['an agent of log level null', () => new ZtnaAgent({ network: CONTENT, logLevel: wrong(7) }), 'logLevel 7 is not accepted; one of trace'],
  ['an agent with a limit of 0', () => new ZtnaAgent({ network: CONTENT, limits: { unreadBytes: 0 } }), 'limits.unreadBytes: 0'],
  ['an agent with portMapping "no"', () => new ZtnaAgent({ network: CONTENT, portMapping: wrong('no') }), 'portMapping: "no"'],
  [
    'a relay with segmentationOffload "no"',
    () => new ZtnaRelay({ network: CONTENT, segmentationOffload: wrong('no') }),
    'segmentationOffload: "no"',
  ],
  [
    'an agent that would open 257 sockets at once',
    () => new ZtnaAgent({ network: CONTENT, limits: { burstSockets: 257 } }),
    'limits.burstSockets: 257 is not accepted; accepted: a whole number from 0 to 256',
  ],
  [
    'a connector that would guess -1 ports',
    () => new ZtnaConnector({ network: CONTENT, limits: { burstChecks: -1 } }),
    'limits.burstChecks: -1 is not accepted; accepted: a whole number from 0 to 2048',
  ],
  ['an agent that is metered "no"', () => new ZtnaAgent({ network: CONTENT, metered: wrong('no') }), 'metered: "no"'],
  ['an agent with limits null', () => new ZtnaAgent({ network: CONTENT, limits: wrong(null) }), 'limits: null'],
  ['new ZtnaConnector(null)', () => new ZtnaConnector(wrong(null)), 'options of the connector: null'],
  ['a connector with services {}', () => new ZtnaConnector({ network: CONTENT, services: wrong({}) }), 'services: an object'],
  ['a connector with authorize 1', () => new ZtnaConnector({ network: CONTENT, authorize: wrong(1) }), 'authorize: 1'],
  [
    'an agent with a misspelt option',
    () => new ZtnaAgent(wrong({ network: CONTENT, loglevel: 'off' })),
    'agent: unknown "loglevel"; accepted: network',
  ],
  [
    'an agent with a misspelt limit',
    () => new ZtnaAgent({ network: CONTENT, limits: wrong({ unreadbytes: 1 }) }),
    'limits: unknown "unreadbytes"; accepted: unreadBytes',
  ],
  [
    'a connector with a service {}',
    () => new ZtnaConnector({ network: CONTENT, services: wrong([{}]) }),
    'services[0]: undefined is not a service name',
  ],
  [
    'a connector with a service null',
    () => new ZtnaConnector({ network: CONTENT, services: wrong([null]) }),
    'services[0]: null is not accepted; accepted: { service',
  ],
  [
    'a connector with a service of one port',
    () => new ZtnaConnector({ network: CONTENT, services: [{ service: 'db', protocol: 'tcp', ports: wrong([1]), target: 'tcp:a:1' }] }),
    'services[0]: ports: an array is not accepted; accepted: two ports',
  ],
  ['new ZtnaRelay(null)', () => new ZtnaRelay(wrong(null)), 'options of the relay: null'],
  ['a relay that listens nowhere', () => new ZtnaRelay({ network: CONTENT, listen: [] }), 'at least one listen address'],
  [
    'a relay of 65 loops',
    () => new ZtnaRelay({ network: CONTENT, loops: 65 }),
    'loops: 65 is not accepted; accepted: a whole number from 1 to 64',
  ],
  ['a relay that listens at text', () => new ZtnaRelay({ network: CONTENT, listen: wrong(['x']) }), '{ udp: "ADDRESS:PORT" }'],
  ['identityOf(null)', () => identityOf(wrong(null)), 'did not come through the tunnel'],
])('%s is refused with its reason', async (_name, call, reason) => {
  const error = await refusal(call)
  expect(error.message).toContain(reason)
  expect(error.code).toMatch(/ERR_ZTNA_(CONFIG|IDENTITY)/)
})

const TARGET = 'target: null is not accepted; accepted: "SERVICE:PORT", "SERVICE" or { service, port? }'

test.each<[string, (agent: ZtnaAgent) => unknown, string]>([
  ['start(null)', (agent) => agent.start(wrong(null)), 'options: null is not accepted; accepted: an object such as { timeoutMs: 5000'],
  ['connect()', (agent) => (agent.connect as Call)(), 'target: undefined is not accepted'],
  ['connect(null)', (agent) => agent.connect(wrong(null)), TARGET],
  ['connect({})', (agent) => agent.connect(wrong({})), 'undefined is not a service name'],
  ['connect to a port in words', (agent) => agent.connect({ service: 'db', port: wrong('x') }), 'port "x" of db is not'],
  [
    'connect with a wrong signal',
    (agent) => agent.connect({ service: 'db', signal: wrong(1) }),
    'signal: 1 is not accepted; accepted: an AbortSignal',
  ],
  ['connect with a symbol', (agent) => agent.connect(wrong(Symbol('s'))), 'target: Symbol(s)'],
  ['createConnection(null)', (agent) => agent.createConnection(wrong(null)), TARGET],
  ['createConnection(_, 1)', (agent) => agent.createConnection('db', wrong(1)), 'onConnect: 1 is not accepted'],
  ['datagram(null)', (agent) => agent.datagram(wrong(null)), TARGET],
  ['connect(_, 1)', (agent) => agent.connect('db', wrong(1)), 'options: 1 is not accepted; accepted: { path?'],
  ['connect(_, { timeout })', (agent) => untyped(agent).connect('db', { timeout: 1 }), 'options: unknown "timeout"; accepted: path, '],
  ['connect(_, { port })', (agent) => untyped(agent).connect('db', { port: 1 }), 'options: unknown "port"; accepted: path, '],
  ['connect(_, { path })', (agent) => agent.connect('db', { path: wrong('fast') }), 'path "fast" is not accepted; one of auto'],
  [
    'connect({ service }, { path })',
    (agent) => agent.connect(wrong({ service: 'db' }), { path: 'direct-only' }),
    'options: an object is not accepted; accepted: all in one object, or a string with options beside it',
  ],
  ['createConnection(_, { timeout })', (agent) => agent.createConnection('db', wrong({ timeout: 1 })), 'options: unknown "timeout"'],
  ['createConnection(_, _, 1)', (agent) => agent.createConnection('db', {}, wrong(1)), 'onConnect: 1 is not accepted'],
  ['datagram(_, { timeout })', (agent) => untyped(agent).datagram('db', { timeout: 1 }), 'options: unknown "timeout"'],
  ['explain(_, { path })', (agent) => agent.explain('db', { path: wrong('fast') }), 'path "fast" is not accepted; one of auto'],
  [
    'forward({ path })',
    (agent) => agent.forward({ service: 'db', listen: {}, path: wrong('fast') }),
    'path "fast" is not accepted; one of auto',
  ],
  ['ping()', (agent) => (agent.ping as Call)(), 'undefined is not a service name'],
  ['ping(_, null)', (agent) => agent.ping('db', wrong(null)), 'options: null'],
  ['check(null)', (agent) => agent.check(wrong(null)), TARGET],
  ['check of sctp', (agent) => agent.check('db', { protocol: wrong('sctp') }), 'protocol: "sctp" is not accepted; accepted: tcp, udp'],
  [
    'forward(null)',
    (agent) => agent.forward(wrong(null)),
    'options of forward(): null is not accepted; accepted: { service, port?, listen }',
  ],
  ['forward({})', (agent) => agent.forward(wrong({})), 'forward() needs { service, port?, listen } or { socks5 }'],
  [
    'forward to nowhere',
    (agent) => agent.forward(wrong({ service: 'db' })),
    'listen: undefined is not accepted; accepted: { host?, port? }',
  ],
  ['forward to a unix socket 1', (agent) => agent.forward({ service: 'db', listen: { unix: wrong(1) } }), 'listen.unix: 1'],
  ['a proxy null', (agent) => agent.forward({ socks5: wrong(null) }), 'socks5: null'],
  [
    'a secret that is no text',
    (agent) => agent.forward({ socks5: { username: 'u', password: wrong(5) } }),
    'socks5.password is not a string',
  ],
  [
    'a forward that is also a proxy',
    (agent) => agent.forward(wrong({ service: 'db', listen: {}, socks5: {} })),
    'either { service, port?, listen } or { socks5 }, not both',
  ],
  [
    'a forward with a misspelt option',
    (agent) => agent.forward(wrong({ service: 'db', listen: {}, timeout: 1 })),
    'forward(): unknown "timeout"; accepted: service',
  ],
  [
    'connect with a wrong traceparent',
    (agent) => agent.connect({ service: 'db', traceparent: 'garbage' }),
    'traceparent: "garbage" is not accepted',
  ],
  [
    'connect with a signal that nobody can stop listening to',
    (agent) => agent.connect({ service: 'db', signal: wrong({ aborted: false, addEventListener: () => {} }) }),
    'signal: an object is not accepted; accepted: an AbortSignal',
  ],
  [
    'events of a signal that nobody can stop listening to',
    (agent) => agent.events({ signal: wrong({ aborted: false, addEventListener: () => {} }) }),
    'signal: an object is not accepted; accepted: an AbortSignal',
  ],
  [
    'ping with a signal that is not aborted or not',
    (agent) => agent.ping('db', { signal: wrong({ aborted: 'no', addEventListener: () => {}, removeEventListener: () => {} }) }),
    'signal: an object is not accepted; accepted: an AbortSignal',
  ],
  ['events of a wrong signal', (agent) => agent.events({ signal: wrong(5) }), 'signal: 5 is not accepted; accepted: an AbortSignal'],
  ['close(5)', (agent) => agent.close(wrong(5)), 'options of close(): 5 is not accepted; accepted: { drainMs? }'],
  ['close(null)', (agent) => agent.close(wrong(null)), 'options of close(): null'],
  ['events(null)', (agent) => agent.events(wrong(null)), 'options of events(): null'],
  ['close of drainMs "x"', (agent) => agent.close({ drainMs: wrong('x') }), 'drainMs: "x" is not accepted; accepted: milliseconds'],
])('%s is refused with its reason', async (_name, call, reason) => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  const error = await refusal(() => call(agent))
  expect(error.message).toContain(reason)
  expect(error.code).toBe('ERR_ZTNA_CONFIG')
  expect(agent.state).toBe('online')
  await agent.close()
})

test.each<[string, (agent: ZtnaAgent) => Promise<unknown>]>([
  ['connect', (agent) => agent.connect('db:5432', { path: 'direct-only', timeoutMs: 700 })],
  ['createConnection', (agent) => once(agent.createConnection('db:5432', { path: 'direct-only', timeoutMs: 700 }), 'connect')],
  ['connect of one object', (agent) => agent.connect({ service: 'db', port: 5432, path: 'direct-only', timeoutMs: 700 })],
])('%s asks for what its options say', async (_name, call) => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  FakeRole.last.onConnect = () => Promise.reject(nativeError('ERR_ZTNA_DENIED', 'reached'))
  await expect(call(agent)).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
  const request = { service: 'db', port: 5432, path: 'direct-only', timeoutMs: 700 }
  expect(FakeRole.last.calls).toContainEqual(['connect', expect.objectContaining(request)])
  await agent.close()
})

test('a relay listens on port 4433 of every address when nothing is said', async () => {
  const relay = await new ZtnaRelay({ network: CONTENT }).start()
  expect(FakeRole.last.options).toMatchObject({ listen: ['0.0.0.0:4433', '[::]:4433'] })
  await relay.close()
})

test('a signal of another realm is one, too', async () => {
  /** As those of jsdom and of polyfills: no instance of Node's class. */
  class OtherSignal extends EventTarget {
    aborted = false
    reason: unknown
    abort(reason: unknown): void {
      Object.assign(this, { aborted: true, reason }).dispatchEvent(new Event('abort'))
    }
  }
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  FakeRole.last.onConnect = () => new Promise(() => {})
  const signal = new OtherSignal()
  const connecting = agent.connect({ service: 'db', signal: wrong(signal) })
  signal.abort('enough')
  await expect(connecting).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED', cause: 'enough' })
  await agent.close()
})

test('trace contexts of this version and of a later one are accepted', async () => {
  const ids = `${'1'.repeat(32)}-${'2'.repeat(16)}-01`
  for (const [traceparent, good] of [
    [`00-${ids}`, true],
    [`01-${ids}-more`, true],
    [`00-${ids}-more`, false],
    [`ff-${ids}`, false],
    [`00-${'0'.repeat(32)}-${'2'.repeat(16)}-01`, false],
  ] as const) {
    const agent = await new ZtnaAgent({ network: CONTENT }).start()
    FakeRole.last.onConnect = () => Promise.reject(nativeError('ERR_ZTNA_REFUSED', 'reached'))
    const code = good ? 'ERR_ZTNA_REFUSED' : 'ERR_ZTNA_CONFIG'
    await expect(agent.connect({ service: 'db', traceparent })).rejects.toMatchObject({ code })
    await agent.close()
  }
})

test.each<[string, (agent: ZtnaAgent) => Promise<unknown>]>([
  ['connect', (agent) => agent.connect({ service: 'db', timeoutMs: 0 })],
  ['connect with options beside its target', (agent) => agent.connect('db', { timeoutMs: 0 })],
  [
    'createConnection with options beside its target',
    (agent) =>
      once(
        agent.createConnection('db', { timeoutMs: 0 }, () => {}),
        'connect',
      ),
  ],
  ['datagram', (agent) => agent.datagram({ service: 'db', timeoutMs: 0 })],
  ['datagram with options beside its target', (agent) => agent.datagram('db', { timeoutMs: 0 })],
  ['ping', (agent) => agent.ping('db', { timeoutMs: 0 })],
  ['check', (agent) => agent.check('db', { timeoutMs: 0 })],
])('%s that has no time is a timeout', async (_name, call) => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  const error: unknown = await call(agent).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(ztnaErrorOf(error)).toMatchObject({ code: 'ERR_ZTNA_TIMEOUT' })
  await agent.close()
})

test.each<[string, (connector: ZtnaConnector) => unknown, string]>([
  ['serve()', (connector) => (connector.serve as Call)(), 'undefined is not a service name'],
  ['serve(null)', (connector) => connector.serve(wrong(null), { socket: () => {} }), 'null is not a service name'],
  [
    'serve(_, null)',
    (connector) => connector.serve('db', wrong(null)),
    'handler: null is not accepted; accepted: an object with one of http',
  ],
  ['serve(_, {})', (connector) => connector.serve('db', wrong({})), 'a handler is exactly one of http, fetch'],
  ['serve of a socket handler 1', (connector) => connector.serve('db', { socket: wrong(1) }), 'handler.socket: 1'],
  ['serve of an http server {}', (connector) => connector.serve('db', { http: wrong({}) }), 'handler.http: an object is not accepted'],
  ['serve of a target 1', (connector) => connector.serve('db', { target: wrong(1) }), 'handler.target: 1'],
  ['serve(_, _, null)', (connector) => connector.serve('db', { socket: () => {} }, wrong(null)), 'options of serve(): null'],
  ['serve of 0 connections', (connector) => connector.serve('db', { socket: () => {} }, { maxConnections: 0 }), 'maxConnections: 0'],
])('%s is refused with its reason', async (_name, call, reason) => {
  const connector = await new ZtnaConnector({ network: CONTENT }).start()
  const error = await refusal(() => call(connector))
  expect(error.message).toContain(reason)
  expect(error.code).toBe('ERR_ZTNA_CONFIG')
  await connector.close()
})

test('a UDP socket sends bytes and nothing else', async () => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  FakeRole.last.nextDatagram = new FakeDatagram()
  const udp = await agent.datagram('db')
  for (const value of [null, 'text', [1]]) {
    expect((await refusal(() => udp.send(wrong(value)))).message).toContain('accepted: a Uint8Array')
  }
  await agent.close()
})
