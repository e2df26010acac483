import { once } from 'node:events'
import { type IncomingMessage, type ServerResponse, createServer, get, request as httpRequest } from 'node:http'
import { createSecureServer } from 'node:http2'
import { Readable } from 'node:stream'
import { type AxiosError, create as axios } from 'axios'
import { type RequestError, got } from 'got'
import { RetryAgent, fetch as undiciFetch, interceptors, request, upgrade } from 'undici'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { ZtnaDeniedError, type ZtnaError, type ZtnaSocket, identityOf, ztnaErrorOf } from '@ztna/sdk'
import { selfSigned } from '../lib/self-signed.ts'
import { Outside, Zone } from '../lib/zone.ts'

const WEB = 'http://web.ztna.internal'
const TLS = 'https://secure.ztna.internal'
let zone: Zone
let outside: Outside
let ca: string
/** Sockets of a service that reads and never answers. */
const silent: ZtnaSocket[] = []
/** Connections that `web` has taken. */
let connections = 0

beforeAll(async () => {
  zone = await Zone.create({ web: [80], secure: [443], silent: [443] })
  outside = await Outside.create()
  const web = createServer(answer).on('connection', () => (connections += 1))
  web.on('upgrade', (_request, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n')
    socket.pipe(socket)
  })
  await zone.connector.serve('web', { http: web })
  const { cert, key } = await selfSigned('secure.ztna.internal')
  ca = cert
  const secure = createSecureServer({ cert, key, allowHTTP1: true }, (req, res) => res.end(`HTTP/${req.httpVersion}`))
  await zone.connector.serve('secure', { http: secure })
  await zone.connector.serve('silent', { socket: (socket) => void socket.on('error', () => {}).once('data', () => silent.push(socket)) })
})
afterAll(async () => {
  outside?.[Symbol.dispose]()
  await zone?.[Symbol.asyncDispose]()
})

/** Answers with what it got; `/out` leads out of the zone. */
function answer(req: IncomingMessage, res: ServerResponse): void {
  if (req.url === '/out') return void res.writeHead(302, { location: `http://127.0.0.1:${outside.port}/` }).end()
  if (req.url === '/out-tls') return void res.writeHead(302, { location: `https://127.0.0.1:${outside.port}/` }).end()
  if (req.method === 'POST') return void req.pipe(res)
  res.end(`hello ${identityOf(req).name}`)
}

/** What a promise rejects with. */
const failure = <E extends Error>(promise: PromiseLike<unknown>): Promise<E> =>
  Promise.resolve(promise).then(
    () => Promise.reject(new Error('it did not fail')),
    (error: E) => error,
  )

/** One of ours that says no, and nothing was dialled past the tunnel. */
function expectDenied(error: unknown): void {
  expect(ztnaErrorOf(error)).toBeInstanceOf(ZtnaDeniedError)
  expect(outside.dialled).toBe(0)
}

const axiosIn = (): ReturnType<typeof axios> =>
  axios({ httpAgent: zone.agent.httpAgent(), httpsAgent: zone.agent.httpsAgent(), proxy: false })
const gotIn = (): ReturnType<typeof got.extend> =>
  got.extend({ agent: { http: zone.agent.httpAgent(), https: zone.agent.httpsAgent() }, retry: { limit: 0 } })
const retrying = { limit: 2, calculateDelay: ({ computedValue }: { computedValue: number }) => (computedValue === 0 ? 0 : 1) }

test('axios reaches a service, streams to it, and is refused outside the zone, by a redirect too', async () => {
  const client = axiosIn()
  expect((await client.get<string>(`${WEB}/`)).data).toBe('hello alice')
  const body = Readable.from([Buffer.alloc(300_000, 'a'), Buffer.alloc(300_000, 'b')])
  expect((await client.post<string>(`${WEB}/`, body)).data).toHaveLength(600_000)
  for (const url of [`http://127.0.0.1:${outside.port}/`, `https://127.0.0.1:${outside.port}/`, `${WEB}/out`, `${WEB}/out-tls`]) {
    const error = await failure<AxiosError>(client.get(url))
    expect(error.code).toBe('ERR_ZTNA_DENIED')
    expectDenied(error)
  }
})

