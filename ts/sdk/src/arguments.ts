/** What callers hand over, checked where it comes in: JavaScript has no types to keep `null` out. */
import { ZtnaError, configError } from './errors.js'

/** What `read` gives. Errors: ERR_ZTNA_CONFIG naming `path`, with what a getter or a proxy of the caller's threw as its cause. */
export function reading<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : show(thrown)
    throw new ZtnaError('ERR_ZTNA_CONFIG', `${path} can't be read: ${why}`, { cause: thrown })
  }
}

/** `value`, an object. Errors: ERR_ZTNA_CONFIG naming `what` and what is `accepted`. */
export function objectOf<T extends object>(value: T, what: string, accepted: string): T {
  if (isObject(value)) return value
  throw notAccepted(value, what, accepted)
}

/**
 * A copy of those fields of `value` that have one of `names`, each read once: what is checked is what is used. `prefix`: of the fields' paths in
 * errors, such as `limits.`. Errors: as `objectOf` and `reading`.
 */
export function fieldsOf<T extends object>(value: T, what: string, accepted: string, names: readonly string[], prefix = ''): T {
  objectOf(value, what, accepted)
  const there = names.filter((name) => reading(what, () => name in value))
  return Object.fromEntries(there.map((name) => [name, reading(prefix + name, () => Reflect.get(value, name) as unknown)])) as T
}

/** The same of an object that has no other keys than `names`. */
export function optionsOf<T extends object>(value: T, what: string, names: readonly string[], prefix = ''): T {
  objectOf(value, what, `{ ${names.map((name) => `${name}?`).join(', ')} }`)
  const unknown = keysOf(value, what).filter((key) => !names.includes(key))
  if (unknown.length === 0) return fieldsOf(value, what, '', names, prefix)
  throw configError(`${what}: unknown ${unknown.map(show).join(', ')}; accepted: ${names.join(', ')}`)
}

/** A copy of an object whose fields are somebody else's to name. Errors: as `fieldsOf`. */
export function anyFieldsOf<T extends object>(value: T, what: string, accepted: string, prefix = ''): T {
  return fieldsOf(value, what, accepted, keysOf(objectOf(value, what, accepted), what), prefix)
}

/** A copy of an array. Errors: as `fieldsOf`. */
export function listOf<T>(value: readonly T[], what: string, accepted: string): readonly T[] {
  if (!isList(value)) throw notAccepted(value, what, accepted)
  return Array.from({ length: reading(what, () => value.length) }, (_, at) => reading(`${what}[${at}]`, () => value[at] as T))
}

/** A copy of plain data, down to its last field. Errors: as `reading`. */
export function plainOf<T>(value: T, path: string): T {
  if (isList(value)) return listOf(value, path, '').map((each, at) => plainOf(each, `${path}[${at}]`)) as T
  if (!isObject(value)) return value
  const fields = anyFieldsOf(value, path, '', `${path}.`)
  return Object.fromEntries(Object.entries(fields).map(([name, each]) => [name, plainOf<unknown>(each, `${path}.${name}`)])) as T
}

/** Names of an object's own fields. Errors: as `reading`. */
export function keysOf(value: object, what: string): readonly string[] {
  return reading(what, () => Object.keys(value))
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

/** Limits by one of `names`, each a whole number from 1 or undefined. Errors: as `optionsOf`. */
export function limitsOf<T extends object>(limits: T | undefined, names: readonly (keyof T & string)[]): T | undefined {
  if (limits === undefined) return undefined
  const given = optionsOf(limits, 'limits', names, 'limits.')
  for (const [name, value] of Object.entries(given)) countOf(value as number | undefined, `limits.${name}`)
  return given
}

/** `value`, true, false or undefined. Errors: as `objectOf`. */
export function flagOf(value: boolean | undefined, what: string): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value
  throw notAccepted(value, what, 'true or false')
}

/** `signal`, an AbortSignal or undefined. One of another realm, or of a polyfill, is known by what it can do. Errors: as `fieldsOf`. */
export function signalOf(signal: AbortSignal | undefined): AbortSignal | undefined {
  if (signal === undefined) return undefined
  const accepted = 'an AbortSignal'
  const { aborted, ...can } = fieldsOf(signal, 'signal', accepted, ['aborted', 'addEventListener', 'removeEventListener'], 'signal.')
  const isSignal =
    typeof aborted === 'boolean' && typeof can.addEventListener === 'function' && typeof can.removeEventListener === 'function'
  if (isSignal) return signal
  throw notAccepted(signal, 'signal', accepted)
}

/** An error that says what came, and what could have. */
export function notAccepted(value: unknown, what: string, accepted: string): Error {
  return configError(`${what}: ${show(value)} is not accepted; accepted: ${accepted}`)
}

export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !isList(value)
}

/** A value as an error message shows it. The content of objects stays out: it may be a secret. */
export function show(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value)
    case 'object':
      if (value === null) return 'null'
      return isList(value) ? 'an array' : 'an object'
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

// A proxy that was revoked does not even say whether it is one.
function isList(value: unknown): value is readonly unknown[] {
  try {
    return Array.isArray(value)
  } catch {
    return false
  }
}
