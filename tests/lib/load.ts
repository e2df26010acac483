import { builtBinary } from './binary.ts'
import type { Netns } from './netns.ts'
import { run, type Proc } from './proc.ts'
import type { Topology } from './topology.ts'

/** Where honest clients of ztna-load come from: 256 networks of /24. */
const CROWD = '10.64.0.0/16'
/** Where a flood pretends to come from. */
export const SPOOFED = '172.16.0.0/12'

/** A namespace beside relay r1, on a leg of its own, that both prefixes are routed to. */
export async function outside(t: Topology): Promise<Netns> {
  const [here, there] = ['10.99.1.1', '10.99.1.2']
  const place = await t.lab.netns('outside')
  const relay = t.place('r1')
  await t.lab.veth(
    { netns: place, interface: 'eth0', addresses: [`${here}/24`] },
    { netns: relay, interface: 'outside', addresses: [`${there}/24`] },
  )
  await t.lab.route(place, `${t.relayAddress('r1')}/32`, there)
  // Any address of the crowd may be bound; the spoofed ones are nobody's.
  await run(null, 'ip', ['-n', place.name, 'route', 'add', 'local', CROWD, 'dev', 'lo'])
  for (const prefix of [CROWD, SPOOFED]) await t.lab.route(relay, prefix, here)
  return place
}

export interface Flooded {
  readonly sent: number
  readonly refused: number
  readonly seconds: number
  readonly perSecond: number
}

/** Spoofed Initials to `to` (address and port) for `seconds`; with `token` bytes of an invented Retry token. */
export async function flood(from: Netns, to: string, o: { rate?: number; seconds?: number; token?: number } = {}): Promise<Flooded> {
  const { rate = 100_000, seconds = 10, token = 0 } = o
  const numbers = Object.entries({ rate, seconds, token }).flatMap(([name, value]) => [`--${name}`, String(value)])
  const args = ['flood', '--to', to, '--sources', SPOOFED, ...numbers]
  const { stdout } = await from.run(loadBinary(), args, { timeoutMs: (seconds + 30) * 1000 })
  return JSON.parse(stdout) as Flooded
}

/** Idle connections of an agent, up when this resolves; they go with the process. */
export async function crowd(t: Topology, from: Netns, folder: string, count: number): Promise<Proc> {
  const proc = from.spawn(loadBinary(), [...clients('nodes', t, folder), '--count', String(count)], { label: 'crowd' })
  await proc.waitFor(/^\{"ready":/, { timeoutMs: 120_000 })
  return proc
}

/** Arguments that the commands of honest clients share. */
export function clients(command: 'handshakes' | 'nodes', t: Topology, folder: string): string[] {
  return [command, '--network', folder, '--relay', `${t.relayAddress('r1')}:4433`, '--sources', CROWD]
}

export function loadBinary(): string {
  return builtBinary('ztna-load')
}
