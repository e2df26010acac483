import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import type { RunResult } from '../lib/proc.ts'
import { mariadb, nginx, postgres, redis } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import { selfSigned } from '../lib/self-signed.ts'

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))
let t: Topology
let alice: Netns
let ca: string

beforeAll(async () => {
  const service = (name: string, port: number): { name: string; tcp: number[] } => ({ name, tcp: [port] })
  t = await Topology.create({
    services: [
      service('web', 80),
      service('pages', 443),
      service('greeter', 50_051),
      service('db', 5432),
      service('sql', 3306),
      service('cache', 6379),
      service('nothing', 80),
      service('locked', 80),
    ],
    policy: 'permit(principal, action, resource) unless { resource == Service::"locked" };\n',
  })
  alice = t.place('alice')
  const c1 = t.place('c1')
  const tls = await selfSigned('pages.ztna.internal')
  ca = join(t.lab.dir, 'pages.pem')
  writeFileSync(ca, tls.cert)
  const services = c1.spawn(process.execPath, [path('../fixtures/example-services.mjs'), '18080', '15051'], { label: 'example-services' })
  await Promise.all([services.waitFor(/^ready/), postgres(c1, 15432), mariadb(c1, 13306), redis(c1, 16379), nginx(c1, 10443, { tls })])
  await t.relay().online()
  const targets = ['web=tcp:80:127.0.0.1:18080', 'pages=tcp:443:127.0.0.1:10443', 'greeter=tcp:50051:127.0.0.1:15051']
  const databases = ['db=tcp:5432:127.0.0.1:15432', 'sql=tcp:3306:127.0.0.1:13306', 'cache=tcp:6379:127.0.0.1:16379']
  await t.connector([...targets, ...databases, 'nothing=tcp:80:127.0.0.1:9']).online()
})
afterAll(() => t?.[Symbol.asyncDispose]())

/** Runs an example to its end, which it has to find by itself. */
function finish(
  name: string,
  args: readonly string[] = [],
  o: { codes?: readonly number[]; env?: Record<string, string> } = {},
): Promise<RunResult> {
  const env = { ZTNA_NETWORK: t.trust.out('agent', 'alice'), ...o.env }
  return alice.run(process.execPath, [path(`../../ts/examples/${name}`), ...args], { env, codes: o.codes ?? [0], timeoutMs: 30_000 })
}
const stdout = async (...args: Parameters<typeof finish>): Promise<string> => (await finish(...args)).stdout

test('axios, got and undici fetch a page, and say of a service that refuses and of one that is denied which it is', async () => {
  for (const name of ['axios.mjs', 'got.mjs', 'undici.mjs']) {
    expect(await stdout(name)).toBe('200 hello over HTTP/1.1\n')
    const refused = await finish(name, ['http://nothing.ztna.internal/'], { codes: [1] })
    expect(refused.stderr).toMatch(/^ECONNREFUSED .*refused/)
    expect(refused.stdout).toBe(name === 'got.mjs' ? 'ECONNREFUSED, attempt 2\nECONNREFUSED, attempt 3\n' : '')
    for (const url of ['http://locked.ztna.internal/', 'http://127.0.0.1:9/']) {
      const denied = await finish(name, [url], { codes: [1] })
      expect(denied).toMatchObject({ stderr: expect.stringMatching(/^ERR_ZTNA_DENIED /) as string, stdout: '' })
    }
  }
})

test('undici speaks HTTP/2 with a service that has a CA of its own', async () => {
  expect(await stdout('undici.mjs', ['https://pages.ztna.internal/protocol', ca])).toBe('200 HTTP/2.0\n\n')
})

test('ws sends a message and gets an answer', async () => {
  expect(await stdout('ws.mjs')).toBe('heard hello\n')
  const denied = await finish('ws.mjs', ['ws://locked.ztna.internal/'], { codes: [1] })
  expect(denied.stderr).toMatch(/^ERR_ZTNA_DENIED /)
})

test('pg asks, and writes in a transaction', async () => {
  const env = { PGUSER: 'postgres', PGDATABASE: 'postgres' }
  expect(await stdout('pg.mjs', [], { env })).toBe("[ { sum: 42 } ]\n[ { text: 'written through the tunnel' } ]\n")
  expect((await finish('pg.mjs', ['nothing:80'], { env, codes: [1] })).stderr).toMatch(/^ECONNREFUSED /)
})

test('mysql2 asks with a prepared statement', async () => {
  const env = { MYSQL_PWD: 'secret' }
  expect(await stdout('mysql2.mjs', ['sql:3306', 'ztna', 'test'], { env })).toMatch(/^\[ \{ sum: '?42'? \} \]\n$/)
  expect((await finish('mysql2.mjs', ['locked:80'], { codes: [1] })).stderr).toMatch(/^ERR_ZTNA_DENIED /)
})

test('ioredis sets and gets, and tries again where nobody answers', async () => {
  expect(await stdout('ioredis.mjs')).toBe('hello from the cache\n')
  const { stderr } = await finish('ioredis.mjs', ['nothing:80'], { codes: [1] })
  expect(stderr.match(/^ECONNREFUSED /gm)).toHaveLength(3)
})

test('gRPC calls through a forward on a unix socket', async () => {
  expect(await stdout('grpc.mjs', ['greeter:50051', 'from afar'])).toBe('hello from afar\n')
  expect((await finish('grpc.mjs', ['locked:80'], { codes: [1] })).stderr).toMatch(/UNAVAILABLE/)
})
