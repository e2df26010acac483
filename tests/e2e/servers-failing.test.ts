import { once } from 'node:events'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createHttps } from 'node:https'
import { connect as tlsConnect } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { connect as h2connect, createServer as createH2, type Http2Server, type ServerHttp2Stream } from 'node:http2'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Handler, type ZtnaError, ztnaErrorOf } from '@ztna/sdk'
import { Memory } from '../lib/memory.ts'
import { selfSigned } from '../lib/self-signed.ts'

let lab: Memory
const tls = await selfSigned('web.ztna.internal')
/** A service beside the failing ones, with a flow that stays open all the time. */
let calm: { url: string; socket: Awaited<ReturnType<Memory['agent']['connect']>> }

beforeAll(async () => {
  lab = await Memory.create()
  const { url } = await lab.serve({ http: (_, response) => response.end('calm') })
  const { to } = await lab.serve({ socket: (socket) => socket.pipe(socket) })
  calm = { url, socket: await lab.agent.connect(to) }
})
afterAll(() => lab?.[Symbol.asyncDispose]())
beforeEach(() => lab.warnings.splice(0))

async function nobodyElseWasHarmed(): Promise<void> {
  expect(await (await lab.agent.fetch(calm.url)).text()).toBe('calm')
  const echo = once(calm.socket, 'data')
  calm.socket.write('still here')
  expect(String((await echo)[0])).toBe('still here')
}

const GET = 'GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n'
const broken = new Error('broken')
const fail = (): never => {
  throw broken
}
const failLater: () => unknown = async () => {
  await new Promise((resolve) => setTimeout(resolve, 5))
  throw broken
}
const part: RequestListener = (_, response) => void response.writeHead(200, { 'content-length': '100' }).write('part')
const streamOf = (pull: () => void): Response =>
  new Response(
    new ReadableStream({
      start: (controller) => controller.enqueue(new TextEncoder().encode('part')),
      pull,
    }),
  )

/** Handler, what the caller gets (a status, or that the answer broke off), and the warning. */
const http: [name: string, handler: Handler, outcome: number | 'reset', warning: string | undefined][] = [
  ['a listener that throws', { http: fail }, 500, 'broken'],
  ['a listener whose promise is rejected', { http: failLater }, 500, 'broken'],
  ['a listener of a server that throws', { http: createServer(fail) }, 500, 'broken'],
  ['a listener of a server whose promise is rejected', { http: createServer(failLater) }, 500, 'broken'],
  [
    'a listener that throws in the middle of its answer',
    { http: (request, response) => (part(request, response), fail()) },
    'reset',
    'broken',
  ],
  [
    'a listener that fails in the middle of its answer',
    { http: (request, response) => (part(request, response), failLater()) },
    'reset',
    'broken',
  ],
  ['a listener that destroys its socket', { http: (request) => void request.socket.destroy() }, 'reset', undefined],
  ['a listener that destroys its answer', { http: (_, response) => void response.destroy() }, 'reset', undefined],
  [
    'a listener that ends twice and writes after it',
    { http: (_, response) => void (response.end('ok'), response.end(), response.write('more')) },
    200,
    'write after end',
  ],
  [
    'a listener that sets a header after its answer',
    { http: (_, response) => void (response.end('ok'), response.writeHead(500)) },
    200,
    'Cannot write headers after they are sent to the client',
  ],
  ['a fetch handler that throws', { fetch: fail }, 500, 'broken'],
  ['a fetch handler whose promise is rejected', { fetch: failLater as () => Promise<never> }, 500, 'broken'],
  [
    'a fetch handler that gives no Response',
    { fetch: (() => ({ status: 200 })) as never },
    500,
    'a fetch handler answered with an object, not with a Response',
  ],
  ['a fetch handler whose body fails', { fetch: () => streamOf(fail) }, 'reset', 'broken'],
]
test.each(http)('%s harms nobody else', async (_name, handler, outcome, warning) => {
  const { url } = await lab.serve(handler)
  // A body that broke off rejects the reading of it.
  const answer = await lab.agent
    .fetch(url)
    .then(async (response) => (await response.text(), response.status))
    .catch(() => 'reset')
  expect(answer).toBe(outcome)
  await nobodyElseWasHarmed()
  expect(lab.warnings.map(({ message }) => message)).toEqual(
    warning === undefined ? [] : [`the handler of service \`web\` threw: ${warning}`],
  )
})

