import { beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, ZtnaError, ZtnaRelay, identityOf } from '../src/index.js'
import { CONTENT, FakeDatagram, FakeRole, useFake } from './fake-native.js'

beforeEach(() => useFake())

type Call = (...args: never[]) => unknown
/** What JavaScript lets through and types don't. */
const wrong = (value: unknown): never => value as never

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
  ['an agent with limits null', () => new ZtnaAgent({ network: CONTENT, limits: wrong(null) }), 'limits: null'],
  ['new ZtnaConnector(null)', () => new ZtnaConnector(wrong(null)), 'options of the connector: null'],
  ['a connector with services {}', () => new ZtnaConnector({ network: CONTENT, services: wrong({}) }), 'services: an object'],
  ['a connector with authorize 1', () => new ZtnaConnector({ network: CONTENT, authorize: wrong(1) }), 'authorize: 1'],
  ['new ZtnaRelay()', () => new ZtnaRelay(wrong(undefined)), 'options of the relay: undefined'],
  ['a relay that listens nowhere', () => new ZtnaRelay({ network: CONTENT, listen: wrong(undefined) }), 'listen: undefined'],
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
  ['events(null)', (agent) => agent.events(wrong(null)), 'options of events(): null'],
  ['close of drainMs "x"', (agent) => agent.close({ drainMs: wrong('x') }), 'drainMs: "x" is not accepted; accepted: milliseconds'],
])('%s is refused with its reason', async (_name, call, reason) => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  const error = await refusal(() => call(agent))
  expect(error.message).toContain(reason)
  expect(error.code).toBe('ERR_ZTNA_CONFIG')
  await agent.close(wrong(null))
  expect(agent.state).toBe('closed')
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
  ['serve(_, _, null)', (connector) => connector.serve('db', { socket: () => {} }, wrong(null)), 'options: null'],
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
