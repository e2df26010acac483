/** Native log lines handed to the callers' loggers. */
import { native } from './native.js'

/** What pino, and anything shaped like it, offers. */
export interface Logger {
  /** Detail for developers, `trace` included. */
  debug(fields: object, message?: string): void
  /** What an operator may want to know. */
  info(fields: object, message?: string): void
  /** What recovers by itself. */
  warn(fields: object, message?: string): void
  /** What does not. */
  error(fields: object, message?: string): void
  /** Not called by the SDK. */
  child?(bindings: object): Logger
}

/** From the most talkative to silence. */
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'off'

/** From the most talkative to silence. */
export const LOG_LEVELS: readonly LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error', 'off']

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

// The native sink is one for the process: each logger gets each line once, however many roles share it.
const sinks = new Set<Sink>()

/** Starts handing lines of `level` and above to `logger`; the returned function stops it. */
export function addLogger(logger: Logger, level: LogLevel): () => void {
  const sink: Sink = { logger, level }
  sinks.add(sink)
  refresh()
  return () => {
    if (sinks.delete(sink)) refresh()
  }
}

function refresh(): void {
  const rank = Math.min(LOG_LEVELS.length - 1, ...[...sinks].map((sink) => LOG_LEVELS.indexOf(sink.level)))
  const level = LOG_LEVELS[rank] ?? 'off'
  native().setLogSink(level, level === 'off' ? null : (json) => deliver(JSON.parse(json) as Line[]))
}

function deliver(lines: readonly Line[]): void {
  const lowest = new Map<Logger, number>()
  for (const { logger, level } of sinks) {
    lowest.set(logger, Math.min(lowest.get(logger) ?? Infinity, LOG_LEVELS.indexOf(level)))
  }
  for (const line of lines) {
    const level = line.level.toLowerCase()
    const rank = LOG_LEVELS.findIndex((known) => known === level)
    for (const [logger, floor] of lowest) if (rank >= floor) write(logger, level, line)
  }
}

function write(logger: Logger, level: string, line: Line): void {
  const method = level === 'trace' ? 'debug' : level
  if (method !== 'debug' && method !== 'info' && method !== 'warn' && method !== 'error') return
  try {
    logger[method]({ target: line.target, ...line.fields }, line.message)
  } catch {
    // A logger that throws must not take the role down with it; it has nowhere to say so.
  }
}
