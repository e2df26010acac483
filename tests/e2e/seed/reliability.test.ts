import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../lib/proc.ts'
import { background, tcpClient, udpClient, udpEcho } from '../../lib/peers.ts'
import { sooner, until } from '../../lib/programs.ts'
import { Topology } from '../../lib/topology.ts'
import { startRole } from '../../lib/ztna.ts'

const SERVICES = ['echo=udp:7:127.0.0.1:7', 'echo=tcp:9:127.0.0.1:9']
const FORWARDS = ['udp:127.0.0.1:7=echo:7', 'tcp:127.0.0.1:9=echo:9', 'tcp:127.0.0.1:10=nowhere:10']
let t: Topology
const echoes = async (): Promise<boolean> =>
  (await udpClient(t.place('alice'), '127.0.0.1:7', { count: 3, timeoutMs: 1_000 })).received === 3

beforeAll(async () => {
  t = await Topology.create({
    services: [
      { name: 'echo', udp: [7], tcp: [9] },
      { name: 'nowhere', tcp: [10] },
    ],
    wire: { agent: { seed: 3 } },
  })
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  await t.start(SERVICES, FORWARDS)
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('after a restart of the relay the echo answers again', async () => {
  expect(await echoes()).toBe(true)
  await t.relays.get('r1')?.stop()
  await t.relay().online()
  await until('the echo answers', echoes, 30_000)
})

test('after a restart of the connector the echo answers again', async () => {
  await t.connectors.get('c1')?.stop()
  await t.connector(SERVICES).online()
  await until('the echo answers', echoes, 30_000)
})

test('a client whose packets flow while the relay restarts gets answers again on the same socket', async () => {
  const options = JSON.stringify({ count: 100, gapMs: 200, tag: 'through', timeoutMs: 2_000 })
  const flow = background(t.place('alice'), 'udp.mjs', ['send', '127.0.0.1:7', options])
  await new Promise((resolve) => setTimeout(resolve, 2_000))
  await t.relays.get('r1')?.proc.stop('SIGKILL')
  await t.relay().online()
  const result = JSON.parse((await flow.waitFor(/^\{.*/, { timeoutMs: 60_000 }))[0]) as { received: number; wrong: number }
  expect(result.wrong).toBe(0)
  // 20 s of packets, at most 10 s of back-off and the restart lost.
  expect(result.received).toBeGreaterThan(25)
  await until('the echo answers', echoes, 30_000)
})

test.each([
  ['a service nobody serves', 10],
  ['a dead port', 9],
])('%s resets the client at once', async (_, port) => {
  // 10 s: what a connect may take.
  const seen = await sooner(10_000, tcpClient(t.place('alice'), 'events', `127.0.0.1:${port}`))
  expect(seen).toEqual({ events: ['ECONNRESET'], closed: true })
})

test('an unknown service is refused when the agent starts', async () => {
  const { proc } = startRole(t.lab, t.place('alice'), 'agent', 'alice', t.trust.out('agent', 'alice'), [
    '--forward',
    'tcp:127.0.0.1:11=unheard-of:80',
  ])
  expect((await proc.exited).code).toBe(78)
  expect(proc.output).toContain('unheard-of')
})

test('a wrong certificate path ends with 78 and names it', async () => {
  const { proc } = startRole(t.lab, t.place('alice'), 'agent', 'alice', `${t.lab.dir}/no/such/folder`)
  expect((await proc.exited).code).toBe(78)
  expect(proc.output).toContain('no/such/folder')
})

test('five quick restarts of the agent leave it working', async () => {
  for (let i = 0; i < 5; i += 1) {
    await t.agents.get('alice')?.proc.stop('SIGKILL')
    await t.agent(FORWARDS).online()
  }
  await until('the echo answers', echoes, 30_000)
})

test('with 5 % loss nine datagrams in ten come back, with reorder all of them, none changed', async () => {
  const wire = t.wires.get('alice r1')
  await wire?.set('both', { loss: '5%' })
  const lossy = await udpClient(t.place('alice'), '127.0.0.1:7', { count: 300, gapMs: 5, timeoutMs: 1_500 })
  expect(lossy.wrong).toBe(0)
  expect(lossy.received / lossy.sent).toBeGreaterThan(0.82)
  expect((await wire?.stats())?.aToB.lost.random).toBeGreaterThan(0)
  await wire?.set('both', { loss: '0', reorder: '20%' })
  const shuffled = await udpClient(t.place('alice'), '127.0.0.1:7', { count: 300, gapMs: 2 })
  await wire?.set('both', { reorder: '0' })
  expect(shuffled).toMatchObject({ sent: 300, received: 300, wrong: 0 })
  expect((await wire?.stats())?.aToB.reordered).toBeGreaterThan(0)
})

test("a NAT that rebinds the agent's address costs the flow nothing lasting", async () => {
  // Source translation at the agent's own edge; another port range takes over while the flow is open.
  const nat = (ports: string): Promise<unknown> =>
    run(t.place('alice'), 'nft', ['-f', '-'], {
      input: `table ip nat {}\nflush table ip nat\ntable ip nat {\nchain post {\ntype nat hook postrouting priority srcnat;\nip daddr 198.51.100.0/24 udp dport 4433 masquerade to :${ports}\n}\n}\n`,
    })
  await nat('20000-24999')
  const flow = background(t.place('alice'), 'udp.mjs', ['send', '127.0.0.1:7', JSON.stringify({ count: 60, gapMs: 200, timeoutMs: 2_000 })])
  await new Promise((resolve) => setTimeout(resolve, 3_000))
  await nat('30000-34999')
  // Masquerading forgets its mappings when the interface goes down.
  const name = t.place('alice').name
  await run(null, 'ip', ['-n', name, 'link', 'set', 'eth1', 'down'])
  await run(null, 'ip', ['-n', name, 'link', 'set', 'eth1', 'up'])
  await run(null, 'ip', ['-n', name, 'route', 'replace', '198.51.100.1/32', 'via', '10.1.1.2'])
  const result = JSON.parse((await flow.waitFor(/^\{.*/, { timeoutMs: 60_000 }))[0]) as { received: number; wrong: number }
  expect(result.wrong).toBe(0)
  expect(result.received).toBeGreaterThan(40)
})
