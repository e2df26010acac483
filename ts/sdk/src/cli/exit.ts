/** Exit codes of the contract. */
import { CommanderError } from 'commander'
import { ZtnaError, type ZtnaErrorCode } from '../errors.js'

export const EXIT = { ok: 0, failed: 1, denied: 3, usage: 64, unreachable: 75, permission: 77, config: 78 } as const

/** A mistake on the command line: exit 64. */
export class UsageError extends Error {}

/** What the system said about a path or an address, as the error that has its exit code. `remedy`: what to do about it, where that is known. */
export function fileError(at: string, error: unknown, remedy?: string): ZtnaError {
  const { code, message } = error as NodeJS.ErrnoException
  const denied = code === 'EACCES' || code === 'EPERM'
  return new ZtnaError(denied ? 'ERR_ZTNA_PERMISSION' : 'ERR_ZTNA_CONFIG', `${at}: ${message}${remedy === undefined ? '' : `; ${remedy}`}`)
}

const CODES: Record<ZtnaErrorCode, number> = {
  ERR_ZTNA_CONFIG: EXIT.config,
  ERR_ZTNA_IDENTITY: EXIT.config,
  ERR_ZTNA_PERMISSION: EXIT.permission,
  ERR_ZTNA_DENIED: EXIT.denied,
  ERR_ZTNA_REFUSED: EXIT.unreachable,
  ERR_ZTNA_UNREACHABLE: EXIT.unreachable,
  ERR_ZTNA_TIMEOUT: EXIT.unreachable,
  ERR_ZTNA_LIMIT: EXIT.unreachable,
  ERR_ZTNA_ABORTED: EXIT.failed,
  ERR_ZTNA_STREAM_RESET: EXIT.failed,
  ERR_ZTNA_CLOSED: EXIT.failed,
  ERR_ZTNA_NATIVE: EXIT.failed,
}

/** The exit code of an error that kept a command from its work. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT.usage
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
  return error instanceof ZtnaError ? CODES[error.code] : EXIT.failed
}

/** The exit code of a role that died after it had come online. */
export function exitCodeOfDeath(error: ZtnaError): number {
  const code = CODES[error.code]
  return code === EXIT.config || code === EXIT.permission ? code : EXIT.failed
}
