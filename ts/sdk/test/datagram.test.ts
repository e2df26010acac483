import { afterEach, beforeEach, expect, test } from 'vitest'
import type { ZtnaAgent, ZtnaUdpSocket } from '../src/index.js'
import { FakeDatagram, FakeRole, openDatagram } from './fake-native.js'

let agent: ZtnaAgent
let native: FakeDatagram
let udp: ZtnaUdpSocket

beforeEach(async () => {
  ;({ agent, native, udp } = await openDatagram())
})
afterEach(() => agent.close())

const text = (message: Uint8Array): string => Buffer.from(message).toString()

test('what waits comes as one batch, by event and by iteration', async () => {
  const batches: string[][] = []
  udp.on('messages', (batch) => batches.push(batch.map(text)))
  native.put('one', '', 'three')
  native.put('four')
  expect(batches).toEqual([['one', '', 'three'], ['four']])
  udp.removeAllListeners('messages')

  native.put('five', 'six')
  const iterator = udp.batches()[Symbol.asyncIterator]()
  expect(((await iterator.next()).value as Uint8Array[]).map(text)).toEqual(['five', 'six'])
  const waiting = iterator.next()
  native.put('seven')
  expect(((await waiting).value as Uint8Array[]).map(text)).toEqual(['seven'])
})

test('the messages of a batch share one buffer, which the next drain leaves alone', () => {
  const seen: Uint8Array[] = []
  udp.on('messages', (batch) => seen.push(...batch))
  native.put('one', 'two')
  native.put('three', 'four')
  expect(seen.map(text)).toEqual(['one', 'two', 'three', 'four'])
  expect(seen[0]?.buffer).toBe(seen[1]?.buffer)
  expect(seen[0]?.buffer).not.toBe(seen[2]?.buffer)
})

test('a message that comes by itself has memory of its own', async () => {
  const single: Uint8Array[] = []
  udp.on('message', (message) => single.push(message))
  native.put('one', 'two')
  udp.removeAllListeners('message')
  native.put('three', 'four')
  for await (const message of udp) {
    single.push(message)
    if (single.length === 4) break
  }
  expect(single.map(text)).toEqual(['one', 'two', 'three', 'four'])
  for (const { buffer, length } of single) expect(buffer.byteLength).toBe(length)
})

test('listeners of both kinds get every message', () => {
  const seen: string[] = []
  udp.on('messages', (batch) => seen.push(batch.map(text).join('+')))
  udp.on('message', (message) => seen.push(text(message)))
  native.put('one', 'two')
  expect(seen).toEqual(['one+two', 'one', 'two'])
})

test('more than a batch holds comes in several, whole and in order', async () => {
  const sizes: number[] = []
  const lengths: number[] = []
  udp.on('messages', (batch) => {
    sizes.push(batch.length)
    lengths.push(...batch.map(({ length }) => length))
  })
  native.put(...Array.from({ length: 3_000 }, (_, n) => 'x'.repeat(n % 1_200)))
  // Two megabytes are a turn of the event loop, and the rest is left to the next.
  await expect.poll(() => lengths.length).toBe(3_000)
  expect(lengths).toEqual(Array.from({ length: 3_000 }, (_, n) => n % 1_200))
  expect(Math.max(...sizes)).toBeGreaterThan(50)
})

test('a listener that closes the socket, or is there once, gets no more', async () => {
  const seen: string[] = []
  udp.once('message', (message) => seen.push(text(message)))
  native.put('one', 'two')
  expect(seen).toEqual(['one'])
  udp.on('message', (message) => {
    seen.push(text(message))
    void udp.close()
  })
  await expect.poll(() => seen).toEqual(['one', 'two'])
  native.put('three')
  expect(seen).toEqual(['one', 'two'])
})

test('a batch reader ends with the socket, and fails with its reset', async () => {
  const waiting = udp.batches()[Symbol.asyncIterator]().next()
  await udp.close()
  expect(await waiting).toEqual({ done: true, value: undefined })

  FakeRole.last.nextDatagram = new FakeDatagram(6)
  const other = await agent.datagram('db')
  const failing = other.batches()[Symbol.asyncIterator]().next()
  FakeRole.last.emit({ event: 'flow-reset', flow: 6, error: { code: 'ERR_ZTNA_STREAM_RESET', message: 'reset' } })
  await expect(failing).rejects.toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
})

test('a flow that the peer closes ends without an error, after what it had sent', async () => {
  const seen: string[] = []
  udp.on('message', (message) => seen.push(text(message)))
  udp.on('error', () => seen.push('error'))
  udp.on('close', () => seen.push('close'))
  native.put('last')
  FakeRole.last.emit({ event: 'flow-end', flow: 5 })
  await expect.poll(() => seen).toEqual(['last', 'close'])
  expect(native.closed).toBe(true)
  expect(() => udp.send(Buffer.from('more'))).toThrow(/the peer has closed/)
})

test('a reader of a flow that the peer has closed gets what waited, and then the end', async () => {
  const reader = udp[Symbol.asyncIterator]()
  native.put('one', 'two')
  FakeRole.last.emit({ event: 'flow-end', flow: 5 })
  const seen: string[] = []
  for (let next = await reader.next(); next.done !== true; next = await reader.next()) seen.push(text(next.value))
  expect(seen).toEqual(['one', 'two'])
})

test('leaving a loop over batches closes the socket', async () => {
  native.put('one')
  for await (const batch of udp.batches()) {
    expect(batch.map(text)).toEqual(['one'])
    break
  }
  expect(native.closed).toBe(true)
})

test('many messages are sent by one call', () => {
  expect(udp.send(Array.from({ length: 500 }, (_, n) => Buffer.from(`${n}`)))).toBe(500)
  expect(native.sends).toBe(1)
  expect(udp.send([])).toBe(0)
  expect(udp.drops).toEqual({ tooLarge: 0, sendQueue: 0, underway: 0 })
})

test('what is lost is counted by cause, and all of it together', () => {
  const small = Buffer.from('small')
  expect(udp.send([small, Buffer.alloc(1_201), small])).toBe(1)
  expect(udp.drops).toEqual({ tooLarge: 2, sendQueue: 0, underway: 0 })
  native.room = 2
  expect(udp.send([small, small, small, small, small])).toBe(2)
  // Lost in native's queues afterwards.
  native.lost += 7
  expect(udp.drops).toEqual({ tooLarge: 2, sendQueue: 3, underway: 7 })
  expect(udp.dropped).toBe(12)
})
