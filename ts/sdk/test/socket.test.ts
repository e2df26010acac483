import { constants } from 'node:os'
import { PassThrough } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, type ZtnaDeniedError, ZtnaError, identityOf, ztnaErrorOf } from '../src/index.js'
import { CONTENT, FakeDatagram, FakeRole, INFO, nativeError, readAll, socketPair, useFake } from './fake-native.js'

let agent: ZtnaAgent
let far: Awaited<ReturnType<typeof socketPair>>['far']

beforeEach(async () => {
  useFake()
  agent = await new ZtnaAgent({ network: CONTENT }).start()
  const pair = await socketPair()
  far = pair.far
  FakeRole.last.onConnect = async () => ({ fd: pair.fd, flow: 11, infoJson: JSON.stringify(INFO) })
})
afterEach(() => agent.close())

test('what is written while connecting arrives, and half close works both ways', async () => {
  const socket = agent.createConnection('db:5432')
  expect(socket.connecting).toBe(true)
  expect(socket.connect(1, 'elsewhere')).toBe(socket)
  socket.end('question')
  expect(await readAll(far)).toBe('question')
  far.end('answer')
  expect(await readAll(socket)).toBe('answer')
})

test('a connected socket shows its peer by getters and by identityOf', async () => {
  const socket = await agent.connect('db')
  expect(socket).toMatchObject({ remoteAddress: 'fd00::7', remotePort: 9, remoteFamily: 'IPv6', service: 'db' })
  expect(identityOf(socket)).toBe(socket.peer)
  FakeRole.last.emit({ event: 'path', connection: 1, peer: 'c1', next: { ...INFO.path, kind: 'direct' }, prev: INFO.path })
  expect(socket.path.kind).toBe('direct')
  socket.destroy()
})

test('a path of another connection to the same peer is not that of the socket', async () => {
  const socket = await agent.connect('db')
  FakeRole.last.emit({ event: 'path', connection: 2, peer: 'c1', next: { ...INFO.path, kind: 'direct' }, prev: INFO.path })
  expect(socket.path.kind).toBe('relay')
  socket.destroy()
})

test('a reset by the peer is an error, and native learns that it has been seen', async () => {
  const socket = await agent.connect('db')
  const failed = new Promise<Error>((resolve) => socket.once('error', resolve))
  FakeRole.last.emit({ event: 'flow-reset', flow: 11, error: { code: 'ERR_ZTNA_STREAM_RESET', message: 'reset' } })
  expect(await failed).toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET', cause: { code: 'ECONNRESET' } })
  await expect.poll(() => FakeRole.last.calls.at(-1)).toEqual(['flowDone', 11])
})

test('a socket from createConnection fails with the codes of TCP for what may pass, and with our error for the rest', async () => {
  const failed = async (code: string, retryable: boolean): Promise<unknown> => {
    const message = JSON.stringify({ code, message: 'why', retryable, details: {} })
    FakeRole.last.onConnect = () => Promise.reject(new Error(message))
    return new Promise((resolve) => agent.createConnection('db').once('error', resolve))
  }
  for (const [code, system] of [
    ['ERR_ZTNA_REFUSED', 'ECONNREFUSED'],
    ['ERR_ZTNA_UNREACHABLE', 'EHOSTUNREACH'],
    ['ERR_ZTNA_TIMEOUT', 'ETIMEDOUT'],
    ['ERR_ZTNA_LIMIT', 'EAGAIN'],
  ] as const) {
    const error = await failed(code, true)
    const errno = -constants.errno[system]
    expect(error).toMatchObject({ code: system, errno, syscall: 'connect', message: `connect ${system}: why`, cause: { code } })
    expect(ztnaErrorOf(error)).toBe((error as Error).cause)
  }
  expect(await failed('ERR_ZTNA_CLOSED', false)).toMatchObject({ code: 'ECONNABORTED', cause: { code: 'ERR_ZTNA_CLOSED' } })
  for (const code of [
    'ERR_ZTNA_DENIED',
    'ERR_ZTNA_ABORTED',
    'ERR_ZTNA_IDENTITY',
    'ERR_ZTNA_CONFIG',
    'ERR_ZTNA_UNREACHABLE',
    'ERR_ZTNA_NATIVE',
  ]) {
    const error = await failed(code, false)
    expect(error).toBeInstanceOf(ZtnaError)
    expect(error).toMatchObject({ code })
  }
})

