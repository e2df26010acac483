/**
 * What all copies of the SDK in one process have in common: its ES and CommonJS builds, as where a module's program uses a CommonJS middleware, and
 * two installed versions of one major.
 */
import type { Identity } from './types.js'

/** Names of symbols that copies of the same major version share begin so. */
const PREFIX = '@ztna/sdk/0/'

/** Reads a socket of ours itself through an http2 session's proxy, which hides it. */
export const SELF: unique symbol = shared('socket')
/** On the prototype of our errors. */
export const ERROR: unique symbol = shared('error')
/** On the prototype of denials. */
export const DENIAL: unique symbol = shared('denial')

/**
 * The verified peers of sockets, and of the requests made of what came by them. By object identity alone: nothing that a request says or a property
 * of it makes an entry.
 */
export const callers: WeakMap<object, Identity> = sharedMap('callers')

/** What copies know of objects that they have in common, in this thread. The key is global and can't be replaced. */
export function sharedMap<K extends object, V>(name: string): WeakMap<K, V> {
  const key: symbol = shared(name)
  const there: unknown = Reflect.get(globalThis, key)
  if (there instanceof WeakMap) return there as WeakMap<K, V>
  const made = new WeakMap<K, V>()
  // Where it fails, something else is there: then a copy knows what is its own and nobody else's.
  Reflect.defineProperty(globalThis, key, { value: made })
  return made
}

function shared(name: string): never {
  return Symbol.for(PREFIX + name) as never
}
