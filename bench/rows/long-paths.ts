import { run } from '../../tests/lib/proc.ts'
import { quantile, row, type Row } from '../lib/measure.ts'
import { Paths, RELAY_ONLY } from '../lib/paths.ts'

const ORDINARY = { alice: 'eim/apdf', c1: 'eim/apdf' } as const
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
/** After the moment at which a path is cut. What is lost later is lost for another reason. */
const GAP_MS = 500

/** A datagram every 100 ms for ten minutes while the direct path is cut and mended ten times: twenty switches. */
export async function ping(): Promise<Row[]> {
  const [cycles, cycleMs, cutMs] = [10, 60_000, 4_000]
  await using paths = await Paths.create(ORDINARY)
  await using probe = paths.probe()
  await probe.open('s:7')
  await probe.ping('s:7', 100)
  const begun = performance.now()
  await probe.becomes('direct', 10_000)
  await probe.mark()
  const cuts: number[] = []
  for (let i = 0; i < cycles; i += 1) {
    await sleep(begun + (i + 0.6) * cycleMs - performance.now())
    cuts.push(performance.now() - begun)
    await paths.net.block('r-alice', RELAY_ONLY)
    await sleep(cutMs)
    await paths.net.block('r-alice', 'nothing')
  }
  await sleep(begun + cycles * cycleMs - performance.now())
  const { switches } = await probe.seen()
  const { sent, lost, worstMs } = await probe.pinged()
  const inGap = (at: number): boolean => cuts.some((cut) => at >= cut - 150 && at <= cut + GAP_MS)
  const figures = {
    sent,
    'lost in gaps': lost.filter(inGap).length,
    'lost beyond': lost.filter((at) => !inGap(at)).length,
    switches: switches.length,
    'ms worst': worstMs,
  }
  const bars = [
    ['lost beyond', '<=', 0],
    ['switches', '>=', 20],
  ] as const
  return [row('a datagram every 100 ms for 10 min, its direct path cut ten times', figures, bars, `a gap: ${GAP_MS} ms from the cut`)]
}

/** What an idle direct path costs, as IP packets of both ways, keep-alive of the inner connection included. */
export async function idle(): Promise<Row[]> {
  const seconds = 180
  await using paths = await Paths.create(ORDINARY)
  await using probe = paths.probe()
  await probe.open('s:7')
  await probe.exchanges('s:7', 5)
  if ((await probe.becomes('direct', 10_000)) === null) throw new Error('no direct path')
  await sleep(5_000)
  const rules = `table ip count {
  counter passed { }
  chain o {
    type filter hook output priority 0; policy accept;
    ip daddr 203.0.113.2 counter name passed
  }
  chain i {
    type filter hook input priority 0; policy accept;
    ip saddr 203.0.113.2 counter name passed
  }
}`
  await run(paths.alice, 'nft', ['-f', '-'], { input: rules })
  await sleep(seconds * 1_000)
  const { stdout } = await run(paths.alice, 'nft', ['-j', 'list', 'counters'])
  const { nftables } = JSON.parse(stdout) as { nftables: readonly { counter?: { bytes: number } }[] }
  const bytes = nftables.reduce((sum, { counter }) => sum + (counter?.bytes ?? 0), 0)
  return [
    row('an idle direct path', { 'B/s': bytes / seconds }, [['B/s', '<=', 35]], `both ways, IPv4 headers included, over ${seconds} s`),
  ]
}

/** The same exchanges of the same program, directly and by a relay whose round trip is 30 ms from both: homes of one city. */
export async function near(): Promise<Row[]> {
  await using paths = await Paths.create({ ...ORDINARY, home: { delay: '1ms' }, relay: { delay: '14ms' } })
  const times: Record<string, readonly number[]> = {}
  for (const kind of ['relay-only', 'direct-only']) {
    await using probe = paths.probe()
    await probe.open('s:7', kind)
    times[kind] = await probe.exchanges('s:7', 200, kind)
  }
  const middle = (kind: string): number => quantile(times[kind] ?? [], 0.5)
  const figures = {
    'times faster': middle('relay-only') / middle('direct-only'),
    'ms p50 direct': middle('direct-only'),
    'ms p50 by the relay': middle('relay-only'),
  }
  return [
    row(
      'a one-byte exchange directly against by a relay 30 ms away',
      figures,
      [],
      '200 each on a flow that stands; round trips without the product: 4 ms between the homes, 30 ms from each to the relay',
    ),
  ]
}
