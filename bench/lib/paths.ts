import { Console } from '../../tests/lib/console.ts'
import { Lab, type Netns } from '../../tests/lib/netns.ts'
import { orDispose } from '../../tests/lib/or-dispose.ts'
import type { Net } from '../../tests/lib/net.ts'
import { background, tcpServer, udpEcho } from '../../tests/lib/peers.ts'
import { home, RELAY, type Housing, type Place } from '../../tests/lib/places.ts'
import { nginx, until } from '../../tests/lib/programs.ts'
import type { Impairment } from '../../tests/lib/wire.ts'
import { PERMIT_ENG, startRole, Trust, type RoleProc } from '../../tests/lib/ztna.ts'

export interface PathsSpec {
  readonly alice: Place
  readonly c1: Place
  /** Of each home's line, both ways. Default 10 ms, as the relay's: 20 ms one way to the relay, and from home to home. */
  readonly home?: Impairment
  readonly relay?: Impairment
}

/** What `seen` of path-probe.mjs tells. */
export interface Seen {
  readonly bytes: number
  readonly gapMs: number
  readonly slices: readonly number[]
  readonly switches: readonly { readonly to: string; readonly ms: number }[]
  readonly ended: number | null
  readonly path: string
}

/** All but the relay's own ports: what a network that cuts direct paths lets pass. */
export const RELAY_ONLY = { allExcept: [`${RELAY.v4}:4433`, `${RELAY.v4}:4434`, `[${RELAY.v6}]:4433`] } as const

/** Alice and connector c1 in their homes, a relay between them, and services beside c1: paced, flood, echo, web, and echo over UDP. */
export class Paths implements AsyncDisposable {
  #connector: RoleProc | undefined

  private constructor(
    readonly lab: Lab,
    readonly trust: Trust,
    readonly net: Net,
    readonly alice: Netns,
    readonly c1: Netns,
    /** Of nginx beside the connector. */
    readonly root: string,
  ) {}

  static async create(spec: PathsSpec): Promise<Paths> {
    const lab = new Lab()
    return await orDispose(lab, async () => {
      const [relay, alice, c1] = [await lab.netns('r1'), await lab.netns('alice'), await lab.netns('c1')]
      const line = { delay: '10ms', ...spec.home }
      const relayLine = { delay: '10ms', ...spec.relay }
      const homes = [home(spec.alice, 1, 'alice', alice), home(spec.c1, 2, 'c1', c1)].map((housing) => lined(housing, line))
      const hosts = [
        { name: 'r1', netns: relay, addresses: [`${RELAY.v4}/32`, `${RELAY.v6}/128`], up: relayLine, down: relayLine },
        ...homes.map(({ host }) => host),
      ]
      // Where alice moves to.
      const elsewhere = { name: 'elsewhere', external: ['203.0.113.77'], v4: { nat: {} }, up: line, down: line } as const
      const net = await lab.net({ seed: 7, routers: [...homes.flatMap(({ routers }) => routers), elsewhere], hosts })
      const trust = await Trust.init(`${lab.dir}/pki`)
      trust.addService({ name: 's', connectors: ['c1'], tcp: [1, 2, 7, 80], udp: [7] })
      trust.setPolicy(PERMIT_ENG)
      await trust.issueThree([`https://${RELAY.v4}:4433`, `https://[${RELAY.v6}]:4433`])
      const listen = [`${RELAY.v4}:4433`, `[${RELAY.v6}]:4433`].flatMap((address) => ['--listen', address])
      await startRole(lab, relay, 'relay', 'r1', trust.out('relay', 'r1'), [...listen, '--stun-alt', `${RELAY.v4}:4434`]).online()
      for (const [mode, port] of Object.entries({ paced: 1, flood: 2, echo: 7 })) await tcpServer(c1, mode, `127.0.0.1:${port}`)
      await udpEcho(c1, '127.0.0.1:7')
      const { root } = await nginx(c1, 8080)
      const paths = new Paths(lab, trust, net, alice, c1, root)
      await paths.connector()
      return paths
    })
  }

  /** Starts the connector, in place of one that runs; what it knew of networks is forgotten. */
  async connector(): Promise<RoleProc> {
    await this.#connector?.stop()
    const services = [1, 2, 7].map((port) => `s=tcp:${port}:127.0.0.1:${port}`)
    const all = [...services, 's=tcp:80:127.0.0.1:8080', 's=udp:7:127.0.0.1:7'].flatMap((service) => ['--service', service])
    this.#connector = startRole(this.lab, this.c1, 'connector', 'c1', this.trust.out('connector', 'c1'), all)
    await this.#connector.online()
    return this.#connector
  }

  /** The shipped agent, which forwards 127.0.0.1:8080 to the web server. */
  async agent(): Promise<RoleProc> {
    const args = ['--forward', 'tcp:127.0.0.1:8080=s:80']
    const role = startRole(this.lab, this.alice, 'agent', 'alice', this.trust.out('agent', 'alice'), args)
    await role.online()
    return role
  }

  /** A fresh agent's process. */
  probe(): Probe {
    return new Probe(this)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]()
  }
}

/** A process of tests/fixtures/path-probe.mjs. */
export class Probe implements AsyncDisposable {
  readonly #proc
  readonly #console: Console

  constructor(paths: Paths) {
    this.#proc = background(paths.alice, 'path-probe.mjs', [paths.trust.out('agent', 'alice')])
    this.#console = new Console(this.#proc)
  }
  open(to: string, kind = 'auto'): Promise<{ readonly ms: number; readonly onlineMs: number }> {
    return this.#ask(`open ${to} ${kind}`)
  }
  /** Milliseconds since the first byte. */
  async becomes(kind: 'direct' | 'relay', timeoutMs: number): Promise<number | null> {
    return (await this.#ask<{ ms: number | null }>(`becomes ${kind} ${timeoutMs}`)).ms
  }
  async mark(): Promise<void> {
    await this.#ask('mark')
  }
  seen(): Promise<Seen> {
    return this.#ask('seen')
  }
  async exchanges(to: string, count: number, kind = 'auto'): Promise<readonly number[]> {
    return (await this.#ask<{ ms: number[] }>(`ask ${to} ${count} ${kind}`)).ms
  }
  async ping(to: string, everyMs: number): Promise<void> {
    await this.#ask(`ping ${to} ${everyMs}`)
  }
  pinged(): Promise<{ readonly sent: number; readonly lost: readonly number[]; readonly worstMs: number }> {
    return this.#ask('pinged')
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ask('close')
    await this.#console.close()
  }
  async #ask<T>(command: string): Promise<T> {
    return (await this.#console.ask(command, 60_000)) as unknown as T
  }
}

/** Direct once more after what a try has cut: the home's own addresses, nothing blocked. */
export async function settled(paths: Paths, probe: Probe): Promise<void> {
  await paths.net.block('r-alice', 'nothing')
  await until('the path is direct', async () => (await probe.seen()).path === 'direct', 60_000)
}

/** The same with this impairment on its way to the Internet, once however many routers there are. */
function lined({ routers, host }: Housing, line: Impairment): Housing {
  const ways = { up: line, down: line }
  if (routers.length === 0) return { routers, host: { ...host, ...ways } }
  return { routers: routers.map((router) => (router.outer === undefined ? { ...router, ...ways } : router)), host }
}
