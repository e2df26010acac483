import { once } from 'node:events'
import { createServer } from 'node:http'
import { constants } from 'node:os'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Handler, ZtnaConnector, ZtnaError, identityOf, ztnaErrorOf } from '../src/index.js'
import { CONTENT, FakeRole, INFO, PEER, readAll, socketPair, useFake } from './fake-native.js'

let connector: ZtnaConnector

beforeEach(async () => {
  useFake()
  connector = await new ZtnaConnector({ network: CONTENT, authorize: (peer) => peer.name === 'c1' }).start()
})
afterEach(() => connector.close())

async function exchange(handler: Handler, request: string): Promise<string> {
  await connector.serve('db', handler)
  const { fd, far } = await socketPair()
  FakeRole.last.emit({ event: 'incoming', flow: 3, fd, serve: 7, ...INFO, traceparent: null })
  far.end(request)
  return readAll(far)
}

const GET = 'GET /p?q=1 HTTP/1.1\r\nhost: db\r\nX-Ztna-Identity: forged\r\nconnection: close\r\n\r\n'

test('an http server sees the verified peer and no header that claims one', async () => {
  const server = createServer((req, res) => res.end(`${identityOf(req).name} ${String(req.headers['x-ztna-identity'])}`))
  expect(await exchange({ http: server }, GET)).toContain('c1 undefined')
})

test('no spelling of a claim reaches a handler, by no view of the headers or trailers', async () => {
  const request =
    'POST / HTTP/1.1\r\nhost: db\r\nX_Ztna-Peer: a\r\nx-ztna_role: b\r\nX-ZTNA-Peer: c\r\nx-mine: d\r\ntransfer-encoding: chunked\r\n'
  const body = 'connection: close\r\n\r\n1\r\nx\r\n0\r\nx-ztna-peer: admin\r\nx-sum: e\r\n\r\n'
  const server = createServer((req, res) => {
    req.resume().once('end', () => {
      const views = [req.headersDistinct, req.headers, req.rawHeaders, req.trailersDistinct, req.trailers, req.rawTrailers]
      res.end(JSON.stringify(views))
    })
  })
  const answer = await exchange({ http: server }, request + body)
  expect(answer).toContain('"x-mine":["d"]')
  expect(answer).toContain('["x-sum","e"]')
  expect(answer).not.toMatch(/ztna/i)
})

const HEAD = 'GET / HTTP/1.1\r\nhost: db\r\nconnection: close'
test.each([
  [
    'a body that waits for 100 Continue',
    `${HEAD}\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi`,
    /^HTTP\/1.1 100 .*HTTP\/1.1 200 .*heard/s,
  ],
  ['an expectation that nobody knows', `${HEAD}\r\nexpect: more\r\n\r\n`, /^HTTP\/1.1 417 /],
  ['an upgrade that nobody wants', `${HEAD}, upgrade\r\nupgrade: h2c\r\n\r\n`, /^HTTP\/1.1 200 .*heard/s],
  ['a CONNECT that nobody serves', 'CONNECT db:80 HTTP/1.1\r\nhost: db\r\n\r\n', /^$/],
])('%s is answered as a server of Node on a port does', async (_name, request, answer) => {
  expect(await exchange({ http: (_req, res) => res.end('heard') }, request)).toMatch(answer)
})

test('a listener for upgrades, early or late, sees no header that claims an identity', async () => {
  const server = createServer()
  await connector.serve('db', { http: server })
  server.prependListener('upgrade', (request, socket) => socket.end(`${identityOf(request).name} ${JSON.stringify(request.rawHeaders)}`))
  const { fd, far } = await socketPair()
  FakeRole.last.emit({ event: 'incoming', flow: 3, fd, serve: 7, ...INFO, traceparent: null })
  far.end('GET / HTTP/1.1\r\nhost: db\r\nx-ztna-peer: forged\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n')
  expect(await readAll(far)).toBe('c1 ["host","db","connection","upgrade","upgrade","chat"]')
})

test('a server of the program ends requests that are sent too slowly, although it listens nowhere', async () => {
  const server = createServer({ headersTimeout: 50, requestTimeout: 100, connectionsCheckingInterval: 20 }, (_, res) => res.end())
  await connector.serve('db', { http: server })
  const { fd, far } = await socketPair()
  FakeRole.last.emit({ event: 'incoming', flow: 3, fd, serve: 7, ...INFO, traceparent: null })
  far.write('GET / HTTP/1.1\r\nhost:')
  expect(await readAll(far)).toContain('408')
})

async function cutFlow(handler: Handler): Promise<void> {
  await connector.serve('db', handler)
  const { fd, far } = await socketPair()
  FakeRole.last.emit({ event: 'incoming', flow: 3, fd, serve: 7, ...INFO, traceparent: null })
  far.on('error', () => {}).write('GET / HTTP/1.1\r\nhost:')
  const error = { code: 'ERR_ZTNA_STREAM_RESET', message: 'reset by the agent', retryable: false }
  setImmediate(() => FakeRole.last.emit({ event: 'flow-reset', flow: 3, error }))
}

test('a server hears of a flow that was cut what it hears of a TCP connection', async () => {
  const server = createServer()
  const heard = once(server, 'clientError')
  await cutFlow({ http: server })
  const [error] = (await heard) as [NodeJS.ErrnoException]
  expect(error).toMatchObject({ code: 'ECONNRESET', syscall: 'read', errno: -constants.errno.ECONNRESET })
  expect(ztnaErrorOf(error)).toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET', message: 'reset by the agent' })
})

test('a socket handler hears of a flow that was cut from us', async () => {
  let heard: unknown
  await cutFlow({ socket: (socket) => void socket.on('error', (error) => (heard = error)) })
  await expect.poll(() => heard).toBeInstanceOf(ZtnaError)
  expect(heard).toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
})

test('a fetch handler gets a Request bound to its caller', async () => {
  const answer = await exchange({ fetch: (r) => new Response(`${identityOf(r).name} ${new URL(r.url).search}`) }, GET)
  expect(answer).toContain('c1 ?q=1')
})

test('a socket handler that throws resets its flow and warns', async () => {
  const warned = new Promise<Error>((resolve) => connector.once('warning', resolve))
  const fail = (): never => {
    throw new Error('broken')
  }
  expect(await exchange({ socket: fail }, 'x')).toBe('')
  expect((await warned).message).toBe('the handler of service `db` threw: broken')
  expect(FakeRole.last.calls).toContainEqual(['flowReset', 3])
})

test('authorize answers native, and anything but true is a denial', async () => {
  const ask = { event: 'authorize', service: 'db', port: 1, protocol: 'tcp', path: INFO.path }
  FakeRole.last.emit({ ...ask, flow: 1, peer: PEER })
  FakeRole.last.emit({ ...ask, flow: 2, peer: { ...PEER, name: 'other' } })
  await expect
    .poll(() => FakeRole.last.calls.filter(([name]) => name === 'authorizeReply'))
    .toEqual([
      ['authorizeReply', 1, true],
      ['authorizeReply', 2, false],
    ])
})

test('a target becomes the form native dials', async () => {
  await connector.serve('db', { target: 'tcp://127.0.0.1:5432' })
  expect(FakeRole.last.calls.at(-1)).toMatchObject(['serve', { protocol: 'tcp', target: 'tcp:127.0.0.1:5432' }])
})

test('identityOf refuses what did not come through the tunnel', () => {
  expect(() => identityOf(new Request('http://x/'))).toThrow(/tunnel/)
})
