/** The test network: what a test holds. */
import { isObject, notAccepted, show, textOf } from '../arguments.js'
import type { ZtnaAgent } from '../agent.js'
import type { ConnectorOptions } from '../connector.js'
import { ZtnaError, configError, fromNative } from '../errors.js'
import { hostPort } from '../host-port.js'
import { type NativeTestNetwork, called, native } from '../native.js'
import type { NetworkConfig, NetworkContent } from '../network-source.js'
import { type RelayOptions, ZtnaRelay } from '../relay.js'
import type { NodeOptions } from '../node-options.js'
import type { PlacedRole, TestPlace } from '../test-place.js'
import type { Cancel, PathInfo, Role } from '../types.js'
import { type NodeIdentity, TRUST_DOMAIN, issue } from './identities.js'
import {
  type HomeOptions,
  type LineOptions,
  type Nat,
  type NativeHome,
  type Plan,
  type TestNetworkOptions,
  changeOf,
  checkPolicy,
  homeOptionsOf,
  natOf,
  overlaid,
  planOf,
} from './options.js'
import { LiveSource } from './source.js'
import { type AwaitedPath, untilPath } from './until.js'

/** Every agent may reach every service. */
const PERMIT_ALL = 'permit(principal, action == Action::"connect", resource);\n'
/** Ports of relays: QUIC with STUN, and the second one for the NAT verdict (RFC 5780). */
const RELAY_PORT = 4433
const RELAY_STUN_PORT = 4434
/** Time for a role to take a new policy, milliseconds. */
const UPDATE_MS = 5_000

/**
 * Makes a network and starts its relays. Close it, or hold it by `await using`, when the test ends.
 *
 * Errors: ERR_ZTNA_CONFIG when an option is not accepted.
 */
export async function createTestNetwork(options: TestNetworkOptions = {}): Promise<TestNetwork> {
  const plan = planOf(options)
  const names = (role: Role, entries: object): { role: Role; name: string }[] => Object.keys(entries).map((name) => ({ role, name }))
  const nodes = [...names('relay', plan.relays), ...names('agent', plan.agents), ...names('connector', plan.connectors)]
  const identities = await issue(nodes, plan.options.zone ?? 'ztna.internal')
  const network = new TestNetwork(plan, identities)
  try {
    await network.begin()
    return network
  } catch (error) {
    await network.close()
    throw fromNative(error)
  }
}

/**
 * A network in memory with relays, homes and nodes. Roles made with the options it hands out run on it: their UDP never leaves the process. What a
 * connector dials and what an agent listens on is as ever: the test's own programs on this machine.
 */
export class TestNetwork implements AsyncDisposable {
  readonly #native: NativeTestNetwork
  readonly #plan: Plan
  readonly #sources = new Map<string, { readonly role: Role; readonly source: LiveSource }>()
  readonly #relays = new Map<string, ZtnaRelay>()
  /** Roles on this network, and what to do when one leaves. */
  readonly #running = new Map<PlacedRole, { readonly node: string; onLeft: () => void }>()
  readonly #homes: Map<string, NativeHome>
  readonly #homeOf: Map<string, string>
  readonly #revoked = new Set<string>()
  #madeHomes = 0
  #closing: Promise<void> | undefined

  /** @internal */
  constructor(plan: Plan, identities: readonly NodeIdentity[]) {
    this.#plan = plan
    this.#homes = new Map(Object.entries(plan.homes))
    this.#homeOf = new Map(Object.entries(plan.nodes))
    const { relays, homes, nodes } = plan
    const spec = JSON.stringify({ seed: plan.options.seed ?? 1, relays, homes, nodes })
    this.#native = called(() => new (native().NativeTestNetwork)(spec))
    const config = this.#config()
    for (const { role, name, certPem, keyPem, caPem } of identities) {
      const content = { certPem, keyPem, caPem, network: config, policy: plan.options.policy ?? PERMIT_ALL }
      this.#sources.set(name, { role, source: new LiveSource(this.#place(name), content) })
    }
  }

