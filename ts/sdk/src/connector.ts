/** The connector: sits beside private services and takes flows out of the tunnel. */
import { countOf, functionOf, optionsOf } from './arguments.js'
import { ZtnaDeniedError, ZtnaError, aborted, fromNative } from './errors.js'
import type { Finding } from './doctor/check.js'
import { checkBound, checkReloaded, checkServed } from './doctor/running.js'
import { listFlows } from './flow-list.js'
import type { FlowInfo } from './flows.js'
import { type Handler, toSink } from './handlers.js'
import { type NativeRole, whileRunning } from './native.js'
import { timeoutOf } from './ops.js'
import { type NodeEvents, ZtnaNode } from './node.js'
import { NODE_OPTIONS, type NodeOptions } from './node-options.js'
import { type ConnectorStatus, toConnectorStatus } from './node-status.js'
import { type NativeEvent, roleOptionsOf } from './role.js'
import { NativeServed, type Served } from './served.js'
import { ServiceFlows } from './service-flows.js'
import { type StreamInfo, discard } from './socket.js'
import { type StaticService, staticServicesOf } from './static-service.js'
import { checkPort, checkService } from './target.js'
import { type Cancel, type Identity, type NativeIdentity, type NativePath, type PathInfo, toIdentity, toPath } from './types.js'

/** Events of a connector. */
export type ConnectorEvents = NodeEvents & {
  /** A flow was permitted and is being opened. */
  flow: [flow: OpenedFlow]
  /** A flow was refused; the peer is absent when nobody was identified. */
  denied: [error: ZtnaDeniedError, peer: Identity | undefined]
}

/** A flow that a connector lets in. */
export interface OpenedFlow {
  /** Joins this event with log lines. */
  readonly id: string
  /** Who opened it. */
  readonly peer: Identity
  /** Name of the service. */
  readonly service: string
  /** Of the flow. */
  readonly protocol: 'tcp' | 'udp' | 'icmp'
}

/** Judges a flow that policy has permitted. */
export type Authorize = (
  peer: Identity,
  flow: { readonly service: string; readonly port: number; readonly path: PathInfo },
) => boolean | Promise<boolean>

/** How to make a connector. */
export interface ConnectorOptions extends NodeOptions {
  /** Can only narrow what policy allows; a throw, a rejection or 5 s without an answer is a denial. */
  authorize?: Authorize
  /** Services that need no handler in this process. */
  services?: readonly StaticService[]
}

export interface ServeOptions extends Cancel {
  /** Needed when the service has several ports of the handler's protocol. */
  port?: number
  /** More are answered with ERR_ZTNA_LIMIT. Default: the flow limit of the connection. */
  maxConnections?: number
}

/** Time `authorize` has, milliseconds. */
const AUTHORIZE_MS = 5_000

/** Serves private services: Node handlers by `serve()`, anything else by a target it dials. Needs no root and no open port. */
export class ZtnaConnector extends ZtnaNode<ConnectorEvents> {
  readonly #authorize: Authorize | undefined
  readonly #static: readonly StaticService[]
  readonly #services = new Map<number, ServiceFlows>()
  // Flows may arrive before the promise that tells their number: they wait for the calls in flight.
  #serving: Promise<unknown>[] = []

  constructor(given: ConnectorOptions = {}) {
    const options = roleOptionsOf('connector', given, ['authorize', 'services', ...NODE_OPTIONS])
    super('connector', options)
    if (options.authorize !== undefined) functionOf(options.authorize, 'authorize', 'a function')
    this.#authorize = options.authorize
    this.#static = staticServicesOf(options.services)
  }

