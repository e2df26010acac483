import { expect, test } from 'vitest'
import { background, client, curl, tcpServer } from '../lib/peers.ts'
import { nginx, sooner, until } from '../lib/programs.ts'
import { Topology, type TopologySpec } from '../lib/topology.ts'
import { run } from '../lib/proc.ts'
import { startRole } from '../lib/ztna.ts'

const SERVICES = ['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:9001']
const FORWARDS = ['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=web:81']

async function create(spec: Partial<TopologySpec> = {}): Promise<Topology> {
  const t = await Topology.create({ services: [{ name: 'web', tcp: [80, 81] }], ...spec })
  for (const name of t.connectorNames) {
    await nginx(t.place(name), 8080)
    await tcpServer(t.place(name), 'echo', '127.0.0.1:9001')
  }
  return t
}
const hello = async (t: Topology, ...args: string[]): Promise<boolean> =>
  (await curl(t.place('alice'), 'http://127.0.0.1:8080/hello', ...args)).body === 'hello\n'
/** A new flow works again, long before the connections that are dead would have timed out by themselves (30 s, inner ones 60 s). */
const recovered = (t: Topology, what = 'a new flow works'): Promise<void> => until(what, () => hello(t, '--max-time', '2'), 20_000)

test('a relay that is killed and comes back costs nobody else a restart', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  expect(await hello(t)).toBe(true)
  const [connector, agent] = [t.connectors.get('c1'), t.agents.get('alice')]
  const from = agent?.proc.mark ?? 0
  await t.relays.get('r1')?.proc.stop('SIGKILL')
  await agent?.event('state', (event) => event['next'] === 'degraded', { from, timeoutMs: 60_000 })
  await t.relay().online()
  await recovered(t)
  expect([connector?.proc.exit, agent?.proc.exit]).toEqual([undefined, undefined])
})

test('a connector that is killed and comes back serves again', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  expect(await hello(t)).toBe(true)
  await t.connectors.get('c1')?.proc.stop('SIGKILL')
  await t.connector(SERVICES).online()
  await recovered(t)
})

test('an open flow of a connector that is killed and started again is reset before its connection times out', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  const open = background(t.place('alice'), 'tcp-client.mjs', ['events', '127.0.0.1:8081'])
  await until('the flow is open', async () => {
    const status = (await t.connectors.get('c1')?.status()) as { agents: readonly { flows: number }[] } | undefined
    return status?.agents[0]?.flows === 1
  })
  await t.connectors.get('c1')?.proc.stop('SIGKILL')
  await t.connector(SERVICES).online()
  expect(JSON.parse((await open.waitFor(/^\{.*/, { timeoutMs: 30_000 }))[0])).toEqual({ events: ['data 1', 'ECONNRESET'], closed: true })
  expect(await hello(t)).toBe(true)
})

test.each([
  ['agent, connector, relay', ['agent', 'connector', 'relay']],
  ['connector, agent, relay', ['connector', 'agent', 'relay']],
  ['agent, relay, connector', ['agent', 'relay', 'connector']],
] as const)('the order %s works as well as any', async (_, order) => {
  await using t = await create()
  for (const role of order) {
    if (role === 'relay') t.relay()
    else if (role === 'connector') t.connector(SERVICES)
    else t.agent(FORWARDS)
    await new Promise((resolve) => setTimeout(resolve, 1_500))
  }
  await Promise.all([...t.relays.values(), ...t.connectors.values(), ...t.agents.values()].map((role) => role.online()))
  await recovered(t)
  expect(await hello(t)).toBe(true)
})

test('with two relays, killing the one in use moves new flows to the other, long before it would time out', async () => {
  await using t = await create({ relays: 2 })
  await t.start(SERVICES, FORWARDS)
  expect(await hello(t)).toBe(true)
  for (const name of ['r1', 'r2']) {
    await t.relays.get(name)?.proc.stop('SIGKILL')
    await recovered(t, `a new flow works after ${name}`)
    await t.relay(name).online()
    // As the relay sees it: a node in a quiet hour may not have noticed yet that it was away (keep-alive 15 s, a connector's 5 s).
    await until(
      `agent and connector are connected to ${name} again`,
      async () => {
        const status = (await t.relays.get(name)?.status()) as { connectors: readonly unknown[]; agents: number } | undefined
        return status?.connectors.length === 1 && status.agents === 1
      },
      40_000,
    )
  }
})

test('with two connectors, killing either moves new flows to the other, long before it would time out', async () => {
  await using t = await create({ connectors: ['c1', 'c2'] })
  await t.start(SERVICES, FORWARDS)
  expect(await hello(t)).toBe(true)
  for (const name of ['c1', 'c2']) {
    await t.connectors.get(name)?.proc.stop('SIGKILL')
    await recovered(t, `a new flow works after ${name}`)
    await t.connector(SERVICES, name).online()
  }
})

