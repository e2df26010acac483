/** What callers hand over, checked where it comes in: JavaScript has no types to keep `null` out. */
import { configError } from './errors.js'

/** `value`, an object. Errors: ERR_ZTNA_CONFIG naming `what` and what is `accepted`. */
export function objectOf<T extends object>(value: T, what: string, accepted: string): T {
  if (isObject(value)) return value
  throw notAccepted(value, what, accepted)
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

/** `value`, a whole number from 1, or undefined. Errors: as `objectOf`. */
export function countOf(value: number | undefined, what: string): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && value > 0)) return value
  throw notAccepted(value, what, 'a whole number from 1')
}

/** Limits by name, each a whole number from 1 or undefined. Errors: as `objectOf`. */
export function limitsOf<T extends object>(limits: T | undefined): T | undefined {
  if (limits === undefined) return undefined
  objectOf(limits, 'limits', 'an object of whole numbers from 1')
  for (const [name, value] of Object.entries(limits)) countOf(value as number | undefined, `limits.${name}`)
  return limits
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
