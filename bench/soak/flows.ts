/** Long flows while relays, connectors, agents and lines come and go. What lives through all of it must not grow. */
import { readdirSync } from 'node:fs'
import type { Proc } from '../../tests/lib/proc.ts'
import { background, server, tcpServer } from '../../tests/lib/peers.ts'
import { Topology } from '../../tests/lib/topology.ts'
import type { Impairment } from '../../tests/lib/wire.ts'
import type { RoleProc } from '../../tests/lib/ztna.ts'
import { privateBytes } from '../lib/measure.ts'
import type { Outcome, Progress } from './outcome.ts'

const SERVICES = ['echo=tcp:7:127.0.0.1:9001', 'echo=udp:7:127.0.0.1:9002']
const LOCAL = { tcp: '127.0.0.1:8007', udp: '127.0.0.1:8008' }
const FORWARDS = [`tcp:${LOCAL.tcp}=echo:7`, `udp:${LOCAL.udp}=echo:7`]
/** A long line that loses some: what a home connection is on a bad day. */
const LINE = { delay: '10ms', jitter: '2ms', loss: '1%' } as const
/** Time to be working again after a disturbance: two idle time-outs of the product and the pause between two attempts. */
const RECOVERY_MS = 60_000
/** Between two disturbances, from the recovery of one on. */
const CALM_MS = 10_000
/** For flows to end by themselves once the load is gone: the idle time-out of a UDP flow and half of it again. */
const SETTLE_MS = 90_000
/** Growth that is no leak: garbage not yet collected, and the allocator's slack. */
const GROWTH_SHARE = 0.15
const GROWTH_BYTES = 16 * 1024 * 1024

interface Told {
  readonly opened: number
  readonly ended: number
  readonly broken: number
  readonly abandoned: number
  readonly bytes: number
  readonly wrong: number
  readonly datagrams: number
  readonly answers: number
  readonly lastOkMs: number
}

/** Runs for `seconds`. */
export async function flows(seconds: number, progress: Progress): Promise<Outcome> {
  await using t = await Topology.create({
    relays: 2,
    connectors: ['c1', 'c2'],
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['eng'] },
    ],
    services: [{ name: 'echo', tcp: [7], udp: [7] }],
    wire: { agent: LINE, connector: LINE },
  })
  for (const connector of t.connectorNames) {
    await tcpServer(t.place(connector), 'echo', '127.0.0.1:9001')
    await server(t.place(connector), 'udp.mjs', 'echo', '127.0.0.1:9002')
  }
  await t.start(SERVICES, FORWARDS)
  // They live from the first to the last minute, and have everything done to their peers.
  const settled = [t.relays.get('r1'), t.connectors.get('c1'), t.agents.get('alice')].filter((role) => role !== undefined)
  const memory = new Map<RoleProc, number[]>(settled.map((role) => [role, []]))
  const descriptors = new Map<RoleProc, number>(settled.map((role) => [role, openFiles(role)]))
  const load = t.agentNames.map((name) => background(t.place(name), 'soak.mjs', [LOCAL.tcp, LOCAL.udp]))
  await Promise.all(load.map((proc) => proc.waitFor(/listening/)))
  const sampling = setInterval(() => {
    for (const [role, samples] of memory) if (role.proc.exit === undefined) samples.push(privateBytes(role.proc.pid))
  }, 1_000)
  const problems: string[] = []
  const disturbed: Record<string, number> = {}
  const end = Date.now() + seconds * 1_000
  try {
    for (let round = 0; Date.now() < end; round += 1) {
      const [name, disturb] = DISTURBANCES[round % DISTURBANCES.length] ?? ['nothing', async () => undefined]
      await disturb(t)
      disturbed[name] = (disturbed[name] ?? 0) + 1
      const waited = await recovered(load, problems, name)
      const sum = total(load)
      progress(
        `${name}: back after ${(waited / 1_000).toFixed(1)} s; ${sum.ended} flows ended, ${sum.broken} broke, ${megabytes(sum.bytes)} MB`,
      )
      await sleep(Math.max(0, Math.min(CALM_MS, end - Date.now())))
      for (const role of settled) if (role.proc.exit !== undefined) throw new Error(`${role.role} ${role.name} ended\n${role.proc.tail()}`)
    }
  } finally {
    clearInterval(sampling)
  }
  const sum = total(load)
  if (sum.wrong > 0) problems.push(`${sum.wrong} times other bytes came back than were sent`)
  await Promise.all(load.map((proc) => proc.stop('SIGKILL')))
  problems.push(...(await leftovers(settled, descriptors)))
  const grown = [...memory].map(([role, samples]) => growth(`${role.role} ${role.name}`, samples, problems))
  return { ran: true, problems, figures: { seconds, disturbed, ...sum, memory: grown } }
}

