import { writeFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { udpClient, udpEcho } from '../lib/peers.ts'
import type { Proc } from '../lib/proc.ts'
import { dnsmasq, iperf3Server } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'

let t: Topology
let alice: Netns
let server: Proc

beforeAll(async () => {
  t = await Topology.create({
    services: [
      { name: 'dns', udp: [53] },
      { name: 'echo', udp: [7] },
      { name: 'iperf', tcp: [5201], udp: [5201] },
    ],
  })
  alice = t.place('alice')
  const c1 = t.place('c1')
  await Promise.all([dnsmasq(c1, 5353), udpEcho(c1, '127.0.0.1:7')])
  server = await iperf3Server(c1, 5201)
  await server.waitFor(/Server listening/)
  await t.start(
    ['dns=udp:53:127.0.0.1:5353', 'echo=udp:7:127.0.0.1:7', 'iperf=tcp:5201:127.0.0.1:5201', 'iperf=udp:5201:127.0.0.1:5201'],
    ['udp:127.0.0.1:5353=dns:53', 'udp:127.0.0.1:7=echo:7', 'tcp:127.0.0.1:5201=iperf:5201', 'udp:127.0.0.1:5201=iperf:5201'],
  )
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('10,000 DNS queries of dig are all answered, each with its own address', async () => {
  const batch = `${t.lab.dir}/names`
  const names = Array.from({ length: 10_000 }, (_, i) => i % 1000)
  writeFileSync(batch, names.map((n) => `h${n}.test A\n`).join(''))
  const { stdout } = await alice.run('dig', ['@127.0.0.1', '-p', '5353', '+short', '+tries=3', '+time=2', '-f', batch], {
    timeoutMs: 110_000,
  })
  expect(stdout.trim().split('\n')).toEqual(names.map((n) => `192.0.2.${n % 256}`))
})

test('datagrams of every length up to the largest come back, the empty one too', async () => {
  const payloads = [0, 1, 10, 100, 500, 1000, 1200].map((length) => Buffer.alloc(length, length % 251).toString('hex'))
  const result = await udpClient(alice, '127.0.0.1:7', { payloads })
  expect(result).toMatchObject({ sent: payloads.length, received: payloads.length, wrong: 0 })
})

test.each(['', ' -R'])('iperf3 over TCP%s moves data and reports both ends', async (direction) => {
  const report = await iperf(['-C', 'cubic', '-t', '3', ...direction.trim().split(' ').filter(Boolean)])
  const end = report['end'] as { sum_sent: { bytes: number }; sum_received: { bytes: number } }
  expect(end.sum_received.bytes).toBeGreaterThan(10_000_000)
  expect(end.sum_received.bytes).toBeLessThanOrEqual(end.sum_sent.bytes)
})

test.each(['', ' -R'])('iperf3 over UDP%s at 50 Mbit/s loses less than 1 %% on a clean path', async (direction) => {
  const report = await iperf(['-u', '-b', '50M', '-l', '1100', '-t', '3', ...direction.trim().split(' ').filter(Boolean)])
  const { sum } = report['end'] as { sum: { packets: number; lost_packets: number } }
  expect(sum.packets).toBeGreaterThan(10_000)
  expect(sum.lost_packets / sum.packets).toBeLessThan(0.01)
})

async function iperf(args: readonly string[]): Promise<Record<string, unknown>> {
  const from = server.mark
  const { stdout } = await alice.run('iperf3', ['-c', '127.0.0.1', '-p', '5201', '-J', ...args], { timeoutMs: 60_000, codes: 'any' })
  const report = JSON.parse(stdout) as Record<string, unknown>
  expect(report['error']).toBeUndefined()
  // It takes one client at a time, and says when it is free again.
  await server.waitFor(/Server listening/, { from })
  return report
}
