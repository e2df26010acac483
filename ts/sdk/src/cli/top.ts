/** `ztna top`: the flows of a running role, and how fast they move. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { ask, findControl } from './control.js'
import { client, type Where } from './client-options.js'
import { withExamples } from './examples.js'
import { UsageError } from './exit.js'
import { Screen } from './screen.js'
import { type Paint, paintFor, unpainted } from './style.js'
import { ORDERS, type Order, type TopAnswer, type TopSample, toSample } from './top-sample.js'
import { renderTop } from './top-view.js'

interface TopFlags extends Where {
  readonly once?: boolean
  readonly interval: string
  readonly count?: string
}

/** Columns of a snapshot that goes to a file or a pipe. */
const PIPE_WIDTH = 120
const KEYS = 'q quit   s sort by'

/** Adds `top`. */
export function addTop(program: Command): void {
  withExamples(client(program, 'top', 'live flows, paths and rates of a running role'), [
    'ztna top',
    'ztna top --role connector --once',
    'ztna top --json --interval 5 --count 12',
  ])
    .option('--once', 'print one snapshot and end; so does an output that is no terminal')
    .option('--interval <SECONDS>', 'between two looks', '1')
    .option('--count <N>', 'end after so many (default: never on a terminal and with --json, else 1)')
    .action(async (flags: TopFlags) => {
      const intervalMs = parseInterval(flags.interval)
      const count = parseCount(flags)
      const path = await findControl(flags)
      const follow = follower(path, intervalMs)
      if (flags.json === true) return printAll(follow, count ?? Infinity, (sample) => JSON.stringify(sample))
      if (!process.stdout.isTTY || count !== undefined) {
        const [width, paint] = process.stdout.isTTY ? [process.stdout.columns, paintFor(process.stdout)] : [PIPE_WIDTH, unpainted]
        return printAll(follow, count ?? 1, (sample) => renderTop(sample, { width, height: Infinity, paint, order: 'rate' }).join('\n'))
      }
      await show(follow, paintFor(process.stdout))
    })
}

/** Looks at the role again and again, until `signal` fires. The first sample has no rates. */
type Follow = (signal: AbortSignal) => AsyncGenerator<TopSample>

function follower(path: string, intervalMs: number): Follow {
  return async function* (signal) {
    let before: TopAnswer | undefined
    let due = performance.now()
    while (!signal.aborted) {
      const answer = (await ask(path, { cmd: 'top' })) as TopAnswer
      if (signal.aborted) return
      yield toSample(answer, before, Date.now())
      before = answer
      // A role that answers slowly is not asked faster for it.
      due = Math.max(due + intervalMs, performance.now())
      await sleep(due - performance.now(), undefined, { signal }).catch(() => {})
    }
  }
}

/** Samples as text, from the second on: one look alone has no rates. */
async function printAll(follow: Follow, count: number, toText: (sample: TopSample) => string): Promise<void> {
  const stop = new AbortController()
  // A reader that has seen enough, such as `head`, is no failure.
  process.stdout.on('error', () => stop.abort())
  let left = count
  for await (const sample of follow(stop.signal)) {
    if (sample.rxPerSecond === null) continue
    process.stdout.write(`${toText(sample)}\n`)
    left -= 1
    if (left <= 0) return
  }
}

async function show(follow: Follow, paint: Paint): Promise<void> {
  const stop = new AbortController()
  const end = (): void => stop.abort()
  let last: TopSample | undefined
  let order: Order = 'rate'
  let screen: Screen | undefined
  const draw = (): void => {
    if (last === undefined) return
    // Taken once there is something to show: what goes wrong before is told on the terminal as it is.
    screen ??= new Screen(process.stdout, process.stdin, { key: onKey, resized: draw })
    const { width, height } = screen
    screen.draw(renderTop(last, { width, height, paint, order, footer: `${KEYS} ${order}` }))
  }
  const onKey = (key: string): void => {
    // Raw mode makes a key of Ctrl-C and Ctrl-D.
    if (key === 'q' || key === '\u0003' || key === '\u0004') return end()
    if (key !== 's') return
    order = ORDERS[(ORDERS.indexOf(order) + 1) % ORDERS.length] ?? 'rate'
    draw()
  }
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, end)
  process.stdout.on('error', end)
  try {
    for await (const sample of follow(stop.signal)) {
      last = sample
      draw()
    }
  } finally {
    screen?.close()
    for (const signal of signals) process.off(signal, end)
  }
}

function parseInterval(text: string): number {
  const seconds = Number(text)
  if (seconds >= 0.1 && seconds <= 3_600) return seconds * 1_000
  throw new UsageError(`--interval ${text}: accepted: seconds, from 0.1 to 3600`)
}

function parseCount({ once, count }: TopFlags): number | undefined {
  if (once === true && count !== undefined) throw new UsageError('--once and --count exclude one another')
  if (count === undefined) return once === true ? 1 : undefined
  const number = Number(count)
  if (/^\d+$/.test(count) && number >= 1 && number <= 1_000_000_000) return number
  throw new UsageError(`--count ${count}: accepted: a whole number from 1 to 1000000000`)
}
