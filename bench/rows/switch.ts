// What a flow notices of a change from the relay to a direct path.
import { setTimeout as pause } from 'node:timers/promises'
import { Homes, type Home } from '../../tests/lib/homes.ts'
import type { Netns } from '../../tests/lib/netns.ts'
import { udpClient, udpEcho } from '../../tests/lib/peers.ts'
import { run } from '../../tests/lib/proc.ts'
import { until } from '../../tests/lib/programs.ts'
import type { RoleProc } from '../../tests/lib/ztna.ts'
import { median, row, type Bar, type Row } from '../lib/measure.ts'
import { INTERVAL, Rates } from '../lib/rates.ts'
import { pathOf, routed } from '../lib/topology.ts'

/** Each way, anew: how fast a flow is just then varies. */
const ROUNDS = 3
/** Before the direct path opens: BBR has come to rest on the relay's by then, and the first round of checks (9 s) still runs. */
const RELAYED = 7_000
const SECONDS = 12
/** Of the rate before: what counts as a dip. */
const DIP = 0.7
/** Of the flow, milliseconds, from the moment on when the direct path opens. Later BBR looks for the least round trip, with or without a switch. */
const WINDOW = 2_500
/** One every 20 ms, over most of the flow. */
const MESSAGES = 500
const BARS: readonly Bar[] = [['ms below 0.7, worst', '<=', 500]]

const SPEC = {
  services: [
    { name: 'bulk', tcp: [5201] },
    { name: 'echo', udp: [7] },
  ],
} as const
const SERVED = ['bulk=tcp:5201:127.0.0.1:5201', 'echo=udp:7:127.0.0.1:7']
const FORWARDS = ['tcp:127.0.0.1:5201=bulk:5201', 'udp:127.0.0.1:7=echo:7']

/** One TCP flow, as fast as the machine, and a message of UDP to and fro every 20 ms. */
export async function switched(): Promise<Row[]> {
  const note = `${MESSAGES} messages of UDP to and fro beside it`
  return await eachWay('as fast as the machine', [...BARS, ['messages lost', '<=', 0]], note, async (way) => {
    await using t = await routed(SPEC)
    const router = t.place('r1')
    await run(router, 'nft', ['add table inet wall; add chain inet wall forward { type filter hook forward priority 0; policy drop; }'])
    await t.start(SERVED, FORWARDS)
    const [agent] = t.agents.values()
    if (agent === undefined) throw new Error('no agent')
    return await measure(t.place('alice'), t.place('c1'), agent, way, () => run(router, 'nft', ['delete table inet wall']))
  })
}

/** The same where the direct path is a third as long as the relay's: what goes by it overtakes what is under way. */
export async function switchedWan(): Promise<Row[]> {
  const line = { delay: '10ms', rate: '200mbit', queue: '2MB' }
  const home: Home = { v4: { nat: {} }, up: line, down: line }
  const where = '200 Mbit/s, round trip 120 ms by the relay, 40 ms direct'
  return await eachWay(where, BARS, 'messages are lost where the flow fills the line, with a switch and without', async (way) => {
    await using h = await Homes.create({ alice: home, c1: home, ...SPEC, relay: { delay: '20ms' } })
    await h.net.block('home-alice', { allExcept: ['198.51.100.1:4433', '198.51.100.1:4434'] })
    await h.start(SERVED, FORWARDS)
    return await measure(h.place('alice'), h.place('c1'), h.running('alice'), way, () => h.net.block('home-alice', 'nothing'))
  })
}

interface Switch {
  /** Means of the two seconds before the direct path opened, of the two after, and of the last two. */
  readonly before: number
  readonly following: number
  readonly after: number
  /** The longest time in a row below the dip, within the window. */
  readonly dipMs: number
  readonly lost: number
}

async function measure(client: Netns, server: Netns, agent: RoleProc, way: 'up' | 'down', open: () => Promise<unknown>): Promise<Switch> {
  await udpEcho(server, '127.0.0.1:7')
  const rates = await Rates.start(client, server, 5201, way, SECONDS)
  const messages = udpClient(client, '127.0.0.1:7', { count: MESSAGES, gapMs: 20 })
  await pause(RELAYED)
  const path = await pathOf(agent)
  if (path !== 'relay') throw new Error(`the path was ${path ?? 'none'} before the direct one opened`)
  const mark = rates.gbitPerSecond().length
  await open()
  await until('the path is direct', async () => (await pathOf(agent)) === 'direct', 5_000)
  const all = await rates.ended()
  const { sent, received } = await messages
  const span = 2_000 / INTERVAL
  const before = mean(all.slice(mark - span, mark))
  const dips = all.slice(mark, mark + WINDOW / INTERVAL).map((rate) => rate < DIP * before)
  return {
    before,
    following: mean(all.slice(mark, mark + span)),
    after: mean(all.slice(-span)),
    dipMs: INTERVAL * longest(dips),
    lost: sent - received,
  }
}

async function eachWay(where: string, bars: readonly Bar[], note: string, once: (way: 'up' | 'down') => Promise<Switch>): Promise<Row[]> {
  const rows: Row[] = []
  for (const way of ['up', 'down'] as const) {
    const all: Switch[] = []
    for (let round = 0; round < ROUNDS; round += 1) all.push(await once(way))
    const figures = {
      'ms below 0.7, worst': Math.max(...all.map((one) => one.dipMs)),
      'ms below 0.7': median(all.map((one) => one.dipMs)),
      'messages lost': all.reduce((sum, one) => sum + one.lost, 0),
      'of the rate before, in the 2 s after': median(all.map((one) => one.following / one.before)),
      'Gbit/s before': median(all.map((one) => one.before)),
      'Gbit/s at the end': median(all.map((one) => one.after)),
    }
    rows.push(row(`from the relay to a direct path under a flow, ${where}, ${way}`, figures, bars, `${ROUNDS} starts; ${note}`))
  }
  return rows
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** How many `true` stand in a row at most. */
function longest(values: readonly boolean[]): number {
  let [most, now] = [0, 0]
  for (const value of values) {
    now = value ? now + 1 : 0
    most = Math.max(most, now)
  }
  return most
}
