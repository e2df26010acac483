import { builtBinary } from './binary.ts'
import { Console } from './console.ts'
import type { End, Lab } from './netns.ts'

/** What a wire does to packets, in the words of `ztna-netlab wire --help`: `{ delay: '50ms', loss: '2%' }`. */
export interface Impairment {
  readonly delay?: string
  readonly jitter?: string
  readonly loss?: string
  readonly burst?: string
  readonly reorder?: string
  readonly 'reorder-by'?: string
  readonly rate?: string
  readonly queue?: string
  readonly mtu?: string
  readonly 'mtu-signal'?: 'on' | 'off'
}
export interface WireSettings extends Impairment {
  readonly aToB?: Impairment
  readonly bToA?: Impairment
  readonly seed?: number
  readonly ifMtu?: number
}
export interface DirectionStats {
  readonly packetsIn: number
  readonly bytesIn: number
  readonly packetsOut: number
  readonly bytesOut: number
  readonly reordered: number
  readonly lost: Readonly<Record<'random' | 'queue' | 'mtu' | 'down' | 'overflow', number>>
}
export interface WireStats {
  readonly up: boolean
  readonly aToB: DirectionStats
  readonly bToA: DirectionStats
}

/** A running user-space wire. */
export class Wire {
  #console: Console

  private constructor(console: Console) {
    this.#console = console
  }

  static async start(lab: Lab, a: End, b: End, settings: WireSettings): Promise<Wire> {
    const args = ['wire']
    for (const [name, end] of [
      ['a', a],
      ['b', b],
    ] as const) {
      args.push(`--${name}-netns`, end.netns.name, `--${name}-if`, end.interface)
      for (const address of end.addresses) args.push(`--${name}-addr`, address)
    }
    const { aToB, bToA, seed, ifMtu, ...both } = settings
    for (const [prefix, impairment] of [
      ['--', both],
      ['--a-to-b-', aToB ?? {}],
      ['--b-to-a-', bToA ?? {}],
    ] as const) {
      for (const [name, value] of Object.entries(impairment)) args.push(`${prefix}${name}`, String(value))
    }
    if (seed !== undefined) args.push('--seed', String(seed))
    if (ifMtu !== undefined) args.push('--if-mtu', String(ifMtu))
    const proc = lab.spawn(null, netlabBinary(), args, { label: `wire ${a.netns.name} ${b.netns.name}` })
    await proc.waitFor(/^ready$/)
    return new Wire(new Console(proc))
  }

  set(direction: 'both' | 'a-to-b' | 'b-to-a', impairment: Impairment): Promise<void> {
    return Object.entries(impairment).reduce<Promise<void>>(
      (before, [name, value]) => before.then(async () => void (await this.#console.ask(`set ${direction} ${name} ${String(value)}`))),
      Promise.resolve(),
    )
  }
  async down(): Promise<void> {
    await this.#console.ask('down')
  }
  async up(): Promise<void> {
    await this.#console.ask('up')
  }
  async stats(): Promise<WireStats> {
    return (await this.#console.ask('stats')) as unknown as WireStats
  }
  async close(): Promise<void> {
    await this.#console.close()
  }
}

export function netlabBinary(): string {
  return builtBinary('ztna-netlab')
}
