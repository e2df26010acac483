import { afterAll, beforeAll, expect, test } from 'vitest'
import { udpClient, udpEcho, type UdpResult } from '../../lib/peers.ts'
import { Topology } from '../../lib/topology.ts'

let t: Topology
const send = (payloads: readonly Buffer[]): Promise<UdpResult> =>
  udpClient(t.place('alice'), '127.0.0.1:7', { payloads: payloads.map((payload) => payload.toString('hex')), gapMs: 5, timeoutMs: 3_000 })

beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'echo', udp: [7] }] })
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  await t.start(['echo=udp:7:127.0.0.1:7'], ['udp:127.0.0.1:7=echo:7'])
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('relay, connector and agent run', () => {
  for (const role of [...t.relays.values(), ...t.connectors.values(), ...t.agents.values()])
    expect(role.proc.exit, role.name).toBeUndefined()
})

test('the echo is behind the tunnel: without it nothing reaches it', async () => {
  await t.assertAgentsHaveNoRoute()
})

test.each([
  ['10 bytes', [Buffer.alloc(10, 'x')]],
  ['100 bytes', [Buffer.alloc(100, 'y')]],
  ['a pattern', [Buffer.from('deadbeef00ff55aa'.repeat(8), 'hex')]],
  ['5 packets', Array.from({ length: 5 }, (_, i) => Buffer.from(`packet ${i}`))],
  ['0 bytes', [Buffer.alloc(0)]],
  ['1 byte', [Buffer.alloc(1, 'z')]],
])('the echo of %s comes back the same', async (_, payloads) => {
  expect(await send(payloads)).toEqual({ sent: payloads.length, received: payloads.length, wrong: 0, first: payloads.length })
})

// The seed asks 1300, 1350 and 1351 of a tunnel of 1350. Ours has 1320 for an inner packet, so the limit lies below; what is
// over it is dropped as any path drops what does not fit, and the flow goes on.
test.each([1200, 1250])('%i bytes, within the limit, come back', async (length) => {
  expect(await send([Buffer.alloc(length, 1)])).toMatchObject({ received: 1, wrong: 0 })
})

test.each([1350, 1351, 1400])('%i bytes, over the limit, are dropped and the next packet passes', async (length) => {
  expect(await send([Buffer.alloc(length, 1), Buffer.from(`after ${length}`)])).toMatchObject({ sent: 2, received: 1, wrong: 0 })
})

test('no process has panicked or logged an error', () => {
  for (const role of [...t.relays.values(), ...t.connectors.values(), ...t.agents.values()]) {
    expect(role.proc.output, role.name).not.toMatch(/panicked|"level":"error"/i)
    expect(role.proc.output).toContain('"online"')
  }
})
