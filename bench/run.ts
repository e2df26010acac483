// npm run bench: agent, relay and connector in three namespaces, and Debian's stunnel and ssh -L in the same three beside them.
// Prints a table and writes bench/results/<date>.json. No figure fails anything: only what can't be measured ends with 1.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Lab, removeStale } from '../tests/lib/netns.ts'
import { client } from '../tests/lib/peers.ts'
import { run } from '../tests/lib/proc.ts'
import { iperf3Server, nginx } from '../tests/lib/programs.ts'
import { Topology } from '../tests/lib/topology.ts'
import { machine, table, type Row } from './lib/measure.ts'
import { sshForward, stunnel } from './lib/peers.ts'
import { transfer } from './lib/transfer.ts'

const SERVICES = ['bulk=tcp:5201:127.0.0.1:5201', 'web=tcp:80:127.0.0.1:8080']
const FORWARDS = ['tcp:127.0.0.1:5201=bulk:5201', 'tcp:127.0.0.1:8080=web:80']
type Mode = 'forwarded' | 'tunnel'

async function topology(mode: Mode, wire?: { delay: string; rate: string; loss: string; queue: string }): Promise<Topology> {
  const t = await Topology.create({
    services: [
      { name: 'bulk', tcp: [5201] },
      { name: 'web', tcp: [80] },
    ],
    ...(wire === undefined ? {} : { wire: { agent: { ...wire, seed: 7 } } }),
    networkToml: mode === 'tunnel' ? 'relay_mode = "tunnel"\n' : '',
  })
  await iperf3Server(t.place('c1'), 5201)
  await nginx(t.place('c1'), 8080)
  return t.start(SERVICES, FORWARDS)
}

async function bulk(mode: Mode): Promise<Row[]> {
  await using t = await topology(mode)
  const relay = t.relays.get('r1')
  const [gbit, cpu, own] = mode === 'forwarded' ? [2.4, 5.5, 0.7] : [1.1, 11, 3.5]
  const rows: Row[] = []
  for (const reverse of [false, true]) {
    const result = await transfer(t.place('alice'), 5201, { reverse, ...(relay ? { process: relay } : {}) })
    rows.push({
      name: `TCP through the relay, ${mode}, ${reverse ? 'down' : 'up'}`,
      values: { 'Gbit/s': result.gbitPerSecond, 'CPU-s/GB': result.cpuPerGB },
      bar: `>= ${gbit} Gbit/s, <= ${cpu} CPU-s/GB`,
      reached: result.gbitPerSecond >= gbit && result.cpuPerGB <= cpu,
    })
    rows.push({
      name: `the relay's own share, ${mode}, ${reverse ? 'down' : 'up'}`,
      values: { 'CPU-s/GB': result.processCpuPerGB },
      bar: `<= ${own} CPU-s/GB`,
      reached: result.processCpuPerGB <= own,
    })
  }
  return rows
}

async function request(): Promise<Row[]> {
  await using t = await topology('forwarded')
  const measure = async (place: string): Promise<number> =>
    Number((await client(t.place(place), 'keepalive.mjs', ['http://127.0.0.1:8080/hello', '2000']))['p50Ms'])
  const bare = await measure('c1')
  const tunnel = await measure('alice')
  return [
    {
      name: 'HTTP keep-alive request, p50 over bare loopback',
      values: { 'ms more': tunnel - bare, 'ms bare': bare },
      bar: '<= +0.6 ms',
      reached: tunnel - bare <= 0.6,
    },
  ]
}

async function wan(mode: Mode): Promise<Row[]> {
  const bar = mode === 'forwarded' ? 150 : 100
  await using t = await topology(mode, { delay: '40ms', rate: '200mbit', loss: '1%', queue: '2MB' })
  const { gbitPerSecond } = await transfer(t.place('alice'), 5201, { seconds: 20 })
  return [
    {
      name: `200 Mbit/s link, 80 ms round trip, 1 % loss, one flow, ${mode}`,
      values: { 'Mbit/s': gbitPerSecond * 1000 },
      bar: `>= ${bar} Mbit/s`,
      reached: gbitPerSecond * 1000 >= bar,
    },
  ]
}

/** What else one could have used, over the same veth pairs, with the namespace between as a router. */
async function beside(): Promise<Row[]> {
  await using lab = new Lab()
  const [a, r, c] = [await lab.netns('a'), await lab.netns('r'), await lab.netns('c')]
  await lab.veth({ netns: a, interface: 'eth0', addresses: ['10.1.0.1/24'] }, { netns: r, interface: 'eth0', addresses: ['10.1.0.2/24'] })
  await lab.veth({ netns: c, interface: 'eth0', addresses: ['10.2.0.1/24'] }, { netns: r, interface: 'eth1', addresses: ['10.2.0.2/24'] })
  await run(r, 'sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
  await lab.route(a, 'default', '10.1.0.2')
  await lab.route(c, 'default', '10.2.0.2')
  await iperf3Server(c, 5201)
  await stunnel(lab, a, c, '10.2.0.1', 6001, 5201)
  await sshForward(lab, a, c, '10.2.0.1', 6002, 5201)
  const rows: Row[] = []
  for (const [name, port] of [
    ['stunnel', 6001],
    ['ssh -L', 6002],
  ] as const) {
    const result = await transfer(a, port)
    rows.push({
      name: `beside it: ${name}, up`,
      values: { 'Gbit/s': result.gbitPerSecond, 'CPU-s/GB': result.cpuPerGB },
      note: 'a router between, nothing relayed',
    })
  }
  return rows
}

const MEASUREMENTS: Readonly<Record<string, () => Promise<Row[]>>> = {
  beside,
  forwarded: () => bulk('forwarded'),
  tunnel: () => bulk('tunnel'),
  request,
  'wan-forwarded': () => wan('forwarded'),
  'wan-tunnel': () => wan('tunnel'),
}

async function main(wanted: readonly string[]): Promise<number> {
  const unknown = wanted.filter((name) => MEASUREMENTS[name] === undefined)
  if (unknown.length > 0) {
    console.error(`bench: ${unknown.join(', ')} is not one of ${Object.keys(MEASUREMENTS).join(', ')}`)
    return 64
  }
  if (process.getuid?.() !== 0) {
    console.error('bench: network namespaces need root')
    return 77
  }
  removeStale()
  const rows: Row[] = []
  const failures: string[] = []
  for (const [name, measure] of Object.entries(MEASUREMENTS)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    console.error(`measuring ${name}`)
    try {
      rows.push(...(await measure()))
    } catch (error) {
      failures.push(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  const { stdout: commit } = await run(null, 'git', ['rev-parse', '--short', 'HEAD'], { codes: 'any' })
  const result = { date: new Date().toISOString(), commit: commit.trim(), machine: machine(), rows, failures }
  const dir = fileURLToPath(new URL('results', import.meta.url))
  mkdirSync(dir, { recursive: true })
  const file = join(dir, `${result.date.slice(0, 19).replaceAll(':', '-')}.json`)
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
  console.log(`${JSON.stringify(result.machine)}\n\n${table(rows)}`)
  for (const failure of failures) console.error(`could not be measured: ${failure}`)
  return failures.length === 0 ? 0 : 1
}

process.exitCode = await main(process.argv.slice(2))
