import { PERMIT_ENG, startRole, Trust, type RoleProc, type ServiceSpec } from './ztna.ts'
import { orDispose } from './or-dispose.ts'
import { assertUnreachable, Lab, type Netns } from './netns.ts'
import { run } from './proc.ts'
import type { Wire, WireSettings } from './wire.ts'

export interface TopologySpec {
  /** How many relays, r1 to rN. Default 1. */
  readonly relays?: number
  /** Default c1. */
  readonly connectors?: readonly string[]
  /** Default alice in group eng. */
  readonly agents?: readonly { readonly name: string; readonly groups: readonly string[] }[]
  readonly services: readonly ServiceSpec[]
  /** Default: group eng may do everything. */
  readonly policy?: string
  /** Puts the user-space wire into the legs of every agent or connector instead of a veth pair. */
  readonly wire?: { readonly agent?: WireSettings; readonly connector?: WireSettings }
  /** Arguments of every relay, after those that are always given. */
  readonly relayArgs?: readonly string[]
  /** Top-level lines for network.toml, as `relay_mode = "tunnel"`. */
  readonly networkToml?: string
  /** Life of agent certificates, as `--ttl`. */
  readonly agentTtl?: string
}

/**
 * ```text
 *  agent alice           relay r1              connector c1
 *  10.1.1.1 ──────────── 10.1.1.2
 *                        198.51.100.1 (lo)
 *                        10.2.1.2 ──────────── 10.2.1.1      services on its 127.0.0.1
 * ```
 * Node n reaches relay r over its own subnet 10.n.r.0/24; relays don't forward, nodes have no other route.
 */
export class Topology implements AsyncDisposable {
  readonly relays = new Map<string, RoleProc>()
  readonly connectors = new Map<string, RoleProc>()
  readonly agents = new Map<string, RoleProc>()
  /** By node name and relay name: `alice r1`. */
  readonly wires = new Map<string, Wire>()
  readonly #places = new Map<string, Netns>()

  private constructor(
    readonly lab: Lab,
    readonly trust: Trust,
    readonly spec: TopologySpec,
  ) {}

  /** Namespaces, links, trust and published folders; no role runs yet. */
  static async create(spec: TopologySpec): Promise<Topology> {
    const lab = new Lab()
    return await orDispose(lab, async () => {
      const topology = new Topology(lab, await Trust.init(`${lab.dir}/pki`), spec)
      await topology.#build()
      return topology
    })
  }

  get relayNames(): string[] {
    return Array.from({ length: this.spec.relays ?? 1 }, (_, i) => `r${i + 1}`)
  }
  get connectorNames(): readonly string[] {
    return this.spec.connectors ?? ['c1']
  }
  get agentNames(): readonly string[] {
    return (this.spec.agents ?? DEFAULT_AGENTS).map(({ name }) => name)
  }
  place(name: string): Netns {
    const place = this.#places.get(name)
    if (!place) throw new Error(`the topology has no ${name}`)
    return place
  }
  relayAddress(name: string): string {
    return `198.51.100.${this.relayNames.indexOf(name) + 1}`
  }

  /** Of a node on its link to relay r1. */
  address(node: string): string {
    return `10.${this.#number(node)}.1.1`
  }
  /** Relay r1's end of that link. */
  gateway(node: string): string {
    return `10.${this.#number(node)}.1.2`
  }

  relay(name = 'r1', args: readonly string[] = []): RoleProc {
    const listen = `${this.relayAddress(name)}:4433`
    const all = ['--listen', listen, ...(this.spec.relayArgs ?? []), ...args]
    return keep(this.relays, startRole(this.lab, this.place(name), 'relay', name, this.trust.out('relay', name), all))
  }
  /** `services` as `--service` takes them: `web=tcp:80:127.0.0.1:8080`. */
  connector(services: readonly string[], name = 'c1', args: readonly string[] = []): RoleProc {
    const all = [...services.flatMap((service) => ['--service', service]), ...args]
    return keep(this.connectors, startRole(this.lab, this.place(name), 'connector', name, this.trust.out('connector', name), all))
  }
  /** `forwards` as `--forward` takes them: `tcp:127.0.0.1:8080=web:80`. */
  agent(forwards: readonly string[], name = 'alice', args: readonly string[] = []): RoleProc {
    const all = [...forwards.flatMap((forward) => ['--forward', forward]), ...args]
    return keep(this.agents, startRole(this.lab, this.place(name), 'agent', name, this.trust.out('agent', name), all))
  }
  /** Every relay, then every connector with `services`, then every agent with `forwards`; resolves when all are online. */
  async start(services: readonly string[], forwards: readonly string[]): Promise<this> {
    await Promise.all(this.relayNames.map((name) => this.relay(name).online()))
    await Promise.all(this.connectorNames.map((name) => this.connector(services, name).online()))
    await Promise.all(this.agentNames.map((name) => this.agent(forwards, name).online()))
    return this
  }

