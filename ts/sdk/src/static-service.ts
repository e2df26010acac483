/** Services that a connector's native side dials: no handler in this process. */
import { listOf, notAccepted, optionsOf, textOf } from './arguments.js'
import { configError } from './errors.js'
import type { ServiceEntry } from './network-source.js'
import { checkPort, checkProtocol, checkService } from './target.js'

/** A service dialled by the native side, as `--service` names it. */
export interface StaticService {
  /** Name of the service. */
  readonly service: string
  /** What the ports are of. */
  readonly protocol: 'tcp' | 'udp'
  /** First and last port, inclusive. */
  readonly ports: readonly [low: number, high: number]
  /** `tcp:host:port`, `udp:host:port` or `unix:/path`; a range maps one to one from `port` on. */
  readonly target: string
}

/** Checked copies, without what is no part of them. Errors: ERR_ZTNA_CONFIG naming the entry, `services[0]`. */
export function staticServicesOf(given: readonly StaticService[] | undefined): readonly StaticService[] {
  return listOf(given ?? [], 'services', 'an array of { service, protocol, ports, target }').map(checkStatic)
}

/** How `--service` would name the first ports of a service, dialled on this machine: `db=tcp:5432:127.0.0.1:5432`. */
export function serviceFlagOf({ name, tcp = [], udp = [] }: ServiceEntry): string {
  const [ports] = [...tcp, ...udp]
  if (ports === undefined) return `${name}=tcp:PORT:HOST:PORT`
  return `${name}=${tcp.length > 0 ? 'tcp' : 'udp'}:${ports}:127.0.0.1:${String(ports).replace(/-.*/, '')}`
}

function checkStatic(given: StaticService, at: number): StaticService {
  const what = `services[${at}]`
  const { service, protocol, target, ...rest } = optionsOf(given, what, ['service', 'protocol', 'ports', 'target'], `${what}.`)
  const ports = rest.ports === undefined ? undefined : listOf(rest.ports, `${what}.ports`, 'two ports: [low, high]')
  try {
    checkService(service)
    if (protocol === undefined) throw notAccepted(protocol, 'protocol', 'tcp, udp')
    checkProtocol(protocol)
    if (ports?.length !== 2) throw notAccepted(ports, 'ports', 'two ports: [low, high]')
    const [low, high] = [checkPort(ports[0] ?? 0, service), checkPort(ports[1] ?? 0, service)]
    if (low > high) throw configError(`ports ${low} to ${high} run backwards`)
    const accepted = 'tcp:HOST:PORT, udp:HOST:PORT or unix:/PATH'
    if (textOf<string | undefined>(target, 'target', accepted) === undefined) throw notAccepted(target, 'target', accepted)
    return { service, protocol, ports: [low, high], target }
  } catch (error) {
    throw configError(`${what}: ${(error as Error).message}`)
  }
}
