/** Checks of a role that runs: can it be reached by what it is for. */
import type { CheckResult } from '../agent.js'
import { type ZtnaError, fromNative } from '../errors.js'
import type { ServiceEntry } from '../network-source.js'
import { serviceFlagOf } from '../static-service.js'
import { type Finding, fail, ok, warn } from './check.js'

/** Services that are asked for, a few at a time: a network may have thousands. */
const MOST_SERVICES = 50
const AT_A_TIME = 8

/** `snapshot`: whether what runs is what lies in the folder. */
export function checkReloaded(inForce: number, folder: number | undefined, unreadableSince: Date | undefined): Finding[] {
  if (unreadableSince !== undefined) {
    return [
      fail(
        'snapshot',
        `the folder can not be read since ${unreadableSince.toISOString()}: version ${inForce} stays in force`,
        'let the role read its folder again; its log says what stands in the way',
      ),
    ]
  }
  if (folder === undefined || folder === inForce) return [ok('snapshot', `version ${inForce} is in force`)]
  return [
    fail(
      'snapshot',
      `version ${inForce} is in force, and the folder holds ${folder}`,
      'the log of the role says why it was not taken; SIGHUP makes it look again',
    ),
  ]
}

/** Asks for a decision on such a flow. */
type Ask = (target: string, protocol: 'tcp' | 'udp') => Promise<CheckResult>

/** `service NAME` for each: is a connector there, and does policy let this agent in. */
export async function checkServices(services: Iterable<ServiceEntry>, check: Ask): Promise<Finding[]> {
  const all = [...services]
  const chosen = all.slice(0, MOST_SERVICES)
  const found: Finding[] = []
  for (let at = 0; at < chosen.length; at += AT_A_TIME) {
    found.push(...(await Promise.all(chosen.slice(at, at + AT_A_TIME).map((service) => checkService(service, check)))))
  }
  if (all.length === 0)
    found.push(fail('services', 'network.toml has no service', 'add [[service]] to network.toml of the trust folder, and publish'))
  if (all.length > chosen.length)
    found.push(warn('services', `${chosen.length} of ${all.length} were looked at`, '`ztna check SERVICE` asks for any other'))
  return found
}

async function checkService(service: ServiceEntry, check: Ask): Promise<Finding> {
  const name = `service ${service.name}`
  const connectors = service.connectors.join(', ')
  const { tcp = [], udp = [] } = service
  // One port stands for all; of a range, the first.
  const [first] = [...tcp, ...udp]
  if (first === undefined) return ok(name, 'has no TCP or UDP port to ask about')
  const port = String(first).replace(/-.*/, '')
  try {
    const { allowed, by, reason } = await check(`${service.name}:${port}`, tcp.length > 0 ? 'tcp' : 'udp')
    if (allowed) return ok(name, reason)
    const remedy = `permit it in policy.cedar of the trust folder, try with \`ztna policy check TRUST --agent NAME --to ${service.name}:${port}\`, and publish to relays and connectors`
    return warn(name, `port ${port} denied by the ${by}: ${reason}`, remedy)
  } catch (thrown) {
    return fail(name, ...said(fromNative(thrown), connectors))
  }
}

function said(error: ZtnaError, connectors: string): [detail: string, remedy: string] {
  const { reason } = error.details
  if (reason === 'not-bound')
    return [
      `no connector that serves it is bound: ${error.message}`,
      `start \`ztna connector\` as ${connectors}, or see its log: it binds at every relay of its network`,
    ]
  if (reason === 'not-served')
    return [error.message, `give the connector ${connectors} the service: \`--service\`, or serve() in the program`]
  return [error.message, `\`ztna doctor\` beside the connector ${connectors} says more`]
}

/** `bound NAME`: at which relays agents find this connector. */
export function checkBound(relays: readonly { readonly name: string; readonly bound: boolean; readonly detail?: string }[]): Finding[] {
  return relays.map(({ name, bound, detail }) =>
    bound
      ? ok(`bound ${name}`, 'agents reach this connector there')
      : fail(`bound ${name}`, detail ?? 'this connector is not bound there', "see the relay's check above, and the relay's log"),
  )
}

/** `services`: those that the network gives a connector, against those that it serves. */
export function checkServed(given: readonly ServiceEntry[], served: ReadonlySet<string>): Finding[] {
  const missing = given.filter(({ name }) => !served.has(name))
  const [first] = missing
  if (given.length === 0)
    return [
      warn(
        'services',
        'no service in network.toml names this connector',
        'add it to `connectors` of a [[service]] in the trust folder, and publish',
      ),
    ]
  if (first === undefined) return [ok('services', `serves all that it is given: ${namesOf(given)}`)]
  return [
    fail(
      'services',
      `does not serve ${namesOf(missing)}, which the network gives it`,
      `name each with --service, such as ${serviceFlagOf(first)}, or serve() it in the program`,
    ),
  ]
}

/** `service NAME` at a relay: is a connector of it bound here. */
export function checkBinds(services: readonly ServiceEntry[], bound: ReadonlySet<string>): Finding[] {
  return services.map(({ name, connectors }) => {
    const here = connectors.filter((connector) => bound.has(connector))
    if (here.length > 0) return ok(`service ${name}`, `bound here: ${here.join(', ')}`)
    return fail(
      `service ${name}`,
      `no connector that serves it is bound here: ${connectors.join(', ')}`,
      `start \`ztna connector\` as ${connectors[0] ?? 'one of them'}, or see its log`,
    )
  })
}

const namesOf = (services: readonly ServiceEntry[]): string => services.map(({ name }) => name).join(', ')
