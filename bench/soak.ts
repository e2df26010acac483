// npm run soak [-- --minutes N] [-- --only flows,simulations,fuzz]: what is too long for `npm test`, in a bounded time: flows over lossy
// lines while roles come and go, seeds of the simulated network, fuzzing. Writes docs/soak/<date>.json; ends with 1 when
// something did not hold. Builds come on top of the time.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { removeStale } from '../tests/lib/netns.ts'
import { run } from '../tests/lib/proc.ts'
import { load, machine } from './lib/measure.ts'
import { fuzz, simulations } from './soak/cargo.ts'
import { flows } from './soak/flows.ts'
import type { Outcome, Progress } from './soak/outcome.ts'

type Part = (seconds: number, progress: Progress) => Promise<Outcome>
/** Each part and its share of the time. */
const PARTS: Readonly<Record<string, readonly [share: number, part: Part]>> = {
  flows: [0.5, flows],
  simulations: [0.2, simulations],
  fuzz: [0.3, fuzz],
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { minutes: { type: 'string', default: '20' }, only: { type: 'string' } } })
  const minutes = Number(values.minutes)
  if (!(minutes > 0 && minutes <= 24 * 60)) return usage(`--minutes ${values.minutes}: from above 0 to 1440`)
  const wanted = values.only?.split(',') ?? Object.keys(PARTS)
  const unknown = wanted.filter((name) => PARTS[name] === undefined)
  if (unknown.length > 0) return usage(`--only ${unknown.join(',')}: accepted: ${Object.keys(PARTS).join(', ')}`)
  if (process.getuid?.() !== 0) {
    console.error('soak: network namespaces need root')
    return 77
  }
  removeStale()
  const shares = wanted.reduce((sum, name) => sum + (PARTS[name]?.[0] ?? 0), 0)
  const started = Date.now()
  const parts: Record<string, Outcome> = {}
  const loadBefore = load()
  for (const name of wanted) {
    const [share, part] = PARTS[name] ?? [0, flows]
    const seconds = Math.round((minutes * 60 * share) / shares)
    const say: Progress = (line) => console.error(`${String(Math.round((Date.now() - started) / 1_000)).padStart(5)} s  ${name}: ${line}`)
    say(`for ${seconds} s`)
    parts[name] = await part(seconds, say).catch((error: unknown) => ({
      ran: true,
      problems: [error instanceof Error ? error.message : String(error)],
      figures: {},
    }))
    for (const problem of parts[name].problems) say(`PROBLEM: ${problem}`)
  }
  const { stdout: commit } = await run(null, 'git', ['rev-parse', '--short', 'HEAD'], { codes: 'any' })
  const { stdout: changes } = await run(null, 'git', ['status', '--porcelain'], { codes: 'any' })
  const outcomes = Object.values(parts)
  const result = {
    date: new Date().toISOString(),
    commit: `${commit.trim()}${changes === '' ? '' : ', with changes that are not committed'}`,
    minutes,
    held: outcomes.every(({ problems }) => problems.length === 0),
    notRun: Object.entries(parts).flatMap(([name, { ran }]) => (ran ? [] : [name])),
    machine: machine(),
    loadBefore,
    parts,
  }
  const dir = fileURLToPath(new URL('../docs/soak', import.meta.url))
  mkdirSync(dir, { recursive: true })
  const file = join(dir, `${result.date.slice(0, 19).replaceAll(':', '-')}.json`)
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`${JSON.stringify(parts, null, 2)}\n${file}`)
  for (const name of result.notRun) console.log(`not run: ${name}: ${String(parts[name]?.figures['why'])}`)
  console.log(result.held ? 'soak: held' : 'soak: DID NOT HOLD')
  return result.held ? 0 : 1
}

function usage(message: string): number {
  console.error(`soak: ${message}`)
  return 64
}

process.exit(await main())
