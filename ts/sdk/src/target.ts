/** How a caller names a service. */
import { fieldsOf, notAccepted, optionsOf, show } from './arguments.js'
import { configError } from './errors.js'
import type { Cancel, PathPolicy } from './types.js'

export interface ConnectOptions extends Cancel {
  /** Name of the service. */
  service: string
  /** May be left out when the service has exactly one port of the protocol. */
  port?: number
  /** Default `auto`. */
  path?: PathPolicy
  /** W3C trace context, carried to the connector. */
  traceparent?: string
  /** As for `net.Socket`. Default false: our side ends when the peer's has. */
  allowHalfOpen?: boolean
}

/** How a flow is opened whose target is a string of its own. */
export type FlowOptions = Omit<ConnectOptions, 'service' | 'port'>

const FLOW_OPTIONS: readonly (keyof FlowOptions)[] = ['path', 'traceparent', 'allowHalfOpen', 'signal', 'timeoutMs']
const OPTIONS: readonly (keyof ConnectOptions)[] = ['service', 'port', ...FLOW_OPTIONS]
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
// Version 00 has four parts; a later one may have more (W3C Trace Context, level 1, §4.3).
const TRACE = /^(?=.{1,256}$)(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:$|(?<!^00.*)-)/
const PATHS: readonly PathPolicy[] = ['auto', 'direct-only', 'relay-only']

/** `'db:5432'` or `'db'` with `more` options beside it, or all of it in one object, read once. Errors: ERR_ZTNA_CONFIG saying what is accepted. */
export function toTarget(target: string | ConnectOptions, more?: FlowOptions): ConnectOptions {
  const accepted = '"SERVICE:PORT", "SERVICE" or { service, port? }'
  const isText = typeof target === 'string'
  const flow = isText ? { ...named(target), ...flowOptions(more) } : fieldsOf(target, 'target', accepted, OPTIONS)
  if (more !== undefined && !isText) throw notAccepted(more, 'options', 'all in one object, or a string with options beside it')
  checkService(flow.service)
  if (flow.port !== undefined) checkPort(flow.port, flow.service)
  checkPath(flow.path)
  const trace = flow.traceparent
  if (trace !== undefined && !(typeof trace === 'string' && TRACE.test(trace))) {
    throw notAccepted(trace, 'traceparent', 'a W3C trace context: 00-<32 hex>-<16 hex>-<2 hex>, lower case, IDs not zero')
  }
  return flow
}

export function checkService(name: string): string {
  if (typeof name === 'string' && NAME.test(name)) return name
  throw configError(`${show(name)} is not a service name: 1 to 63 of a-z, 0-9 and "-", not starting or ending with "-"`)
}

export function checkPort(port: number, of: string): number {
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port
  throw configError(`port ${show(port)} of ${of} is not a whole number from 1 to 65535`)
}

export function checkPath(path: PathPolicy | undefined): PathPolicy {
  if (path === undefined) return 'auto'
  if (PATHS.includes(path)) return path
  throw configError(`path ${show(path)} is not accepted; one of ${PATHS.join(', ')}`)
}

export function checkProtocol(protocol: 'tcp' | 'udp' | undefined): 'tcp' | 'udp' {
  if (protocol === undefined) return 'tcp'
  if (protocol === 'tcp' || protocol === 'udp') return protocol
  throw notAccepted(protocol, 'protocol', 'tcp, udp')
}

/** The service and port behind a URL's host, or undefined when the host is outside the zone. */
export function serviceOfHost(host: string, zone: string): string | undefined {
  const name = host.toLowerCase().replace(/\.$/, '')
  const suffix = `.${zone.toLowerCase()}`
  if (!name.endsWith(suffix)) return undefined
  const service = name.slice(0, -suffix.length)
  return NAME.test(service) ? service : undefined
}

function named(target: string): { service: string; port?: number } {
  const colon = target.lastIndexOf(':')
  if (colon < 0) return { service: target }
  const text = target.slice(colon + 1)
  const service = checkService(target.slice(0, colon))
  if (!/^\d{1,5}$/.test(text)) throw configError(`"${target}": port "${text}" is not a number from 1 to 65535`)
  return { service, port: Number(text) }
}

// What is unknown would be left out without a word, and a path or a time limit with it.
function flowOptions(more: FlowOptions | undefined): FlowOptions {
  return more === undefined ? {} : optionsOf(more, 'options', FLOW_OPTIONS)
}
