import { Socket, type RemoteInfo } from 'node:dgram'
import { EventEmitter, once } from 'node:events'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { ZtnaAgent, ZtnaUdpSocket } from '../src/index.js'
import { FakeDatagram, FakeRole, PEER, openDatagram } from './fake-native.js'

// The service `db` at port 5432, whose virtual address is fd00::7.
let agent: ZtnaAgent
let native: FakeDatagram
let udp: ZtnaUdpSocket
let socket: Socket

beforeEach(async () => {
  ;({ agent, native, udp } = await openDatagram())
  socket = udp.asDgramSocket()
})
afterEach(() => agent.close())

/** A socket as a handler of the service has it, whose peer is an agent. */
async function atService(): Promise<{ socket: Socket; native: FakeDatagram }> {
  const incoming = new FakeDatagram(6, { peer: { ...PEER, id: 'spiffe://example.test/agent/alice', role: 'agent', name: 'alice' } })
  FakeRole.last.nextDatagram = incoming
  return { socket: (await agent.datagram('db')).asDgramSocket(), native: incoming }
}
const sent = (): string[] => native.sent.map((each) => Buffer.from(each).toString())
const result = (...args: unknown[]): Promise<[Error | null, number]> =>
  new Promise((resolve) =>
    (socket.send as (...all: unknown[]) => void)(...args, (error: Error | null, bytes: number) => resolve([error, bytes])),
  )

test('it is a socket of node:dgram to those who ask, and the same at every call', () => {
  expect(socket).toBeInstanceOf(Socket)
  expect(socket).toBeInstanceOf(EventEmitter)
  expect(udp.asDgramSocket()).toBe(socket)
})

test('no method of node:dgram is left to work on a socket of the kernel', () => {
  const missing: string[] = []
  for (const name of Object.getOwnPropertyNames(Socket.prototype)) {
    const inherited = Object.getOwnPropertyDescriptor(Socket.prototype, name)?.value as unknown
    if (name.startsWith('_') || name === 'constructor' || typeof inherited !== 'function') continue
    if ((socket as unknown as Record<string, unknown>)[name] === inherited) missing.push(name)
  }
  expect(missing).toEqual([])
})

test('binds and connects at once, as sockets of Node 24 can', () => {
  const newer = socket as unknown as { bindSync(): unknown; connectSync(port: number, address: string): void }
  expect(newer.bindSync()).toEqual(socket.address())
  newer.connectSync(5432, 'fd00::7')
  expect(socket.remoteAddress()).toMatchObject({ address: 'fd00::7', port: 5432 })
  expect(() => newer.bindSync()).toThrow('bound')
})

test('messages come as Buffers, with the service and its port as sender', () => {
  const seen: [string, RemoteInfo][] = []
  socket.on('message', (message, from) => seen.push([message.toString(), from]))
  native.put('one', 'three')
  const from = { address: 'fd00::7', family: 'IPv6', port: 5432 }
  expect(seen).toEqual([
    ['one', { ...from, size: 3 }],
    ['three', { ...from, size: 5 }],
  ])
})

test('messages wait for a listener, and for one that comes back', async () => {
  native.put('one')
  expect(String((await once(socket, 'message'))[0])).toBe('one')
  native.put('two')
  const seen: string[] = []
  socket.on('message', (message) => seen.push(String(message))).on('message', () => {})
  await expect.poll(() => seen).toEqual(['two'])
})

test('every form of send reaches the peer', async () => {
  const bytes = Buffer.from('0123456789')
  socket.send('text', 5432)
  socket.send(bytes, 5432, 'fd00::7')
  socket.send(bytes, 2, 3, 5432, 'db')
  socket.send(new Uint16Array([0x4241]), 5432, 'db.ztna.internal')
  socket.send(['a', bytes.subarray(0, 2), 'z'], 5432)
  expect(await result(bytes, 0, 4, '5432', 'DB.')).toEqual([null, 4])
  expect(await result(bytes, 5432)).toEqual([null, 10])
  expect(await result(Buffer.alloc(0), 5432, undefined)).toEqual([null, 0])
  socket.connect(5432, 'fd00::7')
  socket.send(bytes)
  socket.send(bytes, 9, 1)
  expect(await result(bytes, 1, 2)).toEqual([null, 2])
  const all = '0123456789'
  expect(sent()).toEqual(['text', all, '234', 'AB', 'a01z', '0123', all, '', all, '9', '12'])
})

