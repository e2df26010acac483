/** Standard output for events and results, standard error for logs. */
import type { ZtnaError } from '../errors.js'
import type { Logger } from '../logger.js'

type Level = 'debug' | 'info' | 'warn' | 'error'

const COLORS: Record<Level, number> = { debug: 90, info: 36, warn: 33, error: 31 }

export interface Stream {
  write(text: string): unknown
  readonly isTTY?: boolean
}

/** Logs to `stream`: pretty on a terminal unless told otherwise, JSON lines elsewhere. `NO_COLOR` is respected. */
export function createLogger(format: string | undefined, stream: Stream = process.stderr): Logger {
  const pretty = format === undefined ? stream.isTTY === true : format === 'pretty'
  const color = pretty && stream.isTTY === true && !process.env['NO_COLOR']
  const log = (level: Level, fields: object, message = ''): void => {
    const time = new Date().toISOString()
    if (!pretty) return void stream.write(`${JSON.stringify({ time, level, message, ...fields })}\n`)
    const label = level.toUpperCase().padEnd(5)
    const shown = color ? `\u001b[${COLORS[level]}m${label}\u001b[0m` : label
    const rest = Object.entries(fields).map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    stream.write(`${time.slice(11, 23)} ${shown} ${message}${rest.join('')}\n`)
  }
  return {
    debug: (fields, message) => log('debug', fields, message),
    info: (fields, message) => log('info', fields, message),
    warn: (fields, message) => log('warn', fields, message),
    error: (fields, message) => log('error', fields, message),
  }
}

/** A role's event as one JSON object; dates are ISO 8601. */
export function eventLine(type: string, args: readonly unknown[]): Record<string, unknown> {
  const [first, second, third] = args
  switch (type) {
    case 'state':
      return { event: type, next: first, prev: second }
    case 'warning':
    case 'error':
      return { event: type, error: (first as ZtnaError).toJSON() }
    case 'denied':
      return { event: type, error: (first as ZtnaError).toJSON(), ...(second === undefined ? {} : { peer: second }) }
    case 'flow-failed':
      return { event: type, error: (first as ZtnaError).toJSON(), ...(second as object) }
    case 'path':
      return { event: type, peer: first, next: second, prev: third }
    case 'services':
      return { event: type, added: first, removed: second }
    case 'identity':
      return { event: type, identity: first }
    case 'session-end':
      return { event: type, ...(first as object), why: second }
    default:
      return { event: type, ...(first as object) }
  }
}
