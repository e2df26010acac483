import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { background, curl, tcpServer } from '../lib/peers.ts'
import type { Proc } from '../lib/proc.ts'
import { nginx, until } from '../lib/programs.ts'
import { Topology, type TopologySpec } from '../lib/topology.ts'
import { PERMIT_ENG, ztna } from '../lib/ztna.ts'

const SERVICES = ['web=tcp:80:127.0.0.1:8080', 'echo=tcp:7:127.0.0.1:9001']
const FORWARDS = ['tcp:127.0.0.1:8080=web:80', 'tcp:127.0.0.1:8081=echo:7']
/**
 * The contract says 1 s from the moment snapshot.json lands: 200 ms until the poll sees it, milliseconds to load and judge. The
 * rest is room for a machine whose cores are taken by other tests; the figure is printed either way.
 */
const CUT_LIMIT_MS = 2_000

async function create(spec: Partial<TopologySpec> = {}): Promise<Topology> {
  const t = await Topology.create({
    agents: [
      { name: 'alice', groups: ['eng'] },
      { name: 'bob', groups: ['eng'] },
    ],
    services: [
      { name: 'web', tcp: [80] },
      { name: 'echo', tcp: [7] },
    ],
    ...spec,
  })
  await nginx(t.place('c1'), 8080)
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:9001')
  return t.start(SERVICES, FORWARDS)
}
/** An open flow that goes on for a minute unless it is cut. */
async function openFlow(t: Topology, agent: string): Promise<Proc> {
  const proc = background(t.place(agent), 'tcp-client.mjs', ['idle', '127.0.0.1:8081', '60000'])
  await until(
    'the flow is open',
    async () => (await t.place(agent).run('ss', ['-Htn', 'state', 'established', 'dport', '=', ':8081'])).stdout !== '',
  )
  await new Promise((resolve) => setTimeout(resolve, 500))
  return proc
}
/** How long after the new snapshot.json landed in `folder`, written by `change`, the flow ends, in ms. */
async function cutAfter(flow: Proc, what: string, folder: string, change: () => Promise<void>): Promise<number> {
  const ended = flow.exited.then(() => Date.now())
  await change()
  const landed = statSync(join(folder, 'snapshot.json')).mtimeMs
  await until('the flow is cut', () => flow.exit !== undefined, 15_000)
  const took = (await ended) - landed
  console.log(`${what}: the flow ended ${took.toFixed(0)} ms after snapshot.json had landed`)
  return took
}

