import { once } from 'node:events'
import { createServer, get } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { SpanKind, type SpanOptions, SpanStatusCode, context, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { BasicTracerProvider, InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { ZtnaAgent, ZtnaConnector, type ZtnaSocket } from '../src/index.js'
import { setNative } from '../src/native.js'
import { type TestNetwork, createTestNetwork } from '../src/testing.js'

const exporter = new InMemorySpanExporter()
const tracer = trace.getTracer('the program')
const TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

let net: TestNetwork
let agent: ZtnaAgent
let connector: ZtnaConnector
const handled: { traceparent: string | undefined; active: string | undefined; inData: string | undefined }[] = []

beforeAll(async () => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
  setNative(undefined)
  net = await createTestNetwork({
    services: { echo: { tcp: [7], udp: [7] }, web: { tcp: [80] }, locked: { tcp: [1] }, failing: { tcp: [2] } },
    policy: POLICY,
  })
  agent = await new ZtnaAgent(net.agent('alice')).start()
  // What is active while a connector starts has nothing to do with the flows that come later.
  connector = await within('start', () => new ZtnaConnector(net.connector('c1')).start())
  await within('serve', async () => {
    await connector.serve('echo', { socket: echo })
    await connector.serve('echo', {
      udp: (socket) => socket.on('message', (message) => socket.send([message, Buffer.from(`${socket.traceparent} ${active()?.traceId}`)])),
    })
    await connector.serve('web', { http: createServer((_request, response) => response.end(active()?.traceId)) })
  })
})
afterAll(() => net.close())
beforeEach(() => {
  exporter.reset()
  handled.length = 0
})

const POLICY = `@id("no") forbid(principal, action, resource == Service::"locked");
permit(principal, action, resource);`

test('one trace leads from the active span through connect to the handler and what it does', async () => {
  const traceId = await within('work', async () => {
    await roundTrip(await agent.connect('echo:7'))
    return active()?.traceId
  })
  await spans(4)
  const [work, out, served, own] = [named('work'), named('ztna connect'), named('ztna serve'), named('handler')]
  expect(new Set([work, out, served, own].map((span) => span.spanContext().traceId))).toEqual(new Set([traceId]))
  expect([out, served, own].map((span) => span.parentSpanContext?.spanId)).toEqual(
    [work, out, served].map((span) => span.spanContext().spanId),
  )
  const attributes = {
    'ztna.service': 'echo',
    'ztna.port': 7,
    'network.transport': 'tcp',
    'ztna.path': expect.stringMatching(/relay|direct/) as string,
  }
  expect(out).toMatchObject({ kind: SpanKind.CLIENT, attributes: { ...attributes, 'ztna.peer': 'c1' } })
  expect(served).toMatchObject({ kind: SpanKind.SERVER, attributes: { ...attributes, 'ztna.peer': 'alice' } })
  expect(handled).toEqual([{ traceparent: `00-${traceId}-${out.spanContext().spanId}-01`, active: traceId, inData: traceId }])
})

test('a caller that gives a trace context has it sent as it is, whatever is active', async () => {
  await within('work', async () => roundTrip(await agent.connect({ service: 'echo', port: 7, traceparent: TRACE })))
  await spans(4)
  expect(handled).toMatchObject([{ traceparent: TRACE, active: TRACE.slice(3, 35), inData: TRACE.slice(3, 35) }])
  for (const name of ['ztna connect', 'ztna serve']) expect(named(name).parentSpanContext?.spanId).toBe(TRACE.slice(36, 52))
})

test('a flow that nobody traces begins a trace of its own on each occasion', async () => {
  for (const _ of [1, 2]) await roundTrip(await agent.connect('echo:7'))
  await spans(6)
  expect(new Set(exporter.getFinishedSpans().map((span) => span.spanContext().traceId)).size).toBe(2)
})

test('what comes by a forward is served in a trace that begins there', async () => {
  await using forward = await agent.forward({ service: 'echo', port: 7, listen: {} })
  const socket = connect((forward.address() as AddressInfo).port)
  socket.end('x')
  await once(socket.resume(), 'close')
  await spans(2)
  expect(named('ztna serve').parentSpanContext).toBeUndefined()
  expect(handled[0]?.traceparent).toBeUndefined()
})

test('createConnection, datagram, fetch and httpAgent carry the active span', async () => {
  const ids = await within('work', async () => {
    const own = active()?.traceId
    const socket = agent.createConnection('echo:7')
    await once(socket, 'connect')
    await roundTrip(socket)
    const udp = await agent.datagram('echo:7')
    udp.send(Buffer.from('x'))
    const heard: string[] = []
    for await (const message of udp) if (heard.push(Buffer.from(message).toString()) === 2) break
    const fetched = await (await agent.fetch('http://web.ztna.internal/')).text()
    const got = await new Promise<string>((resolve, reject) => {
      get('http://web.ztna.internal/', { agent: agent.httpAgent() }, (response) => {
        response.once('data', (chunk: Buffer) => resolve(chunk.toString()))
      }).once('error', reject)
    })
    return { own, heard: heard[1]?.split(/[- ]/), fetched, got }
  })
  expect(handled[0]?.active).toBe(ids.own)
  expect([ids.heard?.[1], ids.heard?.[4], ids.fetched, ids.got]).toEqual([ids.own, ids.own, ids.own, ids.own])
})

test('a refusal is in its span by code and by the IDs of the decision and policy, without the message', async () => {
  const error = await agent.connect('locked:1').catch((e: unknown) => e as { decisionId: string; by: string; message: string })
  const span = named('ztna connect')
  expect(span.status).toEqual({ code: SpanStatusCode.ERROR })
  const { decisionId, by, message } = error as Exclude<typeof error, ZtnaSocket>
  expect(span.attributes).toMatchObject({
    'error.type': 'ERR_ZTNA_DENIED',
    'ztna.service': 'locked',
    'ztna.decision_id': decisionId,
    'ztna.denied_by': by,
    'ztna.policy_id': 'no',
  })
  expect(JSON.stringify([span.attributes, span.status, span.events])).not.toContain(message)
})

test('a flow that its agent resets ends its span with the code of a reset', async () => {
  const socket = await agent.connect('echo:7')
  socket.write('x')
  await once(socket, 'data')
  socket.reset()
  await spans(3)
  expect(named('ztna serve')).toMatchObject({
    attributes: { 'error.type': 'ERR_ZTNA_STREAM_RESET' },
    status: { code: SpanStatusCode.ERROR },
  })
})

test('a handler that fails is in its span by the kind of what it threw', async () => {
  const served = await connector.serve('failing', {
    socket: async (socket) => {
      await once(socket, 'data')
      throw new RangeError('secret')
    },
  })
  const socket = await agent.connect('failing')
  socket.write('x')
  await expect(once(socket.resume(), 'end')).rejects.toMatchObject({ code: 'ERR_ZTNA_STREAM_RESET' })
  await spans(2)
  expect(named('ztna serve')).toMatchObject({ attributes: { 'error.type': 'RangeError' }, status: { code: SpanStatusCode.ERROR } })
  expect(JSON.stringify(named('ztna serve').attributes)).not.toContain('secret')
  await served.close({ drainMs: 0 })
})

test('an aborted connect ends its span', async () => {
  const signal = AbortSignal.abort()
  await expect(agent.connect({ service: 'echo', port: 7, signal })).rejects.toMatchObject({ code: 'ERR_ZTNA_ABORTED' })
  expect(named('ztna connect').attributes).toMatchObject({ 'error.type': 'ERR_ZTNA_ABORTED' })
})

function echo(socket: ZtnaSocket): void {
  const at = handled.push({ traceparent: socket.traceparent, active: active()?.traceId, inData: undefined }) - 1
  tracer.startSpan('handler').end()
  socket.once('data', () => {
    const record = handled[at]
    if (record !== undefined) record.inData = active()?.traceId
  })
  socket.pipe(socket)
}

async function roundTrip(socket: ZtnaSocket): Promise<void> {
  socket.end('hello')
  await once(socket.resume(), 'close')
}

function active(): { traceId: string; spanId: string } | undefined {
  return trace.getActiveSpan()?.spanContext()
}

function within<T>(name: string, work: () => Promise<T>): Promise<T> {
  return tracer.startActiveSpan(name, {} satisfies SpanOptions, async (span) => {
    try {
      return await work()
    } finally {
      span.end()
    }
  })
}

async function spans(count: number): Promise<void> {
  await expect.poll(() => exporter.getFinishedSpans().map(({ name }) => name)).toHaveLength(count)
}

function named(name: string): ReadableSpan {
  const found = exporter.getFinishedSpans().find((span) => span.name === name)
  if (found === undefined) throw new Error(`no span ${name}`)
  return found
}
