import { afterAll, beforeAll, expect, test } from 'vitest'
import { Homes, type Home } from '../../lib/homes.ts'
import { tcpClient, tcpServer, udpClient, udpEcho } from '../../lib/peers.ts'
import { run } from '../../lib/proc.ts'
import type { PathExplanation } from '@ztna/sdk'

// Two homes whose NATs forget after 30 s, as soon as any (RFC 4787 REQ-5 wants two minutes), with the shipped command line.

const home: Home = { v4: { nat: { timeouts: { unreplied: '30s', replied: '30s' } } } }
const RELAY_ONLY = { allExcept: ['198.51.100.1:4433', '198.51.100.1:4434'] }
const echo = '127.0.0.1:7007'
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
let h: Homes

beforeAll(async () => {
  h = await Homes.create({ alice: home, c1: home, services: [{ name: 'echo', tcp: [7], udp: [7] }] })
  await udpEcho(h.place('c1'), '127.0.0.1:7')
  await tcpServer(h.place('c1'), 'echo', '127.0.0.1:7')
  await h.start(['echo=udp:7:127.0.0.1:7', 'echo=tcp:7:127.0.0.1:7'], [`udp:${echo}=echo:7`, 'tcp:127.0.0.1:7007=echo:7'])
})
afterAll(() => h?.[Symbol.asyncDispose]())

/** Packets that have passed between alice's home and the Internet, and between the relay and it. */
async function packets(): Promise<{ readonly home: number; readonly relay: number }> {
  const count = async (name: string): Promise<number> => {
    const { up, down } = await h.net.stats(name)
    return up.packetsIn + down.packetsIn
  }
  return { home: await count('home-alice'), relay: await count('r1') }
}

test('both ends find their addresses, tell each other, and what became of each can be asked', async () => {
  expect(await udpClient(h.place('alice'), echo, { count: 3 })).toMatchObject({ received: 3, wrong: 0 })
  await h.becomes('direct')
  const { checks, nat } = (await h.running('alice').ask('explain', 'echo')) as unknown as PathExplanation
  expect(nat).toEqual({ local: 'endpoint-independent', remote: 'endpoint-independent' })
  expect(checks).toContainEqual(
    expect.objectContaining({ remote: expect.stringMatching(/^203\.0\.113\.2:/) as string, via: 'srflx', result: 'ok' }),
  )
  expect(checks).toContainEqual(
    expect.objectContaining({ local: expect.stringMatching(/^203\.0\.113\.1:/) as string, remote: 'c1', result: 'ok' }),
  )
})

test('the connector listens to the agent, and to nobody else at the same port', async () => {
  const { path } = (await h.running('alice').ask('explain', 'echo')) as unknown as PathExplanation
  const [ip, port] = (path.remote ?? '').split(':')
  expect(ip).toBe('203.0.113.2')
  // From the connector's own network, past its NAT: a STUN question without a key (RFC 8489 §5), which a STUN server would answer.
  const program = `
    const socket = require('dgram').createSocket('udp4').on('message', (m) => console.log(m.toString('hex')))
    const question = Buffer.from('000100002112a442' + '00'.repeat(12), 'hex')
    for (const local of process.argv[1].split(',')) socket.send(question, Number(local), '192.168.1.10')
    setTimeout(() => socket.close(), 1_000)`
  const { stdout: sockets } = await run(h.place('c1'), 'ss', ['-Hlun'])
  const open = [...sockets.matchAll(/(?:0\.0\.0\.0|\*):(\d+)/g)].map((match) => match[1])
  expect(open.length).toBeGreaterThan(0)
  expect(open).toContain(port)
  expect((await h.place('c1').run(process.execPath, ['-e', program, open.join(',')])).stdout).toBe('')
})

test('datagrams and streams go through the punched hole, past the relay', async () => {
  const before = await packets()
  expect(await udpClient(h.place('alice'), echo, { count: 200, gapMs: 2 })).toMatchObject({ received: 200, wrong: 0 })
  expect(await tcpClient(h.place('alice'), 'echo', '127.0.0.1:7007', 5)).toMatchObject({ same: 5 })
  const after = await packets()
  expect(after.home - before.home).toBeGreaterThan(400)
  expect(after.relay - before.relay).toBeLessThan(40)
})

test('a hole that nothing passes for longer than the NATs remember is kept open', async () => {
  const events = h.running('alice').proc.mark
  await sleep(35_000)
  expect(await udpClient(h.place('alice'), echo, { count: 5, timeoutMs: 1_000 })).toMatchObject({ received: 5 })
  expect(await h.path()).toBe('direct')
  expect(
    h
      .running('alice')
      .proc.lines.slice(events)
      .filter((line) => line.includes('"event":"path"')),
  ).toEqual([])
})

test('when the hole is closed datagrams pass the relay within a second, on the same flow', async () => {
  const flow = udpClient(h.place('alice'), echo, { count: 40, gapMs: 50, timeoutMs: 1_500 })
  await sleep(500)
  await h.net.block('home-alice', RELAY_ONLY)
  const { received, wrong } = await flow
  expect(wrong).toBe(0)
  expect(received).toBeGreaterThanOrEqual(40 - 1_000 / 50)
  expect(await h.path()).toBe('relay')
  expect(await udpClient(h.place('alice'), echo, { count: 20 })).toMatchObject({ received: 20 })
})

test('when it can be opened again it is, by itself', async () => {
  await h.net.block('home-alice', 'nothing')
  await h.becomes('direct', 12_000)
  const before = await packets()
  expect(await udpClient(h.place('alice'), echo, { count: 200, gapMs: 2 })).toMatchObject({ received: 200 })
  expect((await packets()).relay - before.relay).toBeLessThan(40)
})