  /** Rejects if an agent's namespace gets any answer from a connector's, even with a route towards it. */
  async assertAgentsHaveNoRoute(): Promise<void> {
    for (const agent of this.agentNames) {
      for (const connector of this.connectorNames) {
        const address = this.address(connector)
        await assertUnreachable(this.place(agent), address, 22)
        await this.lab.route(this.place(agent), `${address}/32`, this.gateway(agent))
        try {
          await assertUnreachable(this.place(agent), address, 22)
        } finally {
          await run(null, 'ip', ['-n', this.place(agent).name, 'route', 'delete', `${address}/32`])
        }
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Agents first, so that nothing logs a loss that is only the end of the test.
    for (const roles of [this.agents, this.connectors, this.relays]) {
      await Promise.all([...roles.values()].map((role) => role.proc.stop('SIGKILL')))
    }
    await this.lab[Symbol.asyncDispose]()
  }

  #number(node: string): number {
    return [...this.agentNames, ...this.connectorNames].indexOf(node) + 1
  }

  async #build(): Promise<void> {
    const { lab, trust, spec } = this
    for (const name of [...this.relayNames, ...this.agentNames, ...this.connectorNames]) {
      this.#places.set(name, await lab.netns(name))
    }
    for (const relay of this.relayNames) {
      const netns = this.place(relay)
      await run(null, 'ip', ['-n', netns.name, 'address', 'add', `${this.relayAddress(relay)}/32`, 'dev', 'lo'])
      for (const [kind, names] of [
        ['agent', this.agentNames],
        ['connector', this.connectorNames],
      ] as const) {
        for (const name of names) await this.#link(name, relay, spec.wire?.[kind])
      }
    }
    if (spec.networkToml !== undefined && spec.networkToml !== '') trust.prependNetwork(spec.networkToml)
    for (const service of spec.services) trust.addService({ connectors: this.connectorNames, ...service })
    trust.setPolicy(spec.policy ?? PERMIT_ENG)
    for (const relay of this.relayNames) {
      await trust.issue('relay', relay, { urls: [`https://${this.relayAddress(relay)}:4433`] })
    }
    for (const connector of this.connectorNames) await trust.issue('connector', connector)
    for (const { name, groups } of spec.agents ?? DEFAULT_AGENTS) {
      await trust.issue('agent', name, { groups, ...(spec.agentTtl === undefined ? {} : { ttl: spec.agentTtl }) })
    }
    await trust.publish()
    await this.assertAgentsHaveNoRoute()
  }

  async #link(name: string, relay: string, settings: WireSettings | undefined): Promise<void> {
    const [n, r] = [this.#number(name), this.relayNames.indexOf(relay) + 1]
    const a = { netns: this.place(name), interface: `eth${r}`, addresses: [`10.${n}.${r}.1/24`] }
    const b = { netns: this.place(relay), interface: `node${n}`, addresses: [`10.${n}.${r}.2/24`] }
    if (settings === undefined) await this.lab.veth(a, b)
    else this.wires.set(`${name} ${relay}`, await this.lab.wire(a, b, settings))
    await this.lab.route(a.netns, `${this.relayAddress(relay)}/32`, `10.${n}.${r}.2`)
  }
}

const DEFAULT_AGENTS = [{ name: 'alice', groups: ['eng'] }] as const

function keep(roles: Map<string, RoleProc>, role: RoleProc): RoleProc {
  roles.set(role.name, role)
  return role
}