  /** @internal Starts the relays. */
  async begin(): Promise<void> {
    for (const name of Object.keys(this.#plan.relays)) {
      // A test that has closed its own roles may end: the relays alone keep nothing alive.
      const relay = new ZtnaRelay(this.relay(name)).unref()
      this.#relays.set(name, relay)
      await relay.start()
    }
  }

  /** The relays that the network has started, by name. A test may close one, and start another from `relay(name)`. */
  get relays(): ReadonlyMap<string, ZtnaRelay> {
    return this.#relays
  }

  /** Options of an agent: `new ZtnaAgent(net.agent('alice'))`. Errors: ERR_ZTNA_CONFIG when it has no agent of this name. */
  agent(name: string): NodeOptions {
    return { network: this.#source('agent', name) }
  }

  /** Options of a connector: `new ZtnaConnector(net.connector('c1'))`. Errors: as for `agent`. */
  connector(name: string): ConnectorOptions {
    return { network: this.#source('connector', name) }
  }

  /** Options of a relay, for another one in place of one that was closed. Errors: as for `agent`. */
  relay(name: string): RelayOptions {
    const network = this.#source('relay', name)
    const at = this.addresses(name)
    const listen = at.map((ip) => ({ udp: hostPort(ip, RELAY_PORT) }))
    return { network, listen, ...(at[0] === undefined ? {} : { stunAlt: hostPort(at[0], RELAY_STUN_PORT) }) }
  }

  /** Addresses that a node or relay has now. Errors: ERR_ZTNA_CONFIG for an unknown name, ERR_ZTNA_CLOSED. */
  addresses(name: string): readonly string[] {
    textOf(name, 'name', 'that of a node or relay')
    return JSON.parse(called(() => this.#native.addresses(name))) as readonly string[]
  }

  /**
   * Puts another NAT in front of the home that a node is in, or of a home by its own name. Mappings of the old one are forgotten. Errors of this and of the
   * other changes: ERR_ZTNA_CONFIG, nothing has changed then; ERR_ZTNA_CLOSED.
   */
  setNat(at: string, nat: Nat): void {
    const checked = natOf(nat, 'nat')
    this.#change({ op: 'setNat', at, nat: checked })
    this.#remember(at, (home) => ({ ...home, nat: checked }))
  }

  /** Changes the line of a node's home, or of all homes, from the next packet on. What `line` does not name stays. */
  setLine(line: LineOptions, at?: string): void {
    const change = changeOf(line)
    this.#change({ op: 'setLine', at: at ?? null, line: change })
    const over = (home: NativeHome): NativeHome => ({ ...home, line: { ...home.line, ...change } })
    if (at !== undefined) this.#remember(at, over)
    else for (const [name, home] of this.#homes) this.#homes.set(name, over(home))
  }

  /** Loses UDP at a node's home: `direct`, the default, is all but that to and from relays; `udp` is all. */
  block(at: string, what: 'direct' | 'udp' = 'direct'): void {
    if (what !== 'direct' && what !== 'udp') throw notAccepted(what, 'what to block', 'direct, udp')
    this.#change({ op: 'block', at, what })
  }

  /** Ends a `block`. */
  unblock(at: string): void {
    this.#change({ op: 'block', at, what: 'nothing' })
  }

  /** Has the NATs of a node's home forget their mappings and give other ports, as a restart of theirs does. Nodes notice nothing. */
  rebind(at: string): void {
    this.#change({ op: 'rebind', at })
  }

  /**
   * Takes a node to another home, as a laptop that leaves for a café: to a home by name, or to a new one. That is like `to`, and else as the network's
   * options say; without `to` it is like the home that the node leaves. The node notices.
   */
  move(node: string, to?: string | HomeOptions): void {
    const known = this.#homeOf.get(node)
    if (known === undefined) throw notAccepted(node, 'node', [...this.#homeOf.keys()].join(', '))
    const home = typeof to === 'string' ? to : this.#newHome(node, known, to)
    this.#change({ op: 'move', node, home })
    this.#homeOf.set(node, home)
    // Native takes a home away that was made for a move and is empty.
    const isEmpty = ![...this.#homeOf.values()].includes(known)
    if (isEmpty && !(known in this.#plan.homes)) this.#homes.delete(known)
  }

  /**
   * Gives all nodes another policy; an empty one permits nothing. Resolves when those that run have taken it. Errors: ERR_ZTNA_CONFIG when it is not valid; the old one then stays.
   */
  async setPolicy(policy: string): Promise<void> {
    checkPolicy(policy)
    await this.#update((content) => ({ ...content, policy }))
  }

  /** Revokes a node's certificate. Resolves when the others that run know of it. Errors: ERR_ZTNA_CONFIG for an unknown name. */
  async revoke(name: string): Promise<void> {
    const { role } = this.#node(name)
    this.#revoked.add(`${role}/${name}`)
    const text = `names = ${JSON.stringify([...this.#revoked])}\n`
    // A node does not take a snapshot that revokes itself.
    await this.#update(
      (content) => ({ ...content, revoked: text }),
      (node) => node !== name,
    )
  }

  /**
   * Resolves when the agent's path to the service's connector is of this kind; opens a connection where there is none. Default `timeoutMs` 10,000.
   * Errors: ERR_ZTNA_TIMEOUT with the reasons of `agent.explain()`, ABORTED, and what `agent.ping()` rejects with for good.
   */
  until(agent: ZtnaAgent, service: string, kind: AwaitedPath, cancel: Cancel = {}): Promise<PathInfo> {
    return untilPath(agent, service, kind, cancel)
  }

  /** Closes the roles that still run on it, without a drain, then the network. Rejects nothing. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    const relays = new Set<unknown>(this.#relays.values())
    const close = (role: PlacedRole): Promise<void> => role.close({ drainMs: 0 })
    await Promise.all([...this.#running.keys()].filter((role) => !relays.has(role)).map(close))
    await Promise.all([...this.#relays.values()].map((relay) => relay.close({ drainMs: 0 })))
    this.#native.close()
  }

  #change(change: object): void {
    called(() => this.#native.change(JSON.stringify(change)))
  }

  #remember(at: string, change: (home: NativeHome) => NativeHome): void {
    const name = this.#homeOf.get(at) ?? at
    const home = this.#homes.get(name)
    if (home !== undefined) this.#homes.set(name, change(home))
  }

  /** Adds a home for a node to move to. */
  #newHome(node: string, from: string, to: HomeOptions | undefined): string {
    if (to !== undefined && !isObject(to)) throw notAccepted(to, 'where to', 'the name of a home, or { nat?, delay?, … }')
    const like = this.#homes.get(from)
    if (like === undefined) throw configError(`no home is called ${show(from)}`)
    const home = to === undefined ? like : overlaid(this.#plan.everywhere, homeOptionsOf(to), 'home')
    this.#madeHomes += 1
    const name = `${node}, home ${this.#madeHomes + 1}`
    this.#change({ op: 'addHome', name, home })
    this.#homes.set(name, home)
    return name
  }

  #config(): NetworkConfig {
    const { options, relays, agents, connectors, services } = this.#plan
    const families = new Set([...this.#homes.values()].map(({ ip }) => ip))
    const used = (ip: string): boolean => families.has('dual') || families.has(ip.includes(':') ? 'ipv6' : 'ipv4')
    return {
      trustDomain: TRUST_DOMAIN,
      zone: options.zone ?? 'ztna.internal',
      relays: Object.keys(relays).map((name) => ({
        name,
        urls: this.addresses(name)
          .filter(used)
          .map((ip) => `https://${hostPort(ip, RELAY_PORT)}`),
      })),
      services: Object.entries(services).map(([name, service]) => Object.assign({ name, connectors: Object.keys(connectors) }, service)),
      agents: Object.entries(agents).map(([name, { groups = [] }]) => ({ name, groups })),
      ...(options.relayMode === undefined ? {} : { relayMode: options.relayMode }),
    }
  }

  #place(node: string): TestPlace {
    return {
      network: this.#native.id,
      node,
      joined: (role) => this.#running.set(role, { node, onLeft: () => {} }),
      left: (role) => {
        this.#running.get(role)?.onLeft()
        this.#running.delete(role)
      },
    }
  }

  #source(role: Role, name: string): LiveSource {
    const found = this.#sources.get(name)
    if (found?.role === role) return found.source
    const known = [...this.#sources].filter(([, node]) => node.role === role).map(([known]) => known)
    throw notAccepted(name, `name of the ${role}`, known.join(', ') || `a name of \`${role}s\``)
  }

  #node(name: string): { readonly role: Role; readonly source: LiveSource } {
    const found = this.#sources.get(name)
    if (found === undefined) throw notAccepted(name, 'name', [...this.#sources.keys()].join(', '))
    return found
  }

  /** Hands a new snapshot to relays, and what they have taken to all others that are `told`. */
  async #update(change: (content: NetworkContent) => NetworkContent, told: (name: string) => boolean = () => true): Promise<void> {
    const nodes = [...this.#sources].filter(([name]) => told(name))
    await this.#hand(new Map(nodes.filter(([, { role }]) => role === 'relay')), change)
    await this.#hand(new Map(nodes.filter(([, { role }]) => role !== 'relay')), change)
  }

  async #hand(
    nodes: ReadonlyMap<string, { readonly source: LiveSource }>,
    change: (content: NetworkContent) => NetworkContent,
  ): Promise<void> {
    const running = [...this.#running].filter(([, { node }]) => nodes.has(node))
    const reloads = (): Promise<void[]> => Promise.all(running.map(([role, entry]) => nextReload(role, entry)))
    const before = [...nodes.values()].map(({ source }) => ({ source, content: source.content }))
    const taken = reloads()
    for (const { source } of before) source.content = change(source.content)
    try {
      await taken
    } catch (error) {
      const undone = reloads()
      for (const { source, content } of before) source.content = content
      await undone.catch(() => {})
      throw fromNative(error)
    }
  }
}

/** Resolves when the role has taken a snapshot, or has ended. Rejects with its reason when it has not. */
function nextReload(role: PlacedRole, entry: { onLeft: () => void }): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (): void => {
      clearTimeout(timer)
      role.off('reloaded', onReloaded)
      role.off('warning', onWarning)
      entry.onLeft = () => {}
    }
    const onReloaded = (): void => {
      done()
      resolve()
    }
    const onWarning = (error: ZtnaError): void => {
      if (error.code !== 'ERR_ZTNA_CONFIG') return
      done()
      reject(error)
    }
    const timer = setTimeout(() => {
      done()
      reject(new ZtnaError('ERR_ZTNA_TIMEOUT', `a role has not taken the new snapshot within ${UPDATE_MS} ms`))
    }, UPDATE_MS)
    role.on('reloaded', onReloaded)
    role.on('warning', onWarning)
    entry.onLeft = onReloaded
  })
}
