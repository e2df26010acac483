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

test('a --forward of another form is a usage error that names the forms', async () => {
  const { code, stderr } = await ztna(['agent', '--network', '/nowhere', '--log-format', 'pretty', '--forward', 'tcp:28090=web'], {
    codes: 'any',
  })
  const forms = 'accepted: tcp|udp:HOST:PORT[-PORT]=SERVICE[:PORT[-PORT]] or unix:/PATH=SERVICE[:PORT]'
  expect([code, stderr]).toEqual([
    64,
    expect.stringContaining(`--forward tcp:28090=web: "28090" is not HOST:PORT or [IPv6]:PORT; ${forms}`),
  ])
})
