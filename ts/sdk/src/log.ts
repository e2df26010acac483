/** Native log lines handed to the callers' loggers. */
import { LOG_LEVELS, type LogLevel, type Logger, say } from './logger.js'
import { type NativeLog, type NativeModule, native } from './native.js'
import { sharedMap } from './shared.js'

interface Line {
  readonly level: string
  readonly target: string
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>> | null
  readonly time: number
}

interface Sink {
  readonly logger: Logger
  readonly level: LogLevel
}

/** The log of an addon in this thread, and who gets it. */
interface Tap {
  readonly sinks: Set<Sink>
  log: NativeLog | undefined
}

// One for all copies of the SDK: each logger gets each line once, however many roles share it, and of whichever copy they are.
const taps: WeakMap<NativeModule, Tap> = sharedMap('log')

/** Starts handing lines of `level` and above to `logger`; the returned function stops it. */
export function addLogger(logger: Logger, level: LogLevel): () => void {
  const sink: Sink = { logger, level }
  const tap = taps.get(native()) ?? { sinks: new Set(), log: undefined }
  taps.set(native(), tap)
  tap.sinks.add(sink)
  refresh(tap)
  return () => {
    if (!tap.sinks.has(sink)) return
    // What was said last is on its way.
    drain(tap)
    tap.sinks.delete(sink)
    refresh(tap)
  }
}

function refresh(tap: Tap): void {
  const rank = Math.min(LOG_LEVELS.length - 1, ...[...tap.sinks].map((sink) => LOG_LEVELS.indexOf(sink.level)))
  const level = LOG_LEVELS[rank] ?? 'off'
  if (level === 'off') {
    tap.log?.close()
    tap.log = undefined
  } else if (tap.log === undefined) tap.log = new (native().NativeLog)(level, () => drain(tap))
  else tap.log.setLevel(level)
}

// One bell may call for many lines.
function drain({ log, sinks }: Tap): void {
  if (log !== undefined) deliver(JSON.parse(log.take()) as Line[], sinks)
}

function deliver(lines: readonly Line[], sinks: ReadonlySet<Sink>): void {
  const lowest = new Map<Logger, number>()
  for (const { logger, level } of sinks) {
    lowest.set(logger, Math.min(lowest.get(logger) ?? Infinity, LOG_LEVELS.indexOf(level)))
  }
  for (const line of lines) {
    const rank = LOG_LEVELS.findIndex((known) => known === line.level.toLowerCase())
    const level = LOG_LEVELS[rank] ?? 'off'
    for (const [logger, floor] of lowest) if (rank >= floor) say(logger, level, { target: line.target, ...line.fields }, line.message)
  }
}