test("a revoked agent's flows are cut, another's go on", async () => {
  await using t = await create()
  const [alice, bob] = [await openFlow(t, 'alice'), await openFlow(t, 'bob')]
  await t.trust.revoke('alice')
  const folder = t.trust.out('connector', 'c1')
  expect(await cutAfter(alice, 'revocation', folder, () => t.trust.publish())).toBeLessThan(CUT_LIMIT_MS)
  expect(bob.exit).toBeUndefined()
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello', '--max-time', '8')).code).toBe('000')
  expect((await curl(t.place('bob'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  await bob.stop()
})

test('a policy change cuts exactly the flows it no longer permits', async () => {
  await using t = await create()
  const flow = await openFlow(t, 'alice')
  const bob = await openFlow(t, 'bob')
  t.trust.setPolicy(`${PERMIT_ENG}forbid(principal == Agent::"alice", action, resource == Service::"echo");\n`)
  const folder = t.trust.out('connector', 'c1')
  expect(await cutAfter(flow, 'policy change', folder, () => t.trust.publish())).toBeLessThan(CUT_LIMIT_MS)
  expect(bob.exit).toBeUndefined()
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  t.trust.setPolicy(PERMIT_ENG)
  await t.trust.publish()
  await until(
    'alice may again',
    async () =>
      (
        await t
          .place('alice')
          .run('bash', ['-c', 'exec 3<>/dev/tcp/127.0.0.1/8081; echo hi >&3; read -t 2 line <&3; echo "$line"'], { codes: 'any' })
      ).stdout.trim() === 'hi',
    10_000,
  )
  await bob.stop()
})

test.each(['relay', 'connector'] as const)('a revocation that has reached the %s alone cuts the flow', async (role) => {
  await using t = await create()
  const [alice, bob] = [await openFlow(t, 'alice'), await openFlow(t, 'bob')]
  await t.trust.revoke('alice')
  const folder = t.trust.out(role, role === 'relay' ? 'r1' : 'c1')
  expect(await cutAfter(alice, `revocation, ${role} alone`, folder, () => t.trust.publish([folder]))).toBeLessThan(CUT_LIMIT_MS)
  expect(bob.exit).toBeUndefined()
  expect((await curl(t.place('bob'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  await bob.stop()
})

test('a policy that has reached the relay alone cuts the flows of agents that may reach nothing there any more', async () => {
  await using t = await create()
  const [alice, bob] = [await openFlow(t, 'alice'), await openFlow(t, 'bob')]
  t.trust.setPolicy(`${PERMIT_ENG}forbid(principal == Agent::"alice", action, resource);\n`)
  const folder = t.trust.out('relay', 'r1')
  expect(await cutAfter(alice, 'policy change, relay alone', folder, () => t.trust.publish([folder]))).toBeLessThan(CUT_LIMIT_MS)
  expect(bob.exit).toBeUndefined()
  await bob.stop()
})

test('with no policy nothing is allowed', async () => {
  await using t = await create({ policy: '' })
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello', '--max-time', '10')).code).toBe('000')
})

test('a policy that does not parse is refused by publish, and flows go on under the old one', async () => {
  await using t = await create()
  t.trust.setPolicy('permit(principal in Group::"eng", action == Action::"connect", resource) when { context.nonsense == 1 };')
  const { stderr, stdout, code } = await ztna(['pki', 'publish', t.trust.dir, ...t.trust.outs.values()], { codes: 'any' })
  expect(code).toBe(78)
  expect(stderr + stdout).toMatch(/policy\.cedar|nonsense/)
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

test('a snapshot that lands in pieces is not applied until it is whole', async () => {
  await using t = await create()
  const { appendFileSync } = await import('node:fs')
  // A file that changes without snapshot.json is not a snapshot.
  appendFileSync(join(t.trust.out('connector', 'c1'), 'policy.cedar'), 'forbid(principal, action, resource);\n')
  await t.connectors.get('c1')?.proc.waitFor(/snapshot|policy\.cedar/i, { timeoutMs: 10_000 })
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

test('a connection ends when its certificate does, and a renewed one in time goes on', async () => {
  // 20 s of life: a third of it is time for the warning and for the renewal.
  await using t = await create({ agentTtl: '20s' })
  const [alice, bob] = [t.agents.get('alice'), t.agents.get('bob')]
  await Promise.all([
    alice?.event('warning', (e) => JSON.stringify(e).includes('expire'), { timeoutMs: 25_000 }),
    bob?.event('warning', (e) => JSON.stringify(e).includes('expire'), { timeoutMs: 25_000 }),
  ])
  await ztna(['pki', 'renew', t.trust.dir, 'bob', '--ttl', '1h', '--out', t.trust.out('agent', 'bob')])
  await new Promise((resolve) => setTimeout(resolve, 15_000))
  expect((await curl(t.place('alice'), 'http://127.0.0.1:8080/hello', '--max-time', '5')).code).toBe('000')
  expect((await curl(t.place('bob'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

test('a CA rotation passes without an interruption', async () => {
  await using t = await create()
  const flow = await openFlow(t, 'alice')
  const ca = (): string => readFileSync(join(t.trust.out('agent', 'alice'), 'ca.pem'), 'utf8')
  const before = ca()
  const rotate = (codes: readonly number[]) => ztna(['pki', 'rotate-ca', t.trust.dir], { codes })
  expect((await rotate([0])).stdout).toMatch(/^phase +started\ntrusted cas +2$/m)
  await t.trust.publish()
  expect(ca()).not.toBe(before)
  expect((await rotate([78])).stderr).toMatch(/pki renew \S+ agent\/alice --out OUT.* agent\/bob .* connector\/c1 .* relay\/r1 /)
  for (const [key, out] of t.trust.outs) await ztna(['pki', 'renew', t.trust.dir, key.slice(key.indexOf('-') + 1), '--out', out])
  await new Promise((resolve) => setTimeout(resolve, 3_000))
  expect(flow.exit).toBeUndefined()
  for (const name of ['alice', 'bob']) expect((await curl(t.place(name), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  await flow.stop()
  // Connections made with the old certificates end with the old CA; what opens then goes through.
  expect((await rotate([0])).stdout).toMatch(/^phase +finished\ntrusted cas +1$/m)
  await t.trust.publish()
  expect(ca().match(/BEGIN CERTIFICATE/g)).toHaveLength(1)
  await until('all have taken it', () => [...t.agents.values(), ...t.connectors.values()].every(({ proc }) => reloads(proc) >= 3))
  for (const name of ['alice', 'bob']) expect((await curl(t.place(name), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

const reloads = (proc: Proc): number => proc.lines.filter((line) => line.includes('"message":"reloaded"')).length

test('a snapshot that a role takes by itself leaves one line with its version, and one that it refuses another', async () => {
  await using t = await create()
  const roles = [...t.relays.values(), ...t.connectors.values(), ...t.agents.values()]
  const before = roles.map(({ proc }) => reloads(proc))
  await t.trust.publish()
  const folder = t.trust.out('connector', 'c1')
  const { version } = JSON.parse(readFileSync(join(folder, 'snapshot.json'), 'utf8')) as { version: number }
  for (const { proc } of roles) await proc.waitFor(new RegExp(`"level":"info","message":"reloaded","version":${version},"changed":true`))
  // Each loop of the relay looks five times a second.
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  expect(roles.map(({ proc }) => reloads(proc))).toEqual(before.map((count) => count + 1))
  const connector = t.connectors.get('c1')
  writeFileSync(join(folder, 'policy.cedar'), 'forbid(principal, action, resource);\n')
  await connector?.proc.waitFor(/"level":"warn","message":"not reloaded: .*policy\.cedar.*"code":"ERR_ZTNA_CONFIG"/)
})

test("an agent's folder names no other agent and holds no policy", async () => {
  await using t = await create()
  const folder = t.trust.out('agent', 'alice')
  expect(readFileSync(join(folder, 'network.toml'), 'utf8')).not.toContain('bob')
  const { stdout } = await t.place('alice').run('ls', [folder])
  expect(stdout).not.toMatch(/policy\.cedar|revoked\.toml/)
})