test("a cut of 5 s on the agent's leg costs an open flow nothing", async () => {
  await using t = await create({ wire: { agent: {} } })
  await t.start(SERVICES, FORWARDS)
  const idle = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '8000'])
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  await t.wires.get('alice r1')?.down()
  await new Promise((resolve) => setTimeout(resolve, 5_000))
  await t.wires.get('alice r1')?.up()
  expect(JSON.parse((await idle.waitFor(/^\{.*/, { timeoutMs: 40_000 }))[0])).toEqual({ before: true, after: true })
})

test("an open flow survives a change of the agent's address", async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  const idle = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '6000'])
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  const name = t.place('alice').name
  await run(null, 'ip', ['-n', name, 'address', 'add', '10.1.1.77/24', 'dev', 'eth1'])
  await run(null, 'ip', ['-n', name, 'address', 'delete', '10.1.1.1/24', 'dev', 'eth1'])
  // Removing the primary address takes its routes along.
  await run(null, 'ip', ['-n', name, 'address', 'replace', '10.1.1.77/24', 'dev', 'eth1'])
  await run(null, 'ip', ['-n', name, 'route', 'replace', '198.51.100.1/32', 'via', '10.1.1.2'])
  expect(JSON.parse((await idle.waitFor(/^\{.*/, { timeoutMs: 40_000 }))[0])).toEqual({ before: true, after: true })
  expect(await hello(t)).toBe(true)
})

test('a flow asked for while no relay answers waits and then works', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  await t.relays.get('r1')?.proc.stop('SIGKILL')
  const waiting = curl(t.place('alice'), 'http://127.0.0.1:8080/hello', '--max-time', '30')
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  await t.relay().online()
  expect((await waiting).body).toBe('hello\n')
})

test('ten restarts of the agent in a row each come online', async () => {
  await using t = await create()
  await t.relay().online()
  await t.connector(SERVICES).online()
  for (let i = 0; i < 10; i += 1) {
    const agent = t.agent(FORWARDS)
    await agent.online({ timeoutMs: 10_000 })
    expect(await hello(t)).toBe(true)
    expect((await agent.stop()).code).toBe(0)
  }
})

test('of two processes of one identity the newer serves, the older says why and does not bind again', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  const older = t.connectors.get('c1')
  const from = older?.proc.mark ?? 0
  const newer = startRole(
    t.lab,
    t.place('c1'),
    'connector',
    'c1',
    t.trust.out('connector', 'c1'),
    SERVICES.flatMap((service) => ['--service', service]),
  )
  await newer.online()
  await older?.proc.waitFor(/ERR_ZTNA_IDENTITY/, { from })
  await new Promise((resolve) => setTimeout(resolve, 5_000))
  expect(newer.proc.output).not.toContain('ERR_ZTNA_IDENTITY')
  expect(await hello(t)).toBe(true)
})

test('SIGTERM drains: an answer under way still arrives, the process ends with 0', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  const idle = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '3000'])
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  const ended = t.connectors.get('c1')?.stop()
  expect(JSON.parse((await idle.waitFor(/^\{.*/))[0])).toEqual({ before: true, after: true })
  expect((await ended)?.code).toBe(0)
})

test('SIGTERM of an agent: what its programs have sent and ended arrives whole', async () => {
  await using t = await create({ services: [{ name: 'web', tcp: [80, 81, 82] }], wire: { agent: { delay: '50ms', rate: '20mbit' } } })
  const service = await tcpServer(t.place('c1'), 'first', '127.0.0.1:9002')
  await t.start([...SERVICES, 'web=tcp:82:127.0.0.1:9002'], ['tcp:127.0.0.1:8082=web:82'])
  const bytes = 2_000_000
  expect(await client(t.place('alice'), 'tcp-client.mjs', ['after', '127.0.0.1:8082', String(bytes)])).toEqual({
    heard: 'bye',
    sent: bytes,
  })
  // The program has gone; most of it is still in the agent's hands.
  expect((await t.agents.get('alice')?.stop())?.code).toBe(0)
  expect(JSON.parse((await service.waitFor(/^\{"bytes.*/))[0])).toEqual({ bytes })
})

test('a drain does not wait for the open flow of an agent that was killed', async () => {
  await using t = await create()
  await t.start(SERVICES, FORWARDS)
  const idle = background(t.place('alice'), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '60000'])
  await until('the flow is open', async () => {
    const status = (await t.connectors.get('c1')?.status()) as { agents: readonly { flows: number }[] } | undefined
    return status?.agents[0]?.flows === 1
  })
  await t.agents.get('alice')?.proc.stop('SIGKILL')
  // 10 s: the drain. An answer owed for 3 s is enough.
  expect((await sooner(10_000, t.connectors.get('c1')?.stop() ?? Promise.reject(new Error('not running'))))?.code).toBe(0)
  await idle.stop('SIGKILL')
})
