import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { udpClient, udpEcho, type UdpOptions, type UdpResult } from '../../lib/peers.ts'
import { Topology } from '../../lib/topology.ts'

let t: Topology
const send = (o: UdpOptions, agent = 'alice'): Promise<UdpResult> => udpClient(t.place(agent), '127.0.0.1:7', o)

beforeAll(async () => {
  t = await Topology.create({
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['eng'] },
    ],
    services: [{ name: 'echo', udp: [7] }],
  })
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  await t.start(['echo=udp:7:127.0.0.1:7'], ['udp:127.0.0.1:7=echo:7'])
})
afterAll(() => t?.[Symbol.asyncDispose]())

test.each([
  ['zeros', Buffer.alloc(500)],
  ['ones', Buffer.alloc(500, 0xff)],
  ['a sequence', Buffer.from(Array.from({ length: 500 }, (_, i) => i % 256))],
  ['random bytes', randomBytes(500)],
])('the echo of %s is the same to the byte', async (_, payload) => {
  expect(await send({ payloads: [payload.toString('hex')] })).toMatchObject({ sent: 1, received: 1, wrong: 0 })
})

test('5 repeats of one payload come back 5 times', async () => {
  expect(await send({ payloads: Array.from({ length: 5 }, () => 'abcd'), gapMs: 10 })).toMatchObject({ received: 5, wrong: 0 })
})

test('3 clients at the same time each get their own', async () => {
  const results = await Promise.all(['a', 'b', 'c'].map((tag) => send({ tag, count: 100, gapMs: 5 })))
  for (const result of results) expect(result).toMatchObject({ sent: 100, received: 100, wrong: 0 })
})

test('clients of two agents see nothing of each other', async () => {
  const [a, b] = await Promise.all([send({ tag: 'alice', count: 100, gapMs: 5 }), send({ tag: 'bob', count: 100, gapMs: 5 }, 'bob')])
  expect([a, b]).toEqual([
    { sent: 100, received: 100, wrong: 0, first: 100 },
    { sent: 100, received: 100, wrong: 0, first: 100 },
  ])
})

test('10 packets in 500 ms all come back', async () => {
  expect(await send({ count: 10, gapMs: 50 })).toMatchObject({ received: 10, wrong: 0 })
})

test('a burst of 50 all comes back', async () => {
  expect(await send({ count: 50 })).toMatchObject({ received: 50, wrong: 0 })
})

test.each([5_000, 35_000])('the same flow answers after %i ms of silence', async (idleMs) => {
  expect(await send({ count: 3, gapMs: 10, idleMs })).toMatchObject({ sent: 6, first: 3, received: 6, wrong: 0 })
})
