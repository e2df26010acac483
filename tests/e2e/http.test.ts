import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { client, curl, server, tcpClient, udpClient } from '../lib/peers.ts'
import { Topology } from '../lib/topology.ts'

let t: Topology
let alice: Netns

beforeAll(async () => {
  const sdk = fileURLToPath(new URL('../../ts/sdk/dist', import.meta.url))
  if (!existsSync(sdk)) throw new Error(`${sdk} is missing: run npm run build`)
  t = await Topology.create({
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['eng'] },
    ],
    services: [{ name: 'node', tcp: ['80-84'], udp: [7], icmp: true }],
    policy: 'permit(principal in Group::"eng", action == Action::"connect", resource == Service::"node") when { context.port != 84 };\n',
  })
  alice = t.place('alice')
  await t.relay().online()
  await server(t.place('c1'), 'serve.mjs', t.trust.out('connector', 'c1'), '')
  const forwards = [80, 81, 82, 83].map((port) => `tcp:127.0.0.1:${port}=node:${port}`)
  await Promise.all(['alice', 'bob'].map((name) => t.agent([...forwards, 'udp:127.0.0.1:7=node:7'], name).online()))
})
afterAll(() => t?.[Symbol.asyncDispose]())

const body = 'y'.repeat(3_000_000)
const sum = createHash('sha256').update(body).digest('hex')

test('HTTP/1.1 reaches a handler that knows who asks', async () => {
  for (const name of ['alice', 'bob']) {
    const { body: text } = await curl(t.place(name), 'http://127.0.0.1:80/path')
    expect(JSON.parse(text)).toMatchObject({ version: '1.1', from: name, path: '/path' })
  }
})

test('HTTP/2 carries 50 requests on one flow', async () => {
  // Not curl: Debian's 7.88 breaks the framing of parallel requests by prior knowledge, without any tunnel too.
  const { answers } = (await client(alice, 'http2.mjs', ['127.0.0.1:81', '50'])) as unknown as {
    answers: readonly { status: number; version: string; path: string; from: string }[]
  }
  expect(new Set(answers.map(({ status, from }) => `${status} ${from}`))).toEqual(new Set(['200 alice']))
  expect(new Set(answers.map(({ path }) => path)).size).toBe(50)
  expect(new Set(answers.map(({ version }) => version))).toEqual(new Set(['2.0']))
})

test.each([
  ['HTTP/1.1', '80', '--http1.1'],
  ['HTTP/2', '81', '--http2-prior-knowledge'],
])('a body of 3 MB over %s arrives unchanged', async (_, port, version) => {
  const { stdout } = await alice.run('curl', ['-sSf', version, '--data-binary', '@-', `http://127.0.0.1:${port}/`], {
    input: body,
  })
  expect(JSON.parse(stdout)).toMatchObject({ sum })
})

test('WebSocket messages of 0 B to 400 KB come back in order and the close is clean', async () => {
  expect(await client(alice, 'websocket.mjs', ['ws://127.0.0.1:80/'])).toEqual({ greeting: 'hello alice', same: 200, code: 1000 })
})

test('a fetch handler answers', async () => {
  const { body: text } = await curl(alice, 'http://127.0.0.1:82/', '--data-binary', 'text')
  expect(JSON.parse(text)).toEqual({ from: 'alice', body: 'text' })
})

test('authorize can only narrow what the policy allows', async () => {
  expect(await tcpClient(t.place('bob'), 'events', '127.0.0.1:82')).toEqual({ events: ['ECONNRESET'], closed: true })
})

test('socket and datagram handlers answer', async () => {
  expect(await tcpClient(alice, 'echo', '127.0.0.1:83', 100)).toEqual({ same: 100, again: 100, open: 100 })
  expect(await udpClient(alice, '127.0.0.1:7', { count: 20, gapMs: 2 })).toMatchObject({ sent: 20, received: 20, wrong: 0 })
})

test('an agent inside Node reaches the service in every way, and its process ends by itself', async () => {
  // A second process of alice's identity would displace the first.
  await t.agents.get('alice')?.stop()
  const out = await client(alice, 'embed.mjs', [t.trust.out('agent', 'alice')], 30_000)
  expect(out).toMatchObject({
    fetch: { from: 'alice', path: '/by-fetch', sum: createHash('sha256').update('x'.repeat(1_000_000)).digest('hex') },
    httpAgent: { from: 'alice', path: '/by-agent' },
    connect: 'over connect',
    peer: 'c1',
    createConnection: 'before connect',
    datagram: 'over udp',
    denied: { code: 'ERR_ZTNA_DENIED', cause: 'EACCES' },
  })
  expect(out['outside']).not.toBe('fetched')
  expect(out['ping']).toBeGreaterThan(0)
})
