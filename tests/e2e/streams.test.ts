import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer as createHttps } from 'node:https'
import { connect as h2connect, createSecureServer } from 'node:http2'
import { Readable } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { type TLSSocket, connect as tlsConnect, createServer as createTls } from 'node:tls'
import express from 'express'
import { rateLimit } from 'express-rate-limit'
import morgan from 'morgan'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { ZtnaError, ZtnaSocket } from '@ztna/sdk'
import { selfSigned } from '../lib/self-signed.ts'
import { Zone } from '../lib/zone.ts'

// What programs do with a net.Socket, done with a flow.
let zone: Zone
let tls: { readonly cert: string; readonly key: string }
const logged: string[] = []

beforeAll(async () => {
  zone = await Zone.create({ echo: [7], web: [80], secure: [443], h2: [443] })
  tls = await selfSigned('secure.ztna.internal')
  await zone.connector.serve('echo', { socket: (socket) => void socket.on('error', () => {}).pipe(socket) })
  const app = express()
    .use(morgan(':remote-addr :method :url :status', { stream: { write: (line) => void logged.push(line) } }))
    .use(rateLimit({ windowMs: 60_000, limit: 2, validate: true }))
    .get('/', (request, response) => void response.json({ ip: request.ip }))
  await zone.connector.serve('web', { http: app })
  const secure = createHttps(tls, (request, response) => response.end(String(request.socket.remoteAddress)))
  await zone.connector.serve('secure', { http: secure })
  const h2 = createSecureServer(tls, (request, response) => response.end(`${request.stream.session?.alpnProtocol}`))
  await zone.connector.serve('h2', { http: h2 })
})
afterAll(() => zone?.[Symbol.asyncDispose]())

const trusting = (socket: ZtnaSocket, ALPNProtocols: string[] = []): TLSSocket =>
  tlsConnect({ socket, ca: tls.cert, servername: 'secure.ztna.internal', ALPNProtocols })

test('pipeline carries a stream both ways to its end, and to an error when its source fails', async () => {
  const socket = await zone.agent.connect({ service: 'echo', allowHalfOpen: true })
  const parts = Array.from({ length: 40 }, (_, i) => Buffer.alloc(100_000, i))
  const [received] = await Promise.all([buffer(socket), pipeline(Readable.from(parts), socket)])
  expect(received.equals(Buffer.concat(parts))).toBe(true)
  const other = await zone.agent.connect('echo')
  const failing = new Readable({ read() {} })
  const piped = pipeline(failing, other)
  failing.destroy(new Error('the source has failed'))
  await expect(piped).rejects.toThrow('the source has failed')
  expect(other.destroyed).toBe(true)
})

test('setTimeout tells of an idle socket, and of a busy one it does not', async () => {
  await using socket = await zone.agent.connect('echo')
  socket.resume()
  let idle = 0
  socket.setTimeout(1_000, () => (idle += 1))
  for (let i = 0; i < 20; i += 1) {
    socket.write('busy')
    await new Promise((resolve) => setTimeout(resolve, 60))
  }
  expect(idle).toBe(0)
  await once(socket, 'timeout')
  expect(socket.destroyed).toBe(false)
  socket.setTimeout(0)
})

test('await using destroys a socket, and its flow ends', async () => {
  let kept: ZtnaSocket
  const before = zone.agent.stats().flows.tcp
  {
    await using socket = await zone.agent.connect('echo')
    kept = socket
    socket.resume().write('x')
    expect(zone.agent.stats().flows.tcp).toBe(before + 1)
  }
  expect(kept.destroyed).toBe(true)
  await expect.poll(() => zone.agent.stats().flows.tcp).toBeLessThanOrEqual(before)
})

test('TLS runs over a connected socket and over one that connects, and knows the address of its peer', async () => {
  for (const connecting of [false, true]) {
    const socket = connecting ? zone.agent.createConnection('secure') : await zone.agent.connect('secure')
    expect(socket.connecting).toBe(connecting)
    const session = trusting(socket)
    await once(session, 'secureConnect')
    expect(session.authorized).toBe(true)
    expect(session.remoteAddress).toMatch(/^fd/)
    expect(session).toMatchObject({ remoteAddress: socket.remoteAddress, remotePort: socket.remotePort, remoteFamily: 'IPv6' })
    session.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    // The server knows the caller's address likewise.
    expect(await text(session)).toMatch(/\r\n\r\nfd[0-9a-f:]+$/)
  }
})

