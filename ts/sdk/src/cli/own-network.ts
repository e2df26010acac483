/** What a role's folder says of it and of its settings, before the role starts. The native side decides on its own reading. */
import { X509Certificate } from 'node:crypto'
import { readFile, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type StaticService, serviceFlagOf } from '../static-service.js'
import { spiffeOf } from '../doctor/material.js'
import { ZtnaError, configError } from '../errors.js'
import { fileError } from './exit.js'
import type { ForwardOptions } from '../forward.js'
import { type NetworkConfig, type ServiceEntry, readNetworkToml } from '../network-source.js'

/** Errors: ERR_ZTNA_CONFIG or ERR_ZTNA_PERMISSION, prefixed with `source` and with what to do, for a folder that is none of a node. */
export async function checkFolder(folder: string, source: string): Promise<void> {
  const refuse = (why: string): Error =>
    configError(`${source} ${folder}: ${why}; name the folder of this node, which \`ztna pki issue\` wrote with --out`)
  try {
    if (!(await stat(folder)).isDirectory()) throw refuse('not a folder')
    const files = await readdir(folder)
    if (files.includes('ca')) throw refuse('a trust folder, and no role runs on it')
    if (!files.includes('snapshot.json')) throw refuse("without a snapshot.json: not a node's folder, or not all of it has arrived")
  } catch (error) {
    if (error instanceof ZtnaError) throw error
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) throw refuse('there is no such folder')
    throw fileError(`${source} ${folder}`, error, 'let the user that runs this read it')
  }
}

/** The network of a node's folder. `undefined`: it can't be read, and the native side says why. */
export async function ownNetwork(folder: string): Promise<NetworkConfig | undefined> {
  try {
    return readNetworkToml(await readFile(join(folder, 'network.toml'), 'utf8'))
  } catch {
    return undefined
  }
}

/** The name that the certificate of a node's folder is for. `undefined`: it can't be read, and the native side says why. */
export async function ownName(folder: string): Promise<string | undefined> {
  try {
    return spiffeOf(new X509Certificate(await readFile(join(folder, 'cert.pem'))))?.name
  } catch {
    return undefined
  }
}

/** Errors: ERR_ZTNA_CONFIG, prefixed with `source`, for a forward to a service or port that the network does not have. */
export function checkForward(network: NetworkConfig, forward: ForwardOptions, source: string): void {
  if (!('service' in forward)) return
  const { service: name, port, protocol = 'tcp' } = forward
  const service = network.services.find((known) => known.name === name)
  if (service === undefined) {
    const known = network.services.map((each) => each.name).join(', ')
    throw configError(`${source}: no service \`${name}\` in this network; known: ${known}`)
  }
  const ports = portsOf(service, protocol)
  const has = ports.join(', ') || 'none'
  if (port === undefined) {
    if (ports.length === 1 && !ports[0]?.includes('-')) return
    throw configError(`${source}: name the port, one of the ${protocol} ports of service \`${name}\`: ${has}`)
  }
  const fits = ports.some((range) => {
    const [low = 0, high = low] = range.split('-').map(Number)
    return low <= port && port <= high
  })
  if (!fits) throw configError(`${source}: service \`${name}\` has no ${protocol} port ${port}; it has: ${has}`)
}

/** One line on the services that the network gives `connector`, and that it does not serve. `undefined`: there are none. */
export function unserved(network: NetworkConfig, connector: string, served: readonly StaticService[]): string | undefined {
  const given = network.services.filter(({ connectors }) => Array.isArray(connectors) && connectors.includes(connector))
  const missing = given.filter(({ name }) => !served.some(({ service }) => service === name))
  const [first] = missing
  if (first !== undefined) {
    const what = served.length === 0 ? 'this connector serves nothing' : 'this connector does not serve all'
    const names = missing.map(({ name }) => name).join(', ')
    return `${what}: the network gives it ${names}; name each with --service, such as ${serviceFlagOf(first)}`
  }
  if (served.length > 0) return undefined
  return 'this connector serves nothing, and the network gives it nothing: add it to `connectors` of a [[service]] in the trust folder, publish, and name the service with --service'
}

function portsOf(service: ServiceEntry, protocol: 'tcp' | 'udp'): readonly string[] {
  const ports: unknown = service[protocol]
  return Array.isArray(ports) ? ports.map(String) : []
}
