import { writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { background, curl, tcpServer } from '../lib/peers.ts'
import { nginx, until } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import { startRole, type Json } from '../lib/ztna.ts'

const SERVICES = ['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001']
const FORWARDS = ['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81']
/** Longer than a drain, and than several reconnects: time for two processes to take turns, were they to. */
const WATCHED_MS = 12_000
/** At the rate of the download below: longer than a second process needs to bind, shorter than a drain. */
const BIG_BYTES = 40_000_000

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const hello = async (t: Topology, at: string): Promise<boolean> =>
  (await curl(t.place(at), 'http://127.0.0.1:8080/hello', '--max-time', '4')).body === 'hello\n'
const flags = (name: string, values: readonly string[]): string[] => values.flatMap((value) => [name, value])

test('a second connector process takes over; the first drains to the end of its flows, names the other, ends, and never binds again', async () => {
  await using t = await Topology.create({
    connectors: ['c1', 'spare'],
    services: [{ name: 'web', tcp: [80, 81], connectors: ['c1'] }],
  })
  for (const place of ['c1', 'spare']) {
    const { root } = await nginx(t.place(place), 8080)
    if (place === 'c1') writeFileSync(`${root}/big`, Buffer.alloc(BIG_BYTES, 'big'))
    await tcpServer(t.place(place), 'echo', '127.0.0.1:9001')
  }
  const relay = t.relay()
  await relay.online()
  const first = t.connector(SERVICES, 'c1')
  await first.online()
  await t.agent(FORWARDS).online()
  expect(await hello(t, 'alice')).toBe(true)
  const alice = t.place('alice')
  const download = alice.spawn(
    'curl',
    ['-sS', '--limit-rate', '8M', '-o', '/dev/null', '-w', '%{http_code} %{size_download}\\n', 'http://127.0.0.1:8080/big'],
    { label: 'download' },
  )
  const quiet = background(alice, 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '4000'])
  await sleep(500)
  const second = startRole(t.lab, t.place('spare'), 'connector', 'second', t.trust.out('connector', 'c1'), flags('--service', SERVICES))
  try {
    await second.online()
    const warning = await first.event('warning', (event) => JSON.stringify(event).includes('ERR_ZTNA_IDENTITY'))
    expect(JSON.stringify(warning)).toContain('10.3.1.1')
    expect(await hello(t, 'alice')).toBe(true)
    expect((await download.waitFor(/^\d+ \d+$/, { timeoutMs: 20_000 }))[0]).toBe(`200 ${BIG_BYTES}`)
    expect(JSON.parse((await quiet.waitFor(/^\{.*/, { timeoutMs: 20_000 }))[0])).toEqual({ before: true, after: true })
    expect((await first.proc.exited).code).toBe(78)
    const since = async (): Promise<unknown> =>
      ((await relay.status())['connectors'] as readonly Json[]).map((c) => [c['name'], c['since']])
    const bound = await since()
    expect(bound).toHaveLength(1)
    const from = second.proc.mark
    await sleep(WATCHED_MS)
    // The one bind is still the second's, which has not had to come back for it.
    expect(await since()).toEqual(bound)
    expect(second.proc.lines.slice(from).filter((line) => /"event":"(warning|state)"/.test(line))).toEqual([])
    await until('new flows go to the second', () => hello(t, 'alice'))
    expect((await second.status())['state']).toBe('online')
  } finally {
    await second.stop('SIGKILL')
  }
})

test('two agent processes of one identity work side by side', async () => {
  await using t = await Topology.create({
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'spare', groups: [] },
    ],
    services: [{ name: 'web', tcp: [80, 81] }],
  })
  await nginx(t.place('c1'), 8080)
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:9001')
  const relay = t.relay()
  await relay.online()
  await t.connector(SERVICES).online()
  const first = t.agent(FORWARDS)
  await first.online()
  const flow = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', String(WATCHED_MS)])
  const second = startRole(t.lab, t.place('spare'), 'agent', 'second', t.trust.out('agent', 'alice'), flags('--forward', FORWARDS))
  try {
    await second.online()
    const from = [first.proc.mark, second.proc.mark] as const
    for (let i = 0; i < 5; i += 1) {
      expect(await Promise.all([hello(t, 'alice'), hello(t, 'spare')])).toEqual([true, true])
      await sleep(1_000)
    }
    expect(JSON.parse((await flow.waitFor(/^\{.*/, { timeoutMs: 30_000 }))[0])).toEqual({ before: true, after: true })
    for (const [i, proc] of [first.proc, second.proc].entries()) {
      expect(proc.lines.slice(from[i]).filter((line) => /"event":"(warning|state)"/.test(line))).toEqual([])
    }
    expect((await relay.status())['agents']).toBe(2)
  } finally {
    await second.stop('SIGKILL')
  }
})
