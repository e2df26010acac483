import type { HostSpec, Filtering, Mapping, NatSpec, Policy, RouterSpec } from './net.ts'
import type { Netns } from './netns.ts'
import { run } from './proc.ts'
import { netlabBinary } from './wire.ts'

/** Where a node can be, in the words of `ztna-netlab verdict --help`, and a carrier that hairpins; without families it has IPv4 alone. */
export type Kind =
  `${Mapping}/${Filtering}` | 'public' | 'firewall' | 'relay-only' | 'blocked' | 'double-nat' | 'carrier' | 'hairpin-carrier'
export type Place = Kind | `${'v6' | 'dual'}:${Kind}`
export type Relation = 'apart' | 'same-lan' | 'same-carrier'
export type Verdict = 'direct' | 'guess' | 'relay' | 'unreachable'

export const RELAY = { v4: '198.51.100.1', v6: '2001:db8:ffff::1' } as const
const RELAY_PORTS = [4433, 4434].flatMap((port) => [`${RELAY.v4}:${port}`, `[${RELAY.v6}]:${port}`])

/** What the oracle says of each pair, from rules alone. */
export async function verdicts(pairs: readonly (readonly [Place, Place, Relation])[]): Promise<readonly Verdict[]> {
  const questions = pairs.map(([a, b, relation]) => {
    const hairpin = relation === 'same-carrier' && split(a)[1] === 'hairpin-carrier' ? '-hairpin' : ''
    return `${inWords(a)},${inWords(b)},${relation}${hairpin}`
  })
  const { stdout } = await run(null, netlabBinary(), ['verdict', ...questions])
  const words = stdout.trim().split('\n')
  if (words.length !== pairs.length) throw new Error(`the oracle answered ${words.length} of ${pairs.length} questions`)
  return words as Verdict[]
}

export interface Housing {
  readonly routers: readonly RouterSpec[]
  readonly host: HostSpec
}

/**
 * Home `number` (1 to 250) with a node in it. All homes have the same private addresses. `outer`: a carrier's
 * router that is there already, which a home of a carrier then shares.
 */
export function home(place: Place, number: number, name: string, netns: Netns, o: { outer?: string } = {}): Housing {
  const [families, kind] = split(place)
  const router = `r-${name}`
  const external = [`203.0.113.${number}`]
  const [private4, public4, public6] = ['192.168.1.10/24', `192.0.2.${number}/32`, `2001:db8:${number}::10/64`]
  const addresses = (v4: string): readonly string[] => [...(families === 'v6' ? [] : [v4]), ...(families === 'v4' ? [] : [public6])]
  const v6: Policy = { firewall: {} }
  const inside = (routers: readonly RouterSpec[], v4 = private4): Housing => ({
    routers,
    host: { name, netns, realm: router, addresses: addresses(v4) },
  })
  const nat = (spec: NatSpec, rest: Partial<RouterSpec> = {}): RouterSpec => ({ name: router, external, v4: { nat: spec }, v6, ...rest })
  switch (kind) {
    case 'public':
      return { routers: [], host: { name, netns, addresses: addresses(public4) } }
    case 'firewall':
      return inside([{ name: router, v4: { firewall: {} }, v6 }], public4)
    case 'relay-only':
      return inside([nat({}, { block: { allExcept: RELAY_PORTS } })])
    case 'blocked':
      return inside([nat({}, { block: 'all' })])
    case 'double-nat':
      return inside([{ name: `o-${name}`, external, v4: { nat: {} }, v6: 'open' }, nat({}, { outer: `o-${name}`, external: ['10.9.0.2'] })])
    case 'carrier':
    case 'hairpin-carrier': {
      const outer = o.outer ?? `o-${name}`
      const carrier = {
        name: outer,
        external,
        v4: { nat: { filtering: 'eif', ports: 'random', hairpin: kind === 'hairpin-carrier' } },
        v6: 'open',
      } as const
      return inside([...(o.outer === undefined ? [carrier] : []), nat({}, { outer, external: [`100.64.0.${number}`] })])
    }
    default: {
      const [mapping, filtering] = kind.split('/') as [Mapping, Filtering]
      return inside([nat({ mapping, filtering })])
    }
  }
}

function split(place: Place): readonly ['v4' | 'v6' | 'dual', Kind] {
  const [families, kind] = place.split(':')
  return kind === undefined ? ['v4', place as Kind] : [families as 'v6' | 'dual', kind as Kind]
}

const inWords = (place: Place): string => place.replace('hairpin-', '')
