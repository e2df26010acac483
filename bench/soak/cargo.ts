/** The parts of a soak that cargo runs: simulations in memory, and fuzzing. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '../../tests/lib/proc.ts'
import type { Outcome, Progress } from './outcome.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FUZZ = join(ROOT, 'crates', 'ztna-core')
const TARGET = join(process.env['CARGO_TARGET_DIR'] ?? join(ROOT, 'target'), 'fuzz')
/** A cold build with the sanitizer compiles BoringSSL once more. */
const BUILD_MS = 60 * 60_000
/** All seeds of the pairs take two cores for the better part of an hour. */
const SEEDS_MS = 180 * 60_000

type Ran = Awaited<ReturnType<typeof run>>

/** Ten times the seeds of `npm test`, for the places of nodes 200 of each pair, schedules of 10,000 steps; then seeds after seeds of the simulated network until `seconds` are over. */
export async function simulations(seconds: number, progress: Progress): Promise<Outcome> {
  const suite = (name: string): string[] => ['test', '--locked', '-p', 'ztna-core', '--test', name]
  progress('building')
  for (const name of ['system', 'paths']) await run(null, 'cargo', [...suite(name), '--no-run'], { cwd: ROOT, timeoutMs: BUILD_MS })
  const held = async (what: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<Ran> => {
    const ran = await run(null, 'nice', ['cargo', ...args], { cwd: ROOT, env, timeoutMs: SEEDS_MS, codes: 'any' })
    progress(`${what}: ${ran.code === 0 ? 'held' : 'DID NOT HOLD'}`)
    return ran
  }
  const more = [
    await held('ten times the seeds of npm test', [...suite('system'), '--', 'hostile', 'schedules'], { ZTNA_SOAK: '10' }),
    await held('schedules of 10,000 steps', [...suite('paths'), '--', 'schedules'], { ZTNA_STEPS: '10000' }),
    await held('200 seeds of each pair of places', [...suite('paths'), '--', 'matrix', 'bursts'], { ZTNA_SOAK: '10' }),
  ]
  const { stdout, stderr, code } = await run(null, 'nice', ['cargo', ...suite('system'), 'chaos::', '--', '--nocapture'], {
    cwd: ROOT,
    env: { ZTNA_CHAOS_SECONDS: String(Math.ceil(seconds)) },
    timeoutMs: (seconds + 300) * 1_000,
    codes: 'any',
  })
  const seeds = [...stdout.matchAll(/seed (\d+) held$/gm)].map(([, seed]) => Number(seed))
  progress(`${seeds.length} seeds held`)
  const failed = [...more, { stdout, stderr, code }].flatMap((r) => (r.code === 0 ? [] : [lastLines(`${r.stdout}\n${r.stderr}`, 30)]))
  return { ran: true, problems: seeds.length === 0 ? ['no seed ran', ...failed] : failed, figures: { seconds, seeds: seeds.length } }
}

/** Every fuzz target for an equal share of `seconds`. The corpora in the repository are read and not written. */
export async function fuzz(seconds: number, progress: Progress): Promise<Outcome> {
  const why = await missing()
  if (why !== undefined) return { ran: false, problems: [], figures: { why } }
  progress('building the targets with the address sanitizer')
  await cargoFuzz(['build', '--target-dir', TARGET], BUILD_MS)
  const targets = readdirSync(join(FUZZ, 'fuzz', 'corpus')).sort()
  const each = Math.max(1, Math.floor(seconds / targets.length))
  const problems: string[] = []
  const runs: Record<string, number> = {}
  for (const target of targets) {
    const found = mkdtempSync(join(tmpdir(), `ztna-fuzz-${target}-`))
    try {
      const result = await cargoFuzz(
        [
          'run',
          '--target-dir',
          TARGET,
          target,
          found,
          join('fuzz', 'corpus', target),
          '--',
          `-max_total_time=${each}`,
          '-print_final_stats=1',
        ],
        (each + 600) * 1_000,
        'any',
      )
      runs[target] = Number(/stat::number_of_executed_units:\s+(\d+)/.exec(result.stderr)?.[1] ?? 0)
      if (result.code !== 0) problems.push(`${target}: ${lastLines(result.stderr, 30)}`)
      else if (runs[target] === 0) problems.push(`${target}: nothing was run`)
      progress(`${target}: ${runs[target]} inputs in ${each} s, ${result.code === 0 ? 'none failed' : 'FAILED'}`)
    } finally {
      rmSync(found, { recursive: true, force: true })
    }
  }
  return { ran: true, problems, figures: { secondsEach: each, inputs: runs } }
}

async function missing(): Promise<string | undefined> {
  const tool = await run(null, 'cargo', ['fuzz', '--version'], { codes: 'any' })
  if (tool.code !== 0) return 'cargo-fuzz is missing: cargo install cargo-fuzz'
  const nightly = await run(null, 'rustup', ['run', 'nightly', 'rustc', '--version'], { codes: 'any' })
  return nightly.code === 0 ? undefined : 'a nightly toolchain is missing: rustup toolchain install nightly --profile minimal'
}

function cargoFuzz(args: readonly string[], timeoutMs: number, codes?: 'any'): ReturnType<typeof run> {
  const [command, ...rest] = args
  return run(null, 'nice', ['cargo', 'fuzz', command ?? '', ...rest], {
    cwd: FUZZ,
    env: { RUSTUP_TOOLCHAIN: 'nightly' },
    timeoutMs,
    ...(codes === undefined ? {} : { codes }),
  })
}

const lastLines = (text: string, count: number): string => text.trimEnd().split('\n').slice(-count).join('\n')
