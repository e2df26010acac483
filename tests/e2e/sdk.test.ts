import { once, type EventEmitter } from 'node:events'
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import { connect as h2connect, createServer as createH2 } from 'node:http2'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { identityOf, ZtnaAgent, ZtnaConnector, ZtnaDeniedError, type ZtnaError, ZtnaRelay, type ZtnaSocket } from '@ztna/sdk'
import { Loopback } from '../lib/loopback.ts'
import { run } from '../lib/proc.ts'

let lab: Loopback
let relay: ZtnaRelay
let connector: ZtnaConnector
let agent: ZtnaAgent

/** Flows that the `socket` handler of sink:1 has taken. */
const taken: ZtnaSocket[] = []

// Three roles in one process, each on its own threads.
beforeAll(async () => {
  lab = await Loopback.create({
    services: [
      { name: 'app', tcp: [80, 81, 82], udp: [53] },
      { name: 'sink', tcp: [1, 2, 3] },
      { name: 'locked', tcp: [80] },
    ],
    policy: ['app', 'sink']
      .map((name) => `permit(principal in Group::"eng", action == Action::"connect", resource == Service::"${name}");\n`)
      .join(''),
  })
  relay = await new ZtnaRelay({ network: `${lab.dir}/relay-r1`, listen: [{ udp: lab.relayAddress }] }).start()
  connector = await new ZtnaConnector({ network: `${lab.dir}/connector-c1`, authorize }).start()
  agent = await new ZtnaAgent({ network: `${lab.dir}/agent-alice` }).start()
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    const { name, groups } = identityOf(request)
    response.end(JSON.stringify({ name, groups, ip: request.socket.remoteAddress, url: request.url }))
  }
  await connector.serve('app', { http: createServer(listener) }, { port: 80 })
  await connector.serve(
    'app',
    { fetch: async (r) => new Response(`${identityOf(r).name}:${await r.text()}`, { status: 201 }) },
    { port: 81 },
  )
  const h2 = createH2((request, response) => response.end(`h2 ${identityOf(request).name}`))
  await connector.serve('app', { http: h2 }, { port: 82 })
  await connector.serve('app', { udp: (socket) => void socket.on('message', (message) => socket.send(message)) })
  await connector.serve('sink', { socket: (socket) => void taken.push(socket.resume()) }, { port: 1 })
  await connector.serve('sink', { socket: (socket) => socket.pipe(socket) }, { port: 2 })
})
afterAll(async () => {
  await agent?.close({ drainMs: 0 })
  await connector?.close({ drainMs: 0 })
  await relay?.close({ drainMs: 0 })
  lab?.[Symbol.dispose]()
})

function authorize(_peer: unknown, flow: { readonly service: string; readonly port: number }): boolean {
  return flow.service !== 'sink' || flow.port !== 3
}

test('fetch, httpAgent and the undici dispatcher reach an http server that knows who calls', async () => {
  const body = (await (await agent.fetch('http://app.ztna.internal/by-fetch')).json()) as Record<string, string>
  expect(body).toMatchObject({ name: 'alice', url: '/by-fetch' })
  const httpAgent = agent.httpAgent()
  const [response] = (await once(get('http://app.ztna.internal/by-agent', { agent: httpAgent }), 'response')) as [IncomingMessage]
  expect(JSON.parse(await text(response))).toMatchObject({ name: 'alice', ip: body['ip'] })
  const own = { dispatcher: agent.dispatcher() } as unknown as RequestInit
  expect((await fetch('http://app.ztna.internal/by-dispatcher', own)).status).toBe(200)
})

test('a fetch handler answers with status and body', async () => {
  const answer = await agent.fetch('http://app.ztna.internal:81/', { method: 'POST', body: 'x'.repeat(100_000) })
  expect(answer.status).toBe(201)
  expect(await answer.text()).toBe(`alice:${'x'.repeat(100_000)}`)
})

test('an http2 server is served over a flow', async () => {
  const socket = await agent.connect('app:82')
  const session = h2connect('http://app.ztna.internal:82', { createConnection: () => socket })
  const request = session.request({ ':path': '/' })
  expect(await text(request)).toBe('h2 alice')
  session.close()
  await once(session, 'close')
})

test('datagrams come back whole, up to the largest', async () => {
  await using socket = await agent.datagram('app:53')
  for (const size of [0, 1, 500, socket.maxDatagramSize]) {
    const answer = once(socket, 'message')
    expect(socket.send(Buffer.alloc(size, 7))).toBe(1)
    expect(((await answer)[0] as Uint8Array).length).toBe(size)
  }
})

