import { Lab } from '../../tests/lib/netns.ts'
import { Loopback } from '../../tests/lib/loopback.ts'
import { background, client, tcpServer } from '../../tests/lib/peers.ts'
import { iperf3Server } from '../../tests/lib/programs.ts'
import { Topology } from '../../tests/lib/topology.ts'
import { startRole } from '../../tests/lib/ztna.ts'
import { quantile, row, type Row } from '../lib/measure.ts'
import { topology } from '../lib/topology.ts'

/** An HTTP request on a connection that stands, against the same in the connector's namespace. */
export async function request(): Promise<Row[]> {
  await using t = await topology('forwarded')
  const measure = async (place: string): Promise<number> =>
    Number((await client(t.place(place), 'keepalive.mjs', ['http://127.0.0.1:8080/hello', '2000']))['p50Ms'])
  const bare = await measure('c1')
  const tunnel = await measure('alice')
  return [row('HTTP keep-alive request, p50 over bare loopback', { 'ms more': tunnel - bare, 'ms bare': bare }, [['ms more', '<=', 0.6]])]
}

/** `agent.connect()` on an inner connection that stands, relay and all on one loopback, against TCP connects of the same process. */
export async function connect(): Promise<Row[]> {
  await using lab = new Lab()
  using loopback = await Loopback.create({ services: [{ name: 'echo', tcp: [7] }] })
  const place = await lab.netns('all')
  const { trust, relayAddress } = loopback
  await tcpServer(place, 'echo', '127.0.0.1:7')
  await startRole(lab, place, 'relay', 'r1', trust.out('relay', 'r1'), ['--listen', relayAddress]).online()
  await startRole(lab, place, 'connector', 'c1', trust.out('connector', 'c1'), ['--service', 'echo=tcp:7:127.0.0.1:7']).online()
  const times = (await client(place, 'connects.mjs', ['warm', trust.out('agent', 'alice'), 'echo:7', '1000'])) as unknown as {
    tunnel: number[]
    bare: number[]
  }
  const figures = {
    'ms p50': quantile(times.tunnel, 0.5),
    'ms p99': quantile(times.tunnel, 0.99),
    'ms p50 bare TCP': quantile(times.bare, 0.5),
    'ms p99 bare TCP': quantile(times.bare, 0.99),
  }
  return [row('connect() on a warm connection, loopback relay', figures, [['ms p50', '<=', 1]], '1,000, each dialled to a TCP service')]
}

/** From `start()` in a fresh process to the first byte of a service that greets: handshakes with relay and connector, and the flow. */
export async function cold(): Promise<Row[]> {
  const runs = 20
  await using t = await Topology.create({ services: [{ name: 'greeter', tcp: [7] }] })
  await tcpServer(t.place('c1'), 'first', '127.0.0.1:7')
  await t.relay().online()
  await t.connector(['greeter=tcp:7:127.0.0.1:7']).online()
  const all: { ms: number; online: number }[] = []
  for (let i = 0; i < runs; i += 1) {
    const args = ['cold', t.trust.out('agent', 'alice'), 'greeter:7']
    all.push((await client(t.place('alice'), 'connects.mjs', args)) as unknown as { ms: number; online: number })
  }
  const sorted = (values: number[]): number[] => values.sort((a, b) => a - b)
  const firstByte = sorted(all.map(({ ms }) => ms))
  const figures = {
    'ms p50': quantile(firstByte, 0.5),
    'ms worst': quantile(firstByte, 1),
    'ms p50 until online': quantile(sorted(all.map(({ online }) => online)), 0.5),
  }
  return [row("start() of an agent's process to the first byte", figures, [['ms p50', '<=', 100]], `${runs} processes`)]
}

/** A new flow's first byte while one flow takes all it can get and 32 readers have stalled, all in one inner connection. */
export async function firstByte(): Promise<Row[]> {
  const [stalls, flows] = [32, 300]
  await using t = await Topology.create({
    services: [
      { name: 'bulk', tcp: [5201] },
      { name: 'echo', tcp: [7] },
      { name: 'flood', tcp: [9] },
    ],
  })
  const c1 = t.place('c1')
  await Promise.all([iperf3Server(c1, 5201), tcpServer(c1, 'echo', '127.0.0.1:7'), tcpServer(c1, 'flood', '127.0.0.1:9')])
  const [bulk, echo, flood] = ['127.0.0.1:5201', '127.0.0.1:7', '127.0.0.1:9']
  await t.start(
    [`bulk=tcp:5201:${bulk}`, `echo=tcp:7:${echo}`, `flood=tcp:9:${flood}`],
    [`tcp:${bulk}=bulk:5201`, `tcp:${echo}=echo:7`, `tcp:${flood}=flood:9`],
  )
  const alice = t.place('alice')
  const rows: Row[] = []
  for (const way of ['none', 'up', 'down'] as const) {
    const proc = background(alice, 'first-byte.mjs', [echo, flood, String(stalls), String(flows)])
    await proc.waitFor(/"ready"/)
    const load = way === 'none' ? undefined : alice.spawn('iperf3', bulkArguments(way), { label: `iperf3 ${way}` })
    // BBR has left its start-up by then.
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    proc.write('\n')
    const [line] = await proc.waitFor(/^\{"ms".*$/, { timeoutMs: 60_000 })
    if (load?.exit) throw new Error(`the bulk flow ended before the ${flows} new ones:\n${load.tail()}`)
    await Promise.all([proc.exited, load?.stop()])
    const { ms, stalled } = JSON.parse(line) as { ms: number[]; stalled: number }
    const figures = { 'ms p50': quantile(ms, 0.5), 'ms p99': quantile(ms, 0.99), 'ms worst': quantile(ms, 1) }
    const note = `${ms.length} flows, ${stalled} readers stalled`
    if (way === 'none') rows.push(row("a new flow's first byte, no bulk", figures, [], note))
    else rows.push(row(`a new flow's first byte, bulk ${way}`, figures, [['ms p99', '<=', 20]], note))
  }
  return rows
}

/** Longer than the flows that are timed; the flow is stopped after them. */
function bulkArguments(way: 'up' | 'down'): string[] {
  return ['-c', '127.0.0.1', '-p', '5201', '-C', 'cubic', '-t', '60', ...(way === 'down' ? ['-R'] : [])]
}