test.each<[string, Handler]>([
  ['an HTTP listener', { http: (_, response) => ((response.statusMessage = 'of the handler'), fail()) }],
  ['a fetch handler', { fetch: (_, { outgoing }) => ((outgoing.statusMessage = 'of the handler'), fail()) }],
])('%s that throws answers with no words of its own', async (_name, handler) => {
  const { url } = await lab.serve(handler)
  expect((await lab.agent.fetch(url)).statusText).toBe('Internal Server Error')
})

test.each<[string, Handler]>([
  ['an HTTP listener', { http: (_, response) => (response.writeHead(200).write('part'), fail()) }],
  ['a fetch handler that writes by itself', { fetch: (_, { outgoing }) => (outgoing.writeHead(200).write('part'), fail()) }],
])('%s that throws in the middle of an answer without a length is heard as a reset', async (_name, handler) => {
  const { to } = await lab.serve(handler)
  const exchanged = lab.exchange(to, 'GET / HTTP/1.0\r\nhost: web\r\n\r\n')
  expect(await exchanged.catch(({ code }: ZtnaError) => code)).toBe('ERR_ZTNA_STREAM_RESET')
})

/** Ways in which an answer of an unknown length is left in the middle, behind which the caller must not hear a clean end. */
const leaves: [name: string, leave: (response: ServerResponse) => void][] = [
  ['destroys its answer with an error', (response) => response.destroy(broken)],
  ['destroys its answer', (response) => response.destroy()],
  ['destroys its socket', (response) => response.socket?.destroy()],
]
test.each(leaves)('a listener that %s in the middle of it is heard as a reset', async (_name, leave) => {
  const { to } = await lab.serve({ http: (_, response) => (response.writeHead(200).write('part'), leave(response)) })
  expect(await ending(to, 'GET / HTTP/1.0\r\n\r\n')).toBe('ERR_ZTNA_STREAM_RESET')
})

test.each(leaves)('a TLS server that %s in the middle of it is heard as a reset', async (_name, leave) => {
  const server = createHttps(tls, (_, response) => (response.writeHead(200).write('part'), leave(response)))
  const { to } = await lab.serve({ http: server })
  const flow = await lab.agent.connect({ service: 'web', port: Number(to.split(':')[1]), allowHalfOpen: true })
  const failed = once(flow, 'error')
  const socket = tlsConnect({ socket: flow, ca: tls.cert, servername: 'web.ztna.internal' }).on('error', () => {})
  socket.resume().write('GET / HTTP/1.0\r\n\r\n')
  expect(((await failed) as [ZtnaError])[0].code).toBe('ERR_ZTNA_STREAM_RESET')
})

test.each(leaves)('rubbish behind a request does not make a whole of an answer that its listener %s', async (_name, leave) => {
  const server = createServer()
  const rubbish = once(server, 'clientError')
  server.on('request', (_, response) => void rubbish.then(() => (response.writeHead(200).write('part'), leave(response))))
  const { to } = await lab.serve({ http: server })
  expect(await ending(to, 'GET / HTTP/1.0\r\n\r\n\0rubbish\r\n\r\n')).toBe('ERR_ZTNA_STREAM_RESET')
})

test.each<[string, (stream: ServerHttp2Stream) => void]>([
  ['destroyed with an error', (stream) => stream.destroy(broken)],
  ['destroyed', (stream) => stream.destroy()],
])('a stream of HTTP/2 that is %s in the middle of its answer is heard as a reset', async (_name, leave) => {
  const server = createH2().on('stream', (stream) => {
    stream.respond()
    stream.write('part', () => leave(stream))
  })
  const { port } = await lab.serve({ http: server })
  const session = h2connect('http://web', { createConnection: () => lab.agent.createConnection(`web:${port}`) })
  await expect(once(session.request({ ':path': '/' }).resume(), 'end')).rejects.toMatchObject({ code: 'ERR_HTTP2_STREAM_ERROR' })
  session.close()
})

