import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createHttps } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as grpc from '@grpc/grpc-js'
import { WebSocket, WebSocketServer } from 'ws'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ZtnaDeniedError, identityOf, ztnaErrorOf } from '@ztna/sdk'
import { selfSigned } from '../lib/self-signed.ts'
import { Outside, Zone } from '../lib/zone.ts'

let zone: Zone
let outside: Outside
let dir: string
let ca: string
let server: grpc.Server

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'ztna-clients-'))
  zone = await Zone.create({ chat: [80, 443], rpc: [50_051] })
  outside = await Outside.create()
  const tls = await selfSigned('chat.ztna.internal')
  ca = tls.cert
  for (const [port, http] of [
    [80, createServer()],
    [443, createHttps(tls)],
  ] as const) {
    new WebSocketServer({ server: http }).on('connection', (socket, request) => {
      socket.on('message', (message, isBinary) =>
        socket.send(Buffer.concat([Buffer.from(isBinary ? '' : `${identityOf(request).name}: `), message as Buffer])),
      )
    })
    await zone.connector.serve('chat', { http }, { port })
  }
  server = new grpc.Server()
  server.addService(METHODS, {
    Echo: ((call, done) => done(null, call.request)) satisfies grpc.handleUnaryCall<Buffer, Buffer>,
    Count: ((call) => {
      for (let i = 0; i < 1_000; i += 1) call.write(Buffer.from(String(i)))
      call.end()
    }) satisfies grpc.handleServerStreamingCall<Buffer, Buffer>,
  })
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${dir}/server.sock`, grpc.ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())),
  )
  await zone.connector.serve('rpc', { target: `unix:${dir}/server.sock` })
})
afterAll(async () => {
  server?.forceShutdown()
  outside?.[Symbol.dispose]()
  await zone?.[Symbol.asyncDispose]()
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true })
})

const bytes = { requestSerialize: own, requestDeserialize: own, responseSerialize: own, responseDeserialize: own }
const METHODS: grpc.ServiceDefinition = {
  Echo: { path: '/test.Test/Echo', requestStream: false, responseStream: false, ...bytes },
  Count: { path: '/test.Test/Count', requestStream: false, responseStream: true, ...bytes },
}
function own(message: Buffer): Buffer {
  return message
}

test('ws speaks over the tunnel by an agent, with TLS of the service too, and by createConnection', async () => {
  for (const open of [
    () => new WebSocket('ws://chat.ztna.internal/', { agent: zone.agent.httpAgent() }),
    () => new WebSocket('wss://chat.ztna.internal/', { agent: zone.agent.httpsAgent({ ca }) }),
    () => new WebSocket('ws://chat.ztna.internal/', { createConnection: () => zone.agent.createConnection('chat:80') }),
  ]) {
    const socket = open()
    await once(socket, 'open')
    socket.send('hello')
    expect(String((await once(socket, 'message'))[0])).toBe('alice: hello')
    const large = Buffer.alloc(3_000_000, 7)
    socket.send(large)
    expect(((await once(socket, 'message'))[0] as Buffer).equals(large)).toBe(true)
    socket.close()
    await once(socket, 'close')
  }
})

test('ws is refused outside the zone and where policy says no, and meets ECONNREFUSED of a service that refuses', async () => {
  const { agent } = zone
  const failed = async (socket: WebSocket): Promise<unknown> => (await once(socket, 'error'))[0]
  for (const open of [
    () => new WebSocket(`ws://127.0.0.1:${outside.port}/`, { agent: agent.httpAgent() }),
    () => new WebSocket(`wss://127.0.0.1:${outside.port}/`, { agent: agent.httpsAgent() }),
    () => new WebSocket('ws://locked.ztna.internal/', { agent: agent.httpAgent() }),
    () => new WebSocket('ws://locked.ztna.internal/', { createConnection: () => agent.createConnection('locked:80') }),
    () => new WebSocket(`ws://127.0.0.1:${outside.port}/`, { createConnection: () => agent.createConnection('elsewhere:80') }),
  ]) {
    const error = await failed(open())
    expect(error).toBeInstanceOf(ZtnaDeniedError)
    expect(outside.dialled).toBe(0)
  }
  const refused = await failed(new WebSocket('ws://refused.ztna.internal/', { agent: agent.httpAgent() }))
  expect(refused).toMatchObject({ code: 'ECONNREFUSED' })
  expect(ztnaErrorOf(refused)?.code).toBe('ERR_ZTNA_REFUSED')
})

test('gRPC runs through a forward on a unix socket, unary calls and a stream, all on one connection', async () => {
  const unix = join(dir, 'forward.sock')
  await using forward = await zone.agent.forward({ service: 'rpc', listen: { unix } })
  const client = new grpc.Client(`unix:${unix}`, grpc.credentials.createInsecure())
  const echo = (message: Buffer): Promise<Buffer> =>
    new Promise((resolve, reject) =>
      client.makeUnaryRequest('/test.Test/Echo', own, own, message, (error, answer) => (error ? reject(error) : resolve(answer as Buffer))),
    )
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => echo(Buffer.alloc(20_000, i))))
  expect(answers.every((answer, i) => answer.equals(Buffer.alloc(20_000, i)))).toBe(true)
  const counted: number[] = []
  for await (const each of client.makeServerStreamRequest('/test.Test/Count', own, own, Buffer.alloc(0))) counted.push(Number(each))
  expect(counted).toEqual(Array.from({ length: 1_000 }, (_, i) => i))
  expect(forward.connections).toBe(1)
  client.close()
})

test('a gRPC call to a service that policy refuses is UNAVAILABLE, and to one that does not exist there is no forward', async () => {
  const unix = join(dir, 'locked.sock')
  await using _forward = await zone.agent.forward({ service: 'locked', port: 80, listen: { unix } })
  const client = new grpc.Client(`unix:${unix}`, grpc.credentials.createInsecure())
  const denied = once(zone.agent, 'denied')
  const error = await new Promise<grpc.ServiceError | null>((resolve) =>
    client.makeUnaryRequest('/test.Test/Echo', own, own, Buffer.alloc(1), { deadline: Date.now() + 10_000 }, (failure) => resolve(failure)),
  )
  expect(error?.code).toBe(grpc.status.UNAVAILABLE)
  expect((await denied)[0]).toBeInstanceOf(ZtnaDeniedError)
  client.close()
  const elsewhere = zone.agent.forward({ service: 'elsewhere', listen: { unix: join(dir, 'none.sock') } })
  await expect(elsewhere).rejects.toMatchObject({ code: 'ERR_ZTNA_CONFIG' })
})
