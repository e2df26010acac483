import { once } from 'node:events'
import { connect as h2connect } from 'node:http2'
import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaRelay } from '@ztna/sdk'
import { Loopback } from '../lib/loopback.ts'
import { Proc, run } from '../lib/proc.ts'

const example = (name: string): string => fileURLToPath(new URL(`../../ts/examples/${name}`, import.meta.url))
const WEB_ALONE = 'permit(principal, action, resource == Service::"web");\n'
let lab: Loopback
let relay: ZtnaRelay
let alice: ZtnaAgent
let oscar: ZtnaAgent

beforeAll(async () => {
  lab = await Loopback.create({
    services: [
      { name: 'web', tcp: [80] },
      { name: 'locked', tcp: [80] },
    ],
    policy: WEB_ALONE,
  })
  await lab.trust.issue('agent', 'oscar', { groups: ['ops'] })
  await lab.trust.publish()
  relay = await new ZtnaRelay({ network: `${lab.dir}/relay-r1`, listen: [{ udp: lab.relayAddress }] }).start()
  alice = await new ZtnaAgent({ network: `${lab.dir}/agent-alice` }).start()
  oscar = await new ZtnaAgent({ network: `${lab.dir}/agent-oscar` }).start()
})
afterAll(async () => {
  await Promise.all([alice, oscar].map((agent) => agent?.close({ drainMs: 0 })))
  await relay?.close({ drainMs: 0 })
  lab?.[Symbol.dispose]()
})

async function serving(name: string): Promise<Proc> {
  const env = { ZTNA_NETWORK: `${lab.dir}/connector-c1` }
  const web = new Proc(null, process.execPath, [example(name)], { label: name, env })
  await web.waitFor(/^serving web/)
  return web
}

async function ask(agent: ZtnaAgent, path: string): Promise<[status: number, body: string]> {
  const response = await agent.fetch(`http://web.ztna.internal${path}`)
  return [response.status, await response.text()]
}

test.each([
  ['express.mjs', 'oscar may\n'],
  ['fastify.mjs', 'oscar may\n'],
  ['hono.mjs', 'oscar may\n'],
  ['koa.mjs', 'hello oscar\n'],
])('%s greets its callers by name, has a route for one group, and ends on an interrupt', async (name, admitted) => {
  await using web = await serving(name)
  expect(await ask(alice, '/')).toEqual([200, 'hello alice\n'])
  expect((await ask(alice, '/admin'))[0]).toBe(403)
  expect(await ask(oscar, '/admin')).toEqual([200, admitted])
  if (name === 'hono.mjs') {
    expect(await ask(alice, '/address')).toEqual([200, 'IPv6\n'])
    expect(await ask(alice, '/events')).toEqual([200, 'data: one\n\ndata: two\n\n'])
  }
  // The callers' pools keep their connections: nothing that a close waits for.
  expect(await web.stop('SIGINT')).toEqual({ code: 0, signal: null })
})

test('http2.mjs answers over HTTP/2, and closes though a caller keeps its connection', async () => {
  await using web = await serving('http2.mjs')
  const session = h2connect('http://web', { createConnection: () => alice.createConnection('web:80') })
  const request = session.request({ ':path': '/' })
  let body = ''
  for await (const chunk of request) body += String(chunk)
  expect(body).toBe('hello alice by HTTP/2.0\n')
  const away = once(session, 'goaway')
  expect(await web.stop('SIGINT')).toEqual({ code: 0, signal: null })
  await away
  await web.waitFor(/^closed with 0 connections/)
})

test('all-in-one.mjs has all three roles in one process, which ends by itself', async () => {
  // Trust of its own: the identities of this file are in use.
  using trust = await Loopback.create({ services: ['web', 'locked'].map((name) => ({ name, tcp: [80] })), policy: WEB_ALONE })
  const { stdout } = await run(null, process.execPath, [example('all-in-one.mjs'), trust.dir, trust.relayAddress], { timeoutMs: 30_000 })
  expect(stdout).toMatch(/^200 hello alice\nERR_ZTNA_UNREACHABLE not-served true\nERR_ZTNA_DENIED by (relay|connector)\n$/)
})

test('every snippet of the guide is from an example', () => {
  const lines = (text: string): string[] => text.split('\n').map((line) => line.trim())
  const known = new Set(
    readdirSync(example('')).flatMap((name) => (name.endsWith('.mjs') ? lines(readFileSync(example(name), 'utf8')) : [])),
  )
  const guide = readFileSync(fileURLToPath(new URL('../../docs/guides/serve.md', import.meta.url)), 'utf8')
  const snippets = [...guide.matchAll(/```js\n(.*?)```/gs)].map(([, snippet]) => snippet ?? '')
  expect(snippets.length).toBeGreaterThan(4)
  for (const line of snippets.flatMap(lines)) expect(known).toContain(line)
})