test.each<[string, (stream: ServerHttp2Stream) => void]>([
  ['no body', (stream) => stream.respond({ ':status': 204 }, { endStream: true })],
  ['a body', (stream) => (stream.respond(), stream.end('body'))],
  ['a body and trailers', withTrailers],
  ['a file', (stream) => stream.respondWithFile(fileURLToPath(import.meta.url))],
  ['a body, and destroys the stream when it has gone out', (stream) => (stream.respond(), stream.end('body', () => stream.destroy()))],
])('a listener that answers a stream of HTTP/2 with %s is heard whole', async (_name, answer) => {
  const { port } = await lab.serve({ http: createH2().on('stream', answer) })
  const session = h2connect('http://web', { createConnection: () => lab.agent.createConnection(`web:${port}`) })
  const request = session.request({ ':path': '/' }).resume()
  await once(request, 'close')
  expect(request).toMatchObject({ rstCode: 0, readableEnded: true })
  session.close()
})

test('a listener that has ended its answer and leaves the rest of the request is heard whole', async () => {
  const { to } = await lab.serve({ http: (request, response) => (response.writeHead(413).end('too large'), void request.destroy()) })
  const answer = await lab.exchange(to, 'POST / HTTP/1.0\r\ncontent-length: 100\r\n\r\nbody')
  expect(answer).toMatch(/^HTTP\/1.1 413 [^]*too large$/)
})

test('a listener that never answers keeps its caller waiting, and nobody else', async () => {
  const { url } = await lab.serve({ http: () => {} })
  const gone = new AbortController()
  const waiting = lab.agent.fetch(url, { signal: gone.signal }).catch((error: Error) => error.name)
  await nobodyElseWasHarmed()
  gone.abort()
  expect(await waiting).toBe('AbortError')
})

test('a fetch handler whose caller leaves hears it by its signal, and that is no warning', async () => {
  let left = (): void => {}
  const seen = new Promise<void>((resolve) => (left = resolve))
  const { url } = await lab.serve({
    fetch: (request) =>
      new Promise((_, reject) => {
        request.signal.addEventListener('abort', () => {
          left()
          reject(request.signal.reason as Error)
        })
      }),
  })
  const gone = new AbortController()
  const waiting = lab.agent.fetch(url, { signal: gone.signal }).catch(() => {})
  setTimeout(() => gone.abort(), 50)
  await Promise.all([waiting, seen])
  await nobodyElseWasHarmed()
  expect(lab.warnings).toEqual([])
})

const failingH2: [name: string, server: Http2Server, status: number | undefined][] = [
  ['a listener for requests that throws', createH2(fail), 500],
  ['a listener for requests whose promise is rejected', createH2(failLater), 500],
  ['a listener for streams that throws', createH2().on('stream', fail), 500],
  ['a listener for streams whose promise is rejected', createH2().on('stream', failLater), 500],
  [
    'a listener for streams that throws in the middle',
    createH2().on('stream', (stream) => {
      stream.respond({ ':status': 200 })
      stream.write('part')
      fail()
    }),
    undefined,
  ],
]
test.each(failingH2)('%s of HTTP/2 ends its own stream and no other of the connection', async (_name, server, status) => {
  const { port } = await lab.serve({ http: server })
  const session = h2connect('http://web', { createConnection: () => lab.agent.createConnection(`web:${port}`) })
  for (let i = 0; i < 2; i += 1) {
    const request = session.request({ ':path': '/' })
    const ended = Promise.allSettled([once(request, 'response'), once(request.resume(), 'end')])
    const [response, end] = await ended
    if (status === undefined) expect(end.status).toBe('rejected')
    else expect(response).toMatchObject({ value: expect.arrayContaining([expect.objectContaining({ ':status': status })]) as unknown })
  }
  expect(session.destroyed).toBe(false)
  session.close()
  await nobodyElseWasHarmed()
  expect(lab.warnings).toHaveLength(2)
})

