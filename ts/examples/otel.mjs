// One trace from a caller through the tunnel to the handler: node otel.mjs   (no trust folder, no root, no collector)
import { createServer } from 'node:http'
import { context, SpanKind, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { ZtnaAgent, ZtnaConnector } from '@ztna/sdk'
import { createTestNetwork } from '@ztna/sdk/testing'

// As in any program with OpenTelemetry; the SDK finds what is registered by itself.
const spans = new InMemorySpanExporter()
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }))
const tracer = trace.getTracer('example')

const net = await createTestNetwork({
  agents: { alice: {} },
  services: { web: { tcp: [80] }, locked: { tcp: [80] } },
  policy: '@id("open") permit(principal, action, resource == Service::"web");',
})
try {
  const connector = await new ZtnaConnector(net.connector('c1')).start()
  const server = createServer((request, response) => {
    // Active here: `ztna serve`, whose parent is the caller's `ztna connect`.
    tracer.startActiveSpan('greet', (span) => {
      // `ztna serve` lasts as long as its flow: not kept alive, that ends with the answer.
      response.setHeader('connection', 'close').end('hello')
      span.end()
    })
  })
  await connector.serve('web', { http: server })

  const agent = await new ZtnaAgent(net.agent('alice')).start()
  await tracer.startActiveSpan('order', async (span) => {
    await (await agent.fetch('http://web.ztna.internal/')).text()
    await agent.connect('locked').catch(() => {})
    span.end()
  })
  await agent.close()
  await connector.close()
} finally {
  await net.close()
}

// A span has ended when its flow has: each is printed below its parent.
const finished = spans.getFinishedSpans().toSorted((a, b) => a.startTime[0] - b.startTime[0] || a.startTime[1] - b.startTime[1])
function show(parent, indent) {
  for (const span of finished.filter((each) => each.parentSpanContext?.spanId === parent)) {
    const { 'ztna.service': service, 'ztna.peer': peer, 'error.type': error } = span.attributes
    console.log([`${indent}${span.name}`, SpanKind[span.kind], service, peer, error].filter(Boolean).join(' '))
    show(span.spanContext().spanId, `${indent}  `)
  }
}
show(undefined, '')
console.log(`traces: ${new Set(finished.map((span) => span.spanContext().traceId)).size}`)
