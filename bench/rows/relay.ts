// What a relay bears: new connections, idle nodes, and a flood of spoofed Initials.
import { setTimeout as pause } from 'node:timers/promises'
import { clients, crowd, flood, loadBinary, outside } from '../../tests/lib/load.ts'
import { iperf3Server } from '../../tests/lib/programs.ts'
import { run } from '../../tests/lib/proc.ts'
import { Topology } from '../../tests/lib/topology.ts'
import { median, privateBytes, row, type Row } from '../lib/measure.ts'
import { transfer } from '../lib/transfer.ts'

const SERVICES = [{ name: 'bulk', tcp: [5201] }]

/** New connections with mutual TLS: a relay of one loop on one core, its clients on another. */
export async function handshakes(): Promise<Row[]> {
  const seconds = 10
  await using t = await Topology.create({ services: SERVICES })
  const from = await outside(t)
  const relay = t.relay('r1', ['--loops', '1'])
  await relay.online()
  await run(null, 'taskset', ['-acp', '0', String(relay.proc.pid)])
  const args = ['-c', '1', loadBinary(), ...clients('handshakes', t, t.trust.out('agent', 'alice')), '--seconds', String(seconds)]
  const before = relay.proc.cpuSeconds()
  const { stdout } = await from.run('taskset', args, { timeoutMs: (seconds + 30) * 1000 })
  const cpu = relay.proc.cpuSeconds() - before
  const result = JSON.parse(stdout) as { handshakes: number; perSecond: number; p50Ms: number; failures: number }
  const figures = {
    'a CPU-second of the relay': result.handshakes / cpu,
    'a second': result.perSecond,
    'CPU-s of the relay': cpu,
    'ms p50': result.p50Ms,
    failed: result.failures,
  }
  return [
    row(
      'new mutual-TLS connections, one core of relay',
      figures,
      [
        ['a CPU-second of the relay', '>=', 1_000],
        ['failed', '<=', 0],
      ],
      `64 at once for ${seconds} s; their clients have the other core to themselves, and are what limits the rate`,
    ),
  ]
}

/** Nodes that only keep alive, with the limits on that a relay has by default. */
export async function idleNodes(): Promise<Row[]> {
  const [count, seconds] = [1_000, 60]
  // An identity may have 256 connections at one loop of a relay.
  const agents = ['alice', 'bob', 'carol', 'dave', 'erin', 'frank', 'grace', 'heidi'].map((name) => ({ name, groups: ['eng'] }))
  await using t = await Topology.create({ services: SERVICES, agents })
  const from = await outside(t)
  const relay = t.relay()
  await relay.online()
  const folders = agents.map(({ name }) => t.trust.out('agent', name))
  // What the first connection makes and every later one shares is not a node's.
  const first = await crowd(t, from, t.trust.out('agent', 'alice'), 1)
  first.endInput()
  await first.exited
  const before = privateBytes(relay.proc.pid)
  const nodes = await Promise.all(folders.map((folder) => crowd(t, from, folder, count / folders.length)))
  await pause(5_000)
  const cpu = relay.proc.cpuSeconds()
  await pause(seconds * 1000)
  const percent = (100 * (relay.proc.cpuSeconds() - cpu)) / seconds
  const each = (privateBytes(relay.proc.pid) - before) / count / 1024
  let lost = 0
  for (const proc of nodes) {
    proc.endInput()
    await proc.exited
    lost += (JSON.parse(proc.lines.at(-1) ?? '{}') as { lost: number }).lost
  }
  return [
    row(`relay, ${count} idle nodes of ${agents.length} identities in 256 networks`, { 'KB a node': each, '% CPU': percent, lost }, [
      ['KB a node', '<=', 48],
      ['% CPU', '<=', 1],
      ['lost', '<=', 0],
    ]),
  ]
}

/** A bulk flow beside floods to the relay's port, and beside the same flood to a port of the relay's where nobody listens. */
export async function flooded(): Promise<Row[]> {
  await using t = await Topology.create({ services: SERVICES })
  const from = await outside(t)
  await iperf3Server(t.place('c1'), 5201)
  await t.start(['bulk=tcp:5201:127.0.0.1:5201'], ['tcp:127.0.0.1:5201=bulk:5201'])
  const seconds = 10
  const beside = async (port: number, token: number): Promise<Beside> => {
    const flooding = flood(from, `${t.relayAddress('r1')}:${port}`, { seconds: seconds + 2, token })
    await pause(1_000)
    const { gbitPerSecond } = await transfer(t.place('alice'), 5201, { seconds })
    return { gbit: gbitPerSecond, rate: (await flooding).perSecond }
  }
  const [control, first, withToken] = [[], [], []] as [Beside[], Beside[], Beside[]]
  for (let i = 0; i < 3; i += 1) {
    control.push(await beside(4434, 0))
    first.push(await beside(4433, 0))
    // As long as the relay's own.
    withToken.push(await beside(4433, 44))
  }
  const figures = (under: readonly Beside[]): Record<string, number> => ({
    'of the control': median(under.map((one) => one.gbit)) / median(control.map((one) => one.gbit)),
    'Gbit/s': median(under.map((one) => one.gbit)),
    'Gbit/s control': median(control.map((one) => one.gbit)),
    'Initials/s': median(under.map((one) => one.rate)),
    'Initials/s control': median(control.map((one) => one.rate)),
  })
  const note = 'control: the same flood to a closed port of the relay; medians of 3 runs each, taken in turn'
  return [
    row("an established flow's rate under 100,000 spoofed Initials/s", figures(first), [['of the control', '>=', 0.8]], note),
    row('the same with an invented Retry token in each', figures(withToken), [], note),
  ]
}

interface Beside {
  readonly gbit: number
  readonly rate: number
}
