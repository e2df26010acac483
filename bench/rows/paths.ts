import { bigFile } from '../../tests/lib/programs.ts'
import type { Place } from '../../tests/lib/places.ts'
import { run } from '../../tests/lib/proc.ts'
import { quantile, row, type Bar, type Row } from '../lib/measure.ts'
import { Paths, RELAY_ONLY, type Probe, type Seen } from '../lib/paths.ts'

/** Tries of each figure; `BENCH_TRIES` for a quick look. */
const TRIES = Number(process.env['BENCH_TRIES'] ?? 50)
const ORDINARY = { alice: 'eim/apdf', c1: 'eim/apdf' } as const
const LINES = '20 ms one way to the relay and between homes'
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** From `start()` of a fresh process to the first byte, and from there to the direct path, where no port has to be guessed. */
export async function first(): Promise<Row[]> {
  const kinds: readonly (readonly [Place, Place])[] = [
    ['eim/apdf', 'eim/apdf'],
    ['apdm/apdf', 'eim/adf'],
    ['public', 'apdm/apdf'],
    ['double-nat', 'carrier'],
    ['v6:firewall', 'dual:apdm/apdf'],
  ]
  const rows: Row[] = []
  for (const [alice, c1] of kinds) {
    await using paths = await Paths.create({ alice, c1 })
    const [bytes, direct]: [number[], number[]] = [[], []]
    for (let i = 0; i < TRIES; i += 1) {
      await using probe = paths.probe()
      bytes.push((await probe.open('s:1')).ms)
      direct.push((await probe.becomes('direct', 10_000)) ?? Infinity)
    }
    const between = `${alice} to ${c1}`
    rows.push(
      row(`a cold agent's first byte by the relay, ${between}`, spread(bytes), [['ms p50', '<=', 300]], LINES),
      row(`and from there to the direct path, ${between}`, spread(direct), DIRECT, LINES),
    )
  }
  return rows
}
const DIRECT: readonly Bar[] = [
  ['ms p50', '<=', 500],
  ['ms p95', '<=', 1_500],
]

/** One side's NAT gives each destination another port, the other's lets in only who was sent to: one burst of checks to guessed ports. */
export async function guessed(): Promise<Row[]> {
  const rows: Row[] = []
  for (const [alice, c1] of [
    ['apdm/apdf', 'eim/apdf'],
    ['eim/apdf', 'apdm/apdf'],
  ] as const) {
    await using paths = await Paths.create({ alice, c1 })
    const all: number[] = []
    for (let i = 0; i < TRIES; i += 1) {
      // A node does it once in ten minutes for one network.
      await paths.connector()
      await using probe = paths.probe()
      await probe.open('s:1')
      all.push((await probe.becomes('direct', 8_000)) ?? Infinity)
    }
    const share = all.filter((ms) => ms <= 5_000).length / all.length
    const worked = all.filter((ms) => ms < Infinity)
    const figures = { 'share within 5 s': share, ...(worked.length > 0 ? spread(worked) : {}) }
    rows.push(
      row(
        `direct by guessing ports, ${alice} to ${c1}`,
        figures,
        [['share within 5 s', '>=', 0.95]],
        `${LINES}; times of those that worked`,
      ),
    )
  }
  return rows
}

/** A paced flow while something happens to its direct path: how long the reader gets nothing, and when the path is direct again. */
export const died = (): Promise<Row[]> => during('the direct path dies both ways', [['ms p95', '<=', 500]], dies, 1_500)
export const rebound = (): Promise<Row[]> =>
  during('the NAT rebinds', [['ms p95', '<=', 1_000]], (paths) => paths.net.rebind('r-alice'), 3_000)
export const moved = (): Promise<Row[]> => during("the agent's address changes", [['ms p95', '<=', 2_000]], moves, 3_000)

const dies = async (paths: Paths): Promise<() => Promise<void>> => {
  await paths.net.block('r-alice', RELAY_ONLY)
  return () => paths.net.block('r-alice', 'nothing')
}

const moves = async (paths: Paths): Promise<() => Promise<void>> => {
  const change = async (realm: string, from: string, to: string): Promise<void> => {
    await paths.net.move('alice', realm, [to])
    const lines = [`address del ${from}/24 dev eth0`, `address add ${to}/24 dev eth0`, 'route replace default dev eth0']
    await run(null, 'ip', ['-n', paths.alice.name, '-batch', '-'], { input: `${lines.join('\n')}\n` })
  }
  await change('elsewhere', '192.168.1.10', '192.168.7.20')
  return () => change('r-alice', '192.168.7.20', '192.168.1.10')
}

