/** The errors a caller meets, and the one function that makes them from native ones. */
import type { constants } from 'node:os'
import type { PathReason } from './explain.js'
import { type RecentEvent, recentOf } from './recorder.js'
import { DENIAL, ERROR } from './shared.js'

/** `cause.code` of each of our codes, where nothing else is the cause. */
export const SYSTEM_CODES: Readonly<Record<ZtnaErrorCode, keyof typeof constants.errno>> = {
  ERR_ZTNA_CONFIG: 'EINVAL',
  ERR_ZTNA_IDENTITY: 'EACCES',
  ERR_ZTNA_DENIED: 'EACCES',
  ERR_ZTNA_REFUSED: 'ECONNREFUSED',
  ERR_ZTNA_UNREACHABLE: 'EHOSTUNREACH',
  ERR_ZTNA_TIMEOUT: 'ETIMEDOUT',
  ERR_ZTNA_ABORTED: 'ECANCELED',
  ERR_ZTNA_STREAM_RESET: 'ECONNRESET',
  ERR_ZTNA_CLOSED: 'ECONNABORTED',
  ERR_ZTNA_PERMISSION: 'EPERM',
  ERR_ZTNA_LIMIT: 'EAGAIN',
  ERR_ZTNA_NATIVE: 'EPROTO',
}

/** Stable names of what can go wrong: docs/errors.md says what each means and what to do. */
export type ZtnaErrorCode =
  | 'ERR_ZTNA_CONFIG'
  | 'ERR_ZTNA_IDENTITY'
  | 'ERR_ZTNA_DENIED'
  | 'ERR_ZTNA_REFUSED'
  | 'ERR_ZTNA_UNREACHABLE'
  | 'ERR_ZTNA_TIMEOUT'
  | 'ERR_ZTNA_ABORTED'
  | 'ERR_ZTNA_STREAM_RESET'
  | 'ERR_ZTNA_CLOSED'
  | 'ERR_ZTNA_PERMISSION'
  | 'ERR_ZTNA_LIMIT'
  | 'ERR_ZTNA_NATIVE'

/**
 * `details.reason` of an ERR_ZTNA_UNREACHABLE, where the cause is known:
 * `udp-blocked`: nothing comes back from a relay, or has ever; `not-bound`: the relay answers, and the connector is not there; `silent`: the
 * connector is bound and gives no sign; `dns`: a name does not resolve, the relay's here or the service's at the connector;
 * `closing`: the connector serves it no more, and lets its open flows finish; `not-served`: nothing serves this service and port at the connector;
 * a {@link PathReason}: a direct path was demanded, and that is why there is none.
 */
export type UnreachableReason = 'not-bound' | 'silent' | 'dns' | 'closing' | 'not-served' | PathReason

/** Which end said no. */
export type DeniedBy = 'agent' | 'relay' | 'connector'

const RETRYABLE: ReadonlySet<ZtnaErrorCode> = new Set(['ERR_ZTNA_REFUSED', 'ERR_ZTNA_UNREACHABLE', 'ERR_ZTNA_TIMEOUT', 'ERR_ZTNA_LIMIT'])

/** What an error may carry beyond code and message. */
export interface ZtnaErrorOptions {
  /** Default: true for refused, unreachable, timeout and limit. */
  readonly retryable?: boolean
  /** Facts for logs. Default: none. */
  readonly details?: Readonly<Record<string, unknown>>
  /** Default: an `Error` whose `code` is the system code that stands for ours, such as ECONNREFUSED. */
  readonly cause?: unknown
}

/** Facts about an error. */
export interface ErrorDetails {
  readonly [fact: string]: unknown
  /**
   * The last 256 decisions, path changes and warnings of the role that threw the error, oldest first, as they were by then. Absent where no role
   * did. It is not enumerable, so that logs and `JSON.stringify` leave it out: ask for it.
   */
  readonly recent?: readonly RecentEvent[]
}

/** Anything the SDK rejects or emits. `cause.code` is a system code; of an abort, `cause` is the signal's `reason`. What reaches a library through a hook is a {@link SystemError} where it may pass. */
export class ZtnaError extends Error {
  static {
    sharedClass(this, ERROR)
  }

  /** What went wrong, by a stable name. */
  readonly code: ZtnaErrorCode
  /** Whether the same call may work later without a change of configuration or policy. */
  readonly retryable: boolean
  /**
   * Facts for logs: `service`, `port` and `protocol` where a flow was asked for; of ERR_ZTNA_UNREACHABLE `reason` ({@link UnreachableReason})
   * and `tried`, a line for each relay or connector asked; `recent`, on demand.
   */
  readonly details: ErrorDetails