test('createConnection takes writes before it is connected and carries 20 MB unchanged', async () => {
  const socket = agent.createConnection('sink:2')
  expect(socket.connecting).toBe(true)
  const chunk = Buffer.from(Array.from({ length: 65_536 }, (_, i) => i % 251))
  const sending = (async () => {
    for (let i = 0; i < 320; i += 1) if (!socket.write(chunk)) await once(socket, 'drain')
    socket.end()
  })()
  let received = 0
  for await (const part of socket as AsyncIterable<Buffer>) {
    for (let i = 0; i < part.length; i += 4_093) expect(part[i]).toBe(((received + i) % 65_536) % 251)
    received += part.length
  }
  await sending
  expect(received).toBe(320 * 65_536)
})

test('a reset by the peer is an error with ECONNRESET, never a clean end', async () => {
  const socket = await agent.connect('sink:1')
  const server = await lastTaken()
  const failed = once(socket, 'error')
  server.reset()
  const [error] = (await failed) as [ZtnaError]
  expect(error.code).toBe('ERR_ZTNA_STREAM_RESET')
  expect((error.cause as NodeJS.ErrnoException).code).toBe('ECONNRESET')
})

test('a reset by the agent reaches the handler as an error', async () => {
  const socket = await agent.connect('sink:1')
  const server = await lastTaken()
  const failed = once(server, 'error')
  socket.reset()
  expect(((await failed)[0] as ZtnaError).code).toBe('ERR_ZTNA_STREAM_RESET')
})

test('policy and authorize both deny, and say who', async () => {
  const byPolicy = (await agent.connect('locked:80').catch((error: unknown) => error)) as ZtnaDeniedError
  expect(byPolicy).toBeInstanceOf(ZtnaDeniedError)
  expect(byPolicy.by).toBe('connector')
  expect(byPolicy.decisionId).toMatch(/^d[0-9a-f]+$/)
  expect((byPolicy.cause as NodeJS.ErrnoException).code).toBe('EACCES')
  const byProgram = (await agent.connect('sink:3').catch((error: unknown) => error)) as ZtnaDeniedError
  expect(byProgram.code).toBe('ERR_ZTNA_DENIED')
})

