import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Netns } from '../lib/netns.ts'
import { client } from '../lib/peers.ts'
import { mariadb, nginx, postgres, redis } from '../lib/programs.ts'
import { Topology } from '../lib/topology.ts'
import { selfSigned } from '../lib/self-signed.ts'

// Drivers in a process that has no route to the servers, by the hook that each has for a stream of one's own.
let t: Topology
let alice: Netns
let ca: string
let dbCa: string

beforeAll(async () => {
  t = await Topology.create({
    services: [
      { name: 'db', tcp: [5432] },
      { name: 'sql', tcp: [3306] },
      { name: 'cache', tcp: [6379] },
      { name: 'pages', tcp: [443] },
      { name: 'nothing', tcp: [5432] },
      { name: 'locked', tcp: [5432] },
    ],
    policy: 'permit(principal, action, resource) unless { resource == Service::"locked" };\n',
  })
  alice = t.place('alice')
  const c1 = t.place('c1')
  const tls = await selfSigned('pages.ztna.internal')
  ca = join(t.lab.dir, 'pages.pem')
  writeFileSync(ca, tls.cert)
  const dbTls = await selfSigned('db.ztna.internal')
  dbCa = join(t.lab.dir, 'db.pem')
  writeFileSync(dbCa, dbTls.cert)
  await Promise.all([postgres(c1, 15432, { tls: dbTls }), mariadb(c1, 13306), redis(c1, 16379), nginx(c1, 10443, { tls })])
  const services = ['db=tcp:5432:127.0.0.1:15432', 'sql=tcp:3306:127.0.0.1:13306', 'cache=tcp:6379:127.0.0.1:16379']
  const r1 = t.relay()
  await r1.online()
  await t.connector([...services, 'pages=tcp:443:127.0.0.1:10443', 'nothing=tcp:5432:127.0.0.1:9']).online()
})
afterAll(() => t?.[Symbol.asyncDispose]())

const drive = (what: string, ...args: readonly string[]): ReturnType<typeof client> =>
  client(alice, 'drivers.mjs', [t.trust.out('agent', 'alice'), what, ...args], 60_000)

const REFUSED = { code: 'ECONNREFUSED', ours: 'ERR_ZTNA_REFUSED' }
const DENIED = { code: 'ERR_ZTNA_DENIED', ours: 'ERR_ZTNA_DENIED' }

test('a client of pg asks, reads 100,000 rows, hears a notification and cancels a query', async () => {
  expect(await drive('pg')).toEqual({ sum: 42, many: 100_000, payload: 'arrived', cancelled: '57014' })
})

test('a pool of pg shares its connections, replaces those the server ends, and meets the errors of TCP', async () => {
  expect(await drive('pool')).toEqual({ order: true, backends: 5, seven: 7, lost: true, refused: REFUSED, denied: DENIED })
})

test('pg speaks TLS with the database itself, by its own CA and name', async () => {
  expect(await drive('pg-tls', dbCa)).toEqual({ encrypted: true, peer: 'fd', other: 'ERR_TLS_CERT_ALTNAME_INVALID' })
})

test('a pool of pg whose agent goes away hears ECONNRESET, and its process lives on', async () => {
  expect(await drive('pool-loses-agent')).toEqual({
    asleep: { code: 'ECONNRESET', ours: 'ERR_ZTNA_CLOSED' },
    lost: ['ECONNRESET', 'ECONNRESET'],
    again: { code: 'ECONNABORTED', ours: 'ERR_ZTNA_CLOSED' },
  })
})

test('a pool of pg that ends together with its agent needs no listener for errors', async () => {
  expect(await drive('pool-ends-with-agent')).toEqual({ ended: true })
})

test('mysql2 asks with prepared statements, by a connection and by a pool, and meets the errors of TCP', async () => {
  expect(await drive('mysql')).toEqual({ same: true, order: true, connections: 4, seven: 7, refused: REFUSED, denied: DENIED })
})

test('ioredis reads, pipelines and subscribes, and comes back after the server or the tunnel has cut it off', async () => {
  const large = createHash('sha256').update(Buffer.alloc(2_000_000, 5)).digest('hex')
  const each = { large, counted: [expect.any(Number), 1, 2], heard: ['before', 'after'], n: '2' }
  expect(await drive('redis')).toEqual({ Connecting: each, Connected: each })
})

test('nginx speaks HTTP/2 to undici and to fetch where that is allowed, with the CA of the service', async () => {
  expect(await drive('nginx', ca)).toEqual({
    h1: 'HTTP/1.1\n',
    h2: 'HTTP/2.0\n',
    fetchH2: 'HTTP/2.0\n',
    many: 1,
    upload: 201,
    same: true,
    untrusted: 'DEPTH_ZERO_SELF_SIGNED_CERT',
  })
})
