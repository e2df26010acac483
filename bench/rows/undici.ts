import { background, server } from '../../tests/lib/peers.ts'
import type { Netns } from '../../tests/lib/netns.ts'
import { Topology, type TopologySpec } from '../../tests/lib/topology.ts'
import { busySeconds, median, row, type Row } from '../lib/measure.ts'
import { routed } from '../lib/topology.ts'

const CONNECTIONS = 50
const MS = 5_000
/** Both are measured this often, in turns; the median of each counts. */
const ROUNDS = 3
const BARE = '127.0.0.1:8081'

interface Asked {
  readonly requests: number
  readonly seconds: number
  readonly p50: number
  readonly p99: number
  /** Busy seconds of the machine. */
  readonly cpu: number
}

/**
 * undici's requests through `agent.dispatcher()` to an HTTP server that a connector serves, against undici's own `Agent` on bare loopback to the
 * same handler in the same process. One request after another on each of 50 connections, answers of 229 bytes.
 */
export async function undici(path: 'forwarded' | 'direct'): Promise<Row[]> {
  const spec: TopologySpec = { services: [{ name: 'web', tcp: [80] }] }
  await using t = await (path === 'direct' ? routed(spec) : Topology.create(spec))
  await t.relay().online()
  await server(t.place('c1'), 'requests.mjs', 'serve', t.trust.out('connector', 'c1'), BARE)
  const [tunnel, bare]: [Asked[], Asked[]] = [[], []]
  for (let i = 0; i < ROUNDS; i += 1) {
    bare.push(await ask(t.place('c1'), 'bare', `http://${BARE}/`))
    tunnel.push(await ask(t.place('alice'), 'tunnel', t.trust.out('agent', 'alice'), ...(path === 'direct' ? ['direct'] : [])))
  }
  const [ours, theirs] = [middle(tunnel), middle(bare)]
  const figures = {
    'of bare loopback': ours.rate / theirs.rate,
    'p99 of bare loopback': ours.p99 / theirs.p99,
    'requests/s': ours.rate,
    'requests/s bare': theirs.rate,
    'ms p50': ours.p50,
    'ms p99': ours.p99,
    'ms p99 bare': theirs.p99,
    'CPU-ms/request': ours.cpuMs,
    'CPU-ms/request bare': theirs.cpuMs,
  }
  const bars = [['of bare loopback', '>=', 0.6] as const, ['p99 of bare loopback', '<=', 2] as const]
  return [row(`undici, ${CONNECTIONS} connections to serve({ http }), ${path}`, figures, bars)]
}

async function ask(from: Netns, kind: 'bare' | 'tunnel', where: string, ...more: readonly string[]): Promise<Asked> {
  const proc = background(from, 'requests.mjs', ['ask', kind, where, String(MS), String(CONNECTIONS), ...more])
  await proc.waitFor(/"ready"/)
  const busy = busySeconds()
  proc.write('\n')
  const [line] = await proc.waitFor(/^\{"requests".*$/, { timeoutMs: MS + 20_000 })
  const cpu = busySeconds() - busy
  await proc.exited
  return { ...(JSON.parse(line) as Omit<Asked, 'cpu'>), cpu }
}

function middle(all: readonly Asked[]): { rate: number; p50: number; p99: number; cpuMs: number } {
  return {
    rate: median(all.map(({ requests, seconds }) => requests / seconds)),
    p50: median(all.map(({ p50 }) => p50)),
    p99: median(all.map(({ p99 }) => p99)),
    cpuMs: median(all.map(({ cpu, requests }) => (1000 * cpu) / requests)),
  }
}