async function during(
  what: string,
  bars: readonly Bar[],
  happen: (paths: Paths) => Promise<void | (() => Promise<void>)>,
  watchMs: number,
): Promise<Row[]> {
  await using paths = await Paths.create(ORDINARY)
  const gaps: number[] = []
  const again: number[] = []
  let broken = 0
  for (let i = 0; i < TRIES; i += 1) {
    await using probe = paths.probe()
    await probe.open('s:1')
    if ((await probe.becomes('direct', 10_000)) === null) throw new Error(`${what}: no direct path to begin with`)
    await sleep(700)
    await probe.mark()
    const undo = await happen(paths)
    await sleep(watchMs)
    const seen = await probe.seen()
    gaps.push(seen.gapMs)
    broken += seen.ended === null ? 0 : 1
    again.push(backToDirect(seen))
    await undo?.()
  }
  const direct = again.filter((ms) => ms < Infinity)
  const figures = {
    ...spread(gaps),
    'flows broken': broken,
    'direct again': direct.length / again.length,
    ...(direct.length > 0 ? { 'ms p95 until direct again': quantile(sorted(direct), 0.95) } : {}),
  }
  return [
    row(
      `longest time without data when ${what}`,
      figures,
      [...bars, ['flows broken', '<=', 0]],
      `${LINES}, 65 Mbit/s; direct again within ${watchMs} ms`,
    ),
  ]
}

/** When the path last became direct; 0 where it was all the time. */
function backToDirect({ switches, path }: Seen): number {
  if (path !== 'direct') return Infinity
  return switches.findLast(({ to }) => to === 'direct')?.ms ?? 0
}

/** 500 MB through the shipped agent as fast as they come, while the direct path dies three times. */
export async function file(): Promise<Row[]> {
  await using paths = await Paths.create(ORDINARY)
  const sum = await bigFile(`${paths.root}/file`, 500_000_000)
  await using agent = (await paths.agent()).proc
  const started = performance.now()
  const transfer = paths.alice.run('bash', ['-c', 'set -o pipefail; curl -sSf http://127.0.0.1:8080/file | openssl dgst -sha256 -r'], {
    timeoutMs: 300_000,
  })
  const seen = { over: false, deaths: 0 }
  const killer = (async () => {
    while (!seen.over) {
      await agent.waitFor(/"event":"path".*"next":\{"kind":"direct"/, { from: agent.mark, timeoutMs: 60_000 }).catch(() => undefined)
      if (seen.over) return
      await sleep(1_000)
      await paths.net.block('r-alice', RELAY_ONLY)
      seen.deaths += 1
      await sleep(1_500)
      await paths.net.block('r-alice', 'nothing')
    }
  })()
  const { stdout } = await transfer
  seen.over = true
  const seconds = (performance.now() - started) / 1_000
  await paths.net.block('r-alice', 'nothing')
  await Promise.race([killer, sleep(3_000)])
  const right = stdout.split(' ')[0] === sum ? 1 : 0
  return [
    row(
      '500 MB whose direct path dies on the way',
      { 'SHA-256 right': right, deaths: seen.deaths, s: seconds },
      [
        ['SHA-256 right', '>=', 1],
        ['deaths', '>=', 1],
      ],
      LINES,
    ),
  ]
}

/** A flow that takes all of a 100 Mbit/s line moves from the relay to the direct path. */
export async function promotion(): Promise<Row[]> {
  const rate = 100e6
  await using paths = await Paths.create({ ...ORDINARY, home: { rate: '100mbit', queue: '500KB' } })
  const dips: number[] = []
  const before: number[] = []
  for (let i = 0; i < Math.min(TRIES, 30); i += 1) {
    await paths.net.block('r-alice', RELAY_ONLY)
    await using probe: Probe = paths.probe()
    await probe.open('s:2')
    await sleep(4_000)
    await probe.mark()
    await paths.net.block('r-alice', 'nothing')
    await sleep(5_500)
    const { slices, switches } = await probe.seen()
    const at = switches.find(({ to }) => to === 'direct')?.ms
    if (at === undefined) throw new Error('no direct path within 5 s')
    const base = mean(slices.slice(0, Math.floor(at / 50)))
    before.push((base * 20 * 8) / rate)
    dips.push(longestBelow(slices.slice(Math.floor(at / 50)), 0.7 * base))
  }
  return [
    row(
      'longest time below 0.7 of the rate when a bulk flow moves from the relay to the direct path',
      { ...spread(dips), 'share of the line before': quantile(sorted(before), 0.5) },
      [['ms p95', '<=', 500]],
      `${LINES}, 100 Mbit/s; rates over 200 ms`,
    ),
  ]
}

/** Milliseconds in a row in which the rate over 200 ms is below `limit` bytes a slice of 50 ms. */
function longestBelow(slices: readonly number[], limit: number): number {
  let [longest, now] = [0, 0]
  for (let i = 0; i + 4 <= slices.length; i += 1) {
    now = mean(slices.slice(i, i + 4)) < limit ? now + 50 : 0
    longest = Math.max(longest, now)
  }
  return longest
}

function spread(values: readonly number[]): Record<string, number> {
  const all = sorted(values)
  return { 'ms p50': quantile(all, 0.5), 'ms p95': quantile(all, 0.95), 'ms worst': quantile(all, 1), tries: all.length }
}
const sorted = (values: readonly number[]): readonly number[] => values.toSorted((a, b) => a - b)
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
