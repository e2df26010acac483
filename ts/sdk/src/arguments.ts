/** What callers hand over, checked where it comes in: JavaScript has no types to keep `null` out. */
import { configError } from './errors.js'

/** `value`, an object. Errors: ERR_ZTNA_CONFIG naming `what` and what is `accepted`. */
export function objectOf<T extends object>(value: T, what: string, accepted: string): T {
  if (isObject(value)) return value
  throw notAccepted(value, what, accepted)
}

/** `value`, an object with no other keys than `names`. Errors: as `objectOf`. */
export function optionsOf<T extends object>(value: T, what: string, names: readonly string[]): T {
  objectOf(value, what, `{ ${names.map((name) => `${name}?`).join(', ')} }`)
  const unknown = Object.keys(value).filter((key) => !names.includes(key))
  if (unknown.length === 0) return value
  throw configError(`${what}: unknown ${unknown.map(show).join(', ')}; accepted: ${names.join(', ')}`)
}

/** `value`, a function. Errors: as `objectOf`. */
export function functionOf<T>(value: T, what: string, accepted: string): T {
  if (typeof value === 'function') return value
  throw notAccepted(value, what, accepted)
}

/** `value`, a string that is not empty, or undefined. Errors: as `objectOf`. */
export function textOf<T extends string | undefined>(value: T, what: string, accepted: string): T {
  if (value === undefined || (typeof value === 'string' && value !== '')) return value
  throw notAccepted(value, what, accepted)
}

/** `value`, a whole number from `least` to `most`, or undefined. Default: from 1, without an end. Errors: as `objectOf`. */
export function countOf(value: number | undefined, what: string, most: number = Infinity, least = 1): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && value >= least && value <= most)) return value
  throw notAccepted(value, what, `a whole number from ${least}${most === Infinity ? '' : ` to ${most}`}`)
}

/** Limits by one of `names`, each a whole number from 1 or undefined. Errors: as `objectOf`. */
export function limitsOf<T extends object>(limits: T | undefined, names: readonly (keyof T & string)[]): T | undefined {
  if (limits === undefined) return undefined
  optionsOf(limits, 'limits', names)
  for (const [name, value] of Object.entries(limits)) countOf(value as number | undefined, `limits.${name}`)
  return limits
}

/** `value`, true, false or undefined. Errors: as `objectOf`. */
export function flagOf(value: boolean | undefined, what: string): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value
  throw notAccepted(value, what, 'true or false')
}

/** `signal`, an AbortSignal or undefined. Errors: as `objectOf`. */
export function signalOf(signal: AbortSignal | undefined): AbortSignal | undefined {
  if (signal === undefined) return undefined
  if (isObject(signal) && 'aborted' in signal && typeof signal.addEventListener === 'function') return signal
  throw notAccepted(signal, 'signal', 'an AbortSignal')
}

/** An error that says what came, and what could have. */
export function notAccepted(value: unknown, what: string, accepted: string): Error {
  return configError(`${what}: ${show(value)} is not accepted; accepted: ${accepted}`)
}

export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A value as an error message shows it. The content of objects stays out: it may be a secret. */
export function show(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value)
    case 'object':
      if (value === null) return 'null'
      return Array.isArray(value) ? 'an array' : 'an object'
    case 'function':
      return 'a function'
    case 'symbol':
    case 'undefined':
    case 'number':
    case 'boolean':
    case 'bigint':
      return String(value)
  }
}
