/** The answers of a running role to its control socket. */
import { ZtnaAgent } from '../agent.js'
import { notAccepted } from '../arguments.js'
import type { ZtnaConnector } from '../connector.js'
import { configError } from '../errors.js'
import { ZtnaRelay } from '../relay.js'
import { checkService, toTarget } from '../target.js'
import type { Request } from './control.js'

export type AnyRole = ZtnaAgent | ZtnaConnector | ZtnaRelay

/** What a running role answers. Errors: ERR_ZTNA_CONFIG for what is no request, and those of the role. */
export async function answer(role: AnyRole, request: Request): Promise<unknown> {
  // Whatever the request holds: the calls below check what they are given.
  const timeoutMs = (request['timeoutMs'] ?? 10_000) as number
  const needAgent = (): ZtnaAgent => {
    if (role instanceof ZtnaAgent) return role
    throw configError(`${request.cmd} needs an agent; this is another role`)
  }
  // A name that nobody has is a slip of the keyboard, and "denied" would hide it.
  const known = (name: string): string => {
    const services = [...needAgent().services.keys()]
    if (services.includes(name)) return name
    throw configError(`no service "${name}" in this network; known: ${services.join(', ')}`)
  }
  switch (request.cmd) {
    case 'status':
      return role.status()
    case 'doctor':
      return role.doctor({ timeoutMs })
    case 'top':
      return top(role)
    case 'ping':
      return needAgent().ping(known(checkService(request['service'] as string)), { timeoutMs })
    case 'explain':
      known(toTarget(request['target'] as string).service)
      return needAgent().explain(request['target'] as string, { timeoutMs })
    case 'check':
      known(toTarget(request['target'] as string).service)
      return needAgent().check(request['target'] as string, {
        timeoutMs,
        protocol: (request['protocol'] ?? 'tcp') as 'tcp' | 'udp',
      })
    default:
      throw notAccepted(request.cmd, 'cmd', 'status, top, doctor, ping, explain, check')
  }
}

/** What `ztna top` makes a sample from. */
function top(role: AnyRole): object {
  const at = performance.now()
  const [kind, status] = [role.identity.role, role.status()]
  if (role instanceof ZtnaRelay) {
    const sessions = [...role.sessions()].map(({ id, agent, connector, rxBytes, txBytes }) => ({ id, agent, connector, rxBytes, txBytes }))
    return { role: kind, at, status, sessions }
  }
  const { rxBytes, txBytes } = role.stats()
  return { role: kind, at, status, bytes: { rx: rxBytes, tx: txBytes } }
}
