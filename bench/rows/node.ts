import { background, server } from '../../tests/lib/peers.ts'
import type { Netns } from '../../tests/lib/netns.ts'
import { iperf3Server } from '../../tests/lib/programs.ts'
import { Topology, type TopologySpec } from '../../tests/lib/topology.ts'
import { busySeconds, row, type Row } from '../lib/measure.ts'
import { goDirect, routed } from '../lib/topology.ts'
import { transfer, type Transfer } from '../lib/transfer.ts'

type Figures = Pick<Transfer, 'gbitPerSecond' | 'cpuPerGB'>

/** Each pair of figures is measured this often, in turns; the best of each counts. */
const ROUNDS = 2
const SECONDS = 5

/** Which way both of a pair go. */
type Way = 'forwarded' | 'direct'

/**
 * `agent.connect()` in one Node process to a handler of `serve()` in another, against iperf3 through `forward` and a dialled target
 * in turns in the same namespaces: alice and c1 are `ztna` commands, bob and c2 are the Node processes, the relay is the same.
 */
export async function node(path: Way): Promise<Row[]> {
  const spec: TopologySpec = {
    connectors: ['c1', 'c2'],
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['eng'] },
    ],
    services: [
      { name: 'bulk', tcp: [5201], connectors: ['c1'] },
      { name: 'node', tcp: [81, 82], connectors: ['c2'] },
    ],
  }
  await using t = await (path === 'direct' ? routed(spec) : Topology.create(spec))
  await iperf3Server(t.place('c1'), 5201)
  await t.relay().online()
  await t.connector(['bulk=tcp:5201:127.0.0.1:5201'], 'c1').online()
  const alice = t.agent(['tcp:127.0.0.1:5201=bulk:5201'], 'alice')
  await alice.online()
  if (path === 'direct') await goDirect(alice, 'bulk')
  await server(t.place('c2'), 'bulk.mjs', 'sink', t.trust.out('connector', 'c2'))
  const rows: Row[] = []
  for (const way of ['up', 'down'] as const) {
    const [forward, embedded]: [Figures[], Figures[]] = [[], []]
    for (let i = 0; i < ROUNDS; i += 1) {
      forward.push(await transfer(t.place('alice'), 5201, { seconds: SECONDS, reverse: way === 'down' }))
      embedded.push(await nodeTransfer(t.place('bob'), way, t.trust.out('agent', 'bob'), path))
    }
    const [ours, theirs] = [best(embedded), best(forward)]
    const figures = {
      'of `forward`': ours.gbitPerSecond / theirs.gbitPerSecond,
      'Gbit/s': ours.gbitPerSecond,
      'CPU-s/GB': ours.cpuPerGB,
      'Gbit/s `forward`': theirs.gbitPerSecond,
      'CPU-s/GB `forward`': theirs.cpuPerGB,
    }
    rows.push(row(`agent.connect() to a Node handler in serve(), ${path}, ${way}`, figures, [['of `forward`', '>=', 0.85]]))
  }
  return rows
}

/** Bulk between two Node processes for five seconds. */
export async function nodeTransfer(from: Netns, way: 'up' | 'down', folder: string, path: Way): Promise<Figures> {
  const proc = background(from, 'bulk.mjs', [way, folder, String(SECONDS * 1000), ...(path === 'direct' ? ['direct'] : [])])
  await proc.waitFor(/"ready"/)
  const busy = busySeconds()
  proc.write('\n')
  const [line] = await proc.waitFor(/^\{"bytes".*$/, { timeoutMs: (SECONDS + 20) * 1000 })
  const spent = busySeconds() - busy
  await proc.exited
  const { bytes, seconds } = JSON.parse(line) as { bytes: number; seconds: number }
  return { gbitPerSecond: (bytes * 8) / seconds / 1e9, cpuPerGB: spent / (bytes / 1e9) }
}

function best(all: readonly Figures[]): Figures {
  return {
    gbitPerSecond: Math.max(...all.map((one) => one.gbitPerSecond)),
    cpuPerGB: Math.min(...all.map((one) => one.cpuPerGB)),
  }
}
