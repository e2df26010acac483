import { beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, ZtnaRelay } from '../src/index.js'
import { CONTENT, FakeRole, nativeError, useFake } from './fake-native.js'

beforeEach(() => useFake())
const agent = (): ZtnaAgent => new ZtnaAgent({ network: CONTENT })
const never = (): Promise<void> => new Promise(() => {})

test('start resolves once the role is online and knows its identity', async () => {
  const a = agent()
  const states: string[] = []
  a.on('state', (next) => states.push(next))
  expect(await a.start()).toBe(a)
  expect(states).toEqual(['starting', 'online'])
  expect(a.identity.name).toBe('me')
  await a.close()
})

test('callers of start that overlap share one native role', async () => {
  const a = agent()
  await Promise.all([a.start(), a.start(), a.start()])
  await a.start()
  expect(FakeRole.made).toBe(1)
  await a.close()
})

test('start that times out rejects and leaves the role new, and can be tried again', async () => {
  useFake((role) => {
    if (FakeRole.made === 1) role.onStart = async () => {}
  })
  const a = agent()
  await expect(a.start({ timeoutMs: 20 })).rejects.toMatchObject({ code: 'ERR_ZTNA_TIMEOUT' })
  expect(a.state).toBe('new')
  await a.start()
  expect(a.state).toBe('online')
  await a.close()
})

test('an aborted start carries the reason of its signal', async () => {
  useFake((role) => (role.onStart = never))
  const a = agent()
  const given = new AbortController()
  const start = a.start({ signal: given.signal })
  given.abort('enough')
  await expect(start).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED', cause: 'enough' })
  expect(a.state).toBe('new')
})

test('a bad identity rejects start at once', async () => {
  useFake((role) => (role.onStart = () => Promise.reject(nativeError('ERR_ZTNA_IDENTITY', 'expired'))))
  await expect(agent().start()).rejects.toMatchObject({ code: 'ERR_ZTNA_IDENTITY', message: 'expired' })
})

test('close during start rejects the start and ends closed', async () => {
  useFake((role) => (role.onStart = async () => {}))
  const a = agent()
  const start = a.start()
  await Promise.all([expect(start).rejects.toMatchObject({ code: 'ERR_ZTNA_CLOSED' }), a.close(), a.close()])
  expect(a.state).toBe('closed')
  await expect(a.start()).rejects.toMatchObject({ code: 'ERR_ZTNA_CLOSED' })
})

test('the death of a role without a listener throws nothing and closes it', async () => {
  const a = await agent().start()
  const closed = new Promise<void>((resolve) => a.on('state', (state) => state === 'closed' && resolve()))
  FakeRole.last.emit({ event: 'error', error: { code: 'ERR_ZTNA_IDENTITY', message: 'taken over from 192.0.2.1' } })
  await closed
  await expect(a.start()).rejects.toMatchObject({ code: 'ERR_ZTNA_IDENTITY' })
})

test('events tells a slow reader what it missed and ends when the role closes', async () => {
  const a = await agent().start()
  const events = a.events({ highWaterMark: 1 })
  FakeRole.last.emit({ event: 'services', added: ['x'], removed: [] })
  FakeRole.last.emit({ event: 'warning', error: { code: 'ERR_ZTNA_UNREACHABLE', message: 'one' } })
  FakeRole.last.emit({ event: 'warning', error: { code: 'ERR_ZTNA_UNREACHABLE', message: 'two' } })
  await a.close()
  const seen: string[] = []
  for await (const { type } of events) seen.push(type)
  expect(seen).toEqual(['warning', 'state'])
})

test('a network that keeps coming updates the running role', async () => {
  const source = (async function* () {
    yield CONTENT
    yield { ...CONTENT, policy: 'permit(principal, action, resource);' }
  })()
  const a = await new ZtnaAgent({ network: source }).start()
  await expect.poll(() => FakeRole.last.calls.filter(([name]) => name === 'update').length).toBe(1)
  await a.close()
})

test('a snapshot that takes the place of another is an event, and no warning', async () => {
  const a = agent()
  await a.start()
  const heard: unknown[] = []
  a.on('reloaded', (result) => heard.push(result)).on('warning', (error) => heard.push(error))
  FakeRole.last.emit({ event: 'reloaded', version: 7 })
  expect(heard).toEqual([{ version: 7, changed: true }])
  await a.close()
})

/** What is asked of a role without waiting, and what native calls it. */
const ASKED = [
  ['status() of an agent', 'status', () => new ZtnaAgent({ network: CONTENT }), (role: ZtnaAgent) => role.status()],
  ['the flows of an agent', 'flows', () => new ZtnaAgent({ network: CONTENT }), (role: ZtnaAgent) => role.status()],
  ['stats() of an agent', 'status', () => new ZtnaAgent({ network: CONTENT }), (role: ZtnaAgent) => role.stats()],
  ['metrics() of an agent', 'metrics', () => new ZtnaAgent({ network: CONTENT }), (role: ZtnaAgent) => role.metrics()],
  ['status() of a connector', 'status', () => new ZtnaConnector({ network: CONTENT }), (role: ZtnaConnector) => role.status()],
  ['stats() of a connector', 'status', () => new ZtnaConnector({ network: CONTENT }), (role: ZtnaConnector) => role.stats()],
  ['status() of a relay', 'status', () => new ZtnaRelay({ network: CONTENT }), (role: ZtnaRelay) => role.status()],
  ['sessions() of a relay', 'status', () => new ZtnaRelay({ network: CONTENT }), (role: ZtnaRelay) => role.sessions()],
] as const

test.each(ASKED)('%s is ERR_ZTNA_CLOSED when only native knows yet that the role has ended', async (_what, name, make, ask) => {
  const role = make() as ZtnaAgent & ZtnaConnector & ZtnaRelay
  await role.start()
  FakeRole.last[name] = () => {
    throw nativeError('ERR_ZTNA_CLOSED', 'the role is not running')
  }
  const closed = { name: 'ZtnaError', code: 'ERR_ZTNA_CLOSED', message: 'the role is not running' }
  expect(() => ask(role)).toThrow(expect.objectContaining(closed))
  await role.close()
})

test('ending a session of a relay that has ended is ERR_ZTNA_CLOSED', async () => {
  const relay = await new ZtnaRelay({ network: CONTENT }).start()
  const session = new Promise<{ kick(): void }>((resolve) => relay.once('session', resolve))
  FakeRole.last.emit({ event: 'session', id: '1', agent: 'alice', connector: 'c1' })
  FakeRole.last.kick = () => {
    throw nativeError('ERR_ZTNA_CLOSED', 'the role is not running')
  }
  const open = await session
  expect(() => open.kick()).toThrow(expect.objectContaining({ name: 'ZtnaError', code: 'ERR_ZTNA_CLOSED' }))
  await relay.close()
})