test('a port that nobody serves is unreachable at once, and a wrong one is refused before it is asked', async () => {
  await expect(agent.connect('app:9')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
  await expect(agent.connect('app')).rejects.toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
})

test('check asks without opening a flow, ping times the way', async () => {
  expect(await agent.check('app:80')).toMatchObject({ allowed: true, by: 'connector' })
  expect(await agent.check('locked:80')).toMatchObject({ allowed: false })
  const { rttMs, path } = await agent.ping('app')
  expect(rttMs).toBeGreaterThan(0)
  expect(['relay', 'direct']).toContain(path.kind)
  await expect(agent.ping('locked')).rejects.toMatchObject({ code: 'ERR_ZTNA_DENIED' })
})

test('an AbortSignal ends connect, datagram, ping and check', async () => {
  const signal = AbortSignal.abort()
  for (const call of [
    () => agent.connect({ service: 'app', port: 80, signal }),
    () => agent.datagram({ service: 'app', port: 53, signal }),
    () => agent.ping('app', { signal }),
    () => agent.check('app:80', { signal }),
    () => agent.forward({ service: 'app', port: 80, listen: {}, signal }),
  ]) {
    await expect(call()).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED' })
  }
  const later = new AbortController()
  const dialling = agent.connect({ service: 'app', port: 80, signal: later.signal })
  later.abort()
  await expect(dialling).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED' })
})

test('statistics, status and metrics tell what runs', async () => {
  const socket = await agent.connect('sink:1')
  await lastTaken()
  expect(agent.stats().flows.tcp).toBeGreaterThanOrEqual(1)
  expect(agent.status()).toMatchObject({ name: 'alice', state: 'online', relays: [{ name: 'r1', state: 'online' }] })
  for (const role of [agent, connector]) expect(role.status().relays[0]).not.toHaveProperty('detail')
  expect(agent.status().relays[0]).not.toHaveProperty('bound')
  for (const role of [agent, connector]) expect(role.status().version).toBeGreaterThan(0)
  expect(agent.status().certificate.expiresAt).toBeInstanceOf(Date)
  expect(connector.status()).toMatchObject({ name: 'c1', state: 'online' })
  expect(relay.status()).toMatchObject({ name: 'r1', listen: [lab.relayAddress], sessions: 1 })
  const [session] = [...relay.sessions()]
  expect(session).toMatchObject({ agent: 'alice', connector: 'c1' })
  expect(session?.rxBytes).toBeGreaterThan(0)
  for (const role of [agent, connector, relay]) expect(role.metrics()).toMatch(/^ztna_up 1$/m)
  expect(agent.metrics().endsWith('# EOF\n')).toBe(true)
  socket.destroy()
})

test('an agent issued while all run is known by its groups after a publish', async () => {
  await lab.trust.issue('agent', 'bob', { groups: ['eng', 'ops'] })
  await lab.trust.publish()
  const bob = await new ZtnaAgent({ network: `${lab.dir}/agent-bob` }).start()
  const body = await until(async () => (await bob.fetch('http://app.ztna.internal/')).json())
  expect(body).toMatchObject({ name: 'bob', groups: ['eng', 'ops'] })
  // The pool's idle connection is nothing to wait for.
  await bob.close({ drainMs: Infinity })
})

test('closing an agent with live sockets ends them, and everything it offered', async () => {
  const other = await new ZtnaAgent({ network: `${lab.dir}/agent-alice` }).start()
  const socket = await other.connect('sink:2')
  const udp = await other.datagram('app:53')
  const forward = await other.forward({ service: 'app', port: 80, listen: {} })
  const codes: unknown[] = []
  const ended = [socket, udp].map((each: EventEmitter) => {
    each.on('error', (error: ZtnaError) => codes.push(error.code))
    return new Promise((resolve) => each.once('close', resolve))
  })
  await other.close({ drainMs: 100 })
  await Promise.all(ended)
  expect(codes).toEqual(['ERR_ZTNA_CLOSED', 'ERR_ZTNA_CLOSED'])
  expect(other.state).toBe('closed')
  expect(forward.connections).toBe(0)
  await expect(other.connect('sink:2')).rejects.toMatchObject({ code: 'ERR_ZTNA_CLOSED' })
  await other.close()
})

test('a process with an http pool, an open socket and a forward ends by itself after close()', async () => {
  const code = `
    import { ZtnaAgent } from '@ztna/sdk'
    const agent = await new ZtnaAgent({ network: process.argv[1] }).start()
    await (await agent.fetch('http://app.ztna.internal/')).text()
    const socket = await agent.connect('sink:2')
    socket.on('error', () => {})
    await agent.datagram('app:53')
    await agent.forward({ service: 'app', port: 80, listen: {} })
    await agent.close({ drainMs: 50 })
    console.log('closed')`
  const args = ['--input-type=module', '-e', code, `${lab.dir}/agent-alice`]
  const { stdout } = await run(null, process.execPath, args, { cwd: new URL('..', import.meta.url).pathname, timeoutMs: 20_000 })
  expect(stdout).toBe('closed\n')
})

test('close() ends sockets without an error event that would kill a program, and waits for none that nobody uses', async () => {
  const code = `
    import { ZtnaAgent } from '@ztna/sdk'
    const agentFolder = process.argv[1]
    const unread = await new ZtnaAgent({ network: agentFolder }).start()
    const forgotten = await unread.connect('sink:2')
    forgotten.write('never read back')
    await new Promise((resolve) => setTimeout(resolve, 100))
    await unread.close({ drainMs: Infinity })

    const agent = await new ZtnaAgent({ network: agentFolder }).start()
    const events = []
    const flowing = await agent.connect('sink:2')
    for (const name of ['end', 'close']) flowing.on(name, () => events.push(name))
    flowing.resume().write('x')
    const reading = (async () => { for await (const _ of await agent.connect('sink:2')); return 'end' })().catch((error) => error.code)
    await new Promise((resolve) => setTimeout(resolve, 200))
    const closing = agent.close({ drainMs: 300 })
    agent.createConnection('sink:1')
      .on('error', (error) => events.push(error.code))
    await closing
    console.log(JSON.stringify({ events: events.sort(), reading: await reading }))`
  const args = ['--input-type=module', '-e', code, `${lab.dir}/agent-alice`]
  const { stdout } = await run(null, process.execPath, args, { cwd: new URL('..', import.meta.url).pathname, timeoutMs: 20_000 })
  expect(JSON.parse(stdout)).toEqual({ events: ['ECONNRESET', 'close'], reading: 'ERR_ZTNA_CLOSED' })
})

test('a relay and a connector with open flows end by themselves after close()', async () => {
  using other = await Loopback.create({ services: [{ name: 'sink', tcp: [1] }] })
  const code = `
    import { ZtnaAgent, ZtnaConnector, ZtnaRelay } from '@ztna/sdk'
    const [dir, udp] = process.argv.slice(1)
    const relay = await new ZtnaRelay({ network: dir + '/relay-r1', listen: [{ udp }] }).start()
    const connector = await new ZtnaConnector({ network: dir + '/connector-c1' }).start()
    await connector.serve('sink', { socket: () => {} })
    const agent = await new ZtnaAgent({ network: dir + '/agent-alice' }).start()
    const socket = (await agent.connect('sink')).resume()
    const seen = new Promise((resolve) => socket.on('error', (error) => resolve(error.code)))
    await connector.close({ drainMs: 100 })
    await relay.close({ drainMs: 100 })
    console.log(await seen)
    await agent.close()`
  const args = ['--input-type=module', '-e', code, other.dir, other.relayAddress]
  const { stdout } = await run(null, process.execPath, args, { cwd: new URL('..', import.meta.url).pathname, timeoutMs: 30_000 })
  expect(stdout).toMatch(/^ERR_ZTNA_/)
})

/** The first answer that is not an error, within five seconds: relay and connector reload within one. */
async function until<T>(ask: () => Promise<T>): Promise<T> {
  for (const end = Date.now() + 5_000; ;) {
    try {
      return await ask()
    } catch (error) {
      if (Date.now() > end) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

async function lastTaken(): Promise<ZtnaSocket> {
  for (;;) {
    const socket = taken.shift()
    if (socket !== undefined) return socket
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

test('sockets that were ended close without an error though nobody reads them, and UDP sockets are not waited for', async () => {
  const leaving = await new ZtnaAgent({ network: `${lab.dir}/agent-alice` }).start()
  const ends: unknown[] = []
  for (const target of ['sink:1', 'sink:2']) {
    const socket = await leaving.connect(target)
    socket.on('error', (error: ZtnaError) => ends.push(error.code)).on('close', (hadError) => ends.push(hadError))
    socket.end('bye')
  }
  const udp = await leaving.datagram('app:53')
  udp.on('message', () => {})
  expect(udp.send(Buffer.alloc(udp.maxDatagramSize + 1))).toBe(0)
  expect(udp.dropped).toBe(1)
  await leaving.close({ drainMs: Infinity })
  await expect.poll(() => ends).toEqual([false, false])
})

test('what was written and ended just before close() arrives whole, though the service ended its side first', async () => {
  const leaving = await new ZtnaAgent({ network: `${lab.dir}/agent-alice` }).start()
  const socket = await leaving.connect('sink:1')
  await expect.poll(() => taken.at(-1)?.destroyed).toBe(false)
  const service = taken.at(-1)
  if (!service) throw new Error('no flow was taken')
  let bytes = 0
  service.on('data', (chunk: Buffer) => {
    bytes += chunk.length
  })
  const ended = once(service, 'end')
  const size = 5_000_000
  service.end('bye')
  socket.resume().end(Buffer.alloc(size))
  await leaving.close()
  await ended
  expect(bytes).toBe(size)
})

test('events that a busy program does not take are counted and warned of once', async () => {
  const WAITING = 65_536
  const MORE = 2_000
  for (const role of [relay, agent]) {
    const lost = (): number => Number(/^ztna_drops_total\{queue="events"\} (\d+)$/m.exec(role.metrics())?.[1])
    expect(lost()).toBe(0)
    const warnings: ZtnaError[] = []
    role.on('warning', (error) => warnings.push(error))
    // Each has an event for an answer. Nothing below yields until the last of them is there.
    for (let i = 0; i < WAITING + MORE; i += 1) role.turn(() => {})
    const deadline = performance.now() + 30_000
    while (lost() < MORE) expect(performance.now()).toBeLessThan(deadline)
    // The first one that finds room again brings the warning.
    await expect
      .poll(() => {
        role.turn(() => {})
        return warnings
      })
      .toHaveLength(1)
    const count = lost()
    expect(warnings[0]).toMatchObject({ code: 'ERR_ZTNA_LIMIT', message: expect.stringContaining(` ${count} events were lost`) as string })
    // Others of its events may have been in the way.
    expect(count).toBeGreaterThanOrEqual(MORE)
    expect(count).toBeLessThan(MORE + 100)
  }
})
