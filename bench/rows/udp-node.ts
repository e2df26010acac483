import { background, server } from '../../tests/lib/peers.ts'
import type { Netns } from '../../tests/lib/netns.ts'
import { Topology } from '../../tests/lib/topology.ts'
import { busySeconds, median, row, type Row } from '../lib/measure.ts'

const MS = 4_000
/** Both are measured this often, in turns; the median of each counts. */
const ROUNDS = 3
const BARE = '127.0.0.1:8082'

interface Received {
  /** A second. */
  readonly rate: number
  /** Of what came to the receiver's queue, lost there. */
  readonly lost: number
  /** Busy microseconds of the machine for each message. */
  readonly cpu: number
}

/**
 * Datagrams from a Node handler of `serve({ udp })` to the `messages` event of an agent in another Node process, against `node:dgram` at both ends
 * of bare loopback in the same namespace.
 */
export async function udpNode(): Promise<Row[]> {
  await using t = await Topology.create({ services: [{ name: 'news', udp: [64, 1200] }] })
  await t.relay().online()
  await server(t.place('c1'), 'datagram-rate.mjs', 'serve', t.trust.out('connector', 'c1'), BARE)
  const rows: Row[] = []
  for (const size of [64, 1200]) {
    const [tunnel, bare]: [Received[], Received[]] = [[], []]
    for (let i = 0; i < ROUNDS; i += 1) {
      bare.push(await receive(t.place('c1'), 'bare', BARE, size))
      tunnel.push(await receive(t.place('alice'), 'tunnel', t.trust.out('agent', 'alice'), size))
    }
    const [ours, theirs] = [middle(tunnel), middle(bare)]
    const figures = {
      'datagrams/s': ours.rate,
      'datagrams/s node:dgram': theirs.rate,
      'lost at the receiver': ours.lost,
      'CPU-µs/datagram': ours.cpu,
      'CPU-µs/datagram node:dgram': theirs.cpu,
    }
    const bars = size === 64 ? [['datagrams/s', '>=', 300_000] as const] : []
    rows.push(row(`datagrams of ${size} bytes to \`messages\` in Node`, figures, bars))
  }
  return rows
}

async function receive(at: Netns, kind: 'bare' | 'tunnel', where: string, size: number): Promise<Received> {
  const proc = background(at, 'datagram-rate.mjs', ['receive', kind, where, String(size), String(MS)])
  const busy = busySeconds()
  const [line] = await proc.waitFor(/^\{"messages".*$/, { timeoutMs: MS + 20_000 })
  const spent = busySeconds() - busy
  await proc.exited
  const { messages, seconds, lost } = JSON.parse(line) as { messages: number; seconds: number; lost: number }
  // The first second, in which it starts, is in `spent` and not in `messages`: an upper bound.
  return { rate: messages / seconds, lost, cpu: (1e6 * spent) / messages }
}

function middle(all: readonly Received[]): Received {
  const of = (figure: keyof Received): number => median(all.map((one) => one[figure]))
  return { rate: of('rate'), lost: of('lost'), cpu: of('cpu') }
}
