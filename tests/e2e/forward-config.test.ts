import { expect, test } from 'vitest'
import { Loopback } from '../lib/loopback.ts'
import { ztna } from '../lib/ztna.ts'

test.each([
  ['tcp:127.0.0.1:0=web:81', 'service `web` has no tcp port 81; it has: 80, 8000-8010'],
  ['tcp:127.0.0.1:0=web', 'name the port, one of the tcp ports of service `web`: 80, 8000-8010'],
  ['udp:127.0.0.1:0=web:53', 'service `web` has no udp port 53; it has: none'],
  ['tcp:127.0.0.1:0=wbe:80', 'no service `wbe` in this network; known: web'],
])('an agent with --forward %s does not start, and says why', async (forward, why) => {
  using lab = await Loopback.create({ services: [{ name: 'web', tcp: [80, '8000-8010'] }] })
  const args = ['agent', '--network', lab.trust.out('agent', 'alice'), '--control', `${lab.dir}/a.sock`, '--forward', forward]
  const { code, stderr } = await ztna(args, { codes: 'any', timeoutMs: 20_000 })
  expect([code, stderr]).toEqual([78, expect.stringContaining(why)])
})