type Disturbance = (t: Topology) => Promise<void>
const DISTURBANCES: readonly (readonly [string, Disturbance])[] = [
  ['relay killed', (t) => restart(t.relays.get('r2'), 'SIGKILL', () => t.relay('r2'))],
  ['connector drained', (t) => restart(t.connectors.get('c2'), 'SIGTERM', () => t.connector(SERVICES, 'c2'))],
  ['loss of 10 %', async (t) => withLine(t, { loss: '10%' }, { loss: LINE.loss })],
  ['agent killed', (t) => restart(t.agents.get('bob'), 'SIGKILL', () => t.agent(FORWARDS, 'bob'))],
  ['snapshot published', (t) => t.trust.publish()],
  ['connector killed', (t) => restart(t.connectors.get('c2'), 'SIGKILL', () => t.connector(SERVICES, 'c2'))],
  ['line cut for 5 s', cut],
  ['relay drained', (t) => restart(t.relays.get('r2'), 'SIGTERM', () => t.relay('r2'))],
  ['small packets only', async (t) => withLine(t, { mtu: '1280' }, { mtu: 'off' })],
]

async function restart(old: RoleProc | undefined, signal: NodeJS.Signals, again: () => RoleProc): Promise<void> {
  await old?.stop(signal)
  await again().online({ timeoutMs: RECOVERY_MS })
}

async function withLine(t: Topology, bad: Impairment, good: Impairment): Promise<void> {
  for (const wire of t.wires.values()) await wire.set('both', bad)
  await sleep(10_000)
  for (const wire of t.wires.values()) await wire.set('both', good)
}

async function cut(t: Topology): Promise<void> {
  const wire = t.wires.get('alice r1')
  await wire?.down()
  await sleep(5_000)
  await wire?.up()
}

/** Waits until every load has had an answer since now; returns how long that took. */
async function recovered(load: readonly Proc[], problems: string[], after: string): Promise<number> {
  const since = Date.now()
  for (;;) {
    if (load.every((proc) => latest(proc).lastOkMs > since)) return Date.now() - since
    if (Date.now() - since > RECOVERY_MS) {
      problems.push(`after "${after}" an agent's flows had not come back within ${RECOVERY_MS / 1_000} s`)
      return Date.now() - since
    }
    await sleep(100)
  }
}

interface Peer {
  readonly name: string
  readonly pathPolicy: string
  readonly flows: number
}

/** With the load gone there must be no flow and no descriptor of one. */
async function leftovers(settled: readonly RoleProc[], before: ReadonlyMap<RoleProc, number>): Promise<string[]> {
  const problems: string[] = []
  for (const role of settled.filter(({ role }) => role !== 'relay')) {
    const until = Date.now() + SETTLE_MS
    for (;;) {
      const { agents, connectors } = (await role.status()) as { agents?: Peer[]; connectors?: Peer[] }
      const peers = [...(agents ?? []), ...(connectors ?? [])].filter((peer) => peer.flows > 0)
      const flows = peers.reduce((sum, peer) => sum + peer.flows, 0)
      const more = openFiles(role) - (before.get(role) ?? 0)
      // A few come with the first use of what is made on demand.
      if (flows === 0 && more <= 16) break
      if (Date.now() > until) {
        const whose = peers.map(({ name, pathPolicy, flows: n }) => `${n} of ${name} (${pathPolicy})`).join(', ')
        problems.push(`${role.role} ${role.name} still has ${flows} flows (${whose}) and ${more} descriptors more than at the start`)
        problems.push(`its last words:\n${role.proc.tail()}`)
        break
      }
      await sleep(1_000)
    }
  }
  return problems
}

/** Compares the medians of the second and the last quarter: the first is warming up. */
function growth(name: string, samples: readonly number[], problems: string[]): Record<string, number | string> {
  const quarter = Math.floor(samples.length / 4)
  const [early, late] = [median(samples.slice(quarter, 2 * quarter)), median(samples.slice(-quarter))]
  if (late > early * (1 + GROWTH_SHARE) + GROWTH_BYTES) problems.push(`${name} grew from ${megabytes(early)} to ${megabytes(late)} MB`)
  return { name, earlyMB: megabytes(early), lateMB: megabytes(late), samples: samples.length }
}

function total(load: readonly Proc[]): Told {
  return load.map(latest).reduce((a, b) => {
    const keys = Object.keys(a) as (keyof Told)[]
    return Object.fromEntries(keys.map((key) => [key, key === 'lastOkMs' ? Math.min(a[key], b[key]) : a[key] + b[key]])) as unknown as Told
  })
}

function latest(proc: Proc): Told {
  if (proc.exit !== undefined) throw new Error(`the load ended\n${proc.tail()}`)
  const line = proc.lines.at(-1) ?? ''
  const none = { opened: 0, ended: 0, broken: 0, abandoned: 0, bytes: 0, wrong: 0, datagrams: 0, answers: 0, lastOkMs: 0 }
  return line.startsWith('{') ? (JSON.parse(line) as Told) : none
}

const openFiles = (role: RoleProc): number => readdirSync(`/proc/${role.proc.pid}/fd`).length
const megabytes = (bytes: number): number => Math.round(bytes / 1e5) / 10
const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
