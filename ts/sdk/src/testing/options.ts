/** What a test network is described with, and how that becomes what native builds. */
import { isObject, notAccepted, optionsOf, plainOf, show, textOf } from '../arguments.js'
import { configError } from '../errors.js'

/** What is usual in front of a home, for IPv4. IPv6 is never translated: except with `none` it passes a firewall that lets answers in. */
export type NatKind =
  'none' | 'firewall' | 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent' | 'double' | 'carrier'

/** Which packets of one inside address and port share an external port (RFC 4787 §4.1). */
export type Mapping = 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent'

/** From whom a mapping lets packets in (RFC 4787 §5). */
export type Filtering = Mapping

/** Which external port a new mapping gets (RFC 4787 §4.2.1). */
export type Ports = 'preserve' | 'sequential' | 'random'

/** A NAT in the terms of RFC 4787. */
export interface NatDetails {
  /** Default `endpoint-independent`. */
  readonly mapping?: Mapping
  /** Default `address-and-port-dependent`. */
  readonly filtering?: Filtering
  /** Default `preserve`. */
  readonly ports?: Ports
  /** Whether nodes inside reach each other by their external addresses. Default false. */
  readonly hairpin?: boolean
}

/**
 * What is in front of a home. `none`: nodes have public addresses; `firewall`: so too, and only answers come in. Names of a mapping are
 * a NAT that maps so and filters by address and port; `address-and-port-dependent` gives random ports. `double` is an
 * `endpoint-independent` one behind another, `carrier` one behind a carrier's (RFC 6888).
 */
export type Nat = NatKind | NatDetails

/** What a line does to packets, each way. */
export interface LineOptions {
  /** Milliseconds from one end of the line to the other, 0 to 60,000. Default 0. */
  readonly delay?: number
  /** Milliseconds that the delay varies, more or less; packets stay in order. Default 0. */
  readonly jitter?: number
  /** Share of packets lost, 0 to 1. Default 0. */
  readonly loss?: number
  /** Mean number of packets lost in a row, 1 to 1,000; the share stays `loss`. Default 1: losses are independent. */
  readonly burst?: number
  /** Share of packets held back for 5 ms, so that others overtake them, 0 to 1. Default 0. */
  readonly reorder?: number
  /** Bits a second, at least 1,000, or Infinity. Default Infinity. */
  readonly rate?: number
  /** Bytes that wait for a line with a `rate` before more are lost. Default 1,000,000. */
  readonly queue?: number
  /** Bytes of the largest IP packet that passes, 576 to 1,500, or Infinity; larger ones vanish. Default Infinity. */
  readonly mtu?: number
}

/** A home: its nodes reach each other as in a LAN, and all others by its line. */
export interface HomeOptions extends LineOptions {
  /** What is in front of it. Default `none`. */
  readonly nat?: Nat
  /** Addresses of its nodes. Default `ipv4`. */
  readonly ip?: 'ipv4' | 'ipv6' | 'dual'
}

/** Where a connector is: in the named home, or in one of its own that is as the other options say. */
export interface ConnectorPlace extends HomeOptions {
  /** A name of `homes`. Default: a home of its own. */
  readonly home?: string
}

/** Where an agent is. */
export interface AgentPlace extends ConnectorPlace {
  /** Groups that policies name. Default: none. */
  readonly groups?: readonly string[]
}

/** A service of a test network. */
export interface TestService {
  /** Ports and `"low-high"` ranges. Default: none. */
  readonly tcp?: readonly (number | string)[]
  /** As `tcp`. */
  readonly udp?: readonly (number | string)[]
  /** Whether echo is answered. Default false. */
  readonly icmp?: boolean
  /** Names of the connectors that may serve it. Default: all. */
  readonly connectors?: readonly string[]
}

/** A test network. What stands for a home here holds for every home that does not say otherwise. */
export interface TestNetworkOptions extends HomeOptions {
  /** Everything random on the network follows from it: the same packets at the same times fare the same. Default 1. */
  readonly seed?: number
  /** Relays by name, and what their lines do. Default: `r1`, whose line does nothing. */
  readonly relays?: Readonly<Record<string, LineOptions>>
  /** Homes that several nodes share, or that nodes move to, by name. Default: none. */
  readonly homes?: Readonly<Record<string, HomeOptions>>
  /** Agents by name. Default: `alice`. */
  readonly agents?: Readonly<Record<string, AgentPlace>>
  /** Connectors by name. Default: `c1`. */
  readonly connectors?: Readonly<Record<string, ConnectorPlace>>
  /** Services by name. Default: none. */
  readonly services?: Readonly<Record<string, TestService>>
  /** Cedar text; an empty one permits nothing. Default: every agent may reach every service. */
  readonly policy?: string
  /** DNS suffix of service names. Default `ztna.internal`. */
  readonly zone?: string
  /** `tunnel` keeps the relay from seeing raw inner packets. Default `forwarded`. */
  readonly relayMode?: 'forwarded' | 'tunnel'
}

