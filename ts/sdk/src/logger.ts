/** A caller's logger, whatever it is and does. */
import { Console } from 'node:console'

/** What pino and its child loggers, and anything shaped like them, offer. Node's `console` is known, too, and gets the message first. */
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

/** Hands over one line; `trace` is said as `debug`. A logger that throws or rejects must not take the role down: it has nowhere to say so. */
export function say(logger: Logger, level: LogLevel, fields: object, message = ''): void {
  const method = level === 'trace' ? 'debug' : level
  if (method === 'off') return
  try {
    const done: unknown = isConsole(logger) ? logger[method]('%s', message, fields) : logger[method](fields, message)
    if (done instanceof Promise) done.catch(() => {})
  } catch {
    // As above.
  }
}

/** `logger` from `floor` on, with `bindings` in each line. */
export function bridged(logger: Logger, floor: LogLevel, bindings: object): Logger {
  const lowest = LOG_LEVELS.indexOf(floor)
  const pick = (level: 'debug' | 'info' | 'warn' | 'error') => (fields: object, message?: string) => {
    const asked = LOG_LEVELS.indexOf(level) >= lowest || (level === 'debug' && floor === 'trace')
    if (asked) say(logger, level, { ...fields, ...bindings }, message)
  }
  return { debug: pick('debug'), info: pick('info'), warn: pick('warn'), error: pick('error') }
}

// A console has the message first, and would print what comes before it as an object.
function isConsole(logger: unknown): logger is Console {
  return logger instanceof Console
}
