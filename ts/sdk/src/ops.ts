/** Cancellable native calls: an AbortSignal becomes `cancel(op)`, and a late result is given back. */
import { fieldsOf, notAccepted, optionsOf, show, signalOf } from './arguments.js'
import { ZtnaError, aborted, configError, fromNative } from './errors.js'
import { type NativeRole, whileRunning } from './native.js'
import type { Cancel } from './types.js'

/** Time a call may take when the caller names none, milliseconds: the handshake time of the protocol. */
export const CALL_TIMEOUT_MS = 10_000
/** Time `close()` gives flows to finish, milliseconds: the drain time of the protocol. */
export const DRAIN_MS = 10_000

let nextOp = 1

/** How long a caller waits. */
export type Patience = { readonly timeoutMs: number }

/** What a call is about. */
export type Asked = { readonly service: string; readonly port?: number; readonly protocol?: 'tcp' | 'udp' }

/**
 * Calls `run` with a fresh operation number. `asked`: what for, to be in the details of its error. `discard` disposes of a result that arrives after
 * the caller gave up.
 */
export function callNative<T>(
  role: NativeRole,
  cancel: Cancel,
  asked: Asked,
  run: (op: number) => Promise<T>,
  discard: (late: T) => void = () => {},
): Promise<T> {
  const { signal, timeoutMs } = cancel
  if (signal?.aborted) return Promise.reject(aborted(signal, asked))
  // What native had no time to try, it would not call a timeout.
  if (timeoutMs === 0) return Promise.reject(new ZtnaError('ERR_ZTNA_TIMEOUT', 'timed out after 0 ms', { details: asked }))
  const op = nextOp++
  return new Promise<T>((resolve, reject) => {
    let open = true
    const onAbort = (): void => {
      open = false
      whileRunning(() => role.cancel(op))
      reject(aborted(signal, asked))
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    const settle = (): boolean => {
      signal?.removeEventListener('abort', onAbort)
      return open
    }
    invoke(run, op).then(
      (value) => (settle() ? resolve(value) : discard(value)),
      (error: unknown) => settle() && reject(fromNative(error, asked)),
    )
  })
}

/** How a caller wants to give up, read once and checked. `more`: names of fields of `T` that are kept as they are. */
export function cancelOf<T extends Cancel>(cancel: T, fallback: number = CALL_TIMEOUT_MS, ...more: (keyof T & string)[]): T & Patience {
  const given = fieldsOf(cancel, 'options', 'an object such as { timeoutMs: 5000, signal }', ['signal', 'timeoutMs', ...more])
  return { ...given, timeoutMs: timeoutOf(given, fallback) }
}

/** Checks fields that were read; gives the timeout, milliseconds. */
export function timeoutOf(cancel: Cancel, fallback: number = CALL_TIMEOUT_MS): number {
  signalOf(cancel.signal)
  const ms = cancel.timeoutMs ?? fallback
  if (typeof ms !== 'number' || Number.isNaN(ms) || ms < 0) {
    throw configError(`timeoutMs is ${show(ms)}; accepted: milliseconds from 0, or Infinity`)
  }
  return ms
}

/** A time for a native call, which takes a whole number of 32 bits. */
export function nativeMs(ms: number): number {
  return Math.min(Math.ceil(ms), 0xffff_ffff)
}

/** Time a drain may take, for native: a whole number of 32 bits. Default 10,000: the drain time of the protocol. */
export function drainOf(options: { readonly drainMs?: number }): number {
  const ms = optionsOf(options, 'options of close()', ['drainMs']).drainMs ?? DRAIN_MS
  if (typeof ms !== 'number' || Number.isNaN(ms) || ms < 0) {
    throw notAccepted(ms, 'drainMs', 'milliseconds from 0, or Infinity')
  }
  return nativeMs(ms)
}

async function invoke<T>(run: (op: number) => Promise<T>, op: number): Promise<T> {
  return run(op)
}
