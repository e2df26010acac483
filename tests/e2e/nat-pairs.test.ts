import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from '../lib/netns.ts'
import { verdicts, type Place, type Verdict } from '../lib/places.ts'
import { Town, townTrust, type Maker, type Neighbour, type TownSpec } from '../lib/town.ts'
import type { Trust } from '../lib/ztna.ts'

const PLACES: readonly Place[] = [
  'eim/eif',
  'eim/adf',
  'eim/apdf',
  'adm/eif',
  'adm/adf',
  'adm/apdf',
  'apdm/eif',
  'apdm/adf',
  'apdm/apdf',
  'public',
  'firewall',
  'relay-only',
  'double-nat',
  'carrier',
  'v6:firewall',
  'dual:apdm/apdf',
  'hairpin-carrier',
]
/** Nothing more comes of a round after it (docs/nat.md): twelve checks in 9 s, a second for the last answer, and some for a busy machine. */
const ROUND_MS = 12_000
const MAKERS: readonly Maker[] = ['kernel', 'netlab']

const told = new Map<string, Verdict>()
/** The whole town, of which the user-space network makes all but those without a router between them. */
const spec = (maker: Maker): TownSpec => ({
  places: PLACES,
  neighbours: [
    { of: 'carrier', relation: 'same-carrier' },
    { of: 'hairpin-carrier', relation: 'same-carrier' },
    // Nodes do not offer addresses of TUN devices, which the interfaces of the user-space network are.
    ...(maker === 'kernel' ? IN_ONE_LAN : []),
  ],
  asks: (agent, connector) => !guesses(agent, connector),
})
/**
 * What a burst of checks to guessed ports may make direct has a test of its own: a node does that once in ten minutes. With one relay
 * an address-dependent mapping looks like an endpoint-independent one, so two hard NATs of which one is that may try it as well.
 */
function guesses(agent: Place, connector: Place): boolean {
  const verdict = told.get(`${agent} ${connector}`)
  const hard = [agent, connector].every((place) => /(?:^|:)ap?dm\//.test(place))
  const looksEasy = [agent, connector].some((place) => /(?:^|:)adm\//.test(place))
  return verdict === 'guess' || (verdict === 'relay' && hard && looksEasy)
}
const IN_ONE_LAN: readonly Neighbour[] = [
  { of: 'eim/apdf', relation: 'same-host' },
  { of: 'eim/apdf', relation: 'same-lan' },
  { of: 'relay-only', relation: 'same-lan' },
]
let lab: Lab
let trust: Trust

beforeAll(async () => {
  const pairs = PLACES.flatMap((agent) => PLACES.map((connector) => [agent, connector, 'apart'] as const))
  for (const [index, verdict] of (await verdicts(pairs)).entries()) told.set(pairs[index]?.slice(0, 2).join(' ') ?? '', verdict)
  lab = new Lab()
  trust = await townTrust(`${lab.dir}/pki`, spec('kernel'))
})
afterAll(() => lab?.[Symbol.asyncDispose]())

describe.each(MAKERS)('between homes whose routers are those of the %s', (maker) => {
  let town: Town

  beforeAll(async () => {
    town = await Town.start(maker, trust, spec(maker))
    await town.talk()
    await new Promise((resolve) => setTimeout(resolve, ROUND_MS))
  })
  afterAll(() => town?.[Symbol.asyncDispose]())

  test.each(PLACES)('an agent at %s reaches every connector as the oracle says', async (agent) => {
    const connectors = town.asked(agent)
    const wanted = await verdicts(connectors.map(({ place, relation }) => [agent, place, relation]))
    expect(await town.paths(agent)).toEqual(Object.fromEntries(connectors.map(({ label }, index) => [label, wanted[index]])))
  })

  test('and all of them still answer on the paths that they have now', async () => {
    expect(await town.talk()).toBe(PLACES.reduce((pages, agent) => pages + town.asked(agent).length, 0))
  })
})
