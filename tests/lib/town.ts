import { home, RELAY, type Housing, type Place, type Relation } from './places.ts'
import type { HostSpec } from './net.ts'
import { Lab, type Netns } from './netns.ts'
import { orDispose } from './or-dispose.ts'
import { nginx } from './programs.ts'
import { PERMIT_ENG, startRole, Trust, type RoleName, type RoleProc } from './ztna.ts'

/** A connector that shares something with an agent, and that this agent alone asks for. */
export interface Neighbour {
  readonly of: Place
  readonly relation: Exclude<Relation, 'apart'> | 'same-host'
}

export interface TownSpec {
  /** An agent and a connector in a home of their own for each. */
  readonly places: readonly Place[]
  readonly neighbours: readonly Neighbour[]
  /** Which connectors' places an agent's asks for. */
  readonly asks: (agent: Place, connector: Place) => boolean
}

/** Whose routers and lines. */
export type Maker = 'kernel' | 'netlab'

/** A port of the agents' 127.0.0.1 for each connector. */
const FIRST_PORT = 9_000
/** Roles that start at the same time: more only compete for the processors. */
const STARTING = 4

/** Certificates and folders of a town, whoever makes its routers. */
export async function townTrust(base: string, spec: TownSpec): Promise<Trust> {
  const trust = await Trust.init(base)
  const connectors = connectorsOf(spec)
  for (const { name } of connectors) trust.addService({ name: `s-${name}`, connectors: [name], tcp: [80] })
  trust.setPolicy(PERMIT_ENG)
  await trust.issue('relay', 'r1', { urls: [`https://${RELAY.v4}:4433`, `https://[${RELAY.v6}]:4433`] })
  for (const { name } of connectors) await trust.issue('connector', name)
  for (const index of spec.places.keys()) await trust.issue('agent', `a${index}`, { groups: ['eng'] })
  await trust.publish()
  return trust
}

/** Agents and connectors in many homes around one relay on the Internet, each agent in touch with many connectors at once. */
export class Town implements AsyncDisposable {
  readonly #roles = new Map<string, RoleProc>()
  readonly #places = new Map<string, Netns>()

  private constructor(
    readonly lab: Lab,
    readonly trust: Trust,
    readonly spec: TownSpec,
  ) {}

  /** Builds it, and starts the relay, the connectors and the agents; resolves when all are online. */
  static async start(maker: Maker, trust: Trust, spec: TownSpec): Promise<Town> {
    const town = new Town(new Lab(), trust, spec)
    return await orDispose(town, async () => {
      await town.#build(maker)
      await town.#start()
      return town
    })
  }

  /** Every agent asks each of its connectors for a page. How many came; rejects when one did not. */
  async talk(): Promise<number> {
    let pages = 0
    for (const agent of this.spec.places) {
      const ports = this.asked(agent).map(({ port }) => port)
      const urls = ports.map((port) => `http://127.0.0.1:${port}/hello`)
      const { stdout } = await this.#place(this.#agent(agent)).run('curl', ['-sSf', '--max-time', '20', '--parallel', ...urls])
      if (stdout !== 'hello\n'.repeat(urls.length)) throw new Error(`${agent}: ${JSON.stringify(stdout)}`)
      pages += urls.length
    }
    return pages
  }

  /** The connectors that the agent of a place asks for. */
  asked(agent: Place): readonly {
    readonly label: string
    readonly name: string
    readonly place: Place
    readonly relation: Relation
    readonly port: number
  }[] {
    return connectorsOf(this.spec)
      .map(({ label, name, place, relation, beside }, index) => ({ label, name, place, relation, beside, port: FIRST_PORT + index }))
      .filter(({ beside, place }) => (beside === undefined ? this.spec.asks(agent, place) : beside === agent))
  }

