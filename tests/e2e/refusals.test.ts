import { chmodSync, cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { curl, tcpClient, udpClient, udpEcho } from '../lib/peers.ts'
import { nginx } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import { startRole, ztna, type RoleProc } from '../lib/ztna.ts'

const POLICY = `
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"web") when { context.protocol == "tcp" && context.port == 80 };
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"dead");
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"broken") when { context.port * 9223372036854775807 > 0 };
`
let t: Topology
let alice: Netns
let agent: RoleProc

beforeAll(async () => {
  t = await Topology.create({
    connectors: ['c1', 'c2'],
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['sales'] },
    ],
    policy: POLICY,
    services: [
      { name: 'web', tcp: [80, 81], udp: [80], connectors: ['c1'] },
      { name: 'dead', tcp: [80], connectors: ['c1'] },
      { name: 'broken', tcp: [80], connectors: ['c1'] },
      { name: 'other', tcp: [80], connectors: ['c2'] },
    ],
  })
  alice = t.place('alice')
  await nginx(t.place('c1'), 8080)
  await udpEcho(t.place('c1'), '127.0.0.1:7')
  await t.relay().online()
  await t
    .connector(['web=tcp:80-81:127.0.0.1:8080', 'web=udp:80:127.0.0.1:7', 'dead=tcp:80:127.0.0.1:9', 'broken=tcp:80:127.0.0.1:8080'])
    .online()
  await t.connector(['other=tcp:80:127.0.0.1:8080'], 'c2').online()
  const forwards = [
    'tcp:127.0.0.1:1=web:80',
    'tcp:127.0.0.1:2=web:81',
    'tcp:127.0.0.1:3=dead:80',
    'tcp:127.0.0.1:4=broken:80',
    'tcp:127.0.0.1:5=other:80',
    'udp:127.0.0.1:6=web:80',
  ]
  agent = t.agent(forwards)
  await agent.online()
})
afterAll(() => t?.[Symbol.asyncDispose]())

test("what the policy permits works, so that a refusal below is the policy's", async () => {
  expect((await curl(alice, 'http://127.0.0.1:1/hello')).body).toBe('hello\n')
})

test('a second start of a connector is refused before it takes the place of the one that runs', async () => {
  const c1 = t.connectors.get('c1')
  const args = [
    'connector',
    '--network',
    t.trust.out('connector', 'c1'),
    '--control',
    c1?.control ?? '',
    '--service',
    'dead=tcp:80:127.0.0.1:9',
  ]
  const { code, stderr } = await ztna(args, { in: t.place('c1'), codes: 'any' })
  expect(stderr).toMatch(/another process answers there; stop it, or give this one --control PATH/)
  expect(stderr).not.toContain('now starting')
  expect(code).toBe(78)
  expect((await curl(alice, 'http://127.0.0.1:1/hello')).body).toBe('hello\n')
  expect(await c1?.status()).toMatchObject({ state: 'online' })
})

test.each([
  ['port', 2, 'web'],
  ['service whose policy errors', 4, 'broken'],
  ['connector', 5, 'other'],
])('a %s that the policy does not permit resets the client and says who denied', async (_, port, service) => {
  const from = agent.proc.mark
  const { events, closed } = await tcpClient(alice, 'events', `127.0.0.1:${port}`)
  expect({ events, closed }).toEqual({ events: ['ECONNRESET'], closed: true })
  const { error } = (await agent.event('denied', () => true, { from })) as {
    error: { code: string; by?: string; details?: { by?: string } }
  }
  expect(error.code).toBe('ERR_ZTNA_DENIED')
  expect(error.by ?? error.details?.by).toBe(service === 'other' ? 'relay' : 'connector')
})

test('a protocol that the policy does not permit delivers no datagram', async () => {
  const from = agent.proc.mark
  expect(await udpClient(alice, '127.0.0.1:6', { count: 5, timeoutMs: 1000 })).toMatchObject({ received: 0 })
  await agent.event('denied', () => true, { from })
})

test('a port where nothing listens resets the client without being called a denial', async () => {
  const from = agent.proc.mark
  expect(await tcpClient(alice, 'events', '127.0.0.1:3')).toEqual({ events: ['ECONNRESET'], closed: true })
  expect(agent.proc.lines.slice(from).filter((line) => line.includes('"denied"'))).toEqual([])
})

test('check says allowed or denied, by whom and why, with exit code 3 for a denial', async () => {
  const control = ['--control', agent.control, '--json']
  const yes = await ztna(['check', 'web:80', ...control], { in: alice })
  expect(JSON.parse(yes.stdout)).toMatchObject({ allowed: true })
  const no = await ztna(['check', 'web:81', ...control], { in: alice, codes: [3] })
  expect(JSON.parse(no.stdout)).toMatchObject({ allowed: false, by: 'connector', reason: expect.stringMatching(/./) as string })
  const other = await ztna(['check', 'other:80', ...control], { in: alice, codes: [3] })
  expect(JSON.parse(other.stdout)).toMatchObject({ allowed: false, by: 'relay' })
})

test('an agent of another group is denied what its policy does not name', async () => {
  const bob = t.agent(['tcp:127.0.0.1:1=web:80'], 'bob')
  await bob.online()
  expect(await tcpClient(t.place('bob'), 'events', '127.0.0.1:1')).toEqual({ events: ['ECONNRESET'], closed: true })
  await bob.event('denied')
  await bob.stop()
})

test.each([
  ['agent', 'connector', 'c2', []],
  ['connector', 'agent', 'alice', ['--service', 'web=tcp:80:127.0.0.1:8080']],
  ['relay', 'agent', 'alice', ['--listen', '127.0.0.1:0']],
] as const)('a %s does not start with the certificate of a %s', async (role, owner, name, args) => {
  const proc = startRole(t.lab, alice, role, name, t.trust.out(owner, name), args).proc
  expect((await proc.exited).code).toBe(78)
  expect(proc.output).toMatch(new RegExp(owner))
})

test('a key that others may read is refused', async () => {
  const folder = join(t.lab.dir, 'wide')
  cpSync(t.trust.out('agent', 'alice'), folder, { recursive: true })
  chmodSync(join(folder, 'key.pem'), 0o644)
  const { proc } = startRole(t.lab, alice, 'agent', 'alice', folder)
  expect((await proc.exited).code).toBe(77)
  expect(proc.output).toMatch(/0600|644|permission/i)
})

test('a folder that is not there, or holds no certificate, is a configuration error', async () => {
  for (const folder of [join(t.lab.dir, 'nowhere'), t.lab.dir]) {
    const { proc } = startRole(t.lab, alice, 'agent', 'alice', folder)
    expect((await proc.exited).code).toBe(78)
    expect(proc.output).toContain(folder)
  }
})

test('a folder whose files do not belong together is refused', async () => {
  const folder = join(t.lab.dir, 'torn')
  cpSync(t.trust.out('agent', 'alice'), folder, { recursive: true })
  writeFileSync(join(folder, 'network.toml'), 'trust_domain = "example.test"\nzone = "ztna.internal"\n')
  const { proc } = startRole(t.lab, alice, 'agent', 'alice', folder)
  expect((await proc.exited).code).toBe(78)
  expect(proc.output).toMatch(/snapshot|network\.toml/)
})

test('wrong usage ends with 64 and names what is accepted', async () => {
  for (const args of [['relay'], ['agent', '--forward', 'tcp:nonsense', '--network', t.trust.out('agent', 'alice')], ['no-such-command']]) {
    const { stderr } = await ztna(args, { codes: [64] })
    expect(stderr).not.toBe('')
  }
})
