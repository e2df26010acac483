import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { background, curl, tcpClient, tcpServer } from '../lib/peers.ts'
import type { Proc } from '../lib/proc.ts'
import { bigFile, nginx, sha256, until } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

const MB = 1_000_000
const PEERS = { echo: 9001, sum: 9002, reset: 9003, silent: 9004, first: 9005, flood: 9006, watch: 9007 } as const
type Mode = keyof typeof PEERS
const at = (mode: Mode): string => `127.0.0.1:${PEERS[mode]}`

let t: Topology
let alice: Netns
let web: { root: string }
const peers = {} as Record<Mode, Proc>

beforeAll(async () => {
  t = await Topology.create({
    services: [
      { name: 'web', tcp: [80] },
      { name: 'peers', tcp: ['9000-9010'] },
      { name: 'app', tcp: [80] },
    ],
  })
  alice = t.place('alice')
  const c1 = t.place('c1')
  web = await nginx(c1, 8080, { unix: `${t.lab.dir}/app.sock` })
  for (const mode of Object.keys(PEERS) as Mode[]) peers[mode] = await tcpServer(c1, mode, at(mode))
  await t.start(
    ['web=tcp:80:127.0.0.1:8080', 'peers=tcp:9000-9010:127.0.0.1:9000', `app=tcp:80:unix:${t.lab.dir}/app.sock`],
    [
      'tcp:127.0.0.1:8080=web:80',
      `unix:${t.lab.dir}/web.sock=web:80`,
      'tcp:127.0.0.1:8081=app:80',
      ...Object.values(PEERS).map((port) => `tcp:127.0.0.1:${port}=peers:${port}`),
    ],
  )
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('a page comes through the tunnel although the agent has no route to the connector', async () => {
  await t.assertAgentsHaveNoRoute()
  expect(await curl(alice, 'http://127.0.0.1:8080/hello')).toMatchObject({ code: '200', body: 'hello\n' })
})

test('a unix socket at the agent and one at the connector work like ports', async () => {
  expect((await curl(alice, 'http://web/hello', '--unix-socket', `${t.lab.dir}/web.sock`)).body).toBe('hello\n')
  expect((await curl(alice, 'http://127.0.0.1:8081/hello')).body).toBe('hello\n')
})

test('1 GiB arrives unchanged, downwards and upwards', { timeout: 300_000 }, async () => {
  const sum = await bigFile(`${web.root}/gib`, 2 ** 30)
  const { stdout } = await alice.run('bash', ['-c', 'set -o pipefail; curl -sSf http://127.0.0.1:8080/gib | openssl dgst -sha256 -r'], {
    timeoutMs: 120_000,
  })
  expect(stdout.split(' ')[0]).toBe(sum)
  await alice.run('curl', ['-sSf', '-T', `${web.root}/gib`, 'http://127.0.0.1:8080/in/gib'], { timeoutMs: 120_000 })
  expect(await sha256(`${web.root}/in/gib`)).toBe(sum)
})

test('eight at once arrive unchanged, downwards and upwards together', { timeout: 300_000 }, async () => {
  const sum = await bigFile(`${web.root}/part`, 128 * MB)
  const down = Array.from({ length: 4 }, async (_, i) => {
    await alice.run('curl', ['-sSf', '-o', `${t.lab.dir}/down${i}`, 'http://127.0.0.1:8080/part'], { timeoutMs: 240_000 })
    return sha256(`${t.lab.dir}/down${i}`)
  })
  const up = Array.from({ length: 4 }, async (_, i) => {
    await alice.run('curl', ['-sSf', '-T', `${web.root}/part`, `http://127.0.0.1:8080/in/up${i}`], { timeoutMs: 240_000 })
    return sha256(`${web.root}/in/up${i}`)
  })
  expect(new Set(await Promise.all([...down, ...up]))).toEqual(new Set([sum]))
})

test('a client that ends its side still gets the answer', async () => {
  const result = await tcpClient(alice, 'sum', at('sum'), 3 * MB)
  expect(result['answer']).toBe(result['sent'])
})

test('a service that ends its side first still gets what the client sends', async () => {
  const from = peers.first.mark
  expect(await tcpClient(alice, 'after', at('first'), 2 * MB)).toEqual({ heard: 'bye', sent: 2 * MB })
  const [, bytes] = await peers.first.waitFor(/"bytes":(\d+)/, { from })
  expect(Number(bytes)).toBe(2 * MB)
})

test('a reset by the service is a reset at the client, never a clean end', async () => {
  const { events, closed } = await tcpClient(alice, 'events', at('reset'))
  expect({ events, closed }).toEqual({ events: ['ECONNRESET'], closed: true })
})

test('a reset by the client is a reset at the service, never a clean end', async () => {
  const from = peers.watch.mark
  await tcpClient(alice, 'reset', at('watch'))
  expect(JSON.parse((await peers.watch.waitFor(/^.*"event":"(end|error)".*$/, { from }))[0])).toEqual({
    event: 'error',
    code: 'ECONNRESET',
  })
})

test('a service that never reads holds its sender back, costs bounded memory and disturbs nobody', async () => {
  const before = memory()
  const flood = background(alice, 'tcp-client.mjs', ['flood', at('silent'), '3000'])
  const taken = Number((await flood.waitFor(/"taken":(\d+)/, { timeoutMs: 60_000 }))[1])
  expect(taken).toBeLessThan(64 * MB)
  expect(memory() - before).toBeLessThan(64 * MB)
  expect((await curl(alice, 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  expect(flood.exit).toBeUndefined()
  flood.endInput()
  await flood.exited
})

test('thirty-two clients that never read hold their service back and disturb nobody', async () => {
  const before = memory()
  const stalled = Array.from({ length: 32 }, () => background(alice, 'tcp-client.mjs', ['stall', at('flood'), '12000']))
  await new Promise((resolve) => setTimeout(resolve, 6_000))
  expect(memory() - before).toBeLessThan(256 * MB)
  const { root } = web
  const sum = await bigFile(`${root}/during`, 20 * MB)
  await alice.run('curl', ['-sSf', '-o', `${t.lab.dir}/during`, 'http://127.0.0.1:8080/during'], { timeoutMs: 30_000 })
  expect(await sha256(`${t.lab.dir}/during`)).toBe(sum)
  await Promise.all(stalled.map((proc) => proc.stop()))
})

test('1,000 flows are open at once and each gets its own bytes', async () => {
  expect(await tcpClient(alice, 'echo', at('echo'), 1000, 120_000)).toEqual({ same: 1000, again: 1000, open: 1000 })
})

test('a flow that was silent for 90 s goes on', { timeout: 150_000 }, async () => {
  expect(await tcpClient(alice, 'idle', at('echo'), 90_000, 120_000)).toEqual({ before: true, after: true })
})

test('flows that have ended are forgotten at both ends', async () => {
  await until('no TCP flow is left', async () => {
    const { stdout } = await alice.run('ss', ['-Htn', 'state', 'established'])
    return stdout.trim() === ''
  })
  await until('the agent counts no flow', async () => {
    const stats = (await t.agents.get('alice')?.status())?.['connectors'] as readonly { flows: number }[]
    return stats.every(({ flows }) => flows === 0)
  })
})

function memory(): number {
  return [...t.agents.values(), ...t.connectors.values(), ...t.relays.values()].reduce((sum, { proc }) => sum + proc.rssBytes(), 0)
}