  /** How the agent of a place reaches its connectors now, by their labels. */
  async paths(agent: Place): Promise<Record<string, string>> {
    const status = (await this.#running(this.#agent(agent)).status()) as unknown as {
      connectors: readonly { name: string; path: { kind: string } }[]
    }
    return Object.fromEntries(
      this.asked(agent).map(({ label, name }) => [label, status.connectors.find((c) => c.name === name)?.path.kind ?? 'none']),
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#roles.values()].map((role) => role.proc.stop('SIGKILL')))
    await this.lab[Symbol.asyncDispose]()
  }

  async #build(maker: Maker): Promise<void> {
    const { lab, spec } = this
    let number = 0
    const house = async (name: string, place: Place, o: Parameters<typeof home>[4] = {}): Promise<Housing> => {
      const netns = await lab.netns(name)
      this.#places.set(name, netns)
      return home(place, (number += 1), name, netns, o)
    }
    const relay = await lab.netns('r1')
    this.#places.set('r1', relay)
    const homes: Housing[] = [{ routers: [], host: { name: 'r1', netns: relay, addresses: [`${RELAY.v4}/32`, `${RELAY.v6}/128`] } }]
    for (const place of spec.places) {
      homes.push(await house(this.#agent(place), place))
    }
    for (const { name, place, beside, relation } of connectorsOf(spec)) {
      if (beside === undefined) homes.push(await house(name, place))
      else if (relation === 'same-carrier') homes.push(await house(name, place, { outer: `o-${this.#agent(beside)}` }))
      else if (name.startsWith('h')) this.#places.set(name, this.#place(this.#agent(beside)))
      else {
        const netns = await lab.netns(name)
        this.#places.set(name, netns)
        homes.push({ routers: [], host: { name, netns, realm: `r-${this.#agent(beside)}`, addresses: ['192.168.1.11/24'] } })
      }
    }
    const line = maker === 'netlab' ? { up: { delay: '5ms' }, down: { delay: '5ms' } } : {}
    const lined = (host: HostSpec): HostSpec => ({ ...host, ...line })
    const net = { seed: 7, routers: homes.flatMap(({ routers }) => routers), hosts: homes.map(({ host }) => lined(host)) }
    await (maker === 'kernel' ? lab.kernelNet(net) : lab.net(net))
  }

  async #start(): Promise<void> {
    const listen = [`${RELAY.v4}:4433`, `[${RELAY.v6}]:4433`].flatMap((address) => ['--listen', address])
    await this.#role('relay', 'r1', [...listen, '--stun-alt', `${RELAY.v4}:4434`]).online()
    const connectors = connectorsOf(this.spec)
    await inTurns(connectors, async ({ name }, index) => {
      // A port of its own, as one of them is in an agent's namespace.
      await nginx(this.#place(name), 8_000 + index)
      await this.#role('connector', name, ['--service', `s-${name}=tcp:80:127.0.0.1:${8_000 + index}`]).online()
    })
    await inTurns(this.spec.places, async (place) => {
      const forwards = this.asked(place).flatMap(({ name, port }) => ['--forward', `tcp:127.0.0.1:${port}=s-${name}:80`])
      await this.#role('agent', this.#agent(place), forwards).online()
    })
  }

  #role(role: RoleName, name: string, args: readonly string[]): RoleProc {
    const proc = startRole(this.lab, this.#place(name), role, name, this.trust.out(role, name), args)
    this.#roles.set(name, proc)
    return proc
  }

  #agent(place: Place): string {
    return `a${this.spec.places.indexOf(place)}`
  }

  #running(name: string): RoleProc {
    const role = this.#roles.get(name)
    if (!role) throw new Error(`${name} does not run`)
    return role
  }

  #place(name: string): Netns {
    const place = this.#places.get(name)
    if (!place) throw new Error(`no ${name}`)
    return place
  }
}

interface Connector {
  readonly name: string
  /** The place, or how it neighbours. */
  readonly label: string
  readonly place: Place
  readonly relation: Relation
  /** The agent's place that it neighbours. */
  readonly beside?: Place
}

function connectorsOf({ places, neighbours }: TownSpec): readonly Connector[] {
  return [
    ...places.map((place, index) => ({ name: `c${index}`, label: place, place, relation: 'apart' as const })),
    ...neighbours.map(({ of, relation }, index) => ({
      name: `${relation === 'same-host' ? 'h' : 'n'}${index}`,
      label: relation,
      place: of,
      // Without a network between them, which is all that a LAN means to the oracle.
      relation: relation === 'same-host' ? ('same-lan' as const) : relation,
      beside: of,
    })),
  ]
}

async function inTurns<T>(items: readonly T[], start: (item: T, index: number) => Promise<void>): Promise<void> {
  const waiting = [...items.entries()]
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await start(next[1], next[0])
  }
  await Promise.all(Array.from({ length: STARTING }, worker))
}
