import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { client } from '../lib/peers.ts'
import { dnsmasq } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

// Libraries that speak UDP, in a process that has no route to the server.
const EXAMPLE = 'dgram.mjs'
let t: Topology
let alice: Netns

beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'dns', udp: [53] }] })
  alice = t.place('alice')
  await dnsmasq(t.place('c1'), 5353)
  await t.relay().online()
  await t.connector(['dns=udp:53:127.0.0.1:5353']).online()
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('packets of dns2 pass through a dgram socket of ours, and its client through a forward', async () => {
  expect(await client(alice, './datagrams.mjs', [t.trust.out('agent', 'alice')])).toEqual({
    id: 4711,
    addresses: ['192.0.2.9'],
    sender: { isPeer: true, port: 53, size: true },
    forwarded: Array.from({ length: 200 }, (_, n) => `192.0.2.${n}`),
  })
})

test('dns-socket asks a real DNS server through a dgram socket of ours', async () => {
  const example = fileURLToPath(new URL(`../../ts/examples/${EXAMPLE}`, import.meta.url))
  const env = { ZTNA_NETWORK: t.trust.out('agent', 'alice') }
  for (const [name, address] of [
    ['h7.test', '192.0.2.7'],
    ['h300.test', '192.0.2.44'],
  ] as const) {
    expect((await alice.run(process.execPath, [example, name], { env, timeoutMs: 30_000 })).stdout).toBe(`${address}\n`)
  }
})