test('a proxy of the environment leads no client past the tunnel', async () => {
  const variables = ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy', 'ALL_PROXY']
  const before = variables.map((name) => process.env[name])
  for (const name of variables) process.env[name] = `http://127.0.0.1:${outside.port}`
  try {
    expect((await axiosIn().get<string>(`${WEB}/`)).data).toBe('hello alice')
    // Without `proxy: false` axios asks the proxy, by our agent, which does not lead there.
    const error = await failure(axios({ httpAgent: zone.agent.httpAgent() }).get(`${WEB}/`))
    expectDenied(error)
    expect(await gotIn()(`${WEB}/`).text()).toBe('hello alice')
    expect(await (await zone.agent.fetch(`${WEB}/`)).text()).toBe('hello alice')
  } finally {
    for (const [index, name] of variables.entries()) {
      const value = before[index]
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
  expect(outside.dialled).toBe(0)
})

test('got retries a refused service and not a denied one, and is refused outside the zone, by a redirect too', async () => {
  const client = gotIn()
  expect(await client(`${WEB}/`).text()).toBe('hello alice')
  const refused = await failure<RequestError>(client('http://refused.ztna.internal/', { retry: retrying }))
  expect(refused).toMatchObject({ code: 'ECONNREFUSED', request: { retryCount: 2 } })
  expect(ztnaErrorOf(refused)).toMatchObject({ code: 'ERR_ZTNA_REFUSED', retryable: true })
  for (const url of ['http://locked.ztna.internal/', `http://127.0.0.1:${outside.port}/`, `${WEB}/out`, `${WEB}/out-tls`]) {
    const error = await failure<RequestError>(client(url, { retry: retrying }))
    expect(error).toMatchObject({ code: 'ERR_ZTNA_DENIED', request: { retryCount: 0 } })
    expectDenied(error)
  }
})

test('RetryAgent retries a refused service and not a denied one', async () => {
  const attempts = async (url: string): Promise<[code: string | undefined, attempts: number]> => {
    let count = 0
    const flows = zone.agent.dispatcher().compose((dispatch) => (options, handler) => {
      count += 1
      return dispatch(options, handler)
    })
    const dispatcher = new RetryAgent(flows, { maxRetries: 2, minTimeout: 1, maxTimeout: 2 })
    const error = await failure<NodeJS.ErrnoException>(request(url, { dispatcher }))
    return [error.code, count]
  }
  expect(await attempts('http://refused.ztna.internal/')).toEqual(['ECONNREFUSED', 3])
  expect(await attempts('http://locked.ztna.internal/')).toEqual(['ERR_ZTNA_DENIED', 1])
})

test('fetch, built in, of undici and of the agent, reject as fetch does, with our error among the causes', async () => {
  const own = { dispatcher: zone.agent.dispatcher() }
  const fetches: ((url: string) => Promise<{ text(): Promise<string> }>)[] = [
    (url) => zone.agent.fetch(url),
    (url) => fetch(url, own as unknown as RequestInit),
    (url) => undiciFetch(url, own),
  ]
  for (const each of fetches) {
    expect(await (await each(`${WEB}/`)).text()).toBe('hello alice')
    const refused = await failure<TypeError>(each('http://refused.ztna.internal/'))
    expect(refused).toMatchObject({ name: 'TypeError', cause: { code: 'ECONNREFUSED', cause: { code: 'ERR_ZTNA_REFUSED' } } })
    for (const url of ['http://locked.ztna.internal/', `http://127.0.0.1:${outside.port}/`, `${WEB}/out`, `${WEB}/out-tls`]) {
      const error = await failure<TypeError>(each(url))
      expect(error).toMatchObject({ name: 'TypeError', cause: { code: 'ERR_ZTNA_DENIED' } })
      expectDenied(error)
    }
  }
})

test('agent.fetch takes no dispatcher but one of its agent, around which interceptors may be composed', async () => {
  const retry = { dispatcher: zone.agent.dispatcher().compose(interceptors.retry({ minTimeout: 1 })) } as unknown as RequestInit
  expect(await (await zone.agent.fetch(`${WEB}/`, retry)).text()).toBe('hello alice')
  const none = { dispatcher: null } as unknown as RequestInit
  expect(await (await zone.agent.fetch(`${WEB}/`, none)).text()).toBe('hello alice')
  const { Agent } = await import('undici')
  const other = { dispatcher: new Agent() } as unknown as RequestInit
  const error = await failure<ZtnaError>(zone.agent.fetch(`http://127.0.0.1:${outside.port}/`, other))
  expect(error).toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
  expect(outside.dialled).toBe(0)
})

test('fetch streams both ways: the answer begins before the request has ended', async () => {
  let more: ReadableStreamDefaultController<Uint8Array> | undefined
  const body = new ReadableStream<Uint8Array>({ start: (controller) => void (more = controller) })
  more?.enqueue(Buffer.from('ping'))
  const response = await zone.agent.fetch(`${WEB}/`, { method: 'POST', body, duplex: 'half' })
  const reader = response.body?.getReader()
  expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('ping')
  more?.enqueue(Buffer.from('pong'))
  expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('pong')
  more?.close()
  expect((await reader?.read())?.done).toBe(true)
})

test('undici and the http agent keep a connection and use it again', async () => {
  const dispatcher = zone.agent.dispatcher({ connections: 1 })
  const before = connections
  for (let i = 0; i < 5; i += 1) await (await request(`${WEB}/`, { dispatcher })).body.dump()
  expect(connections - before).toBe(1)
  const agent = zone.agent.httpAgent()
  expect(zone.agent.httpAgent()).toBe(agent)
  agent.destroy()
  for (let i = 0; i < 5; i += 1) {
    const [response] = (await once(get(`${WEB}/`, { agent }), 'response')) as [IncomingMessage]
    await once(response.resume(), 'end')
    // The connection is free again one turn after the answer has ended.
    await new Promise((resolve) => setImmediate(resolve))
  }
  expect(connections - before).toBe(2)
})

test('a body waits for 100 Continue, with undici and with node:http', async () => {
  const dispatcher = zone.agent.dispatcher()
  const { body } = await request(`${WEB}/`, { method: 'POST', body: 'x'.repeat(1_000), expectContinue: true, dispatcher })
  expect(await body.text()).toHaveLength(1_000)
  const waiting = httpRequest(`${WEB}/`, { agent: zone.agent.httpAgent(), method: 'POST', headers: { expect: '100-continue' } })
  waiting.flushHeaders()
  await once(waiting, 'continue')
  waiting.end('now')
  const [response] = (await once(waiting, 'response')) as [IncomingMessage]
  expect((await response.toArray()).join('')).toBe('now')
})

test('a connection is upgraded, with undici and with node:http', async () => {
  const echoes = async (socket: NodeJS.ReadWriteStream): Promise<void> => {
    socket.write('over the upgraded connection')
    expect(String((await once(socket, 'data'))[0])).toBe('over the upgraded connection')
    socket.end()
  }
  await echoes((await upgrade(`${WEB}/`, { dispatcher: zone.agent.dispatcher(), protocol: 'echo' })).socket)
  const headers = { connection: 'upgrade', upgrade: 'echo' }
  const asking = httpRequest(`${WEB}/`, { agent: zone.agent.httpAgent(), headers }).end()
  const [, socket] = (await once(asking, 'upgrade')) as [IncomingMessage, NodeJS.ReadWriteStream]
  await echoes(socket)
})

test('a service with a private CA is trusted where its CA is given, and speaks HTTP/2 where that is allowed', async () => {
  const untrusted = await failure<TypeError>(zone.agent.fetch(TLS))
  expect(untrusted).toMatchObject({ cause: { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' } })
  const tls = { ca }
  expect(await (await zone.agent.fetcher({ tls })(TLS)).text()).toBe('HTTP/1.1')
  const h2 = zone.agent.fetcher({ tls, allowH2: true })
  expect(await Promise.all([1, 2, 3].map(async () => (await h2(TLS)).text()))).toEqual(['HTTP/2.0', 'HTTP/2.0', 'HTTP/2.0'])
  const dispatcher = zone.agent.dispatcher({ tls, allowH2: true })
  expect(await (await request(TLS, { dispatcher })).body.text()).toBe('HTTP/2.0')
  expect(await (await undiciFetch(TLS, { dispatcher })).text()).toBe('HTTP/2.0')
  const httpsAgent = zone.agent.httpsAgent({ ca })
  expect(await got(TLS, { agent: { https: httpsAgent } }).text()).toBe('HTTP/1.1')
  expect((await axios({ httpsAgent, proxy: false }).get<string>(TLS)).data).toBe('HTTP/1.1')
})

test('a service that never answers the TLS handshake is a timeout after ten seconds', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  try {
    const error = failure(request('https://silent.ztna.internal/', { dispatcher: zone.agent.dispatcher() }))
    // The handshake has begun once the service has its first bytes.
    while (silent.length === 0) await new Promise((resolve) => setImmediate(resolve))
    await vi.advanceTimersByTimeAsync(9_900)
    expect(silent[0]?.destroyed).toBe(false)
    await vi.advanceTimersByTimeAsync(200)
    expect(await error).toMatchObject({ code: 'ETIMEDOUT', cause: { code: 'ERR_ZTNA_TIMEOUT' } })
  } finally {
    vi.useRealTimers()
  }
})

test('requests that are aborted at any moment leave no flow once their pools are gone', async () => {
  await using own = await Zone.create({ web: [80] })
  const server = createServer((_request, response) => void setTimeout(() => response.end('late'), 4))
  await own.connector.serve('web', { http: server })
  const { agent } = own
  const httpAgent = agent.httpAgent()
  const dispatcher = agent.dispatcher({})
  const ends = new Set<string>()
  const ask = async (round: number): Promise<void> => {
    const signal = AbortSignal.timeout((round * 7) % 64)
    const requests = [
      agent.fetch(`${WEB}/`, { signal }).then((response) => response.text()),
      request(`${WEB}/`, { dispatcher, signal }).then(({ body }) => body.text()),
      once(get(`${WEB}/`, { agent: httpAgent, signal }), 'response').then(([response]) => (response as IncomingMessage).toArray()),
    ]
    for (const { status } of await Promise.allSettled(requests)) ends.add(status)
  }
  for (let round = 0; round < 30; round += 1) await Promise.all([1, 2, 3, 4].map((i) => ask(round * 4 + i)))
  expect(ends).toContain('rejected')
  httpAgent.destroy()
  await Promise.all([dispatcher.destroy(), agent.dispatcher().destroy()])
  await expect.poll(() => agent.stats().flows.tcp + own.connector.stats().flows.tcp).toBe(0)
})

test('options of a dispatcher that are not accepted are refused, each by its name', () => {
  const dispatcher = zone.agent.dispatcher.bind(zone.agent) as (options: unknown) => unknown
  for (const [options, says] of [
    [null, /null is not accepted/],
    [{ connect: {} }, /unknown "connect"/],
    [{ tls: { socket: {}, ca } }, /"socket" not accepted/],
    [{ tls: 'pem' }, /tls: "pem" is not accepted/],
    [{ allowH2: 1 }, /allowH2: 1/],
    [{ pipelining: 0 }, /pipelining: 0/],
    [{ bodyTimeout: -1 }, /bodyTimeout: -1/],
  ] as const) {
    expect(() => dispatcher(options)).toThrow(
      expect.objectContaining({ code: 'ERR_ZTNA_CONFIG', message: expect.stringMatching(says) as string }),
    )
  }
})

test('clients of a closed agent fail without a retry', async () => {
  await using other = await Zone.create({})
  const { agent } = other
  const [httpAgent, dispatcher] = [agent.httpAgent(), agent.dispatcher()]
  await agent.close()
  const url = 'http://refused.ztna.internal/'
  const error = await failure<RequestError>(got(url, { agent: { http: httpAgent }, retry: retrying }))
  expect(error).toMatchObject({ code: 'ECONNABORTED', request: { retryCount: 0 } })
  expect(ztnaErrorOf(error)).toMatchObject({ code: 'ERR_ZTNA_CLOSED' })
  await expect(request(url, { dispatcher })).rejects.toMatchObject({ code: 'UND_ERR_DESTROYED' })
  await expect(agent.fetch(url)).rejects.toMatchObject({ cause: { cause: { code: 'ERR_ZTNA_CLOSED' } } })
})
