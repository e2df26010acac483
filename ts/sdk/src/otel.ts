/**
 * Spans and trace context, where the program has `@opentelemetry/api`: an optional peer, and all of OpenTelemetry that is used. Without it nothing
 * here does anything.
 */
import { createRequire } from 'node:module'
import type * as api from '@opentelemetry/api'
import type { ZtnaError } from './errors.js'
import type { Asked } from './ops.js'
import { ztnaErrorOf } from './system-error.js'
import type { PathKind } from './types.js'

/** Scope of the spans. */
const SCOPE = '@ztna/sdk'
/** What a version 00 says, and later ones too at the same places (W3C Trace Context, level 1, §3.2.2 and §4.3). */
const PARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})/

/** The span of a flow being opened. */
export interface ConnectSpan {
  /** What the connector is told. */
  readonly traceparent: string | undefined
  /** The flow is open. */
  connected(port: number, peer: string, path: PathKind): void
  /** It came to nothing. */
  failed(error: ZtnaError): void
}

/** The span of a flow that a handler has. */
export interface ServeSpan {
  /** The flow or its handler has failed; the first counts. */
  readonly failed: (error: unknown) => void
  /** The flow has ended. */
  readonly ended: () => void
}

/** A flow that came in. */
export interface ServedFlow extends Asked {
  /** Name of the agent. */
  readonly peer: string
  /** How it travels. */
  readonly path: PathKind
  /** What the agent sent. */
  readonly traceparent: string | undefined
}

let loaded: typeof api | null | undefined

/** The program's copy of the API, looked for once. All copies of one major version share what was registered with any of them. */
export function tracing(): typeof api | null {
  if (loaded === undefined) {
    try {
      loaded = createRequire(import.meta.url)('@opentelemetry/api') as typeof api
    } catch {
      loaded = null
    }
  }
  return loaded
}

/**
 * Begins a span `ztna connect` in the active context. `given`: the caller's own trace context, which is then the parent and is sent as it is. Undefined:
 * there is no API, and `given` is all there is to send.
 */
export function connectSpan(asked: Asked, given: string | undefined): ConnectSpan | undefined {
  const otel = tracing()
  if (otel === null) return undefined
  const active = otel.context.active()
  const parent = given === undefined ? active : withParent(otel, active, given)
  const { CLIENT: kind } = otel.SpanKind
  const span = otel.trace.getTracer(SCOPE).startSpan('ztna connect', { kind, attributes: attributesOf(asked) }, parent)
  return {
    traceparent: given ?? traceparentOf(otel, span.spanContext()),
    connected(port, peer, path) {
      span.setAttributes({ 'ztna.port': port, 'ztna.peer': peer, 'ztna.path': path })
      span.end()
    },
    failed: (error) => end(otel, span, error),
  }
}

/** Runs `hand` with a span `ztna serve` active, whose parent is what the agent sent, and nothing that happens to be active here. */
export function inServeSpan(flow: ServedFlow, hand: (span: ServeSpan | undefined) => void): void {
  const otel = tracing()
  if (otel === null) return hand(undefined)
  const { ROOT_CONTEXT: root } = otel
  const parent = flow.traceparent === undefined ? root : withParent(otel, root, flow.traceparent)
  const attributes = { ...attributesOf(flow), 'ztna.peer': flow.peer, 'ztna.path': flow.path }
  const { SERVER: kind } = otel.SpanKind
  const span = otel.trace.getTracer(SCOPE).startSpan('ztna serve', { kind, attributes }, parent)
  let failure: unknown
  const failed = (error: unknown): void => void (failure ??= error)
  const ended = (): void => end(otel, span, failure)
  otel.context.with(otel.trace.setSpan(parent, span), () => {
    try {
      hand({ failed, ended })
    } catch (error) {
      failed(error)
      ended()
      throw error
    }
  })
}

function attributesOf({ service, port, protocol }: Asked): api.Attributes {
  return {
    'ztna.service': service,
    ...(port === undefined ? {} : { 'ztna.port': port }),
    ...(protocol === undefined ? {} : { 'network.transport': protocol }),
  }
}

const DENIAL = { decisionId: 'ztna.decision_id', policyId: 'ztna.policy_id', by: 'ztna.denied_by' } as const

// The code says what happened; the message stays here, as it may name addresses that are nobody's business where traces go.
function end(otel: typeof api, span: api.Span, failure: unknown): void {
  if (failure !== undefined) {
    // What a served library heard has ours as its cause.
    const { code, name, details } = (ztnaErrorOf(failure) ?? failure) as {
      code?: unknown
      name?: unknown
      details?: Readonly<Record<string, unknown>>
    }
    span.setAttribute('error.type', String(code ?? name))
    span.setStatus({ code: otel.SpanStatusCode.ERROR })
    for (const [of, attribute] of code === 'ERR_ZTNA_DENIED' ? Object.entries(DENIAL) : []) {
      const value = details?.[of]
      if (typeof value === 'string') span.setAttribute(attribute, value)
    }
  }
  span.end()
}

// By hand, not by the registered propagator: `traceparent` alone travels, whatever format the program uses elsewhere.
function withParent(otel: typeof api, context: api.Context, traceparent: string): api.Context {
  const [, traceId = '', spanId = '', flags = '00'] = PARENT.exec(traceparent) ?? []
  const remote = { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true }
  return otel.isSpanContextValid(remote) ? otel.trace.setSpanContext(context, remote) : context
}

function traceparentOf(otel: typeof api, span: api.SpanContext): string | undefined {
  if (!otel.isSpanContextValid(span)) return undefined
  return `00-${span.traceId}-${span.spanId}-${(span.traceFlags & 0xff).toString(16).padStart(2, '0')}`
}