/** A home as native takes it. */
export interface NativeHome {
  readonly nat: unknown
  readonly ip: string
  readonly line: NativeLine
}

export type NativeLine = Partial<Record<keyof LineOptions, number>>

/** What a network is made of, with nothing left out. */
export interface Plan {
  readonly options: TestNetworkOptions
  /** A home of which nothing else is said. */
  readonly everywhere: NativeHome
  readonly relays: Readonly<Record<string, NativeLine>>
  readonly homes: Readonly<Record<string, NativeHome>>
  readonly agents: Readonly<Record<string, AgentPlace>>
  readonly connectors: Readonly<Record<string, ConnectorPlace>>
  readonly services: Readonly<Record<string, TestService>>
  /** Home of each node. */
  readonly nodes: Readonly<Record<string, string>>
}

const LINE: readonly (keyof LineOptions)[] = ['delay', 'jitter', 'loss', 'burst', 'reorder', 'rate', 'queue', 'mtu']
const HOME: readonly (keyof HomeOptions)[] = ['nat', 'ip', ...LINE]
const KINDS: readonly NatKind[] = [
  'none',
  'firewall',
  'endpoint-independent',
  'address-dependent',
  'address-and-port-dependent',
  'double',
  'carrier',
]
const DEPENDENCES: readonly Mapping[] = ['endpoint-independent', 'address-dependent', 'address-and-port-dependent']
const PORTS: readonly Ports[] = ['preserve', 'sequential', 'random']
const FAMILIES = ['ipv4', 'ipv6', 'dual'] as const

/** Cedar text, also none: it permits nothing. Errors: ERR_ZTNA_CONFIG. */
export function checkPolicy(policy: string): void {
  if (typeof policy !== 'string') throw notAccepted(policy, 'policy', 'Cedar text, also an empty one, which permits nothing')
}

/** The whole of what the options mean. Errors: ERR_ZTNA_CONFIG naming what is not accepted, and what is. */
export function planOf(given: TestNetworkOptions): Plan {
  const own = ['seed', 'relays', 'homes', 'agents', 'connectors', 'services', 'policy', 'zone', 'relayMode']
  const read = optionsOf(given, 'options of createTestNetwork()', [...own, ...HOME])
  const options = Object.fromEntries(
    Object.entries(read).map(([name, value]) => [name, plainOf<unknown>(value, name)]),
  ) as TestNetworkOptions
  const { seed = 1 } = options
  if (!Number.isSafeInteger(seed) || seed < 0) throw notAccepted(seed, 'seed', 'a whole number from 0')
  if (options.policy !== undefined) checkPolicy(options.policy)
  textOf(options.zone, 'zone', 'a DNS suffix, such as ztna.internal')
  // What is not said of a home is as the network's own options say, and what they don't say is the default.
  const everywhere = homeOf(options, 'options')
  const home = (given: HomeOptions, what: string): NativeHome => overlaid(everywhere, given, what)
  const relays = mapped(options.relays ?? { r1: {} }, 'relays', LINE, lineOf)
  const homes: Record<string, NativeHome> = mapped(options.homes ?? {}, 'homes', HOME, home)
  const agents = mapped(options.agents ?? { alice: {} }, 'agents', ['home', 'groups', ...HOME], (agent) => agent)
  const connectors = mapped(options.connectors ?? { c1: {} }, 'connectors', ['home', ...HOME], (connector) => connector)
  const services = mapped(options.services ?? {}, 'services', ['tcp', 'udp', 'icmp', 'connectors'], (service) => service)
  unique({ relays, homes, agents, connectors })
  if (Object.keys(relays).length === 0) throw configError('relays: one at least is needed')
  const nodes: Record<string, string> = {}
  const declared = Object.keys(homes)
  for (const [name, place] of [...Object.entries<ConnectorPlace>(agents), ...Object.entries(connectors)]) {
    const { home: shared } = place
    if (shared === undefined) {
      const { groups: _groups, ...rest } = place as AgentPlace
      homes[name] = home(rest, name)
    } else if (!declared.includes(shared)) {
      throw notAccepted(shared, `home of ${name}`, declared.length > 0 ? declared.join(', ') : 'a name of `homes`')
    } else {
      const both = HOME.filter((key) => key in place)
      if (both.length > 0) throw configError(`${name} is in home ${show(shared)}, which decides on ${both.join(', ')}`)
    }
    nodes[name] = shared ?? name
  }
  for (const [name, { connectors: named = [] }] of Object.entries(services)) {
    const stranger = named.find((connector) => !(connector in connectors))
    if (stranger !== undefined) {
      throw notAccepted(stranger, `connectors of service ${name}`, Object.keys(connectors).join(', ') || 'a name of `connectors`')
    }
  }
  return { options, everywhere, relays, homes, agents, connectors, services, nodes }
}

