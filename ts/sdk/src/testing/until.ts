/** Waits for a path to be what a test wants it to be. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ZtnaAgent } from '../agent.js'
import { notAccepted } from '../arguments.js'
import { ZtnaError, aborted, fromNative } from '../errors.js'
import type { PathExplanation } from '../explain.js'
import { cancelOf } from '../ops.js'
import type { Cancel, PathInfo } from '../types.js'

/** Time that a path may take, milliseconds: as long as any call of the SDK. */
const TIMEOUT_MS = 10_000
/** Time between two looks, milliseconds. */
const LOOK_MS = 20
/** Time for the reasons of a failure, milliseconds. */
const EXPLAIN_MS = 1_000

/** The kinds that can be waited for. */
export type AwaitedPath = 'direct' | 'relay'

export async function untilPath(agent: ZtnaAgent, service: string, kind: AwaitedPath, cancel: Cancel): Promise<PathInfo> {
  if (kind !== 'direct' && kind !== 'relay') throw notAccepted(kind, 'kind of path', 'direct, relay')
  const { timeoutMs, signal } = cancelOf(cancel, TIMEOUT_MS)
  const end = performance.now() + timeoutMs
  let last: ZtnaError | undefined
  for (;;) {
    const left = end - performance.now()
    if (left <= 0) return lastLook(agent, service, kind, timeoutMs, last)
    try {
      const { path } = await agent.ping(service, { timeoutMs: left, ...(signal === undefined ? {} : { signal }) })
      if (path.kind === kind) return path
    } catch (error) {
      const met = fromNative(error)
      // What is retryable may pass: a connector that is about to come online, a path that is about to change.
      if (!met.retryable) throw met
      last = met
    }
    await sleep(LOOK_MS, undefined, signal === undefined ? {} : { signal }).catch(() => {
      throw aborted(signal)
    })
  }
}

/** Time is over: why it is not as awaited. The last ping says little of that, for it was cut. */
async function lastLook(
  agent: ZtnaAgent,
  service: string,
  kind: AwaitedPath,
  timeoutMs: number,
  last: ZtnaError | undefined,
): Promise<PathInfo> {
  const message = `the path to ${service} is not ${kind} after ${timeoutMs} ms`
  let told: PathExplanation
  try {
    told = await agent.explain(service, { timeoutMs: EXPLAIN_MS })
  } catch (error) {
    const cause = last ?? fromNative(error)
    throw new ZtnaError('ERR_ZTNA_TIMEOUT', `${message}: ${cause.message}`, { cause, details: cause.details })
  }
  const { path, demand, reasons } = told
  if (path.kind === kind) return path
  const why = [...(demand === undefined ? [] : [demand.detail]), ...reasons.map(({ code, detail }) => `${code}: ${detail}`)].join('; ')
  throw new ZtnaError('ERR_ZTNA_TIMEOUT', `${message} but ${path.kind}${why === '' ? '' : `: ${why}`}`, {
    details: { reason: reasons[0]?.code ?? null, reasons },
  })
}
