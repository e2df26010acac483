/** Standard output for events and results, standard error for logs. */
import type { ZtnaError } from '../errors.js'
import type { Logger } from '../logger.js'
import { type Tone, paintFor } from './style.js'

type Level = 'debug' | 'info' | 'warn' | 'error'

const TONES: Readonly<Record<Level, Tone>> = { debug: 'faint', info: 'title', warn: 'middling', error: 'bad' }

export interface Stream {
  write(text: string): unknown
  readonly isTTY?: boolean
}

/** Logs to `stream`: pretty on a terminal unless told otherwise, JSON lines elsewhere. */
export function createLogger(format: string | undefined, stream: Stream = process.stderr): Logger {
  const pretty = format === undefined ? stream.isTTY === true : format === 'pretty'
  const paint = paintFor(stream)
  const log = (level: Level, fields: object, message = ''): void => {
    const time = new Date().toISOString()
    if (!pretty) return void stream.write(`${JSON.stringify({ time, level, message, ...fields })}\n`)
    const label = paint(TONES[level], level.toUpperCase().padEnd(5))
    const rest = Object.entries(fields).map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    stream.write(`${time.slice(11, 23)} ${label} ${message}${rest.join('')}\n`)
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
