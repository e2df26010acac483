import { afterAll, beforeAll, expect, test } from 'vitest'
import { client, tcpServer, udpEcho } from '../lib/peers.ts'
import { Topology } from '../lib/topology.ts'

const AGENTS = 50
let t: Topology
const folders: string[] = []

beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'echo', tcp: [7], udp: [7] }] })
  for (let i = 0; i < AGENTS; i += 1) folders.push(await t.trust.issue('agent', `agent-${i}`, { groups: ['eng'] }))
  await t.trust.publish()
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:7')
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  await t.relay().online()
  await t.connector(['echo=tcp:7:127.0.0.1:7', 'echo=udp:7:127.0.0.1:7']).online()
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('50 agents at once get back every byte of their own and none of another', async () => {
  const result = await client(t.place('alice'), 'fifty.mjs', folders, 100_000)
  expect(result).toMatchObject({ agents: AGENTS, bytes: AGENTS * 200_000, foreign: 0 })
  // UDP may lose; that 99 % came back shows that 0 foreign is not 0 of nothing.
  expect(Number(result['datagrams'])).toBeGreaterThan(AGENTS * 20 * 0.99)
})
