import { afterAll, beforeAll, expect, test } from 'vitest'
import { background, curl, tcpClient, tcpServer } from '../lib/peers.ts'
import { nginx } from '../lib/programs.ts'
import { run } from '../lib/proc.ts'
import { Topology } from '../lib/topology.ts'
import type { Netns } from '../lib/netns.ts'

let t: Topology
let stranger: Netns

beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'web', tcp: [80, 81] }] })
  await nginx(t.place('c1'), 8080)
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:9001')
  await t.start(['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001'], ['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81'])
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
  const before = [await link('node1'), await link('node2')]
  await run(stranger, process.execPath, [
    new URL('../fixtures/hostile.mjs', import.meta.url).pathname,
    'short',
    '198.51.100.1:4433',
    '5000',
  ])
  const after = [await link('node1'), await link('node2')]
  // Keep-alives and acknowledgements of the quiet session, nowhere near 5,000.
  for (const [i, count] of after.entries()) expect(count - (before[i] ?? 0)).toBeLessThan(100)
})

test('5,000 flows opened and abandoned leave the connector as able as before', async () => {
  for (let i = 0; i < 5; i += 1) {
    expect(await tcpClient(t.place('alice'), 'echo', '127.0.0.1:8081', 1000, 90_000)).toMatchObject({ same: 1000 })
  }
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

/** Packets that the relay has sent to a node. */
async function link(node: string): Promise<number> {
  const { stdout } = await t.place('r1').run('cat', [`/sys/class/net/${node}/statistics/tx_packets`])
  return Number(stdout)
}