test.each([
  ['a server', () => createServer(), false],
  ['a TLS server', () => createHttps(tls), true],
])('%s whose caller resets in the middle of a request hears ECONNRESET, as on a port', async (_name, make, secure) => {
  const server = make()
  const [heard, connected] = [once(server, 'clientError'), once(server, secure ? 'secureConnection' : 'connection')]
  const { to } = await lab.serve({ http: server })
  const flow = await lab.agent.connect(to)
  const socket = secure ? tlsConnect({ socket: flow, ca: tls.cert, servername: 'web.ztna.internal' }) : flow
  if (secure) await once(socket, 'secureConnect')
  socket.on('error', () => {}).write('GET / HTTP/1.1\r\nhost:')
  await connected
  flow.reset()
  const [error] = (await heard) as [Error]
  expect(error).toMatchObject({ code: 'ECONNRESET' })
  expect(ztnaErrorOf(error)).toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
  await nobodyElseWasHarmed()
})

test('what is no HTTP is answered with 400, which arrives whole', async () => {
  const { to } = await lab.serve({ http: createServer() })
  expect(await lab.exchange(to, 'no HTTP\r\n\r\n')).toBe('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
  await nobodyElseWasHarmed()
})

test('an upgrade whose handler throws is reset', async () => {
  const server = createServer().on('upgrade', fail)
  const { to } = await lab.serve({ http: server })
  await expect(lab.exchange(to, GET.replace('close', 'upgrade\r\nupgrade: chat'))).rejects.toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
  await nobodyElseWasHarmed()
  expect(lab.warnings).toHaveLength(1)
})

test.each([
  ['throws', fail],
  ['fails later', failLater],
])('a socket handler that %s is a warning, and its flow alone is reset', async (_name, socket) => {
  const { to } = await lab.serve({ socket })
  await expect(lab.exchange(to, 'hello')).rejects.toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
  await nobodyElseWasHarmed()
  expect(lab.warnings).toMatchObject([
    { message: 'the handler of service `web` threw: broken', cause: broken, details: { service: 'web' } },
  ])
})

test.each([
  ['throws', fail],
  ['fails later', failLater],
])('a UDP handler that %s is a warning, and its flow alone ends', async (_name, udp) => {
  const { to } = await lab.serve({ udp })
  // Ends as it opens, or right after.
  await lab.agent.datagram(to).then(
    (socket) => new Promise<void>((resolve) => socket.once('close', () => resolve())),
    (error: ZtnaError) => expect(error.code).toBe('ERR_ZTNA_STREAM_RESET'),
  )
  await nobodyElseWasHarmed()
  expect(lab.warnings).toMatchObject([{ message: 'the handler of service `web` threw: broken' }])
})

test('a socket handler that reads until its caller resets is no failure', async () => {
  let over = (): void => {}
  const read = new Promise<void>((resolve) => (over = resolve))
  const { to } = await lab.serve({
    socket: async (socket) => {
      try {
        for await (const _ of socket);
      } finally {
        over()
      }
    },
  })
  const socket = await lab.agent.connect(to)
  socket.write('x')
  setTimeout(() => socket.reset(), 50)
  await read
  await nobodyElseWasHarmed()
  expect(lab.warnings).toEqual([])
})

test('a flow that its handler resets at once is an error for its caller, each time, and never a clean end', async () => {
  const { to } = await lab.serve({ socket: (socket) => socket.reset() })
  for (let i = 0; i < 200; i += 1) {
    const outcome = await lab.agent.connect(to).then(
      (socket) =>
        new Promise<string>((resolve) => {
          socket.on('error', (error) => resolve((error as ZtnaError).code))
          socket.on('end', () => resolve('end')).resume()
        }),
      (error: ZtnaError) => error.code,
    )
    expect(outcome).toBe('ERR_ZTNA_STREAM_RESET')
  }
})

function withTrailers(stream: ServerHttp2Stream): void {
  stream.respond({}, { waitForTrailers: true })
  stream.once('wantTrailers', () => stream.sendTrailers({ 'x-sum': '1' })).end('body')
}

/** How the answer to these bytes ends: the code of a failure, or what came. */
function ending(to: string, bytes: string): Promise<string> {
  return lab.exchange(to, bytes).catch(({ code }: ZtnaError) => code)
}
