/** What happens to a role, as log lines: who opened what and what was refused is the record that an operator keeps. No addresses. */
import type { ZtnaError } from './errors.js'
import type { FailedFlow } from './failed-flow.js'
import type { Logger } from './logger.js'
import type { ReloadResult } from './role.js'
import { type Identity, type PathInfo, type State } from './types.js'
import { ADMITTED, type LineLimits, LineBudget, REFUSED, UNPROVEN, WARNED } from './line-budget.js'

/** Writes lines for the events of `role` until it ends. */
export function journal(role: NodeJS.EventEmitter, logger: Logger): void {
  const budgets: LineBudget[] = []
  const budget = (limits: LineLimits, what: string): LineBudget => {
    const made = new LineBudget(limits, (leftOut, peers) => logger.warn({ peers }, `${leftOut} ${what} were left out`))
    budgets.push(made)
    return made
  }
  const refusals = budget(REFUSED, 'lines about denied or failed flows')
  const admitted = budget(ADMITTED, 'lines `flow admitted`')
  const begun = budget(ADMITTED, 'lines `session begun`')
  const ended = budget(ADMITTED, 'lines `session ended`')
  const warnings = budget(WARNED, 'warnings')
  const unproven = budget(UNPROVEN, 'warnings about peers that have not proven themselves')
  role.on('state', (next: State, prev: State) => {
    if (next === 'closed') for (const each of budgets) each.flush()
    logger.info({ prev }, `now ${next}`)
  })
  role.on('reloaded', ({ version, changed }: ReloadResult) => logger.info({ version, changed }, 'reloaded'))
  role.on('error', (error: ZtnaError) => logger.error({ code: error.code }, error.message))
  role.on('warning', (error: ZtnaError) => {
    const of = error.message.includes(UNPROVEN_PEER) ? unproven : warnings
    of.take(kindOf(error.message), () => logger.warn({ code: error.code }, error.message))
  })
  role.on('denied', (error: ZtnaError, peer?: Identity) => {
    const line = (): void => logger.warn({ code: error.code, ...nameOf(peer), ...error.details }, error.message)
    refusals.take(peer?.id, line)
  })
  role.on('flow-failed', (error: ZtnaError, { id, peer, service, port, protocol }: FailedFlow) => {
    const cause = (error.cause as { code?: string } | undefined)?.code
    const flow = { flow: id, ...nameOf(peer), service, ...(port === undefined ? {} : { port }), protocol }
    refusals.take(peer?.id, () => logger.warn({ code: error.code, cause, ...flow }, `flow failed: ${error.message}`))
  })
  role.on('flow', (flow: { id: string; peer: Identity; service: string; protocol: string }) => {
    const fields = { flow: flow.id, ...nameOf(flow.peer), service: flow.service, protocol: flow.protocol }
    admitted.take(flow.peer.id, () => logger.info(fields, 'flow admitted'))
  })
  role.on('session', (session: Session) => begun.take(session.agent, () => logger.info(fieldsOf(session), 'session begun')))
  role.on('session-end', (session: Session, why: string) => {
    ended.take(session.agent, () => logger.info({ ...fieldsOf(session), why }, 'session ended'))
  })
  role.on('services', (added: readonly string[], removed: readonly string[]) => logger.info({ added, removed }, 'services changed'))
  role.on('path', (peer: string, next: PathInfo, prev: PathInfo) => {
    logger.debug({ peer, next: next.kind, prev: prev.kind, rttMs: next.rttMs }, 'path changed')
  })
}

interface Session {
  readonly id: string
  readonly agent: string
  readonly connector: string
}

// What the native side calls whoever has shown no certificate.
const UNPROVEN_PEER = 'a peer that has not proven itself'

// A warning's wording without its numbers, which a peer may choose: names stay, so that one peer's do not hide another's.
const kindOf = (message: string): string => message.replaceAll(/\d+/g, '#').slice(0, 200)
const fieldsOf = ({ id, agent, connector }: Session): object => ({ session: id, agent, connector })
const nameOf = (peer: Identity | undefined): object => (peer === undefined ? {} : { peer: peer.id })
