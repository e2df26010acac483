import { inspect } from 'node:util'
import { beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, ZtnaError } from '../src/index.js'
import { Recorder, recentOf } from '../src/recorder.js'
import { CONTENT, FakeRole, INFO, PATH, PEER, nativeError, socketPair, useFake } from './fake-native.js'

beforeEach(() => useFake())

test('a role remembers decisions, path changes and warnings, oldest first', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const pair = await socketPair()
  FakeRole.last.onConnect = async () => ({ fd: pair.fd, flow: 11, infoJson: JSON.stringify(INFO) })
  const socket = await agent.connect('db:5432')
  FakeRole.last.emit({ event: 'path', connection: 1, peer: 'c1', next: { ...PATH, kind: 'direct' }, prev: PATH })
  const details = {
    by: 'connector',
    reason: 'no policy permits',
    decisionId: 'd1',
    policyId: null,
    service: 'db',
    port: 1,
    protocol: 'tcp',
  }
  FakeRole.last.emit({ event: 'denied', error: { code: 'ERR_ZTNA_DENIED', message: 'denied', details }, peer: null })
  const failed = { code: 'ERR_ZTNA_UNREACHABLE', message: 'silent', details: { reason: 'silent' } }
  FakeRole.last.emit({ event: 'flow-failed', id: 'f1', peer: null, service: 'db', port: 5432, protocol: 'tcp', error: failed })
  FakeRole.last.emit({ event: 'reloaded', version: 7 })
  FakeRole.last.emit({ event: 'warning', error: { code: 'ERR_ZTNA_LIMIT', message: 'full' } })
  const at = expect.any(Date) as Date
  expect(agent.recent()).toEqual([
    { at, event: 'state', next: 'starting', prev: 'new' },
    { at, event: 'state', next: 'online', prev: 'starting' },
    { at, event: 'permitted', service: 'db', port: 5432, protocol: 'tcp', peer: 'c1', path: 'relay' },
    { at, event: 'path', peer: 'c1', next: 'direct', prev: 'relay' },
    { at, event: 'denied', by: 'connector', decisionId: 'd1', service: 'db', port: 1, protocol: 'tcp' },
    { at, event: 'flow-failed', id: 'f1', service: 'db', port: 5432, protocol: 'tcp', code: 'ERR_ZTNA_UNREACHABLE', reason: 'silent' },
    { at, event: 'reloaded', version: 7 },
    { at, event: 'warning', code: 'ERR_ZTNA_LIMIT' },
  ])
  socket.destroy()
})

test('a connector remembers who was let in, and who was not', async () => {
  await using connector = await new ZtnaConnector({ network: CONTENT }).start()
  FakeRole.last.emit({ event: 'flow', id: 'f2', peer: PEER, service: 'db', protocol: 'udp' })
  const details = { by: 'connector', reason: 'forbidden by `p`', decisionId: 'd2', policyId: 'p', service: 'db' }
  FakeRole.last.emit({ event: 'denied', error: { code: 'ERR_ZTNA_DENIED', message: 'denied', details }, peer: PEER })
  const at = expect.any(Date) as Date
  expect(connector.recent().slice(-2)).toEqual([
    { at, event: 'flow', id: 'f2', peer: 'c1', service: 'db', protocol: 'udp' },
    { at, event: 'denied', by: 'connector', decisionId: 'd2', policyId: 'p', peer: 'c1', service: 'db' },
  ])
})

test('an error shows what had happened when it was thrown, although the role has gone on', async () => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  FakeRole.last.emit({ event: 'reloaded', version: 1 })
  const error = await agent.connect('db').catch((e: unknown) => e as ZtnaError)
  for (let version = 2; version < 600; version++) FakeRole.last.emit({ event: 'reloaded', version })
  await agent.close()
  expect(error).toBeInstanceOf(ZtnaError)
  const { details } = error as ZtnaError
  expect(details.recent?.map(({ event }) => event)).toEqual(['state', 'state', 'reloaded'])
  expect(details.recent).toBe(details.recent)
})

test.each([
  ['ping', (agent: ZtnaAgent) => agent.ping('db')],
  ['datagram', (agent: ZtnaAgent) => agent.datagram('db')],
  ['check', (agent: ZtnaAgent) => agent.check('db')],
  ['explain', (agent: ZtnaAgent) => agent.explain('db')],
  ['forward', (agent: ZtnaAgent) => agent.forward({ service: 'db', listen: {} })],
  ['reload', (agent: ZtnaAgent) => agent.reload()],
  ['start', (agent: ZtnaAgent) => agent.start()],
  ['connect', (agent: ZtnaAgent) => agent.connect('db')],
])('an error of %s has details.recent', async (_name, call) => {
  const agent = await new ZtnaAgent({ network: CONTENT }).start()
  await agent.close()
  await expect(call(agent)).rejects.toMatchObject({ code: 'ERR_ZTNA_CLOSED', details: { recent: { length: 4 } } })
})

test('logs of an error are not filled with what is remembered', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const error = (await agent.connect('db').catch((e: unknown) => e)) as ZtnaError
  expect(error.details.recent).toHaveLength(2)
  expect(JSON.stringify(error)).not.toContain('recent')
  expect(inspect(error, { depth: 9 })).not.toContain('starting')
})

test('256 events are remembered and no more, however many come', () => {
  const recorder = new Recorder()
  for (let version = 1; version <= 10_000; version++) recorder.record({ event: 'reloaded', version })
  const versions = recorder.list().map((entry) => (entry.event === 'reloaded' ? entry.version : 0))
  expect(versions).toEqual(Array.from({ length: 256 }, (_, at) => 10_000 - 255 + at))
})

test('what an error remembers is bounded, and shared with its neighbours', () => {
  const recorder = new Recorder()
  for (let version = 1; version <= 300; version++) recorder.record({ event: 'reloaded', version })
  const [one, two] = [recorder.mark(new ZtnaError('ERR_ZTNA_LIMIT', 'a')), recorder.mark(new ZtnaError('ERR_ZTNA_LIMIT', 'b'))]
  expect(recentOf(one)).toHaveLength(256)
  expect(recentOf(one)?.every((entry, at) => entry === recentOf(two)?.[at])).toBe(true)
})

test('texts that a peer chooses are cut to what a name needs', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const details = { by: 'connector', policyId: 'p'.repeat(10_000), decisionId: 'd1' }
  FakeRole.last.emit({ event: 'denied', error: { code: 'ERR_ZTNA_DENIED', message: 'no', details } })
  expect(agent.recent().at(-1)).toMatchObject({ policyId: 'p'.repeat(128) })
})

test('what was asked for is among the details of what failed', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const tried = ['relay r1: no answer']
  FakeRole.last.onConnect = () => Promise.reject(nativeError('ERR_ZTNA_UNREACHABLE', 'no', { reason: 'udp-blocked', tried }))
  await expect(agent.connect('db:5432')).rejects.toMatchObject({
    details: { service: 'db', port: 5432, protocol: 'tcp', reason: 'udp-blocked', tried },
  })
})

test('prose is not remembered: it may quote a policy', async () => {
  await using agent = await new ZtnaAgent({ network: CONTENT }).start()
  const error = {
    code: 'ERR_ZTNA_CONFIG',
    message: 'policy.cedar:3: permit(secret)',
    details: { at: 'policy.cedar:3', reason: 'permit(secret)' },
  }
  FakeRole.last.emit({ event: 'warning', error })
  expect(JSON.stringify(agent.recent())).not.toContain('secret')
})
