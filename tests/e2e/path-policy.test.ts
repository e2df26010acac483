import { expect, test } from 'vitest'
import type { PathExplanation } from '@ztna/sdk'
import { Homes, type Home } from '../lib/homes.ts'
import { nginx } from '../lib/programs.ts'
import { ztna } from '../lib/ztna.ts'
import type { RunResult } from '../lib/proc.ts'

// What an operator is told where policy leaves flows one kind of path only, on the command line.

const HARD: Home = { v4: { nat: { mapping: 'apdm', filtering: 'apdf' } } }
const POLICY = `@id("web-direct")
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"web") when { context.path == "direct" };
@id("far-relay")
permit(principal in Group::"eng", action == Action::"connect", resource == Service::"far") when { context.path == "relay" };
`

test('where policy demands a path that is not to be had, check and explain say so at once, and a ping names the policy', async () => {
  await using h = await Homes.create({ alice: HARD, c1: HARD, services: ['web', 'far'].map((name) => ({ name, tcp: [80] })) })
  h.trust.setPolicy(POLICY)
  await h.trust.publish()
  await nginx(h.place('c1'), 8080)
  await h.start(['web=tcp:80:127.0.0.1:8080', 'far=tcp:80:127.0.0.1:8080'], [])
  const alice = h.running('alice')
  const told = async (...args: string[]): Promise<RunResult> =>
    ztna([...args, '--control', alice.control], { in: alice.netns, codes: 'any' })

  const check = await told('check', 'web:80', '--timeout', '2')
  expect([check.code, check.stdout]).toEqual([0, 'web:80: allowed by connector: policy `web-direct` permits it on a direct path only\n'])

  const { stdout } = await told('explain', 'web', '--timeout', '5')
  const [path, demand, first] = stdout.split('\n')
  expect([path, demand]).toEqual(['web: no path', 'policy `web-direct` permits it on a direct path only'])
  expect(first).toMatch(/^not direct: both NATs .*\(hard-nat-both\)$/)

  const ping = await told('ping', 'web', '--timeout', '2')
  expect(ping.code).toBe(75)
  expect(ping.stderr).toMatch(/policy `web-direct` permits it on a direct path only, and there is no direct path to connector `c1`/)
  expect(ping.stderr).not.toContain('ztna explain')

  const far = (await alice.ask('explain', 'far:80')) as unknown as PathExplanation
  expect(far).toMatchObject({ path: { kind: 'relay' }, demand: { path: 'relay', by: 'policy', policyId: 'far-relay' } })
  expect(far.reasons.map(({ code }) => code)).toEqual(['relay-only-by-policy'])
  expect((await told('ping', 'far')).code).toBe(0)

  const status = await told('status')
  expect(status.stdout).toMatch(/path policy/)
  for (const policy of ['auto', 'direct-only', 'relay-only']) expect(status.stdout).toMatch(new RegExp(`c1 .*${policy}`))
})

test('a policy on the path can be tried without a running node', async () => {
  await using h = await Homes.create({ alice: 'public', c1: 'public', services: [{ name: 'web', tcp: [80] }] })
  h.trust.setPolicy(POLICY.split('\n').slice(0, 2).join('\n'))
  const ask = (...args: string[]): Promise<RunResult> =>
    ztna(['policy', 'check', h.trust.dir, '--agent', 'alice', '--to', 'web:80', ...args], { codes: 'any' })
  expect((await ask('--path', 'direct')).code).toBe(0)
  const relayed = await ask('--path', 'relay')
  expect([relayed.code, relayed.stderr]).toEqual([3, expect.stringContaining('no policy permits it')])
  const any = await ask()
  expect([any.code, any.stdout]).toEqual([0, expect.stringContaining('policy `web-direct` permits it on a direct path only')])
  expect(await ask('--path', 'fast')).toMatchObject({ code: 64, stderr: expect.stringContaining('accepted: direct, relay') as string })
})