  /** Serves `service` from now on. Errors: ERR_ZTNA_CONFIG, CLOSED, ABORTED. */
  serve(service: string, handler: Handler, options: ServeOptions = {}): Promise<Served> {
    return this.telling(() => this.#serve(service, handler, options))
  }

  async #serve(service: string, handler: Handler, given: ServeOptions): Promise<Served> {
    checkService(service)
    const options = optionsOf(given, 'options of serve()', ['port', 'maxConnections', 'signal', 'timeoutMs'])
    timeoutOf(options, Infinity)
    if (options.port !== undefined) checkPort(options.port, service)
    const most = countOf(options.maxConnections, 'maxConnections')
    if (options.signal?.aborted) throw aborted(options.signal)
    const onFailed = (error: unknown): void => this.#onHandlerFailed(service, error)
    const sink = toSink(handler, onFailed)
    const role = this.running()
    const request = JSON.stringify({
      service,
      port: options.port ?? null,
      protocol: sink.kind === 'target' ? sink.protocol : sink.kind,
      target: sink.kind === 'target' ? sink.target : null,
      maxConnections: most ?? null,
    })
    const flows = new ServiceFlows(service, sink, this.flows, onFailed)
    const call = role.serve(request).then((id) => {
      this.#services.set(id, flows)
      return id
    })
    this.#serving.push(call)
    try {
      const id = await call
      const served = new NativeServed(flows, role, id, () => this.#services.delete(id))
      if (!options.signal?.aborted) return served
      await served.close({ drainMs: 0 })
    } catch (error) {
      throw fromNative(error)
    } finally {
      this.#serving = this.#serving.filter((other) => other !== call)
    }
    throw aborted(options.signal)
  }

  /** Relays, services and the certificate now. Errors: ERR_ZTNA_CLOSED when not running. */
  status(): ConnectorStatus {
    return toConnectorStatus(this.nativeStatus(), this.ask(listFlows))
  }

  /** @internal */
  override async examine(_cancel: Cancel, version: number | undefined): Promise<readonly Finding[]> {
    const { version: inForce, folderUnreadableSince, relays, name } = this.status()
    const { services } = await this.network()
    const given = services.filter(({ connectors }) => connectors.includes(name))
    const served = new Set([...this.#static, ...this.#services.values()].map(({ service }) => service))
    return [...checkReloaded(inForce, version, folderUnreadableSince), ...checkBound(relays), ...checkServed(given, served)]
  }

  /** @internal */
  protected override nativeOptions(): Record<string, unknown> {
    return { ...super.nativeOptions(), services: this.#static, authorize: this.#authorize !== undefined }
  }

  /** @internal */
  protected override onNative(event: NativeEvent, role: NativeRole): void {
    switch (event.event) {
      case 'flow': {
        const flow = event as unknown as {
          id: string
          peer: NativeIdentity
          service: string
          protocol: 'tcp' | 'udp' | 'icmp'
        }
        const { id, service, protocol } = flow
        return this.fire('flow', { id, peer: toIdentity(flow.peer), service, protocol })
      }
      case 'denied': {
        const error = fromNative(event['error'])
        const peer = event['peer'] as NativeIdentity | null | undefined
        if (error instanceof ZtnaDeniedError) this.fire('denied', error, peer ? toIdentity(peer) : undefined)
        return
      }
      case 'incoming':
        return this.#onIncoming(role, event as unknown as StreamInfo & { serve: number })
      case 'incoming-datagram':
        return this.#onIncomingDatagram(role, event as unknown as FlowInfo & { flow: number; serve: number })
      case 'authorize':
        return void this.#onAuthorize(role, event)
      default:
        return super.onNative(event, role)
    }
  }

  /** @internal */
  protected override onDraining(): void {
    for (const service of this.#services.values()) service.drain()
  }

  /** @internal */
  protected override onEnded(why: ZtnaError): void {
    super.onEnded(why)
    for (const service of this.#services.values()) service.close()
    this.#services.clear()
  }

  #withService(id: number, take: (service: ServiceFlows | undefined) => void): void {
    const known = this.#services.get(id)
    if (known !== undefined || this.#serving.length === 0) return take(known)
    const opened = this.flows.opening()
    Promise.allSettled(this.#serving)
      .then(() => take(this.#services.get(id)))
      // The flow may have ended meanwhile.
      .catch((error: unknown) => this.warn(fromNative(error)))
      .finally(opened)
  }

  #onIncoming(role: NativeRole, flow: StreamInfo & { serve: number }): void {
    this.#withService(flow.serve, (service) => {
      if (service === undefined) discard(role, flow)
      else service.takeStream(role, flow)
    })
  }

  #onIncomingDatagram(role: NativeRole, flow: FlowInfo & { flow: number; serve: number }): void {
    this.#withService(flow.serve, (service) => {
      if (service === undefined) whileRunning(() => role.flowReset(flow.flow))
      else service.takeDatagram(role, flow)
    })
  }

  #onHandlerFailed(service: string, error: unknown): void {
    const why = fromNative(error)
    const message = `the handler of service \`${service}\` threw: ${why.message}`
    this.warn(new ZtnaError(why.code, message, { cause: error, details: { service } }))
  }

  async #onAuthorize(role: NativeRole, event: NativeEvent): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    let allow = false
    try {
      const late = new Promise<boolean>((resolve) => {
        timer = setTimeout(() => resolve(false), AUTHORIZE_MS)
      })
      const flow = {
        service: String(event['service']),
        port: Number(event['port']),
        path: toPath(event['path'] as NativePath),
      }
      const answer = this.#authorize?.(toIdentity(event['peer'] as NativeIdentity), flow) ?? false
      // Whatever its type says: in JavaScript it may be anything.
      const verdict: unknown = await Promise.race([answer, late])
      allow = verdict === true
    } catch (error) {
      this.warn(fromNative(error))
    } finally {
      clearTimeout(timer)
    }
    whileRunning(() => role.authorizeReply(event['flow'] as number, allow))
  }
}
