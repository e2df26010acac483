import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { connect as h2connect, createServer as createH2 } from 'node:http2'
import { createServer as createHttps } from 'node:https'
import { createRequire } from 'node:module'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import express from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import { afterAll, beforeAll, expect, test } from 'vitest'
import * as esm from '@ztna/sdk'
import * as esmExpress from '@ztna/sdk/express'
import * as esmFastify from '@ztna/sdk/fastify'
import * as esmHono from '@ztna/sdk/hono'
import { createTestNetwork, type TestNetwork } from '@ztna/sdk/testing'
import { selfSigned } from '../lib/self-signed.ts'

const require = createRequire(import.meta.url)
const cjs = require('@ztna/sdk') as typeof esm
const both = [
  {
    name: 'an ES module',
    connector: 'c1',
    sdk: esm,
    other: 'CommonJS',
    identityOf: cjs.identityOf,
    express: require('@ztna/sdk/express') as typeof esmExpress,
    fastify: require('@ztna/sdk/fastify') as typeof esmFastify,
    hono: require('@ztna/sdk/hono') as typeof esmHono,
  },
  {
    name: 'CommonJS',
    connector: 'c2',
    sdk: cjs,
    other: 'an ES module',
    identityOf: esm.identityOf,
    express: esmExpress,
    fastify: esmFastify,
    hono: esmHono,
  },
]
type Format = (typeof both)[number]

let net: TestNetwork
let agent: esm.ZtnaAgent
const connectors = new Map<string, esm.ZtnaConnector>()

beforeAll(async () => {
  const tcp = ['7000-7999']
  net = await createTestNetwork({
    connectors: { c1: {}, c2: {} },
    services: { c1: { tcp, connectors: ['c1'] }, c2: { tcp, connectors: ['c2'] } },
  })
  for (const { sdk, connector } of both) connectors.set(connector, await new sdk.ZtnaConnector(net.connector(connector)).start())
  agent = await new esm.ZtnaAgent(net.agent('alice')).start()
})
afterAll(() => net?.close())

let last = 7_000
/** Served by the connector of this format, as a service of the same name. */
async function served({ connector }: Format, handler: esm.Handler): Promise<{ readonly port: number; readonly host: string }> {
  const port = (last += 1)
  await connectors.get(connector)?.serve(connector, handler, { port })
  return { port, host: `${connector}.ztna.internal:${port}` }
}

const answer =
  ({ identityOf }: Format): RequestListener =>
  (request, response) =>
    void response.end(identityOf(request).name)

test('the two copies are two', () => {
  expect(cjs.identityOf).not.toBe(esm.identityOf)
  expect(cjs.ZtnaError).not.toBe(esm.ZtnaError)
})

