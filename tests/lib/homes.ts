import { Lab, type Netns } from './netns.ts'
import { orDispose } from './or-dispose.ts'
import type { HostSpec, Net, RouterSpec } from './net.ts'
import type { Impairment } from './wire.ts'
import { PERMIT_ENG, startRole, Trust, type RoleProc, type ServiceSpec } from './ztna.ts'
import { until } from './programs.ts'

/** What stands between a node and the Internet: a router of the user-space network, or nothing. */
export type Home = Omit<RouterSpec, 'name' | 'external'> | 'public'

export interface HomesSpec {
  readonly alice: Home
  readonly c1: Home
  readonly services: readonly ServiceSpec[]
  /** Of the relay's line, each way. */
  readonly relay?: Impairment
  /** Top-level lines for network.toml. */
  readonly networkToml?: string
}

const RELAY = '198.51.100.1'

/**
 * ```text
 *  alice 192.168.1.10 ── router 203.0.113.1 ──┐
 *                                             ├── Internet ── relay r1 198.51.100.1
 *  c1    192.168.1.10 ── router 203.0.113.2 ──┘
 * ```
 * Routers and lines are the user-space network's. A public node has its router's address itself.
 */
export class Homes implements AsyncDisposable {
  readonly roles = new Map<string, RoleProc>()

  private constructor(
    readonly lab: Lab,
    readonly trust: Trust,
    readonly net: Net,
    readonly places: ReadonlyMap<string, Netns>,
  ) {}

  static async create(spec: HomesSpec): Promise<Homes> {
    const lab = new Lab()
    return await orDispose(lab, async () => {
      const trust = await Trust.init(`${lab.dir}/pki`)
      const places = new Map<string, Netns>()
      for (const name of ['r1', 'alice', 'c1']) places.set(name, await lab.netns(name))
      const homes = [
        { name: 'alice', home: spec.alice, external: '203.0.113.1' },
        { name: 'c1', home: spec.c1, external: '203.0.113.2' },
      ]
      const net = await lab.net({
        seed: 7,
        routers: homes.flatMap(({ name, home, external }) =>
          home === 'public' ? [] : [{ name: `home-${name}`, external: [external], ...home }],
        ),
        hosts: [
          {
            name: 'r1',
            netns: place(places, 'r1'),
            addresses: [`${RELAY}/24`],
            ...(spec.relay ? { up: spec.relay, down: spec.relay } : {}),
          },
          ...homes.map(({ name, home, external }): HostSpec => {
            const netns = place(places, name)
            if (home === 'public') return { name, netns, addresses: [`${external}/24`] }
            return { name, netns, realm: `home-${name}`, addresses: ['192.168.1.10/24'] }
          }),
        ],
      })
      if (spec.networkToml !== undefined) trust.prependNetwork(spec.networkToml)
      for (const service of spec.services) trust.addService({ connectors: ['c1'], ...service })
      trust.setPolicy(PERMIT_ENG)
      await trust.issueThree([`https://${RELAY}:4433`])
      return new Homes(lab, trust, net, places)
    })
  }

  place(name: string): Netns {
    return place(this.places, name)
  }

  /** All three roles; resolves when they are online. `services` and `forwards` as the options of the command line; `flags` are more of them. */
  async start(
    services: readonly string[],
    forwards: readonly string[],
    flags: { readonly alice?: readonly string[]; readonly c1?: readonly string[] } = {},
  ): Promise<this> {
    await this.role('relay', 'r1', ['--listen', `${RELAY}:4433`, '--stun-alt', `${RELAY}:4434`]).online()
    await this.role('connector', 'c1', [...services.flatMap((service) => ['--service', service]), ...(flags.c1 ?? [])]).online()
    await this.role('agent', 'alice', [...forwards.flatMap((forward) => ['--forward', forward]), ...(flags.alice ?? [])]).online()
    return this
  }

  role(role: 'relay' | 'connector' | 'agent', name: string, args: readonly string[]): RoleProc {
    const proc = startRole(this.lab, this.place(name), role, name, this.trust.out(role, name), args)
    this.roles.set(name, proc)
    return proc
  }

  running(name: string): RoleProc {
    const role = this.roles.get(name)
    if (!role) throw new Error(`${name} does not run`)
    return role
  }

  /** `direct`, `relay` or `none`: how alice reaches c1 now. */
  async path(): Promise<string | undefined> {
    const status = (await this.running('alice').status()) as { connectors?: readonly { path: { kind: string } }[] }
    return status.connectors?.[0]?.path.kind
  }

  async becomes(kind: 'direct' | 'relay', timeoutMs = 10_000): Promise<void> {
    await until(`the path is ${kind}`, async () => (await this.path()) === kind, timeoutMs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of ['alice', 'c1', 'r1']) await this.roles.get(name)?.proc.stop('SIGKILL')
    await this.lab[Symbol.asyncDispose]()
  }
}

function place(places: ReadonlyMap<string, Netns>, name: string): Netns {
  const found = places.get(name)
  if (!found) throw new Error(`no ${name}`)
  return found
}
