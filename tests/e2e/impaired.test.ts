import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { curl, tcpClient, tcpServer, udpClient, udpEcho } from '../lib/peers.ts'
import { bigFile, nginx, sha256 } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import type { Impairment, Wire } from '../lib/wire.ts'
import type { RoleProc } from '../lib/ztna.ts'

const METRICS = '127.0.0.1:9464'
const CLEAN: Impairment = { delay: '0', jitter: '0', loss: '0', reorder: '0', rate: 'off', mtu: 'off' }

describe.each([
  ['agent', 'alice r1'],
  ['connector', 'c1 r1'],
] as const)("on the %s's leg", (_, leg) => {
  let t: Topology
  let wire: Wire
  let root: string
  let sum: string

  beforeAll(async () => {
    t = await Topology.create({
      services: [{ name: 'web', tcp: [80, 81], udp: [7] }],
      wire: { agent: { seed: 7 }, connector: { seed: 8 } },
      relayArgs: ['--metrics', METRICS],
    })
    root = (await nginx(t.place('c1'), 8080)).root
    sum = await bigFile(`${root}/file`, 8_000_000)
    await tcpServer(t.place('c1'), 'sum', '127.0.0.1:9001')
    await udpEcho(t.place('c1'), '127.0.0.1:7')
    await t.relay().online()
    await t
      .connector(['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001', 'web=udp:7:127.0.0.1:7'], 'c1', ['--metrics', METRICS])
      .online()
    await agent().online()
    const found = t.wires.get(leg)
    if (!found) throw new Error(`no wire ${leg}`)
    wire = found
  })
  const agent = (): RoleProc =>
    t.agent(['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81', 'udp:127.0.0.1:7=web:7'], 'alice', ['--metrics', METRICS])
  /** What roles and wires have dropped so far, by cause. */
  async function lost(): Promise<unknown> {
    const roles = [...t.relays.values(), ...t.connectors.values(), ...t.agents.values()]
    const dropped = roles.map(async ({ name, netns }) => {
      const { body } = await curl(netns, `http://${METRICS}/metrics`)
      return [name, body.split('\n').filter((line) => /^ztna_drops_total.* [1-9]/.test(line))] as const
    })
    const wires = [...t.wires].map(async ([name, wire]) => {
      const { aToB, bToA } = await wire.stats()
      return [name, aToB.lost, bToA.lost] as const
    })
    return {
      dropped: await Promise.all(dropped),
      wires: await Promise.all(wires),
      path: (await t.agents.get('alice')?.status())?.['connectors'],
    }
  }
  afterEach(() => wire?.set('both', CLEAN))
  afterAll(() => t?.[Symbol.asyncDispose]())

  test.each([
    ['2 % loss', { loss: '2%', delay: '10ms' }],
    ['10 % loss', { loss: '10%', delay: '10ms' }],
    ['reorder of 5 %', { reorder: '5%', delay: '10ms' }],
    ['100 ms of delay with jitter', { delay: '50ms', jitter: '5ms' }],
    ['20 Mbit/s with a short queue', { rate: '20mbit', queue: '64KB', delay: '10ms' }],
  ] satisfies readonly (readonly [string, Impairment])[])(
    '%s: TCP arrives unchanged both ways and most datagrams come back',
    async (__, impairment) => {
      await wire.set('both', impairment)
      const before = await wire.stats()
      await t.place('alice').run('curl', ['-sSf', '-o', `${t.lab.dir}/got`, 'http://127.0.0.1:8080/file'], { timeoutMs: 60_000 })
      expect(await sha256(`${t.lab.dir}/got`)).toBe(sum)
      const up = await tcpClient(t.place('alice'), 'sum', '127.0.0.1:8081', 4_000_000)
      expect(up['answer']).toBe(up['sent'])
      const udp = await udpClient(t.place('alice'), '127.0.0.1:7', { count: 200, gapMs: 5, timeoutMs: 2_000 })
      expect(udp.wrong).toBe(0)
      // 10 % each way leave 81 %.
      expect(udp.received / udp.sent).toBeGreaterThan('loss' in impairment ? 0.7 : 0.99)
      // The wire did what it was told, or the test proves nothing.
      const after = await wire.stats()
      if ('loss' in impairment) expect(after.aToB.lost.random).toBeGreaterThan(before.aToB.lost.random)
      if ('reorder' in impairment) expect(after.bToA.reordered).toBeGreaterThan(before.bToA.reordered)
    },
  )

  test('a link of 1280 bytes: TCP arrives unchanged both ways and datagrams of 1200 bytes come back', async () => {
    await wire.set('both', { mtu: '1280' })
    await t.place('alice').run('curl', ['-sSf', '-o', `${t.lab.dir}/small`, 'http://127.0.0.1:8080/file'], { timeoutMs: 60_000 })
    expect(await sha256(`${t.lab.dir}/small`)).toBe(sum)
    const up = await tcpClient(t.place('alice'), 'sum', '127.0.0.1:8081', 2_000_000)
    expect(up['answer']).toBe(up['sent'])
    const payloads = Array.from({ length: 10 }, (__, i) => Buffer.alloc(1_200, i).toString('hex'))
    const before = await lost()
    const { received, wrong } = await udpClient(t.place('alice'), '127.0.0.1:7', { payloads, gapMs: 20 })
    // Whose drop it was stands beside what is missing.
    expect({ received, wrong, lost: received === 10 ? before : await lost() }).toEqual({ received: 10, wrong: 0, lost: before })
  })

  test('a start on a link of 1280 bytes comes online and works', async () => {
    await wire.set('both', { mtu: '1280' })
    await t.agents.get('alice')?.stop()
    await agent().online()
    expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
    await t.place('alice').run('curl', ['-sSf', '-o', `${t.lab.dir}/start`, 'http://127.0.0.1:8080/file'], { timeoutMs: 60_000 })
    expect(await sha256(`${t.lab.dir}/start`)).toBe(sum)
  })
})
