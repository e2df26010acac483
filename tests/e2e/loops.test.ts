import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { curl, tcpClient, tcpServer, udpClient, udpEcho } from '../lib/peers.ts'
import { nginx, sha256, until } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import { startRole, type Json } from '../lib/ztna.ts'

const SERVICES = ['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001', 'echo=udp:7:127.0.0.1:7']
const FORWARDS = ['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81', 'udp:127.0.0.1:7=echo:7']
const BULK = 96 << 20
/** The kernel puts a source port on a loop by its hash: with four loops three ports of four are on another one than the connector. */
const TRIES = 16

const hello = async (t: Topology): Promise<boolean> =>
  (await curl(t.place('alice'), 'http://127.0.0.1:8080/hello', '--max-time', '3')).body === 'hello\n'

/** A sample of the relay's metrics by its name and labels. */
async function metric(t: Topology, online: Json, sample: string): Promise<number> {
  const url = `http://${String(online['metrics'])}/metrics`
  const { body } = await curl(t.place('r1'), url)
  const line = body.split('\n').find((text) => text.startsWith(`${sample} `))
  if (line === undefined) throw new Error(`${url} has no ${sample}:\n${body}`)
  return Number(line.slice(sample.length + 1))
}

test.each([
  { loops: 1, mode: 'forwarded' },
  { loops: 1, mode: 'tunnel' },
  { loops: 4, mode: 'forwarded' },
  { loops: 4, mode: 'tunnel' },
])(
  'core traffic in $mode mode, relay loops: $loops, agent and connector on different ones where there are several',
  async ({ loops, mode }) => {
    await using t = await Topology.create({
      services: [
        { name: 'web', tcp: [80, 81] },
        { name: 'echo', udp: [7] },
      ],
      relayArgs: ['--loops', String(loops), '--metrics', '127.0.0.1:0'],
      ...(mode === 'tunnel' ? { networkToml: 'relay_mode = "tunnel"\n' } : {}),
    })
    const c1 = t.place('c1')
    const { root } = await nginx(c1, 8080)
    await Promise.all([tcpServer(c1, 'sum', '127.0.0.1:9001'), udpEcho(c1, '127.0.0.1:7')])
    const file = join(root, 'bulk')
    writeFileSync(file, randomBytes(BULK))
    const online = await t.relay().online()
    await t.connector(SERVICES).online()
    await t.agent(FORWARDS).online()

    /** Starts the agent on new source ports until its session crosses loops. */
    const cross = async (): Promise<void> => {
      for (let i = 0; i < TRIES; i += 1) {
        await until('a flow works', () => hello(t), 20_000)
        expect(await metric(t, online, 'ztna_sessions')).toBeGreaterThan(0)
        if ((await metric(t, online, 'ztna_sessions_across_loops')) > 0 || loops === 1) return
        await t.agents.get('alice')?.stop()
        await until('its session has ended', async () => (await metric(t, online, 'ztna_sessions')) === 0)
        await t.agent(FORWARDS).online()
      }
      throw new Error(`${TRIES} source ports were all on the connector's loop`)
    }
    const core = async (): Promise<void> => {
      const got = join(t.lab.dir, 'got')
      const { code } = await curl(t.place('alice'), 'http://127.0.0.1:8080/bulk', '-o', got, '--max-time', '60')
      expect(code).toBe('200')
      expect(await sha256(got)).toBe(await sha256(file))
      const { sent, answer } = await tcpClient(t.place('alice'), 'sum', '127.0.0.1:8081', BULK / 4)
      expect(answer).toBe(sent)
      const udp = await udpClient(t.place('alice'), '127.0.0.1:7', { count: 500, gapMs: 1 })
      expect(udp).toMatchObject({ wrong: 0 })
      expect(udp.received).toBeGreaterThan(udp.sent * 0.98)
    }

    await cross()
    const sample = (path: string): string => `ztna_bytes_total{direction="tx",path="${path}"}`
    const before = await metric(t, online, sample(mode))
    await core()
    // The session was on different loops to the end, and the bulk went the way it was meant to.
    expect(await metric(t, online, 'ztna_sessions_across_loops')).toBe(loops === 1 ? 0 : await metric(t, online, 'ztna_sessions'))
    expect((await metric(t, online, sample(mode))) - before).toBeGreaterThan(BULK)
    if (mode === 'tunnel') expect(await metric(t, online, sample('forwarded'))).toBe(0)

    // The connector comes back on a port, and so a loop, of its own.
    await t.connectors.get('c1')?.stop('SIGKILL')
    await t.connector(SERVICES).online()
    await cross()
    await core()
    expect(t.relays.get('r1')?.proc.exit).toBeUndefined()
  },
)

test('a relay that is told no address listens on port 4433 of both families', async () => {
  await using t = await Topology.create({ services: [{ name: 'echo', udp: [7] }] })
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  const online = await startRole(t.lab, t.place('r1'), 'relay', 'r1', t.trust.out('relay', 'r1')).online()
  expect(online['listen']).toEqual(['0.0.0.0:4433', '[::]:4433'])
  await t.connector(['echo=udp:7:127.0.0.1:7']).online()
  await t.agent(['udp:127.0.0.1:7=echo:7']).online()
  expect((await udpClient(t.place('alice'), '127.0.0.1:7', { count: 3, timeoutMs: 5_000 })).received).toBe(3)
})
