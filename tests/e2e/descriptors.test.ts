import { afterAll, beforeAll, expect, test } from 'vitest'
import { background, tcpClient, tcpServer } from '../lib/peers.ts'
import { run } from '../lib/proc.ts'
import { Topology } from '../lib/topology.ts'
import { PERMIT_ENG } from '../lib/ztna.ts'

let t: Topology

beforeAll(async () => {
  t = await Topology.create({
    agents: [
      { name: 'mallory', groups: ['eng'] },
      { name: 'alice', groups: ['eng'] },
    ],
    services: [{ name: 'echo', tcp: [81] }],
  })
  await tcpServer(t.place('c1'), 'echo', '127.0.0.1:9001')
  await t.start(['echo=tcp:81:127.0.0.1:9001'], ['tcp:127.0.0.1:8081=echo:81'])
  await run(null, 'prlimit', [`--pid=${t.connectors.get('c1')?.proc.pid}`, '--nofile=256:256'])
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('an agent that opens more flows than a connector has descriptors leaves others theirs, and is cut when policy changes', async () => {
  const crowd = background(t.place('mallory'), 'tcp-client.mjs', ['crowd', '127.0.0.1:8081', '300'])
  const { held, refused } = JSON.parse((await crowd.waitFor(/^\{"held".*/, { timeoutMs: 30_000 }))[0]) as { held: number; refused: number }
  expect(held).toBeGreaterThan(20)
  // Half of what is left of 256 after a reserve of 64.
  expect(held).toBeLessThanOrEqual(96)
  expect(refused).toBe(300 - held)
  const failed = await t.agents.get('mallory')?.event('flow-failed')
  expect(JSON.stringify(failed)).toMatch(/ERR_ZTNA_LIMIT.*LimitNOFILE/)
  expect(await tcpClient(t.place('alice'), 'echo', '127.0.0.1:8081', 30)).toMatchObject({ same: 30, again: 30 })

  t.trust.setPolicy(`${PERMIT_ENG}forbid(principal == Agent::"mallory", action, resource);\n`)
  await t.trust.publish()
  await crowd.waitFor(/^\{"cut"/, { timeoutMs: 10_000 })
  expect(await tcpClient(t.place('alice'), 'echo', '127.0.0.1:8081', 30)).toMatchObject({ same: 30, again: 30 })
  expect(await t.connectors.get('c1')?.status()).not.toHaveProperty('folderUnreadableSince')
})
