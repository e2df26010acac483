import { background, server } from '../../tests/lib/peers.ts'
import { busySeconds, row, type Row } from '../lib/measure.ts'
import { routed } from '../lib/topology.ts'
import { nodeTransfer } from './node.ts'

const ROUNDS = 2
const MS = 5_000
const PORT = 7001

/**
 * One stream from Node to Node, direct: `agent.connect()` to a handler of `serve()`, and `@number0/iroh` (npm) in the same two namespaces, in
 * turns; the best of each counts.
 */
export async function iroh(): Promise<Row[]> {
  await using t = await routed({ services: [{ name: 'node', tcp: [81, 82] }] })
  await t.relay().online()
  await server(t.place('c1'), 'bulk.mjs', 'sink', t.trust.out('connector', 'c1'))
  const [ours, theirs]: [number[], number[]] = [[], []]
  const [oursCpu, theirsCpu]: [number[], number[]] = [[], []]
  for (let i = 0; i < ROUNDS; i += 1) {
    const mine = await nodeTransfer(t.place('alice'), 'up', t.trust.out('agent', 'alice'), 'direct')
    ours.push(mine.gbitPerSecond)
    oursCpu.push(mine.cpuPerGB)
    const sink = background(t.place('c1'), 'iroh.mjs', ['sink', `0.0.0.0:${PORT}`])
    const [, id = ''] = await sink.waitFor(/"listening":"(\w+)"/)
    const busy = busySeconds()
    const up = background(t.place('alice'), 'iroh.mjs', ['up', '0.0.0.0:0', id, `${t.address('c1')}:${PORT}`, String(MS)])
    const [line] = await up.waitFor(/^\{"bytes".*$/, { timeoutMs: MS + 20_000 })
    const { bytes, seconds } = JSON.parse(line) as { bytes: number; seconds: number }
    theirs.push((bytes * 8) / seconds / 1e9)
    theirsCpu.push((busySeconds() - busy) / (bytes / 1e9))
    await Promise.all([up.exited, sink.exited])
  }
  const [best, other] = [Math.max(...ours), Math.max(...theirs)]
  const figures = {
    'of @number0/iroh': best / other,
    'Gbit/s': best,
    'Gbit/s @number0/iroh': other,
    'CPU-s/GB': Math.min(...oursCpu),
    'CPU-s/GB @number0/iroh': Math.min(...theirsCpu),
  }
  return [row('one stream from Node to Node, direct, beside @number0/iroh', figures, [['of @number0/iroh', '>=', 20]])]
}