test.each([
  ['another host', ['x', 5432, '192.0.2.1']],
  ['another service', ['x', 5432, 'dbs']],
  ['a host that only ends like the service', ['x', 5432, 'evil.db']],
  ['this machine', ['x', 5432, '127.0.0.1']],
  ['another port', ['x', 53, 'db']],
  ['no port', ['x', '']],
  ['port 0', ['x', 0]],
  ['a part beyond the end', [Buffer.alloc(4), 2, 3, 5432]],
  ['a part from before the beginning', [Buffer.alloc(4), -1, 3, 5432]],
  ['no message', [undefined, 5432]],
  ['a number', [7, 5432]],
])('send to %s throws, and says what is accepted', (_, args) => {
  const send = (): unknown => (socket.send as (...all: unknown[]) => unknown)(...args)
  expect(send).toThrow(expect.objectContaining({ code: 'ERR_ZTNA_CONFIG', message: expect.stringMatching(/is not accepted; accepted: /) }))
  expect(native.sent).toEqual([])
})

test('a service answers the address that a message came from, and no other', async () => {
  const { socket: server, native: incoming } = await atService()
  server.on('message', (message, from) => server.send(message, from.port, from.address))
  incoming.put('hello')
  expect(incoming.sent.map(String)).toEqual(['hello'])
  expect(server.address()).toEqual({ address: '::', family: 'IPv6', port: 5432 })
  expect(() => server.send('x', 9, 'db')).toThrow(/destination: "send db port 9" is not accepted; accepted: fd00::7 at port 9/)
  expect(() => server.send('x', 5432, 'fd00::7')).toThrow(/accepted: fd00::7 at port 9/)
})

test('bind tells that it listens, once', async () => {
  const heard: string[] = []
  socket.on('listening', () => heard.push('event'))
  expect(socket.bind(0, () => heard.push('callback'))).toBe(socket)
  expect(heard).toEqual([])
  await expect.poll(() => heard).toEqual(['event', 'callback'])
  expect(() => socket.bind()).toThrow(expect.objectContaining({ code: 'ERR_SOCKET_ALREADY_BOUND' }))
  expect(socket.address()).toEqual({ address: '::', family: 'IPv6', port: 9 })
})

