import { EventEmitter, once } from 'node:events'
import { type ClientRequest, type IncomingMessage, createServer, get as httpGet } from 'node:http'
import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, ZtnaDeniedError, ZtnaError, ztnaErrorOf } from '../src/index.js'
import { setNative } from '../src/native.js'
import { createTestNetwork } from '../src/testing.js'

setNative(undefined)
const ID = /^d[0-9a-f]{1,12}$/
const POLICY = `@id("open") permit(principal, action, resource) unless { resource == Service::"nobody" };
@id("no-locked") forbid(principal, action, resource == Service::"locked") when { context.port == 80 };`

async function start() {
  const net = await createTestNetwork({
    services: { web: { tcp: [80] }, locked: { tcp: [80] }, nobody: { tcp: [80] } },
    policy: POLICY,
  })
  const connector = await new ZtnaConnector(net.connector('c1')).start()
  const agent = await new ZtnaAgent(net.agent('alice')).start()
  return { net, connector, agent, [Symbol.asyncDispose]: () => net.close() }
}

async function denied(call: Promise<unknown>): Promise<ZtnaDeniedError> {
  const error = ztnaErrorOf(await call.catch((thrown: unknown) => thrown))
  if (error instanceof ZtnaDeniedError) return error
  throw new Error(`not denied: ${inspect(error)}`)
}

test('a denial by policy names decision, policy and end, and is remembered by both ends under one decision', async () => {
  await using lab = await start()
  const error = await denied(lab.agent.connect('locked:80'))
  expect(error).toMatchObject({ by: 'connector', policyId: 'no-locked', retryable: false, cause: { code: 'EACCES' } })
  expect(error.details).toMatchObject({ service: 'locked', port: 80, protocol: 'tcp' })
  expect(error.decisionId).toMatch(ID)
  const { decisionId } = error
  const entry = { event: 'denied', by: 'connector', decisionId, policyId: 'no-locked', service: 'locked', port: 80, protocol: 'tcp' }
  await expect.poll(() => lab.agent.recent()).toContainEqual(expect.objectContaining(entry))
  await expect.poll(() => lab.connector.recent()).toContainEqual(expect.objectContaining({ ...entry, peer: 'alice' }))
})

test('a denial for want of a policy has a decision and no policy', async () => {
  await using lab = await start()
  const error = await denied(lab.agent.connect('nobody'))
  expect(error.decisionId).toMatch(ID)
  expect(error.policyId).toBeUndefined()
})

test('what the agent refuses by itself has a decision and is told as denied', async () => {
  await using lab = await start()
  const told: ZtnaDeniedError[] = []
  lab.agent.on('denied', (error) => told.push(error))
  const unknown = await denied(lab.agent.connect('nowhere:80'))
  const outside = await denied(lab.agent.fetch('http://example.com/'))
  expect(outside.details['reason']).toBe('outside-zone')
  for (const error of [unknown, outside]) {
    expect(error).toMatchObject({ by: 'agent', decisionId: expect.stringMatching(ID) as string })
    await expect.poll(() => told.map(({ decisionId }) => decisionId)).toContain(error.decisionId)
  }
})

