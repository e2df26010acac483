import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { curl, tcpServer } from '../lib/peers.ts'
import { nginx } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import { startRole } from '../lib/ztna.ts'

let t: Topology
let alice: Netns

beforeAll(async () => {
  t = await Topology.create({ services: [{ name: 'web', tcp: [80, 81] }] })
  alice = t.place('alice')
  await nginx(t.place('c1'), 8080)
  await t.relay().online()
  await t.connector(['web=tcp:80:127.0.0.1:8080', 'web=tcp:81:127.0.0.1:8081']).online()
  await t.agent([], 'alice', ['--socks5', '127.0.0.1:1080']).online()
})
afterAll(() => t?.[Symbol.asyncDispose]())

test('SOCKS5 CONNECT reaches a service by its name in the zone', async () => {
  expect((await curl(alice, 'http://web.ztna.internal/hello', '--socks5-hostname', '127.0.0.1:1080')).body).toBe('hello\n')
})

test('HTTP CONNECT works on the same port', async () => {
  expect((await curl(alice, 'http://web.ztna.internal/hello', '--proxytunnel', '--proxy', 'http://127.0.0.1:1080')).body).toBe('hello\n')
})

test('a name outside the zone is refused with reply 2 and nothing is dialled', async () => {
  const trap = await tcpServer(alice, 'watch', '127.0.0.1:8888')
  for (const name of ['example.com', 'localhost:8888', '127.0.0.1:8888', 'web.ztna.internal.example.com']) {
    const got = await curl(alice, `http://${name}/`, '--socks5-hostname', '127.0.0.1:1080')
    // curl 97: the proxy refused; it prints the reply's number.
    expect(got.exit, name).toBe(97)
    expect(got.stderr, name).toMatch(/\(2\)|not allowed/i)
  }
  expect(trap.lines.filter((line) => line.includes('"event"'))).toEqual([])
})

test('a service that refuses is told apart from one that is unknown', async () => {
  const refused = await curl(alice, 'http://web.ztna.internal:81/', '--socks5-hostname', '127.0.0.1:1080')
  expect(refused.stderr).toMatch(/\(5\)|refused/i)
  const unknown = await curl(alice, 'http://nothing.ztna.internal/', '--socks5-hostname', '127.0.0.1:1080')
  expect(unknown.exit).toBe(97)
  expect(unknown.stderr).not.toMatch(/\(5\)/)
})

test('a proxy for other hosts without credentials is refused as a configuration', async () => {
  const role = startRole(t.lab, alice, 'agent', 'alice', t.trust.out('agent', 'alice'), ['--socks5', '0.0.0.0:1081'])
  const { code } = await role.proc.exited
  expect([64, 78]).toContain(code)
  expect(role.proc.output).toMatch(/credentials|loopback/i)
})