test('a reset under TLS is an error of the TLS socket, never a clean end, and ends nothing else', async () => {
  await using own = await Zone.create({ secure: [443] })
  const taken: ZtnaSocket[] = []
  const server = createTls(tls, (socket) => socket.on('error', () => {}).pipe(socket))
  await own.connector.serve('secure', {
    socket(socket) {
      taken.push(socket)
      server.emit('connection', socket)
    },
  })
  for (const [code, open] of [
    ['ERR_ZTNA_STREAM_RESET', () => own.agent.connect('secure')],
    ['ECONNRESET', () => own.agent.createConnection('secure')],
  ] as const) {
    const socket = open()
    const session = trusting(socket instanceof Promise ? await socket : socket)
    await once(session, 'secureConnect')
    session.write('x')
    await once(session, 'data')
    const failed = once(session, 'error')
    taken.at(-1)?.reset()
    expect((await failed)[0]).toMatchObject({ code })
  }
})

test('HTTP/2 is agreed on by ALPN in TLS over a socket, connected or connecting', async () => {
  for (const connecting of [false, true]) {
    const socket = connecting ? zone.agent.createConnection('h2') : await zone.agent.connect('h2')
    expect(socket.connecting).toBe(connecting)
    const session = h2connect('https://secure.ztna.internal', { createConnection: () => trusting(socket, ['h2']) })
    const stream = session.request({ ':path': '/' })
    expect(await text(stream)).toBe('h2')
    session.close()
    await once(session, 'close')
  }
})

test('morgan logs the address of the caller and express-rate-limit counts by it', async () => {
  const ask = async (): Promise<{ status: number; ip?: string }> => {
    const response = await zone.agent.fetch('http://web.ztna.internal/')
    return response.ok ? { status: response.status, ...((await response.json()) as { ip: string }) } : { status: response.status }
  }
  const first = await ask()
  expect(first.ip).toMatch(/^fd[0-9a-f:]+$/)
  expect([await ask(), await ask()]).toEqual([first, { status: 429 }])
  expect(logged).toEqual([200, 200, 429].map((status) => `${first.ip} GET / ${status}\n`))
})

test('connects that are aborted or time out at any moment leave no flow, no descriptor and no listener', async () => {
  await using own = await Zone.create({ echo: [7] })
  await own.connector.serve('echo', { socket: (socket) => void socket.on('error', () => {}).pipe(socket) })
  const { agent } = own
  const descriptors = (): number => readdirSync('/proc/self/fd').length
  const flows = (): number => agent.stats().flows.tcp + own.connector.stats().flows.tcp
  // The first one opens the connection.
  ;(await agent.connect('echo')).destroy()
  await expect.poll(flows).toBe(0)
  const before = descriptors()
  const long = new AbortController()
  const signals = new Counting()
  const next = lcg(7)
  const codes = new Set<string>()
  for (let round = 0; round < 30; round += 1) {
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        const after = next() * 12
        const byTimeout = next() < 0.4
        // One that lives longer than the calls it is given to would collect their listeners.
        const signal = signals.watch(long.signal)
        const given = new AbortController()
        const options = byTimeout ? { timeoutMs: after, signal } : { signal: signals.watch(given.signal) }
        const timer = byTimeout ? undefined : setTimeout(() => given.abort(), after)
        try {
          const socket = await agent.connect({ service: 'echo', ...options })
          socket.on('error', () => {})
          socket.destroy()
        } catch (error) {
          codes.add((error as ZtnaError).code)
        } finally {
          clearTimeout(timer)
        }
      }),
    )
  }
  expect([...codes].sort()).toEqual(['ERR_ZTNA_ABORTED', 'ERR_ZTNA_TIMEOUT'])
  await expect.poll(flows).toBe(0)
  await expect.poll(descriptors).toBeLessThanOrEqual(before)
  expect(signals.heard).toBeGreaterThanOrEqual(600)
  expect(signals.listeners).toBe(0)
})

/** Counts the listeners that are on signals. */
class Counting {
  /** Now, and ever. */
  listeners = 0
  heard = 0
  readonly #watched = new WeakSet<AbortSignal>()

  watch(signal: AbortSignal): AbortSignal {
    if (this.#watched.has(signal)) return signal
    this.#watched.add(signal)
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<AbortSignal['addEventListener']>): void => {
      this.heard += 1
      this.listeners += 1
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<AbortSignal['removeEventListener']>): void => {
      this.listeners -= 1
      remove(...args)
    }
    return signal
  }
}

/** Numbers from 0 to 1, the same for the same seed. */
function lcg(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
