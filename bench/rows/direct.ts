import { fileURLToPath } from 'node:url'
import type { Netns } from '../../tests/lib/netns.ts'
import { orDispose } from '../../tests/lib/or-dispose.ts'
import { iperf3Server } from '../../tests/lib/programs.ts'
import type { Topology } from '../../tests/lib/topology.ts'
import { median, row, type Row } from '../lib/measure.ts'
import { goDirect, pathOf, routed } from '../lib/topology.ts'
import { transfer, type Transfer } from '../lib/transfer.ts'
import { wireguard } from '../lib/wireguard.ts'

const ROUNDS = 3
/** Of wireguard-go's end at the connector. */
const INSIDE = '10.9.0.2'
const PING_PONG = fileURLToPath(new URL('../../tests/fixtures/ping-pong.py', import.meta.url))

/** One TCP flow of iperf3 through `forward` on a direct path, and through wireguard-go between the same namespaces, in turns. */
export async function direct(): Promise<Row[]> {
  const results = { up: pairs(), down: pairs() }
  for (let round = 0; round < ROUNDS; round += 1) {
    await using t = await both()
    await iperf3Server(t.place('c1'), 5201)
    await iperf3Server(t.place('c1'), 5202, INSIDE)
    const alice = t.place('alice')
    for (const way of ['up', 'down'] as const) {
      const reverse = way === 'down'
      results[way].ours.push(await transfer(alice, 5201, { reverse }))
      results[way].theirs.push(await transfer(alice, 5202, { reverse, host: INSIDE }))
    }
    await stillDirect(t)
  }
  return (['up', 'down'] as const).map((way) => {
    const { ours, theirs } = results[way]
    const gbit = (all: readonly Transfer[]): number => median(all.map((one) => one.gbitPerSecond))
    const cpu = (all: readonly Transfer[]): number => median(all.map((one) => one.cpuPerGB))
    const figures = {
      'Gbit/s': gbit(ours),
      'CPU-s/GB': cpu(ours),
      'Gbit/s of wireguard-go': gbit(theirs),
      'CPU-s/GB of wireguard-go': cpu(theirs),
      'of its Gbit/s': gbit(ours) / gbit(theirs),
      'of its CPU-s/GB': cpu(ours) / cpu(theirs),
    }
    return row(
      `TCP on a direct path, ${way}`,
      figures,
      [
        ['Gbit/s', '>=', 2.5],
        ['CPU-s/GB', '<=', 4.8],
        ['of its Gbit/s', '>=', 1.2],
        ['of its CPU-s/GB', '<=', 0.65],
      ],
      `median of ${ROUNDS} starts, in turns`,
    )
  })
}

/** A 64-byte message to and fro on one TCP connection, through `forward`, through wireguard-go, and with neither. */
export async function roundTrip(): Promise<Row[]> {
  const count = 5_000
  await using t = await both()
  const c1 = t.place('c1')
  const [outside, alice] = [t.address('c1'), t.place('alice')]
  for (const address of ['127.0.0.1', INSIDE, outside]) {
    const proc = c1.spawn('python3', [PING_PONG, 'echo', address, '7'], { label: `echo ${address}` })
    await proc.waitFor(/"listening"/)
  }
  const times: Record<'ours' | 'theirs' | 'bare', number[]> = { ours: [], theirs: [], bare: [] }
  for (let round = 0; round < ROUNDS; round += 1) {
    times.ours.push(await pingPong(alice, '127.0.0.1', count))
    times.theirs.push(await pingPong(alice, INSIDE, count))
    times.bare.push(await pingPong(alice, outside, count))
  }
  await stillDirect(t)
  const figures = {
    'µs p50': median(times.ours),
    'µs p50 of wireguard-go': median(times.theirs),
    'µs p50 of neither': median(times.bare),
    'of wireguard-go': median(times.ours) / median(times.theirs),
  }
  const note = `${count} messages, median of ${ROUNDS} runs in turns`
  return [row('round trip of 64 bytes on a direct path', figures, [['of wireguard-go', '<=', 1.3]], note)]
}

/** Three roles whose path is direct, and wireguard-go beside them. */
async function both(): Promise<Topology> {
  const t = await routed({
    services: [
      { name: 'bulk', tcp: [5201] },
      { name: 'echo', tcp: [7] },
    ],
  })
  return await orDispose(t, async () => {
    await t.start(['bulk=tcp:5201:127.0.0.1:5201', 'echo=tcp:7:127.0.0.1:7'], ['tcp:127.0.0.1:5201=bulk:5201', 'tcp:127.0.0.1:7=echo:7'])
    const [alice, c1] = [t.place('alice'), t.place('c1')]
    await wireguard(
      t.lab,
      { netns: alice, outside: t.address('alice'), inside: '10.9.0.1' },
      { netns: c1, outside: t.address('c1'), inside: INSIDE },
    )
    for (const agent of t.agents.values()) await goDirect(agent, 'bulk')
    return t
  })
}

/** What was measured was measured on the direct path. */
async function stillDirect(t: Topology): Promise<void> {
  for (const agent of t.agents.values()) {
    const path = await pathOf(agent)
    if (path !== 'direct') throw new Error(`${agent.name} has left the direct path: ${path ?? 'no connector'}`)
  }
}

async function pingPong(from: Netns, host: string, count: number): Promise<number> {
  const { stdout } = await from.run('python3', [PING_PONG, 'ping', host, '7', String(count)])
  return (JSON.parse(stdout) as { p50: number }).p50
}

function pairs(): { ours: Transfer[]; theirs: Transfer[] } {
  return { ours: [], theirs: [] }
}
