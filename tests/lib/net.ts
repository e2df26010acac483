import { writeFileSync } from 'node:fs'
import type { Lab, Netns } from './netns.ts'
import { Console } from './console.ts'
import { run } from './proc.ts'
import { netlabBinary, type DirectionStats, type Impairment } from './wire.ts'

/** What a router does with one address family, in the words of `ztna-netlab net --help`. */
export type Policy = 'none' | 'open' | { readonly firewall: FirewallSpec } | { readonly nat: NatSpec }
export type Mapping = 'eim' | 'adm' | 'apdm'
export type Filtering = 'eif' | 'adf' | 'apdf'
export interface Timeouts {
  readonly unreplied?: string
  readonly replied?: string
  readonly lifetime?: string
  readonly refreshInbound?: boolean
}
export interface FirewallSpec {
  readonly filtering?: Filtering
  readonly timeouts?: Timeouts
  readonly maxMappings?: number
}
export interface NatSpec extends FirewallSpec {
  readonly mapping?: Mapping
  readonly ports?: 'preserve' | 'sequential' | 'random'
  readonly hairpin?: boolean
  readonly overload?: boolean
  readonly portRange?: readonly [number, number]
}
export interface RouterSpec {
  readonly name: string
  /** `internet` (default) or the name of a router that comes before. */
  readonly outer?: string
  readonly external?: readonly string[]
  readonly v4?: Policy
  readonly v6?: Policy
  readonly block?: 'nothing' | 'all' | { readonly allExcept: readonly string[] }
  readonly up?: Impairment
  readonly down?: Impairment
}
export interface HostSpec {
  readonly name: string
  /** `internet` (default) or the name of the router that it is behind. */
  readonly realm?: string
  readonly netns: Netns
  /** Default eth0. */
  readonly interface?: string
  /** With prefix length. */
  readonly addresses: readonly string[]
  readonly up?: Impairment
  readonly down?: Impairment
}
export interface NetSpec {
  readonly seed?: number
  readonly ifMtu?: number
  readonly routers?: readonly RouterSpec[]
  readonly hosts: readonly HostSpec[]
}
export interface NatCounters {
  readonly mappings: number
  readonly mappingsMax: number
  readonly sessions: number
  readonly filtered: number
  readonly unmapped: number
  readonly exhausted: number
}
export interface PartStats {
  readonly up: DirectionStats
  readonly down: DirectionStats
  /** Of a router; null where it keeps no state. */
  readonly v4?: NatCounters | null
  readonly v6?: NatCounters | null
}
type DropReason = 'unsendable' | 'unroutable' | 'blocked' | 'filtered' | 'unmapped' | 'hairpin' | 'exhausted' | 'moved' | 'looped'
export type Ways = 'up' | 'down' | 'both'

/** Routers between namespaces, in user space. Each host's namespace gets its interface and default routes through it. */
export class Net {
  #console: Console

  private constructor(console: Console) {
    this.#console = console
  }

  static async start(lab: Lab, spec: NetSpec): Promise<Net> {
    const file = `${lab.dir}/net-${counter++}.json`
    const hosts = spec.hosts.map((host) => ({ ...host, netns: host.netns.name }))
    writeFileSync(file, JSON.stringify({ ...spec, hosts }))
    const proc = lab.spawn(null, netlabBinary(), ['net', '--config', file], { label: 'net' })
    await proc.waitFor(/^ready$/)
    for (const { netns, addresses, interface: name = 'eth0' } of spec.hosts) {
      for (const family of ['-4', '-6'] as const) {
        if (!addresses.some((address) => address.includes(':') === (family === '-6'))) continue
        // A second interface of a namespace does not take the default route from the first.
        await run(null, 'ip', ['-n', netns.name, family, 'route', 'append', 'default', 'dev', name])
      }
    }
    return new Net(new Console(proc))
  }

  /** Changes a router's link to its outer realm, or a host's to its realm. */
  async set(name: string, ways: Ways, impairment: Impairment): Promise<void> {
    for (const [setting, value] of Object.entries(impairment)) await this.#console.ask(`set ${name} ${ways} ${setting} ${String(value)}`)
  }
  async cut(name: string, ways: Ways): Promise<void> {
    await this.#console.ask(`cut ${name} ${ways}`)
  }
  async mend(name: string, ways: Ways): Promise<void> {
    await this.#console.ask(`mend ${name} ${ways}`)
  }
  /** Makes a router forget its mappings and give other ports. */
  async rebind(router: string): Promise<void> {
    await this.#console.ask(`rebind ${router}`)
  }
  async external(router: string, addresses: readonly string[]): Promise<void> {
    await this.#console.ask(`external ${router} ${addresses.join(',')}`)
  }
  async block(router: string, block: 'nothing' | 'all' | { readonly allExcept: readonly string[] }): Promise<void> {
    await this.#console.ask(`block ${router} ${typeof block === 'string' ? block : `except ${block.allExcept.join(',')}`}`)
  }
  /** Where packets for these addresses (without prefix length) go; the namespace's interface stays as it is. */
  async move(host: string, realm: string, addresses: readonly string[]): Promise<void> {
    await this.#console.ask(`move ${host} ${realm} ${addresses.join(',')}`)
  }
  async stats(name: string): Promise<PartStats> {
    return (await this.#console.ask(`stats ${name}`)) as unknown as PartStats
  }
  async dropped(): Promise<Readonly<Record<DropReason, number>>> {
    return ((await this.#console.ask('stats')) as unknown as { readonly dropped: Readonly<Record<DropReason, number>> }).dropped
  }
  async close(): Promise<void> {
    await this.#console.close()
  }
}

let counter = 0
