/** Our errors for libraries that know sockets and not us, and the way back (decision 0020). */
import { constants } from 'node:os'
import { SYSTEM_CODES, ZtnaError } from './errors.js'

/** What a library meets in place of a {@link ZtnaError}: it retries by `code`, as it does with TCP. */
export interface SystemError extends NodeJS.ErrnoException {
  /** What the SDK would have said. */
  readonly cause: ZtnaError
}

/** What went wrong, wherever it stands in an error's chain of causes; undefined where we had no part in it. */
export function ztnaErrorOf(thrown: unknown): ZtnaError | undefined {
  const seen = new Set<unknown>()
  for (let each = thrown; each instanceof Error && !seen.has(each); each = each.cause) {
    if (each instanceof ZtnaError) return each
    seen.add(each)
  }
  return undefined
}

/**
 * A flow that came to nothing, as a library is told. A system error where the same may work later, or the agent is closed. All else is no
 * system's fault: denials, identities, aborts and configuration stay what they are, and no library knows their codes or retries them.
 */
export function notOpened(error: ZtnaError): Error {
  if (!error.retryable && error.code !== 'ERR_ZTNA_CLOSED') return error
  return errnoError(SYSTEM_CODES[error.code], 'connect', error.message, { cause: error })
}

/** The end of an open flow, as a library is told: a connection was reset, whatever did it. */
export function cutOff(error: ZtnaError): Error {
  return errnoError('ECONNRESET', 'read', error.message, { cause: error })
}

/** An error as Node makes them of a system's: `connect ECONNREFUSED: why`. */
export function errnoError(
  code: keyof typeof constants.errno,
  syscall: string,
  why: string,
  options?: ErrorOptions,
): NodeJS.ErrnoException {
  // Negative, as in errors of Node itself.
  return Object.assign(new Error(`${syscall} ${code}: ${why}`, options), { errno: -constants.errno[code], code, syscall })
}