test('a request on a kept-alive connection that policy cuts is ECONNRESET because of the denial, and the next one is the denial', async () => {
  await using lab = await start()
  const asked = new EventEmitter()
  const server = createServer((request, response) => (request.url === '/' ? response.end() : asked.emit('slow')))
  await lab.connector.serve('web', { http: server })
  const agent = lab.agent.httpAgent()
  const get = async (path: string): Promise<ClientRequest> => {
    const request = httpGet(`http://web.ztna.internal${path}`, { agent })
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    await once(response.resume(), 'end')
    return request
  }
  await get('/')
  const slow = once(asked, 'slow')
  const cut = get('/slow').catch((error: unknown) => error)
  await slow
  expect(Object.values(agent.sockets).flat()).toHaveLength(1)
  await lab.net.setPolicy('forbid(principal, action, resource);')
  expect(await cut).toMatchObject({
    code: 'ECONNRESET',
    cause: { code: 'ERR_ZTNA_DENIED', decisionId: expect.stringMatching(ID) as string },
  })
  await expect(get('/')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
})

test('a relay tells whom it has refused, and under which decision', async () => {
  await using lab = await start()
  const [relay] = lab.net.relays.values()
  const told = new Promise<readonly unknown[]>((resolve) => relay?.once('denied', (...args) => resolve(args)))
  await lab.net.setPolicy('@id("out") forbid(principal, action, resource);')
  const error = await denied(lab.agent.connect({ service: 'web', timeoutMs: 5_000 }))
  expect(error).toMatchObject({ by: 'relay', decisionId: expect.stringMatching(ID) as string })
  expect(await told).toMatchObject([{ by: 'relay' }, { name: 'alice', role: 'agent' }])
  const own = relay?.recent().filter((entry) => entry.event === 'denied') ?? []
  expect(own.map(({ decisionId }) => decisionId)).toContain(error.decisionId)
})

test('nothing that is remembered, told or thrown holds a secret', async () => {
  await using lab = await start()
  const secrets: string[] = ['hunter2', '0af7651916cd43dd8448eb211c80319c']
  for (const name of ['alice', 'c1']) {
    const source = (name === 'alice' ? lab.net.agent(name) : lab.net.connector(name)).network as AsyncIterable<{
      certPem: string
      keyPem: string
      caPem: string
    }>
    for await (const { certPem, keyPem, caPem } of source) {
      secrets.push(...[certPem, keyPem, caPem].flatMap((pem) => pem.split('\n').filter((line) => /^[A-Za-z0-9+/]{20,}=*$/.test(line))))
      break
    }
  }
  expect(secrets.length).toBeGreaterThan(20)
  secrets.push('unless { resource', 'context.port')

  const seen: unknown[] = []
  for (const role of [lab.agent, lab.connector, ...lab.net.relays.values()] as NodeJS.EventEmitter[]) {
    for (const name of ['warning', 'error', 'denied', 'flow-failed', 'path', 'state', 'flow', 'session', 'reloaded']) {
      role.on(name, (...args) => seen.push(...args))
    }
  }
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  const caught = await Promise.all([
    denied(lab.agent.connect({ service: 'locked', port: 80, traceparent })),
    denied(lab.agent.fetch('http://example.com/', { headers: { authorization: 'hunter2' } })),
    lab.agent.connect({ service: 'web', port: 80, traceparent }).catch((error: unknown) => error),
    lab.agent.datagram('web:81').catch((error: unknown) => error),
    lab.agent.forward({ socks5: { host: '192.0.2.9', port: 1, username: 'u', password: 'hunter2' } }).catch((error: unknown) => error),
    lab.agent.forward({ socks5: { password: 'hunter2' } }).catch((error: unknown) => error),
    new ZtnaAgent({ network: { ...CONTENT, keyPem: 'hunter2' } }).start().catch((error: unknown) => error),
    lab.net.setPolicy('permit(hunter2').catch((error: unknown) => error),
  ])
  const errors = caught.filter((error) => error instanceof ZtnaError)
  expect(errors.length).toBeGreaterThan(5)
  const roles = [lab.agent, lab.connector, ...lab.net.relays.values()]
  const remembered = [...roles.map((role) => role.recent()), ...errors.map(({ details }) => details.recent)]
  expect(remembered.flat().length).toBeGreaterThan(20)
  const all = JSON.stringify(remembered)
  for (const secret of secrets) expect(all).not.toContain(secret)
  // What the caller itself wrote may come back to the caller in a message; key, certificate and password never do.
  const shown = [
    JSON.stringify(errors),
    inspect(errors, { depth: 9, showHidden: true }),
    inspect(seen, { depth: 9 }),
    JSON.stringify(seen),
  ].join('\n')
  for (const secret of secrets.slice(2, -2)) expect(shown).not.toContain(secret)
})

const CONTENT = {
  certPem: 'c',
  keyPem: 'k',
  caPem: 'a',
  network: { trustDomain: 'example.test', zone: 'ztna.internal', relays: [], services: [] },
}