test('connect, remoteAddress and disconnect are those of node:dgram', async () => {
  expect(() => socket.remoteAddress()).toThrow(expect.objectContaining({ code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED' }))
  expect(() => socket.disconnect()).toThrow(expect.objectContaining({ code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED' }))
  expect(() => socket.connect(80)).toThrow(/"connect port 80" is not accepted/)
  await new Promise<void>((resolve) => socket.connect(5432, 'db', resolve))
  expect(socket.remoteAddress()).toEqual({ address: 'fd00::7', family: 'IPv6', port: 5432 })
  for (const twice of [() => socket.connect(5432), () => socket.send('x', 5432)])
    expect(twice).toThrow(expect.objectContaining({ code: 'ERR_SOCKET_DGRAM_IS_CONNECTED' }))
  socket.disconnect()
  socket.send('x', 5432)
  expect(sent()).toEqual(['x'])
})

test('a message that is too large is EMSGSIZE, by the callback or as an error, and counted', async () => {
  const large = Buffer.alloc(1_201)
  expect(await result(large, 5432)).toMatchObject([
    { code: 'EMSGSIZE', syscall: 'send', message: expect.stringContaining('takes 1200') },
    0,
  ])
  socket.send(large, 5432)
  expect(await once(socket as EventEmitter, 'error').catch((error: unknown) => error)).toMatchObject([{ code: 'EMSGSIZE' }])
  expect(udp.drops.tooLarge).toBe(2)
})

test('a full queue is ENOBUFS by the callback, and without one only counted', async () => {
  native.room = 0
  expect(await result('x', 5432)).toMatchObject([{ code: 'ENOBUFS' }, 0])
  socket.send('x', 5432)
  await new Promise((resolve) => setImmediate(resolve))
  expect(udp.drops.sendQueue).toBe(2)
})

test('close ends the flow and tells so; what comes after throws as in node:dgram', async () => {
  const heard: string[] = []
  socket.on('close', () => heard.push('event')).close(() => heard.push('callback'))
  await expect.poll(() => heard).toEqual(['event', 'callback'])
  expect(native.closed).toBe(true)
  for (const late of [() => socket.close(), () => socket.send('x', 5432), () => socket.bind(), () => socket.address()])
    expect(late).toThrow(expect.objectContaining({ code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' }))
  await socket[Symbol.asyncDispose]()
})

const reset = (): void => FakeRole.last.emit({ event: 'flow-reset', flow: 5, error: { code: 'ERR_ZTNA_STREAM_RESET', message: 'reset' } })

test('a reset of the flow is for a connected socket an error of the system and a close, after which neither send nor close throws', async () => {
  const heard: unknown[] = []
  socket.on('error', (error) => heard.push(error)).on('close', () => heard.push('close'))
  socket.connect(5432)
  reset()
  expect(await result('x')).toMatchObject([{ code: 'ECONNRESET' }, 0])
  expect(heard).toMatchObject([{ code: 'ECONNRESET', cause: { code: 'ERR_ZTNA_STREAM_RESET' } }, 'close'])
  expect(await result('x')).toMatchObject([{ code: 'ECONNRESET' }, 0])
  socket.send('x')
  await new Promise<void>((resolve) => socket.close(resolve))
})

test('a reset is a close alone for a socket that is not connected, whoever listens, and for one where nobody does', async () => {
  const heard: unknown[] = []
  socket.on('error', (error) => heard.push(error)).on('close', () => heard.push('close'))
  reset()
  await expect.poll(() => heard).toEqual(['close'])

  FakeRole.last.nextDatagram = new FakeDatagram()
  const other = (await agent.datagram('db')).asDgramSocket()
  other.connect(5432)
  other.on('close', () => heard.push('close of the other'))
  reset()
  await expect.poll(() => heard).toEqual(['close', 'close of the other'])
})

test('an async listener that rejects ends its flow alone', async () => {
  const rejecting: () => unknown = () => Promise.reject(new Error('no'))
  socket.on('message', rejecting)
  const failed = once(socket as EventEmitter, 'error')
  native.put('one')
  expect(await failed).toMatchObject([{ code: 'ECONNRESET', cause: { cause: { message: 'no' } } }])
  expect(native.closed).toBe(true)
})

test('what tunes a socket is harmless, and groups are refused', () => {
  socket.setBroadcast(true)
  socket.setRecvBufferSize(1 << 20)
  socket.setSendBufferSize(1 << 20)
  expect([socket.setTTL(64), socket.setMulticastTTL(1), socket.setMulticastLoopback(true)]).toEqual([64, 1, true])
  expect(() => socket.setTTL(256)).toThrow(/setTTL: 256 is not accepted/)
  expect(socket.getRecvBufferSize()).toBeGreaterThan(1_000_000)
  expect(socket.getSendBufferSize()).toBeGreaterThan(1_000_000)
  expect([socket.getSendQueueSize(), socket.getSendQueueCount()]).toEqual([0, 0])
  expect(socket.ref().unref()).toBe(socket)
  for (const join of [
    () => socket.addMembership('224.0.0.1'),
    () => socket.dropMembership('224.0.0.1'),
    () => socket.addSourceSpecificMembership('192.0.2.1', '232.0.0.1'),
    () => socket.dropSourceSpecificMembership('192.0.2.1', '232.0.0.1'),
    () => socket.setMulticastInterface('::%eth0'),
  ])
    expect(join).toThrow(expect.objectContaining({ code: 'ENOPROTOOPT' }))
})
