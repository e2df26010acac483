import { median, row, type Bar, type Row } from '../lib/measure.ts'
import { topology, type Mode } from '../lib/topology.ts'
import { transfer, type Transfer } from '../lib/transfer.ts'

/** The kernel puts each leg on one of the relay's loops by its source port, and whether both are on one matters: so several times anew. */
const ROUNDS = 3

/** One TCP flow of iperf3 through `forward`, both ways, and the relay's part in its cost: medians. */
export async function bulk(mode: Mode): Promise<Row[]> {
  const results = new Map<string, Transfer[]>()
  for (let round = 0; round < ROUNDS; round++) {
    await using t = await topology(mode)
    const relay = t.relays.get('r1')
    for (const way of ['up', 'down']) {
      const result = await transfer(t.place('alice'), 5201, { reverse: way === 'down', ...(relay ? { process: relay } : {}) })
      results.set(way, [...(results.get(way) ?? []), result])
    }
  }
  const [gbit, cpu, own] = mode === 'forwarded' ? [2.4, 5.5, 0.7] : [1.1, 11, 3.5]
  const note = `median of ${ROUNDS} starts`
  return [...results].flatMap(([way, runs]) => {
    const figures = { 'Gbit/s': median(runs.map((r) => r.gbitPerSecond)), 'CPU-s/GB': median(runs.map((r) => r.cpuPerGB)) }
    const bars: readonly Bar[] = [
      ['Gbit/s', '>=', gbit],
      ['CPU-s/GB', '<=', cpu],
    ]
    return [
      row(`TCP through the relay, ${mode}, ${way}`, figures, bars, note),
      row(
        `the relay's own share, ${mode}, ${way}`,
        { 'CPU-s/GB': median(runs.map((r) => r.processCpuPerGB)) },
        [['CPU-s/GB', '<=', own]],
        note,
      ),
    ]
  })
}

/** The same over a long, lossy link. */
export async function wan(mode: Mode): Promise<Row[]> {
  await using t = await topology(mode, { delay: '40ms', rate: '200mbit', loss: '1%', queue: '2MB' })
  const { gbitPerSecond } = await transfer(t.place('alice'), 5201, { seconds: 20 })
  const name = `200 Mbit/s link, 80 ms round trip, 1 % loss, one flow, ${mode}`
  return [row(name, { 'Mbit/s': gbitPerSecond * 1000 }, [['Mbit/s', '>=', mode === 'forwarded' ? 150 : 100]])]
}
