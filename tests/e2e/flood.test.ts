import { afterAll, beforeAll, expect, test } from 'vitest'
import { flood, outside, SPOOFED } from '../lib/load.ts'
import type { Netns } from '../lib/netns.ts'
import { background, curl, tcpServer } from '../lib/peers.ts'
import { nginx } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

/** IPv4 packet of one spoofed Initial, bytes. */
const INITIAL = 1_228
/** What a relay answers a second (docs/protocol.md, Limits). */
const RETRIES = 5_000

let t: Topology
let strangers: Netns

beforeAll(async () => {
  const groups = ['eng']
  t = await Topology.create({
    services: [{ name: 'web', tcp: [80, 81] }],
    agents: [
      { name: 'alice', groups },
      { name: 'bob', groups },
    ],
  })
  await nginx(t.place('c1'), 8080)
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:9001')
  await t.relay().online()
  await t.connector(['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001']).online()
  await t.agent(['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81'], 'alice').online()
  strangers = await outside(t)
  // What reaches those whose addresses were forged: Retry packets (long header, type 3: RFC 9000 section 17.2.5), and all else.
  await strangers.run('nft', [
    `add table ip third
     add counter ip third retries
     add counter ip third others
     add chain ip third in { type filter hook prerouting priority raw; }
     add rule ip third in ip daddr ${SPOOFED} udp sport 4433 @th,64,4 0xf counter name retries drop
     add rule ip third in ip daddr ${SPOOFED} counter name others drop`,
  ])
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('100,000 spoofed Initials a second for 10 s cost bounded memory, cut no flow, send third parties little, and keep nobody out afterwards', async () => {
  const relay = t.relays.get('r1')
  const before = relay?.proc.rssBytes() ?? Number.NaN
  const flow = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '12000'])
  const flooding = flood(strangers, `${t.relayAddress('r1')}:4433`, { rate: 100_000, seconds: 10 })
  await new Promise((resolve) => setTimeout(resolve, 4_000))
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  const { sent, seconds } = await flooding
  // Whatever else runs on this machine, it was a flood.
  expect(sent).toBeGreaterThan(200_000)

  expect(JSON.parse((await flow.waitFor(/^\{.*/, { timeoutMs: 30_000 }))[0])).toEqual({ before: true, after: true })
  expect(relay?.proc.exit).toBeUndefined()
  expect((relay?.proc.rssBytes() ?? Number.NaN) - before).toBeLessThan(32_000_000)

  const [retries, others] = [await counter('retries'), await counter('others')]
  expect(others).toEqual({ packets: 0, bytes: 0 })
  expect(retries.packets).toBeGreaterThan(0)
  expect(retries.packets).toBeLessThanOrEqual(RETRIES * (seconds + 2))
  expect(retries.bytes).toBeLessThan((retries.packets * INITIAL) / 4)

  await t.agent(['tcp:127.0.0.1:8080=web:80'], 'bob').online()
  expect((await curl(t.place('bob'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
}, 120_000)

async function counter(name: string): Promise<{ packets: number; bytes: number }> {
  const { stdout } = await strangers.run('nft', ['-j', 'list', 'counter', 'ip', 'third', name])
  const { nftables } = JSON.parse(stdout) as { nftables: { counter?: { packets: number; bytes: number } }[] }
  const found = nftables.find((entry) => entry.counter !== undefined)?.counter
  if (!found) throw new Error(`nft lists no counter ${name}: ${stdout}`)
  return { packets: found.packets, bytes: found.bytes }
}