for (const format of both) {
  test.each<[string, () => esm.Handler | Promise<esm.Handler>]>([
    ['a server', () => ({ http: createServer(answer(format)) })],
    ['a fetch handler', () => ({ fetch: (request) => new Response(format.identityOf(request).name) })],
    ['a socket handler', () => ({ socket: (socket) => socket.end(reply(format.identityOf(socket).name)) })],
    ['Express', () => ({ http: express().use(format.express.ztna(), (request, response) => void response.send(request.identity.name)) })],
    ['Fastify', () => onFastify(format)],
    ['Hono', () => ({ fetch: new Hono().use(format.hono.ztna()).get('/', (c) => c.text(c.get('identity').name)).fetch })],
  ])(`the caller of %s that ${format.name} serves is known to ${format.other}`, async (_name, make) => {
    const at = await served(format, await make())
    expect(await (await agent.fetch(`http://${at.host}/`)).text()).toBe('alice')
  })

  test(`the caller of a TLS server that ${format.name} serves is known to ${format.other}`, async () => {
    const tls = await selfSigned(`${format.connector}.ztna.internal`)
    const at = await served(format, { http: createHttps(tls, answer(format)) })
    const fetch = agent.fetcher({ tls: { ca: tls.cert } })
    expect(await (await fetch(`https://${at.host}/`)).text()).toBe('alice')
  })

  test(`the caller of an HTTP/2 server that ${format.name} serves is known to ${format.other}`, async () => {
    const server = createH2((request, response) => void response.end(format.identityOf(request).name))
    const at = await served(format, { http: server })
    const session = h2connect('http://web', { createConnection: () => agent.createConnection(`${format.connector}:${at.port}`) })
    expect(await text(session.request({ ':path': '/' }))).toBe('alice')
    session.close()
  })

  test(`nothing on a request that came past the tunnel makes it somebody's for ${format.name}`, async () => {
    const { identityOf } = format.sdk
    const at = await served(format, { http: (_, response) => void response.end() })
    const socket = await agent.connect(`${format.connector}:${at.port}`)
    const mark = Object.getOwnPropertySymbols(Object.getPrototypeOf(socket)).find((key) => key.description?.includes('/socket')) as symbol
    expect(Reflect.get(socket, mark)).toBe(socket)
    const server = createServer((request: IncomingMessage, response) => {
      const identity = socket.peer
      Object.assign(request, { identity, peer: identity, [mark]: request })
      Object.assign(request.socket, { identity, peer: identity, [mark]: request.socket })
      try {
        response.end(identityOf(request).name)
      } catch (error) {
        response.end((error as esm.ZtnaError).code)
      }
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const headers = { 'x-ztna-identity': 'alice' }
    const asked = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`, { headers })
    expect(await asked.text()).toBe('ERR_ZTNA_IDENTITY')
    socket.destroy()
    server.close()
  })
}

test('a logger that roles of both copies share hears each native line once, and of the role that is left, too', async () => {
  await using shared = await createTestNetwork({ agents: { alice: {}, bob: {}, carol: {} } })
  const ended: unknown[] = []
  const take = (fields: object, message?: string): void => {
    if (message === 'connection ended' && 'peer' in fields) ended.push(fields.peer)
  }
  const logging = { ...shared.agent('alice'), logger: { debug: take, info: take, warn: take, error: take }, logLevel: 'debug' } as const
  const [one, other] = [new esm.ZtnaAgent(logging), new cjs.ZtnaAgent(logging)]
  // Of these, which have no logger, the relay says it.
  const comeAndGo = async (name: string): Promise<void> => {
    const passing = await new esm.ZtnaAgent(shared.agent(name)).start()
    await passing.close({ drainMs: 0 })
    await expect.poll(() => ended).toContain(`agent/${name}`)
  }
  await Promise.all([one.start(), other.start()])
  await comeAndGo('bob')
  // Both take what waits for them first.
  await one.close({ drainMs: 0 })
  await comeAndGo('carol')
  await other.close({ drainMs: 0 })
  expect(ended.filter((peer) => peer !== 'agent/alice')).toEqual(['agent/bob', 'agent/carol'])
})

test('an error that one copy throws is an instance of the classes of the other, and no other error is', async () => {
  const denied = new esm.ZtnaDeniedError('no', 'agent')
  const closed = await new cjs.ZtnaAgent(net.agent('alice')).connect('c1:7001').catch((error: unknown) => error)
  expect(closed).toBeInstanceOf(esm.ZtnaError)
  expect(closed).not.toBeInstanceOf(esm.ZtnaDeniedError)
  expect(denied).toBeInstanceOf(cjs.ZtnaDeniedError)
  expect(esm.ztnaErrorOf(new Error('outer', { cause: closed }))).toBe(closed)
  class Mine extends esm.ZtnaError {}
  expect(new Mine('ERR_ZTNA_CONFIG', 'mine')).toBeInstanceOf(Mine)
  expect(new Mine('ERR_ZTNA_CONFIG', 'mine')).toBeInstanceOf(cjs.ZtnaError)
  expect(denied).not.toBeInstanceOf(Mine)
  for (const none of [new Error('plain'), { code: 'ERR_ZTNA_DENIED' }, null, 'text']) {
    expect(none instanceof esm.ZtnaError).toBe(false)
    expect(none instanceof cjs.ZtnaDeniedError).toBe(false)
  }
})

async function onFastify(format: Format): Promise<esm.Handler> {
  const app = fastify()
  await app.register(format.fastify.ztna)
  app.get('/', (request) => request.identity.name)
  await app.ready()
  return { http: app.server }
}

function reply(body: string): string {
  return `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`
}