test('a socket from createConnection that is cut off is reset, whatever cut it', async () => {
  const socket = agent.createConnection('db')
  await new Promise((resolve) => socket.once('connect', resolve))
  const failed = new Promise<unknown>((resolve) => socket.once('error', resolve))
  FakeRole.last.emit({ event: 'flow-reset', flow: 11, error: { code: 'ERR_ZTNA_LIMIT', message: 'too slow' } })
  expect(await failed).toMatchObject({ code: 'ECONNRESET', syscall: 'read', cause: { code: 'ERR_ZTNA_LIMIT' } })
})

test('ztnaErrorOf finds our error among causes that go round, and none where there is none', () => {
  const round = new Error('a')
  round.cause = new Error('b', { cause: round })
  expect(ztnaErrorOf(round)).toBeUndefined()
  for (const none of [undefined, null, 'text', { code: 'ERR_ZTNA_DENIED' }]) expect(ztnaErrorOf(none)).toBeUndefined()
})

test('reset tells native before the descriptor closes', async () => {
  const socket = await agent.connect('db')
  socket.reset()
  expect(FakeRole.last.calls.filter(([name]) => name === 'flowReset')).toEqual([['flowReset', 11]])
  expect(socket.destroyed).toBe(true)
})

test('a denial says who, which policy and a system code', async () => {
  const details = { by: 'connector', decisionId: 'd1', policyId: 'p1' }
  FakeRole.last.onConnect = () => Promise.reject(nativeError('ERR_ZTNA_DENIED', 'no', details))
  const error = await agent.connect('db').catch((e: unknown) => e as ZtnaDeniedError)
  expect(error).toMatchObject({
    code: 'ERR_ZTNA_DENIED',
    by: 'connector',
    decisionId: 'd1',
    policyId: 'p1',
    cause: { code: 'EACCES' },
  })
})

test('aborting a connect cancels the native call', async () => {
  FakeRole.last.onConnect = () => new Promise(() => {})
  const given = new AbortController()
  const connecting = agent.connect({ service: 'db', signal: given.signal })
  given.abort()
  await expect(connecting).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED' })
  expect(FakeRole.last.calls.some(([name]) => name === 'cancel')).toBe(true)
})

