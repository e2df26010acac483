import { once } from 'node:events'
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import { connect as h2connect, createServer as createH2 } from 'node:http2'
import { createServer as createHttps, get as httpsGet } from 'node:https'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { ZtnaError, ZtnaSocket } from '@ztna/sdk'
import { Memory } from '../lib/memory.ts'
import { selfSigned } from '../lib/self-signed.ts'

let lab: Memory
const tls = await selfSigned('web.ztna.internal')

beforeAll(async () => {
  lab = await Memory.create()
})
afterAll(() => lab?.[Symbol.asyncDispose]())

/** A drain that no timer ends: what closes with it has waited for nothing but what ends by itself. */
const NO_LIMIT = { drainMs: Infinity }

test.each([
  ['a request listener', false, () => (_: unknown, response: ServerResponse) => void response.end('ok')],
  ['a server', false, () => createServer((_, response) => response.end('ok'))],
  ['a TLS server', true, () => createHttps(tls, (_, response) => response.end('ok'))],
])('closing %s does not wait for connections that callers keep alive', async (_name, secure, make) => {
  const { served, port } = await lab.serve({ http: make() })
  const agent = secure ? lab.agent.httpsAgent({ ca: tls.cert }) : lab.agent.httpAgent()
  const ask = secure ? httpsGet : get
  const request = ask(`${secure ? 'https' : 'http'}://web.ztna.internal:${port}/`, { agent })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  expect(response.headers.connection).toBe('keep-alive')
  expect(await text(response)).toBe('ok')
  expect(served.connections).toBe(1)
  await served.close(NO_LIMIT)
  expect(served.connections).toBe(0)
  agent.destroy()
})

test('a request that is being answered when its service closes is answered whole, with connection: close', async () => {
  const answers: ServerResponse[] = []
  const { served, url } = await lab.serve({ http: createServer((_, response) => void answers.push(response)) })
  const asked = lab.agent.fetch(url)
  await expect.poll(() => answers.length).toBe(1)
  const closing = served.close(NO_LIMIT)
  await refusedAs(url, 'closing')
  setTimeout(() => answers[0]?.end('the whole answer'), 50)
  const response = await asked
  expect(response.headers.get('connection')).toBe('close')
  expect(await response.text()).toBe('the whole answer')
  await closing
  await refusedAs(url, 'not-served')
})

test('a streamed answer that began before the close is delivered whole, and its connection then ends', async () => {
  const answers: ServerResponse[] = []
  const { served, url } = await lab.serve({ http: (_, response) => (answers.push(response), void response.write('first ')) })
  const response = await lab.agent.fetch(url)
  expect(response.headers.get('connection')).toBe('keep-alive')
  const closing = served.close(NO_LIMIT)
  setTimeout(() => answers[0]?.end('last'), 50)
  expect(await response.text()).toBe('first last')
  await closing
})

test('closing a server of HTTP/2 sends GOAWAY, lets streams finish and waits for no idle connection', async () => {
  const streams: { respond: () => void }[] = []
  const server = createH2().on('stream', (stream) => streams.push({ respond: () => (stream.respond(), stream.end('whole')) }))
  const { served, port } = await lab.serve({ http: server })
  const connect = (): ReturnType<typeof h2connect> =>
    h2connect('http://web', { createConnection: () => lab.agent.createConnection(`web:${port}`) })
  const [busy, idle] = [connect(), connect()]
  await once(idle, 'remoteSettings')
  const request = busy.request({ ':path': '/' })
  await expect.poll(() => streams.length).toBe(1)
  const away = [busy, idle].map((session) => once(session, 'goaway'))
  const closing = served.close(NO_LIMIT)
  await Promise.all(away)
  streams[0]?.respond()
  expect(await text(request)).toBe('whole')
  await closing
})

test('a service that closes says so to callers, keeps its flows, and its successor takes new ones at once', async () => {
  const echo = { socket: (socket: ZtnaSocket) => socket.pipe(socket) }
  const { served, to, port } = await lab.serve(echo)
  const open = await lab.agent.connect(to)
  const closing = served.close(NO_LIMIT)
  const refused = (await lab.agent.connect(to).catch((error: unknown) => error)) as ZtnaError
  expect(refused).toMatchObject({ code: 'ERR_ZTNA_UNREACHABLE', retryable: true, details: { reason: 'closing' } })
  expect(refused.cause).toMatchObject({ code: 'EHOSTUNREACH' })
  const next = await lab.connector.serve('web', { socket: (socket) => socket.end('next') }, { port })
  expect(await text(await lab.agent.connect(to))).toBe('next')
  open.end('still here')
  expect(await text(open)).toBe('still here')
  await closing
  await next.close()
  await expect(lab.agent.connect(to)).rejects.toMatchObject({ retryable: true, details: { reason: 'not-served' } })
})

test('flows that do not end by themselves are reset when the drain of their service is over', async () => {
  const { served, to } = await lab.serve({ socket: () => {} })
  const socket = (await lab.agent.connect(to)).resume()
  const failed = once(socket, 'error')
  await served.close({ drainMs: 100 })
  expect(((await failed) as [ZtnaError])[0].code).toBe('ERR_ZTNA_STREAM_RESET')
  await expect(served.close({ drainMs: -1 })).resolves.toBeUndefined()
})

test('closing a connector drains: no new flow, open ones finish, idle HTTP connections are not waited for', async () => {
  await using other = await Memory.create()
  const answers: ServerResponse[] = []
  const { url } = await other.serve({ http: (_, response) => void response.end('ok') })
  const slow = await other.serve({ http: (_, response) => void answers.push(response) })
  await (await other.agent.fetch(url)).text()
  const asked = other.agent.fetch(slow.url)
  await expect.poll(() => answers.length).toBe(1)
  const closing = other.connector.close(NO_LIMIT)
  const refused = { service: 'web', port: slow.port, timeoutMs: 500 }
  // One that still comes in before the connector knows has no request, and would be waited for.
  const late = (): Promise<unknown> =>
    other.agent.connect(refused).then(
      (socket) => socket.destroy(),
      (error: ZtnaError) => error.retryable,
    )
  await expect.poll(late, { timeout: 5_000 }).toBe(true)
  answers[0]?.end('whole')
  expect(await (await asked).text()).toBe('whole')
  await closing
})

test('a server that is served twice closes for one service and stays for the other', async () => {
  const server = createServer((_, response) => response.end('ok'))
  const [first, second] = [await lab.serve({ http: server }), await lab.serve({ http: server })]
  for (const { url } of [first, second]) expect(await (await lab.agent.fetch(url)).text()).toBe('ok')
  await first.served.close(NO_LIMIT)
  expect(second.served.connections).toBe(1)
  expect(await (await lab.agent.fetch(second.url)).text()).toBe('ok')
  await second.served.close()
})

/** Asks until the refusal names this reason: what is on its way when a service closes may still be taken. */
async function refusedAs(url: string, reason: string): Promise<void> {
  await expect
    .poll(async () => {
      const error = (await lab.agent.fetch(url).catch((thrown: Error) => thrown.cause)) as {
        details?: unknown
        cause?: { details?: unknown }
      }
      return error.details ?? error.cause?.details
    })
    .toMatchObject({ reason })
}
