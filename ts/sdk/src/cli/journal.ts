/** What happens to a role, as log lines: who opened what and what was refused is the record that an operator keeps. No addresses. */
import type { ZtnaError } from '../errors.js'
import type { FailedFlow } from '../failed-flow.js'
import type { Logger } from '../log.js'
import type { ReloadResult } from '../role.js'
import { type Identity, type PathInfo, type State } from '../types.js'
import { LineBudget } from './line-budget.js'

/** Writes lines for the events of `role` until it ends. */
export function journal(role: NodeJS.EventEmitter, logger: Logger): void {
  const refusals = new LineBudget((leftOut, peers) => {
    logger.warn({ peers }, `${leftOut} lines about denied or failed flows were left out`)
  })
  role.on('state', (next: State, prev: State) => {
    if (next === 'closed') refusals.flush()
    logger.info({ prev }, `now ${next}`)
  })
  role.on('reloaded', ({ version, changed }: ReloadResult) => logger.info({ version, changed }, 'reloaded'))
  role.on('error', (error: ZtnaError) => logger.error({ code: error.code }, error.message))
  role.on('warning', (error: ZtnaError) => logger.warn({ code: error.code }, error.message))
  role.on('denied', (error: ZtnaError, peer?: Identity) => {
    const line = (): void => logger.warn({ code: error.code, ...nameOf(peer), ...error.details }, `denied: ${error.message}`)
    refusals.take(peer?.id, line)
  })
  role.on('flow-failed', (error: ZtnaError, { id, peer, service, port, protocol }: FailedFlow) => {
    const cause = (error.cause as { code?: string } | undefined)?.code
    const flow = { flow: id, ...nameOf(peer), service, ...(port === undefined ? {} : { port }), protocol }
    refusals.take(peer?.id, () => logger.warn({ code: error.code, cause, ...flow }, `flow failed: ${error.message}`))
  })
  role.on('flow', (flow: { id: string; peer: Identity; service: string; protocol: string }) => {
    logger.info({ flow: flow.id, ...nameOf(flow.peer), service: flow.service, protocol: flow.protocol }, 'flow admitted')
  })
  role.on('session', (session: Session) => logger.info(fieldsOf(session), 'session begun'))
  role.on('session-end', (session: Session, why: string) => logger.info({ ...fieldsOf(session), why }, 'session ended'))
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

const fieldsOf = ({ id, agent, connector }: Session): object => ({ session: id, agent, connector })
const nameOf = (peer: Identity | undefined): object => (peer === undefined ? {} : { peer: peer.id })