  constructor(code: ZtnaErrorCode, message: string, options: ZtnaErrorOptions = {}) {
    super(message, { cause: options.cause ?? systemError(code, message) })
    this.name = new.target.name
    this.code = code
    this.retryable = options.retryable ?? RETRYABLE.has(code)
    const details = { ...options.details }
    this.details = Object.freeze(Object.defineProperty(details, 'recent', { get: () => recentOf(this), enumerable: false }))
  }

  /** What a JSON log shows. */
  toJSON(): Pick<ZtnaError, 'code' | 'message' | 'retryable' | 'details'> {
    return { code: this.code, message: this.message, retryable: this.retryable, details: this.details }
  }
}

/** Policy, or the lack of one, said no. Never retryable. */
export class ZtnaDeniedError extends ZtnaError {
  static {
    sharedClass(this, DENIAL)
  }

  /** Joins this refusal with the log line of the end that made it. */
  readonly decisionId?: string
  /** The policy that decided; absent when none permitted. */
  readonly policyId?: string
  /** Which end said no. */
  readonly by: DeniedBy

  constructor(message: string, by: DeniedBy, options: ZtnaErrorOptions = {}) {
    super('ERR_ZTNA_DENIED', message, { ...options, retryable: false })
    this.by = by
    const { decisionId, policyId } = this.details
    if (typeof decisionId === 'string') this.decisionId = decisionId
    if (typeof policyId === 'string') this.policyId = policyId
  }
}

/** The shape of a native error, once parsed. */
export interface NativeErrorJson {
  readonly code: string
  readonly message: string
  readonly retryable?: boolean
  readonly details?: Readonly<Record<string, unknown>> | null
}

/**
 * Turns whatever the native side threw, rejected with or put in an event into a ZtnaError. `asked`: what had been asked for, to be among the
 * details.
 */
export function fromNative(thrown: unknown, asked: Readonly<Record<string, unknown>> = {}): ZtnaError {
  if (thrown instanceof ZtnaError) return thrown
  const json = thrown instanceof Error ? parse(thrown.message) : thrown
  if (!isErrorJson(json)) {
    const message = thrown instanceof Error ? thrown.message : String(thrown)
    return new ZtnaError('ERR_ZTNA_NATIVE', message, { cause: thrown, retryable: false, details: asked })
  }
  const code = Object.hasOwn(SYSTEM_CODES, json.code) ? (json.code as ZtnaErrorCode) : 'ERR_ZTNA_NATIVE'
  const options: ZtnaErrorOptions = {
    ...(json.retryable === undefined ? {} : { retryable: json.retryable }),
    details: { ...asked, ...json.details },
  }
  if (code !== 'ERR_ZTNA_DENIED') return new ZtnaError(code, json.message, options)
  return new ZtnaDeniedError(json.message, deniedBy(json.details?.['by']), options)
}

/** The error of a call whose `signal` fired: its reason is the cause, as in errors of Node itself. */
export function aborted(signal?: AbortSignal, details: Readonly<Record<string, unknown>> = {}): ZtnaError {
  const cause = signal?.reason === undefined ? {} : { cause: signal.reason as unknown }
  return new ZtnaError('ERR_ZTNA_ABORTED', 'aborted by the caller', { ...cause, details })
}

/** Shorthand for a wrong option. */
export function configError(message: string, details: Readonly<Record<string, unknown>> = {}): ZtnaError {
  return new ZtnaError('ERR_ZTNA_CONFIG', message, { details })
}

// So that `instanceof` holds for what another copy of the SDK threw. Classes that a program derives are known by their prototypes, as any.
function sharedClass(ours: typeof ZtnaError, mark: symbol): void {
  Object.defineProperty(ours.prototype, mark, { value: true })
  const hasInstance = function (this: typeof ZtnaError, value: unknown): boolean {
    if (typeof value !== 'object' || value === null) return false
    return this === ours ? Reflect.get(value, mark) === true : Object.prototype.isPrototypeOf.call(this.prototype, value)
  }
  Object.defineProperty(ours, Symbol.hasInstance, { value: hasInstance })
}

function systemError(code: ZtnaErrorCode, message: string): Error {
  return Object.assign(new Error(message), { code: SYSTEM_CODES[code] })
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isErrorJson(value: unknown): value is NativeErrorJson {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as { code?: unknown }).code === 'string' &&
    typeof (value as { message?: unknown }).message === 'string'
  )
}

function deniedBy(by: unknown): DeniedBy {
  return by === 'relay' || by === 'connector' ? by : 'agent'
}
