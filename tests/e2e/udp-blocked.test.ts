import { existsSync } from 'node:fs'
import { expect, test } from 'vitest'
import { Homes, type Home } from '../lib/homes.ts'
import { curl } from '../lib/peers.ts'
import { nginx, until } from '../lib/programs.ts'
import { ztna, type RoleProc } from '../lib/ztna.ts'

// Homes whose routers let no UDP pass, or that to the relay alone. The pairs of places: nat-pairs.

const SERVICES = [{ name: 'web', tcp: [80] }] as const
const open: Home = { v4: { nat: {} } }
const blocked: Home = { ...open, block: 'all' }
const relayOnly: Home = { ...open, block: { allExcept: ['198.51.100.1:4433'] } }

async function check(agent: RoleProc): Promise<readonly [number | null, string]> {
  await until('the agent takes commands', () => existsSync(agent.control))
  const { code, stderr } = await ztna(['check', 'web:80', '--control', agent.control, '--timeout', '2', '--json'], {
    in: agent.netns,
    codes: 'any',
  })
  return [code, stderr]
}

test('an agent whose network lets no UDP pass is unreachable, says udp-blocked, and is online by itself once it does', async () => {
  await using h = await Homes.create({ alice: blocked, c1: open, services: SERVICES })
  await nginx(h.place('c1'), 8080)
  await h.role('relay', 'r1', ['--listen', '198.51.100.1:4433']).online()
  await h.role('connector', 'c1', ['--service', 'web=tcp:80:127.0.0.1:8080']).online()
  const agent = h.role('agent', 'alice', ['--forward', 'tcp:127.0.0.1:8080=web:80'])
  const [code, stderr] = await check(agent)
  expect([code, stderr]).toEqual([75, expect.stringMatching(/udp-blocked/)])
  expect(stderr).toContain('198.51.100.1:4433')
  await h.net.block('home-alice', 'nothing')
  await agent.online()
  expect((await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
})

test('a connector whose network lets no UDP pass is not bound, and the agent names it', async () => {
  await using h = await Homes.create({ alice: open, c1: blocked, services: SERVICES })
  await h.role('relay', 'r1', ['--listen', '198.51.100.1:4433']).online()
  h.role('connector', 'c1', ['--service', 'web=tcp:80:127.0.0.1:8080'])
  const agent = h.role('agent', 'alice', [])
  await agent.online()
  expect(await check(agent)).toEqual([75, expect.stringContaining('connector `c1` is not bound at this relay')])
})

test('where UDP passes to the relay alone, explain says so beside a path that works', async () => {
  await using h = await Homes.create({ alice: relayOnly, c1: open, services: SERVICES })
  await nginx(h.place('c1'), 8080)
  await h.start(['web=tcp:80:127.0.0.1:8080'], ['tcp:127.0.0.1:8080=web:80'])
  expect((await curl(h.place('alice'), 'http://127.0.0.1:8080/hello')).body).toBe('hello\n')
  await until('the round of checks is over', async () => !(await codes(h)).includes('checking'), 20_000)
  expect(await h.path()).toBe('relay')
  expect(await codes(h)).toContain('udp-blocked')
})

async function codes(h: Homes): Promise<readonly string[]> {
  const { reasons } = (await h.running('alice').ask('explain', 'web')) as unknown as { reasons: readonly { code: string }[] }
  return reasons.map(({ code }) => code)
}
