import { beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, ZtnaError, ZtnaRelay } from '../src/index.js'
import { ztna } from '../src/express.js'
import { createTestNetwork } from '../src/testing.js'
import { CONTENT, FakeRole, useFake } from './fake-native.js'

beforeEach(() => useFake())

const broken = new Error('the getter failed')

/** `value` where reading what `path` leads to throws: `limits.unreadBytes`, `services[0].ports[1]`. */
function breaking<T extends object>(value: T, path: string): T {
  const copy = copyOf(value)
  const names = path.split(/[.[\]]+/).filter((name) => name !== '')
  const last = names.pop() ?? ''
  const holder = names.reduce<object>((at, name) => Reflect.get(at, name) as object, copy)
  Object.defineProperty(holder, last, {
    enumerable: true,
    get: () => {
      throw broken
    },
  })
  return copy
}

/** Of plain objects and arrays; what is in them stays the same. */
function copyOf<T>(value: T): T {
  if (Array.isArray(value)) return value.map(copyOf) as T
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, copyOf(inner as unknown)])) as T
}

async function refusal(call: () => unknown): Promise<ZtnaError> {
  try {
    await call()
  } catch (error) {
    if (error instanceof ZtnaError) return error
    throw error
  }
  throw new Error('was not refused')
}

/** The error of an option whose getter has thrown. */
function unreadable(path: string): object {
  return { code: 'ERR_ZTNA_CONFIG', message: `${path} can't be read: the getter failed`, cause: broken }
}

const none = (): void => {}
const LOGGER = { debug: none, info: none, warn: none, error: none }
const NODE = {
  network: CONTENT,
  logger: LOGGER,
  logLevel: 'info' as const,
  packetsPerKey: 1_000_000,
  segmentationOffload: true,
  limits: { unreadBytes: 2_000_000, burstSockets: 1, burstChecks: 1 },
  portMapping: true,
  metered: false,
}
const ROLE = ['network', 'logger', 'logger.debug', 'logger.error', 'logLevel', 'packetsPerKey', 'segmentationOffload', 'limits']
const NODE_FIELDS = [...ROLE, 'limits.unreadBytes', 'limits.burstSockets', 'limits.burstChecks', 'portMapping', 'metered']

test.each(NODE_FIELDS)('an agent whose option %s throws is refused with the path and the cause', async (path) => {
  expect(await refusal(() => new ZtnaAgent(breaking(NODE, path)))).toMatchObject(unreadable(path))
})

const SERVICE = { service: 'db', protocol: 'tcp' as const, ports: [1, 2] as [number, number], target: 'tcp:127.0.0.1:1' }
const CONNECTOR = { ...NODE, services: [SERVICE], authorize: () => true }
const SERVICES = ['', '[0]', '[0].service', '[0].protocol', '[0].ports', '[0].ports[0]', '[0].ports[1]', '[0].target']

test.each([...NODE_FIELDS, ...SERVICES.map((at) => `services${at}`), 'authorize'])(
  'a connector whose option %s throws is refused with the path and the cause',
  async (path) => {
    expect(await refusal(() => new ZtnaConnector(breaking(CONNECTOR, path)))).toMatchObject(unreadable(path))
  },
)

const { portMapping: _portMapping, metered: _metered, limits: _limits, ...EVERY } = NODE
const RELAY = { ...EVERY, listen: [{ udp: '[::]:0' }], stunAlt: '[::]:1', publicAddrs: ['[::]:1'], limits: { sessions: 1 }, loops: 1 }
const LISTEN = ['listen', 'listen[0]', 'listen[0].udp', 'stunAlt', 'publicAddrs', 'publicAddrs[0]', 'limits.sessions', 'loops']

test.each([...ROLE, ...LISTEN])('a relay whose option %s throws is refused with the path and the cause', async (path) => {
  expect(await refusal(() => new ZtnaRelay(breaking(RELAY, path)))).toMatchObject(unreadable(path))
})

const INNER = ['', '.trustDomain', '.relays', '.services', '.services[0]', '.services[0].name', '.services[0].tcp[0]']
test.each(['certPem', 'keyPem', 'caPem', ...INNER.map((at) => `network${at}`), 'policy', 'revoked'])(
  'a network whose %s throws is refused by start with the path and the cause',
  async (path) => {
    const content = { ...CONTENT, policy: '', revoked: '' }
    expect(await refusal(() => new ZtnaAgent({ network: breaking(content, path) }).start())).toMatchObject(unreadable(`network.${path}`))
  },
)

const SIGNAL = new AbortController().signal
const CANCEL = { signal: SIGNAL, timeoutMs: 1_000 }
const TARGET = { ...CANCEL, service: 'db', port: 5432, path: 'auto' as const, traceparent: undefined as never, allowHalfOpen: true }
const FORWARD = { ...CANCEL, service: 'db', port: 5432, protocol: 'tcp' as const, path: 'auto' as const, listen: { host: '::1', port: 0 } }
const PROXY = { ...CANCEL, socks5: { host: '::1', port: 0, username: 'u', password: 'p' } }
const DISPATCHER = {
  tls: { ca: 'x' },
  allowH2: true,
  connections: 1,
  pipelining: 1,
  headersTimeout: 1,
  bodyTimeout: 1,
  keepAliveTimeout: 1,
}
const GIVING_UP = ['signal', 'timeoutMs']
const SENT = ['service', 'port', 'path', 'traceparent', 'allowHalfOpen']

