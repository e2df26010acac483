import { afterAll, beforeAll, expect, test } from 'vitest'
import { background, curl, tcpClient, tcpServer } from '../lib/peers.ts'
import { nginx } from '../lib/programs.ts'
import { run } from '../lib/proc.ts'
import { Topology } from '../lib/topology.ts'
import type { Netns } from '../lib/netns.ts'

let t: Topology
let stranger: Netns

beforeAll(async () => {
  t = await Topology.create({
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['eng'] },
    ],
    services: [{ name: 'web', tcp: [80, 81, 82] }],
  })
  await nginx(t.place('c1'), 8080)
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:9001')
  await tcpServer(t.place('c1'), 'flood', '127.0.0.1:9002')
  await t.start(
    ['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001', 'web=tcp:82:127.0.0.1:9002'],
    ['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81', 'tcp:127.0.0.1:8082=web:82'],
  )
  // Someone without a certificate, on a leg of the relay's own.
  stranger = await t.lab.netns('stranger')
  await t.lab.veth(
    { netns: stranger, interface: 'eth0', addresses: ['10.99.1.1/24'] },
    { netns: t.place('r1'), interface: 'stranger', addresses: ['10.99.1.2/24'] },
  )
  await t.lab.route(stranger, '198.51.100.1/32', '10.99.1.2')
})
afterAll(() => t?.[Symbol.asyncDispose]())

test.each(['random', 'truncated', 'initials', 'short'])(
  '20,000 %s packets of a stranger crash nothing, cost bounded memory and leave open flows alone',
  async (kind) => {
    const relay = t.relays.get('r1')
    const before = relay?.proc.rssBytes() ?? 0
    const flow = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '4000'])
    const { stdout } = await run(
      stranger,
      process.execPath,
      [new URL('../fixtures/hostile.mjs', import.meta.url).pathname, kind, '198.51.100.1:4433', '20000'],
      { timeoutMs: 60_000 },
    )
    const { sentBytes, receivedBytes } = JSON.parse(stdout) as { sentBytes: number; receivedBytes: number }
    // What comes back (Retry, Version Negotiation, stateless reset) is never more than what went in.
    expect(receivedBytes).toBeLessThanOrEqual(sentBytes)
    expect(JSON.parse((await flow.waitFor(/^\{.*/, { timeoutMs: 30_000 }))[0])).toEqual({ before: true, after: true })
    expect(relay?.proc.exit).toBeUndefined()
    expect((relay?.proc.rssBytes() ?? 0) - before).toBeLessThan(32_000_000)
    expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  },
)

test('packets that look forwarded, from an address the relay does not know, are sent on to nobody', async () => {
  const before = await Promise.all(['node1', 'node2', 'node3'].map(link))
  await run(stranger, process.execPath, [
    new URL('../fixtures/hostile.mjs', import.meta.url).pathname,
    'short',
    '198.51.100.1:4433',
    '5000',
  ])
  const after = await Promise.all(['node1', 'node2', 'node3'].map(link))
  // Keep-alives and acknowledgements of the quiet session, nowhere near 5,000.
  for (const [i, count] of after.entries()) expect(count - (before[i] ?? 0)).toBeLessThan(100)
})

test('5,000 flows opened and abandoned leave the connector as able and as small as before', async () => {
  const connector = t.connectors.get('c1')
  const abandon = (): Promise<unknown> => tcpClient(t.place('alice'), 'echo', '127.0.0.1:8081', 1000, 90_000)
  // The first thousand fill what is kept for the next ones.
  expect(await abandon()).toMatchObject({ same: 1000 })
  const before = connector?.proc.rssBytes() ?? 0
  const other = background(t.place('bob'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '10000'])
  for (let i = 0; i < 4; i += 1) expect(await abandon()).toMatchObject({ same: 1000 })
  expect((connector?.proc.rssBytes() ?? 0) - before).toBeLessThan(24_000_000)
  expect(JSON.parse((await other.waitFor(/^\{.*/, { timeoutMs: 60_000 }))[0])).toEqual({ before: true, after: true })
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

test("64 stalled readers of one agent cost the connector bounded memory, and another agent's flows go on", async () => {
  const connector = t.connectors.get('c1')
  const before = connector?.proc.rssBytes() ?? 0
  const stalled = Array.from({ length: 64 }, () => background(t.place('alice'), 'tcp-client.mjs', ['stall', '127.0.0.1:8082', '15000']))
  await new Promise((resolve) => setTimeout(resolve, 4_000))
  expect((await curl(t.place('bob'), 'http://127.0.0.1:8080/hello', '--max-time', '10')).body).toBe('hello\n')
  expect(await tcpClient(t.place('bob'), 'echo', '127.0.0.1:8081', 50, 30_000)).toMatchObject({ same: 50 })
  // What the connector holds for a reader that does not read is what its stream's window lets out, and the socket's buffers.
  expect((connector?.proc.rssBytes() ?? 0) - before).toBeLessThan(256_000_000)
  await Promise.all(stalled.map((proc) => proc.stop()))
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

/** Packets that the relay has sent to a node. */
async function link(node: string): Promise<number> {
  const { stdout } = await t.place('r1').run('cat', [`/sys/class/net/${node}/statistics/tx_packets`])
  return Number(stdout)
}