test('fetch goes through the tunnel and nowhere else', async () => {
  far.once('data', () => far.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi'))
  expect(await (await agent.fetch('http://db.ztna.internal:5432/')).text()).toBe('hi')
  const error = await agent.fetch('http://example.org/').catch((e: unknown) => e)
  expect(error).toMatchObject({ cause: { code: 'ERR_ZTNA_DENIED' } })
})

test('datagrams come by iteration and by event', async () => {
  const native = new FakeDatagram()
  FakeRole.last.nextDatagram = native
  const udp = await agent.datagram('db')
  native.put('one')
  const iterator = udp[Symbol.asyncIterator]()
  expect(Buffer.from((await iterator.next()).value as Uint8Array).toString()).toBe('one')
  const event = new Promise<Uint8Array>((resolve) => udp.once('message', resolve))
  native.put('two')
  expect(Buffer.from(await event).toString()).toBe('two')
  expect(udp.send(Buffer.from('x'))).toBe(1)
  await udp.close()
  expect(() => udp.send(Buffer.from('x'))).toThrow(/closed/)
})

test('an open socket that nobody uses is let go when the drain begins', async () => {
  const socket = await agent.connect('db')
  let closed = false
  FakeRole.last.close = async () => void (closed = socket.destroyed)
  await agent.close()
  expect(closed).toBe(true)
  expect(socket.errored).toBeNull()
})

test('a socket that was ended, and that nobody reads, closes without an error when its agent closes', async () => {
  const socket = await agent.connect('db')
  const ended: unknown[] = []
  socket.on('error', (error) => ended.push(error)).on('close', (hadError) => ended.push(hadError))
  socket.end('question')
  expect(await readAll(far)).toBe('question')
  await agent.close()
  await expect.poll(() => ended).toEqual([false])
})

test('a drain reads an ended socket to the end of its peer, so that it closes by itself', async () => {
  const socket = (await agent.connect('db')).on('error', () => {})
  FakeRole.last.close = () => new Promise((resolve) => socket.once('close', () => resolve()))
  socket.end('question')
  expect(await readAll(far)).toBe('question')
  far.end('an answer that nobody asked for')
  await agent.close()
  expect(socket.errored).toBeNull()
})

test('a UDP socket is closed as the drain begins', async () => {
  FakeRole.last.nextDatagram = new FakeDatagram()
  const udp = await agent.datagram('db')
  const heard: unknown[] = []
  udp
    .on('message', () => {})
    .on('error', (error) => heard.push(error.code))
    .on('close', () => heard.push('close'))
  let before: unknown
  FakeRole.last.close = async () => {
    // As native's, it takes at least a turn.
    await new Promise((resolve) => setImmediate(resolve))
    before = [...heard]
  }
  await agent.close()
  expect(before).toEqual(['ERR_ZTNA_CLOSED', 'close'])
})

test('a socket in use is left to the drain, and its end by close() needs no error listener', async () => {
  const socket = (await agent.connect('db')).resume()
  let during: boolean | undefined
  FakeRole.last.close = async () => {
    during = socket.destroyed
    FakeRole.last.emit({ event: 'flow-reset', flow: 11, error: { code: 'ERR_ZTNA_CLOSED', message: 'closed: the role has ended' } })
  }
  const ended: string[] = []
  socket.on('end', () => ended.push('end')).on('close', () => ended.push('close'))
  await agent.close()
  expect(during).toBe(false)
  await expect.poll(() => ended).toEqual(['close'])
})

test('who listens, reads or pipes hears that close() ended a socket too early', async () => {
  const socket = await agent.connect('db')
  const reading = (async () => {
    for await (const _ of socket) expect.unreachable()
  })()
  const piped = pipeline(socket, new PassThrough())
  const heard = [reading, piped].map((each) => each.catch((error: unknown) => (error as ZtnaError).code))
  await agent.close()
  for (const code of await Promise.all(heard)) expect(code).toMatch(/^ERR_(ZTNA_CLOSED|STREAM_PREMATURE_CLOSE)$/)
})

test('a socket that is still connecting when its agent closes fails for those who listen', async () => {
  let refuse: (error: Error) => void = () => {}
  FakeRole.last.onConnect = () => new Promise((_, reject) => (refuse = reject))
  const promised = agent.connect('db').catch((error: unknown) => error)
  const role = FakeRole.last
  role.close = async () => refuse(nativeError('ERR_ZTNA_CLOSED', 'closed: the role has ended'))
  await agent.close()
  expect(await promised).toMatchObject({ code: 'ERR_ZTNA_CLOSED' })
})

test('a reset that nobody listens for is an uncaught error while the agent runs', async () => {
  const socket = await agent.connect('db')
  const uncaught = new Promise((resolve) => process.once('uncaughtException', resolve))
  const others = process.listeners('uncaughtException').slice(0, -1)
  for (const other of others) process.off('uncaughtException', other)
  FakeRole.last.emit({ event: 'flow-reset', flow: 11, error: { code: 'ERR_ZTNA_STREAM_RESET', message: 'reset' } })
  expect(await uncaught).toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
  for (const other of others) process.on('uncaughtException', other)
  expect(socket.destroyed).toBe(true)
})