const CALLS: [name: string, options: object, paths: readonly string[], call: (agent: ZtnaAgent, options: never) => unknown][] = [
  ['start', CANCEL, GIVING_UP, (agent, options) => agent.start(options)],
  ['doctor', CANCEL, GIVING_UP, (agent, options) => agent.doctor(options)],
  ['connect', TARGET, [...SENT, ...GIVING_UP], (agent, options) => agent.connect(options)],
  ['createConnection', TARGET, [...SENT, ...GIVING_UP], (agent, options) => agent.createConnection(options)],
  ['datagram', TARGET, [...SENT, ...GIVING_UP], (agent, options) => agent.datagram(options)],
  ['ping', CANCEL, GIVING_UP, (agent, options) => agent.ping('db', options)],
  ['explain', { ...CANCEL, path: 'auto' }, [...GIVING_UP, 'path'], (agent, options) => agent.explain('db', options)],
  ['check', { ...CANCEL, protocol: 'tcp' }, [...GIVING_UP, 'protocol'], (agent, options) => agent.check('db', options)],
  [
    'forward',
    FORWARD,
    [...GIVING_UP, 'service', 'port', 'protocol', 'path', 'listen', 'listen.host', 'listen.port'],
    (agent, options) => agent.forward(options),
  ],
  [
    'a proxy',
    PROXY,
    [...GIVING_UP, 'socks5', 'socks5.host', 'socks5.port', 'socks5.username', 'socks5.password'],
    (agent, options) => agent.forward(options),
  ],
  ['events', { signal: SIGNAL, highWaterMark: 1 }, ['signal', 'highWaterMark'], (agent, options) => agent.events(options)],
  ['close', { drainMs: 0 }, ['drainMs'], (agent, options) => agent.close(options)],
  ['dispatcher', DISPATCHER, [...Object.keys(DISPATCHER), 'tls.ca'], (agent, options) => agent.dispatcher(options)],
  ['httpsAgent', { ca: 'x' }, ['ca'], (agent, options) => agent.httpsAgent(options)],
]

test.each(CALLS.flatMap(([name, options, paths, call]) => paths.map((path) => [name, path, options, call] as const)))(
  '%s whose option %s throws is refused with the path and the cause',
  async (_name, path, options, call) => {
    const agent = await new ZtnaAgent({ network: CONTENT }).start()
    expect(await refusal(() => call(agent, breaking(options, path) as never))).toMatchObject(unreadable(path))
    expect(agent.state).toBe('online')
    await agent.close()
  },
)

test.each(['aborted', 'addEventListener', 'removeEventListener'])(
  'a signal whose %s throws is refused with the path and the cause',
  async (name) => {
    const agent = await new ZtnaAgent({ network: CONTENT }).start()
    const signal = { aborted: false, addEventListener: none, removeEventListener: none } as unknown as AbortSignal
    expect(await refusal(() => agent.ping('db', { signal: breaking(signal, name) }))).toMatchObject(unreadable(`signal.${name}`))
    await agent.close()
  },
)

const SERVE = { ...CANCEL, port: 5432, maxConnections: 1 }

test.each(Object.keys(SERVE))('serve whose option %s throws is refused with the path and the cause', async (path) => {
  const connector = await new ZtnaConnector({ network: CONTENT }).start()
  expect(await refusal(() => connector.serve('db', { socket: none }, breaking(SERVE, path)))).toMatchObject(unreadable(path))
  await connector.close()
})

test.each([
  ['http', { http: none }],
  ['fetch', { fetch: none as never }],
  ['socket', { socket: none, allowHalfOpen: true }],
  ['allowHalfOpen', { socket: none, allowHalfOpen: true }],
  ['udp', { udp: none }],
  ['target', { target: 'tcp://127.0.0.1:1' as const }],
])('serve whose handler throws where %s is read is refused with the path and the cause', async (path, handler) => {
  const connector = await new ZtnaConnector({ network: CONTENT }).start()
  expect(await refusal(() => connector.serve('db', breaking<object>(handler, path) as never))).toMatchObject(unreadable(`handler.${path}`))
  await connector.close()
})

test.each(['groups', 'groups[0]'])('a middleware whose option %s throws is refused with the path and the cause', async (path) => {
  expect(await refusal(() => ztna(breaking({ groups: ['eng'] }, path)))).toMatchObject(unreadable(path))
})

const NETWORK = {
  seed: 1,
  homes: { flat: { nat: { mapping: 'address-dependent' } } },
  agents: { alice: { groups: ['eng'], home: 'flat' } },
}
test.each(['seed', 'homes', 'homes.flat', 'homes.flat.nat', 'homes.flat.nat.mapping', 'agents.alice.groups', 'agents.alice.home'])(
  'a test network whose %s throws is refused with the path and the cause',
  async (path) => {
    expect(await refusal(() => createTestNetwork(breaking(NETWORK, path) as never))).toMatchObject(unreadable(path))
  },
)

test('an object that refuses to be looked at is refused as the options that it stands for', async () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  for (const [what, call] of [
    ['options of the agent', () => new ZtnaAgent(proxy)],
    ['target', () => agent.connect(proxy as never)],
    ['options of forward()', () => agent.forward(proxy as never)],
    ['limits', () => new ZtnaAgent({ network: CONTENT, limits: proxy })],
  ] as const) {
    const error = await refusal(call)
    expect(error).toMatchObject({ code: 'ERR_ZTNA_CONFIG', cause: expect.any(TypeError) as unknown })
    expect(error.message).toContain(`${what} can't be read`)
  }
  await agent.close()
})

test('an option is read once: what was checked is what is used', async () => {
  let reads = 0
  const options = {
    service: 'db',
    get port(): number {
      reads += 1
      return reads === 1 ? 5432 : Number.NaN
    },
  }
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  await refusal(() => agent.connect(options))
  expect(FakeRole.last.calls).toContainEqual(['connect', expect.objectContaining({ service: 'db', port: 5432 })])
  await agent.close()
})
