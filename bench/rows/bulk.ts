import { row, type Row } from '../lib/measure.ts'
import { topology, type Mode } from '../lib/topology.ts'
import { transfer } from '../lib/transfer.ts'

/** One TCP flow of iperf3 through `forward`, both ways, and the relay's part in its cost. */
export async function bulk(mode: Mode): Promise<Row[]> {
  await using t = await topology(mode)
  const relay = t.relays.get('r1')
  const [gbit, cpu, own] = mode === 'forwarded' ? [2.4, 5.5, 0.7] : [1.1, 11, 3.5]
  const rows: Row[] = []
  for (const reverse of [false, true]) {
    const way = `${mode}, ${reverse ? 'down' : 'up'}`
    const result = await transfer(t.place('alice'), 5201, { reverse, ...(relay ? { process: relay } : {}) })
    const figures = { 'Gbit/s': result.gbitPerSecond, 'CPU-s/GB': result.cpuPerGB }
    rows.push(
      row(`TCP through the relay, ${way}`, figures, [
        ['Gbit/s', '>=', gbit],
        ['CPU-s/GB', '<=', cpu],
      ]),
      row(`the relay's own share, ${way}`, { 'CPU-s/GB': result.processCpuPerGB }, [['CPU-s/GB', '<=', own]]),
    )
  }
  return rows
}

/** The same over a long, lossy link. */
export async function wan(mode: Mode): Promise<Row[]> {
  await using t = await topology(mode, { delay: '40ms', rate: '200mbit', loss: '1%', queue: '2MB' })
  const { gbitPerSecond } = await transfer(t.place('alice'), 5201, { seconds: 20 })
  const name = `200 Mbit/s link, 80 ms round trip, 1 % loss, one flow, ${mode}`
  return [row(name, { 'Mbit/s': gbitPerSecond * 1000 }, [['Mbit/s', '>=', mode === 'forwarded' ? 150 : 100]])]
}
