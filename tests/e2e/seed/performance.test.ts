import { afterAll, beforeAll, expect, test } from 'vitest'
import { tcpClient, tcpServer, udpClient, udpEcho } from '../../lib/peers.ts'
import { until } from '../../lib/programs.ts'
import { Topology } from '../../lib/topology.ts'

const SERVICES = ['echo=udp:7:127.0.0.1:7', 'echo=tcp:7:127.0.0.1:7']
const FORWARDS = ['udp:127.0.0.1:7=echo:7', 'tcp:127.0.0.1:7=echo:7']
let t: Topology

// Progress and bounds only: how fast it is, is a matter of `npm run bench`, for a busy machine must not fail a test.
beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'echo', udp: [7], tcp: [7], icmp: true }] })
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:7')
  await t.start(SERVICES, FORWARDS)
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('1,000 round trips one after another make progress, as they do on bare loopback', async () => {
  for (const place of ['c1', 'alice']) {
    expect(await udpClient(t.place(place), '127.0.0.1:7', { count: 1000, gapMs: 2, timeoutMs: 5_000 })).toMatchObject({
      received: 1000,
      wrong: 0,
    })
  }
})

test('the agent reports a round trip to its relay and its connector', async () => {
  const answer = await t.agents.get('alice')?.ask('ping', 'echo')
  const rttMs = Number(answer?.['rttMs'])
  expect(rttMs).toBeGreaterThan(0)
  expect(rttMs).toBeLessThan(1_000)
})

test('ten rounds of 200 flows leave no process larger than the first rounds did', { timeout: 180_000 }, async () => {
  const roles = [...t.relays.values(), ...t.connectors.values(), ...t.agents.values()]
  const rss = (): number => roles.reduce((sum, { proc }) => sum + proc.rssBytes(), 0)
  const round = async (): Promise<unknown> =>
    expect(await tcpClient(t.place('alice'), 'echo', '127.0.0.1:7', 200)).toMatchObject({ same: 200, again: 200 })
  for (let i = 0; i < 3; i += 1) await round()
  const early = rss()
  for (let i = 0; i < 7; i += 1) await round()
  // 1,400 flows later: less than 16 KB for each of them may remain.
  expect(rss() - early).toBeLessThan(1_400 * 16_384)
})

test('after the agent starts anew its first flow works', async () => {
  await t.agents.get('alice')?.stop()
  await t.agent(FORWARDS).online()
  await until('the echo answers', async () => (await tcpClient(t.place('alice'), 'echo', '127.0.0.1:7', 1))['same'] === 1, 5_000)
})