/** A home whose options are all checked. */
export function overlaid(below: NativeHome, given: HomeOptions, what: string): NativeHome {
  const own = homeOf(given, what)
  return {
    nat: given.nat === undefined ? below.nat : own.nat,
    ip: given.ip === undefined ? below.ip : own.ip,
    line: { ...below.line, ...own.line },
  }
}

function homeOf(given: HomeOptions, what: string): NativeHome {
  const { ip = 'ipv4' } = given
  if (!FAMILIES.includes(ip)) throw notAccepted(ip, `ip of ${what}`, FAMILIES.join(', '))
  return { nat: natOf(given.nat ?? 'none', `nat of ${what}`), ip, line: lineOf(given, what) }
}

/** Checks names and types; native knows the ranges. */
function lineOf(given: LineOptions, what: string): NativeLine {
  const line: NativeLine = {}
  for (const key of LINE) {
    const value = given[key]
    if (value === undefined) continue
    const endless = value === Infinity && (key === 'rate' || key === 'mtu')
    if (typeof value !== 'number' || (!Number.isFinite(value) && !endless)) throw notAccepted(value, `${key} of ${what}`, 'a number')
    if (value === 0 && (key === 'rate' || key === 'mtu')) throw notAccepted(value, `${key} of ${what}`, 'a number over 0')
    // Native's word for no limit.
    line[key] = endless ? 0 : value
  }
  return line
}

/** A change of a line: the names that `LineOptions` has, and no others. */
export function changeOf(line: LineOptions): NativeLine {
  return lineOf(optionsOf(line, 'line', LINE, 'line.'), 'the line')
}

/** A home's options: the names that `HomeOptions` has, and no others. */
export function homeOptionsOf(home: HomeOptions): HomeOptions {
  return optionsOf(home, 'home', HOME, 'home.')
}

/** A NAT as native takes it. */
export function natOf(given: Nat, what: string): unknown {
  if (!isObject(given)) {
    if (KINDS.includes(given)) return given
    throw notAccepted(given, what, `${KINDS.join(', ')}, or { mapping?, filtering?, ports?, hairpin? }`)
  }
  const nat = optionsOf(given, what, ['mapping', 'filtering', 'ports', 'hairpin'], `${what}.`)
  const { mapping = 'endpoint-independent', filtering = 'address-and-port-dependent', ports = 'preserve', hairpin = false } = nat
  if (!DEPENDENCES.includes(mapping)) throw notAccepted(mapping, `mapping of ${what}`, DEPENDENCES.join(', '))
  if (!DEPENDENCES.includes(filtering)) throw notAccepted(filtering, `filtering of ${what}`, DEPENDENCES.join(', '))
  if (!PORTS.includes(ports)) throw notAccepted(ports, `ports of ${what}`, PORTS.join(', '))
  if (typeof hairpin !== 'boolean') throw notAccepted(hairpin, `hairpin of ${what}`, 'true, false')
  return { mapping, filtering, ports, hairpin }
}

function mapped<T extends object, R>(
  given: Readonly<Record<string, T>>,
  what: string,
  names: readonly string[],
  map: (value: T, what: string) => R,
): Record<string, R> {
  if (!isObject(given)) throw notAccepted(given, what, 'an object: { NAME: { … } }')
  const entries = Object.entries(given)
  return Object.fromEntries(entries.map(([name, value]) => [name, map(optionsOf(value, `${what}.${name}`, names), `${what}.${name}`)]))
}

/** One name must not mean two things. */
function unique(kinds: Readonly<Record<string, object>>): void {
  const seen = new Map<string, string>()
  for (const [kind, entries] of Object.entries(kinds)) {
    for (const name of Object.keys(entries)) {
      const other = seen.get(name)
      if (other !== undefined) throw configError(`${show(name)} is a name of both ${other} and ${kind}: each needs one of its own`)
      seen.set(name, kind)
    }
  }
}
