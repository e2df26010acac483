/** Native log lines handed to the callers' loggers. */
import { LOG_LEVELS, type LogLevel, type Logger, say } from './logger.js'
import { type NativeLog, native } from './native.js'

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

// The native log is one for the thread: each logger gets each line once, however many roles share it.
const sinks = new Set<Sink>()
let log: NativeLog | undefined

/** Starts handing lines of `level` and above to `logger`; the returned function stops it. */
export function addLogger(logger: Logger, level: LogLevel): () => void {
  const sink: Sink = { logger, level }
  sinks.add(sink)
  refresh()
  return () => {
    if (!sinks.has(sink)) return
    // What was said last is on its way.
    drain()
    sinks.delete(sink)
    refresh()
  }
}

function refresh(): void {
  const rank = Math.min(LOG_LEVELS.length - 1, ...[...sinks].map((sink) => LOG_LEVELS.indexOf(sink.level)))
  const level = LOG_LEVELS[rank] ?? 'off'
  if (level === 'off') {
    log?.close()
    log = undefined
  } else if (log === undefined) log = new (native().NativeLog)(level, drain)
  else log.setLevel(level)
}

// One bell may call for many lines.
function drain(): void {
  if (log !== undefined) deliver(JSON.parse(log.take()) as Line[])
}

function deliver(lines: readonly Line[]): void {
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
