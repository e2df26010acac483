import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import express from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Handler, ZtnaAgent } from '@ztna/sdk'
import { ztna as ztnaExpress } from '@ztna/sdk/express'
import { ztna as ztnaFastify } from '@ztna/sdk/fastify'
import { getConnInfo, ztna as ztnaHono } from '@ztna/sdk/hono'
import { Memory } from '../lib/memory.ts'

let lab: Memory
let bob: ZtnaAgent

beforeAll(async () => {
  lab = await Memory.create()
  bob = await new ZtnaAgent(lab.net.agent('bob')).start()
})
afterAll(() => lab?.[Symbol.asyncDispose]())

/** `/` for all who come through the tunnel, `/eng` for that group. `fetch`: where there is a way in that is no tunnel. */
type Made = { handler: Handler; open: (path: string) => Promise<{ status: number; body: string; challenge: string | null }> }

function viaExpress(): Made {
  const app = express()
  app.use(ztnaExpress())
  app.get('/', (request, response) => void response.json(request.identity.name))
  app.get('/eng', ztnaExpress({ groups: ['ops', 'eng'] }), (request, response) => void response.json(request.identity.groups))
  return { handler: { http: app }, open: (path) => overPort(app, path) }
}

async function viaFastify(): Promise<Made> {
  const app = fastify()
  await app.register(ztnaFastify)
  app.get('/', (request, reply) => reply.type('application/json').send(JSON.stringify(request.identity.name)))
  await app.register(async (inner) => {
    await inner.register(ztnaFastify, { groups: ['ops', 'eng'] })
    inner.get('/eng', (request) => request.identity.groups)
  })
  await app.ready()
  const open = async (url: string): ReturnType<Made['open']> => {
    const { statusCode: status, body, headers } = await app.inject({ url })
    return { status, body, challenge: String(headers['www-authenticate']) }
  }
  return { handler: { http: app.server }, open }
}

function viaHono(): Made {
  const app = new Hono()
  app.use(ztnaHono())
  app.get('/', (c) => c.json(c.get('identity').name))
  app.get('/eng', ztnaHono({ groups: ['ops', 'eng'] }), (c) => c.json(c.var.identity.groups))
  const open = async (path: string): ReturnType<Made['open']> => {
    const response = await app.request(path)
    return { status: response.status, body: await response.text(), challenge: response.headers.get('www-authenticate') }
  }
  return { handler: { fetch: app.fetch }, open }
}

test.each([
  ['Express', viaExpress],
  ['Fastify', viaFastify],
  ['Hono', viaHono],
])('the middleware for %s tells who calls, and keeps out who is in no group or came past the tunnel', async (_name, make) => {
  const { handler, open } = await make()
  const { url } = await lab.serve(handler)
  const ask = async (agent: ZtnaAgent, path: string): Promise<[number, unknown]> => {
    const response = await agent.fetch(url + path, { headers: { 'x-ztna-identity': 'eve', 'x-ztna-groups': 'eng' } })
    return [response.status, await response.json()]
  }
  expect(await ask(lab.agent, '')).toEqual([200, 'alice'])
  expect(await ask(bob, '')).toEqual([200, 'bob'])
  expect(await ask(lab.agent, 'eng')).toEqual([200, ['eng']])
  expect(await ask(bob, 'eng')).toEqual([403, { error: 'forbidden', message: 'bob is in none of the groups that this needs: ops, eng' }])
  for (const path of ['/', '/eng']) {
    const { status, body, challenge } = await open(path)
    expect(status).toBe(401)
    expect(JSON.parse(body)).toMatchObject({ error: 'unauthenticated' })
    expect(challenge).toBe('ZTNA')
  }
})

test('the middleware for Hono knows the caller behind one that makes another Request, and getConnInfo its address', async () => {
  const app = new Hono()
  app.use(async (c, next) => {
    c.req.raw = new Request(c.req.raw)
    await next()
  })
  app.use(bodyLimit({ maxSize: 100 }), ztnaHono())
  app.post('/', (c) => c.json([c.get('identity').name, getConnInfo(c).remote.addressType]))
  const { url } = await lab.serve({ fetch: app.fetch })
  expect(await (await lab.agent.fetch(url, { method: 'POST', body: 'x' })).json()).toEqual(['alice', 'IPv6'])
  const cut = await lab.serve({ fetch: (request) => app.fetch(request) })
  expect((await lab.agent.fetch(cut.url, { method: 'POST', body: 'x' })).status).toBe(401)
})

test('the middleware for Hono needs no env where it has the first Request', async () => {
  const app = new Hono().use(ztnaHono()).get('/', (c) => c.json([c.get('identity').name, getConnInfo(c).remote]))
  const { url } = await lab.serve({ fetch: (request) => app.fetch(request) })
  expect(await (await lab.agent.fetch(url)).json()).toEqual(['alice', {}])
})

test.each([
  [{ groups: [] }, 'groups: an array is not accepted; accepted: an array of one or more names of groups'],
  [{ groups: 'eng' }, 'groups: "eng" is not accepted'],
  [{ groups: ['eng', ''] }, 'groups[1] is not the name of a group'],
  [{ group: ['eng'] }, 'unknown "group"; accepted: groups'],
])('options %j are refused, rather than let nobody or everybody in', async (options, message) => {
  for (const make of [ztnaExpress, ztnaHono])
    expect(() => make(options as never)).toThrow(expect.objectContaining({ code: 'ERR_ZTNA_CONFIG' }))
  expect(() => ztnaExpress(options as never)).toThrow(message)
  if ('groups' in options)
    await expect(fastify().register(ztnaFastify, options as never)).rejects.toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
})

test('the middleware of a CommonJS program is the same as that of a module', () => {
  const require = createRequire(import.meta.url)
  for (const name of ['express', 'fastify', 'hono']) expect(require(`@ztna/sdk/${name}`)).toMatchObject({ ztna: expect.any(Function) })
})

async function overPort(app: express.Express, path: string): ReturnType<Made['open']> {
  const server = createServer(app).listen(0, '127.0.0.1')
  try {
    await new Promise((resolve) => server.once('listening', resolve))
    const response = await fetch(`http://127.0.0.1:${(server.address() as { port: number }).port}${path}`, {
      headers: { connection: 'close' },
    })
    return { status: response.status, body: await response.text(), challenge: response.headers.get('www-authenticate') }
  } finally {
    server.close()
  }
}
