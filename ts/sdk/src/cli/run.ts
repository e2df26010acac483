/** Runs one role as a process: from settings to exit code. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { ZtnaAgent } from '../agent.js'
import { ZtnaConnector } from '../connector.js'
import { type ZtnaError, configError, fromNative } from '../errors.js'
import { given } from '../given.js'
import { hostPort } from '../host-port.js'
import type { LogLevel, Logger } from '../logger.js'
import { bridged } from '../logger.js'
import { type RelayLimits, ZtnaRelay } from '../relay.js'
import type { NodeLimits } from '../node-options.js'
import { DRAIN_MS } from '../ops.js'
import type { RoleOptions } from '../role.js'
import type { Settings } from './config.js'
import type { AnyRole } from './answer.js'
import { EXIT, UsageError, exitCodeOf, exitCodeOfDeath } from './exit.js'
import { type HostPort, parseAddress, parseForward, parseListen, parseService } from './grammar.js'
import { type OperatorPorts, serveOperator } from './operator.js'
import { checkFolder, checkForward, ownNetwork, unserved } from './own-network.js'
import { createLogger, eventLine } from './output.js'
import { StartLine } from './start-line.js'
import { paintFor } from './style.js'
import { startWatchdog, tellReady, tellReloading, tellStopping } from './systemd.js'

/** Resolves with the exit code when the role has ended. Rejects with what is wrong in the settings, before anything has begun. */
export async function runRole(settings: Settings): Promise<number> {
  const level = (settings.text('log_level') ?? 'info') as LogLevel
  const startLine = new StartLine(process.stderr, paintFor(process.stderr))
  const logger = bridged(createLogger(settings.text('log_format'), startLine), level, {})
  for (const line of settings.overrides) logger.info({}, line)
  const wanted = readLocal(settings)
  const role = createRole(settings, { logger, logLevel: level })
  const folder = settings.text('network') ?? ''
  await checkFolder(folder, settings.source('network'))
  const network = await ownNetwork(folder)
  if (network !== undefined) for (const forward of wanted.forwards) checkForward(network, forward, settings.source('forward'))
  let lastWarning: string | undefined
  const events = role as NodeJS.EventEmitter
  events.on('warning', (error: ZtnaError) => (lastWarning = error.message))
  const begun = new Promise<void>((resolve) => events.once('identity', resolve))
  // Before the role comes online: it would take the place of the one that runs, and then have none itself.
  const ports = await serveOperator(role, settings, wanted.metrics, begun, logger, () => lastWarning)
  const cleanup = [ports.close]
  try {
    if (role instanceof ZtnaConnector && network !== undefined) {
      role.once('identity', ({ name }) => {
        const line = unserved(
          network,
          name,
          settings.list('service').map((text) => parseService(text)),
        )
        if (line !== undefined) logger.warn({}, line)
      })
    }
    if (settings.get('json') !== true) startLine.follow(role)
    return await operate(role, settings, wanted, ports, logger, startLine, cleanup)
  } catch (error) {
    startLine.end()
    const { code, message } = fromNative(error)
    logger.error({ code }, message)
    return exitCodeOf(error)
  } finally {
    startLine.end()
    await role.close({ drainMs: 0 })
    for (const undo of cleanup.toReversed()) undo()
  }
}

/** What the role is to offer on this machine. */
interface Wanted {
  readonly forwards: readonly ServiceForward[]
  readonly socks?: HostPort
  readonly metrics?: HostPort
}

type ServiceForward = ReturnType<typeof parseForward>[number]

function readLocal(settings: Settings): Wanted {
  const socks = settings.text('socks5')
  const metrics = settings.text('metrics')
  return {
    forwards: settings.list('forward').flatMap((text) => parseAs(settings, 'forward', text, parseForward)),
    ...(socks === undefined ? {} : { socks: parseAs(settings, 'socks5', socks, parseAddress) }),
    ...(metrics === undefined ? {} : { metrics: parseAs(settings, 'metrics', metrics, parseAddress) }),
  }
}

async function operate(
  role: AnyRole,
  settings: Settings,
  wanted: Wanted,
  ports: OperatorPorts,
  logger: Logger,
  startLine: StartLine,
  cleanup: (() => void)[],
): Promise<number> {
  const json = settings.get('json') === true
  const print = (value: unknown): boolean => process.stdout.write(`${JSON.stringify(value)}\n`)
  const events = role as NodeJS.EventEmitter
  const stopping = new AbortController()
  let death: ZtnaError | undefined
  let online = false
  const closed = new Promise<void>((resolve) => {
    events.on('state', (state: string) => {
      if (state === 'draining') tellStopping()
      if (state === 'closed') resolve()
    })
  })
  events.on('error', (error: ZtnaError) => (death = error))
  if (json) {
    const all = role.events() as AsyncIterable<{ type: string; args: unknown[] }>
    void (async () => {
      for await (const { type, args } of all) {
        if (!online || type === 'identity') continue
        // A reader that stalls holds back the bounded queue of events, which says how many it then dropped.
        if (!print(eventLine(type, args))) await once(process.stdout, 'drain')
      }
    })()
  }
  cleanup.push(onSignals(role, settings, logger, stopping))
  let local: Local | undefined
  const ready = new Promise<void>((resolve, reject) => {
    events.once('identity', () => {
      serveLocal(role, wanted).then((served) => {
        local = served
        resolve()
      }, reject)
    })
  })
  try {
    // No time limit: processes may come up in any order, and the service manager has its own.
    await Promise.race([role.start({ timeoutMs: Infinity, signal: stopping.signal }), ready.then(() => new Promise<never>(() => {}))])
    await ready
  } catch (error) {
    if (stopping.signal.aborted) return EXIT.ok
    throw error
  }
  online = true
  startLine.found(role)
  tellReady()
  cleanup.push(startWatchdog(role))
  const listen = role instanceof ZtnaRelay ? role.address().map(format) : (local?.listen ?? [])
  const own = role instanceof ZtnaAgent ? { forwards: local?.forwards ?? [] } : {}
  if (!json) process.stdout.write('online\n')
  else print({ event: 'online', role: settings.role, name: role.identity.name, listen, ...own, metrics: ports.metrics ?? null })
  await closed
  return death === undefined ? EXIT.ok : exitCodeOfDeath(death)
}

/** What an agent offers on this machine. Addresses as `127.0.0.1:8080`, `[::1]:8080` or a unix socket's path. */
interface Local {
  readonly listen: readonly string[]
  readonly forwards: readonly LocalForward[]
}

interface LocalForward {
  readonly service: string
  /** `null`: the only one that the service has. */
  readonly port: number | null
  readonly protocol: 'tcp' | 'udp'
  readonly address: string
}

async function serveLocal(role: AnyRole, wanted: Wanted): Promise<Local> {
  const listen: string[] = []
  const local: LocalForward[] = []
  if (role instanceof ZtnaAgent) {
    for (const options of wanted.forwards) {
      const address = format((await role.forward(options)).address())
      listen.push(address)
      if ('service' in options) {
        local.push({ service: options.service, port: options.port ?? null, protocol: options.protocol ?? 'tcp', address })
      }
    }
    if (wanted.socks !== undefined) listen.push(format((await role.forward({ socks5: wanted.socks })).address()))
  }
  return { listen, forwards: local }
}

function createRole(settings: Settings, options: RoleOptions): AnyRole {
  const network = settings.text('network') ?? ''
  const packetsPerKey = settings.number('packets_per_key')
  const on = (key: string): boolean => settings.get(key) === true
  const segmentationOffload = on('segmentation_offload')
  const base = { ...options, network, segmentationOffload, ...(packetsPerKey === undefined ? {} : { packetsPerKey }) }
  const node = { ...base, limits: nodeLimitsOf(settings), portMapping: on('port_mapping'), metered: on('metered') }
  if (settings.role === 'agent') return new ZtnaAgent(node)
  if (settings.role === 'connector') {
    const services = settings.list('service').map((text) => parseAs(settings, 'service', text, parseService))
    return new ZtnaConnector({ ...node, services })
  }
  const stunAlt = settings.text('stun_alt')
  const loops = settings.number('loops')
  return new ZtnaRelay({
    ...base,
    listen: settings.list('listen').map((text) => ({ udp: parseAs(settings, 'listen', text, parseListen) })),
    publicAddrs: settings.list('public_addr').map((text) => parseAs(settings, 'public_addr', text, parseListen)),
    limits: limitsOf(settings),
    ...(stunAlt === undefined ? {} : { stunAlt: parseAs(settings, 'stun_alt', stunAlt, parseListen) }),
    ...(loops === undefined ? {} : { loops }),
  })
}

function nodeLimitsOf(settings: Settings): NodeLimits {
  return given({
    unreadBytes: settings.number('max_unread_bytes'),
    burstSockets: settings.number('burst_sockets'),
    burstChecks: settings.number('burst_checks'),
  })
}

function limitsOf(settings: Settings): RelayLimits {
  return given({
    sessions: settings.number('max_sessions'),
    bpsPerSession: settings.number('bps_per_session'),
    handshakesPerSecond: settings.number('handshakes_per_second'),
    handshakesPerPrefixPerSecond: settings.number('handshakes_per_prefix'),
    retriesPerSecond: settings.number('retries_per_second'),
  })
}

// A wrong value is a usage error on the command line and a configuration error anywhere else.
function parseAs<T>(settings: Settings, key: string, text: string, parse: (text: string, of: string) => T): T {
  const source = settings.source(key)
  try {
    return parse(text, source)
  } catch (error) {
    if (error instanceof UsageError && !source.startsWith('--')) throw configError(error.message)
    throw error
  }
}

function onSignals(role: AnyRole, settings: Settings, logger: Logger, stopping: AbortController): () => void {
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping.signal.aborted) process.exit(EXIT.failed)
    logger.info({ signal }, 'draining; a second signal stops at once')
    stopping.abort()
    void role.close({ drainMs: DRAIN_MS })
  }
  const reload = (): void => {
    // A role that is still starting has not said that it is ready, and must not by the end of a reload.
    const wasOnline = role.state === 'online' || role.state === 'degraded'
    if (wasOnline) tellReloading()
    const news = settings.fileNews()
    if (news !== undefined) logger.warn({}, news)
    role
      .reload()
      .then(
        // What has changed is in the journal already, as it is when nobody asked.
        ({ version, changed }) => void (changed || logger.info({ version, changed }, 'reloaded')),
        (error: unknown) => logger.error({ code: fromNative(error).code }, `not reloaded: ${fromNative(error).message}`),
      )
      .finally(() => {
        if (wasOnline && !stopping.signal.aborted) tellReady()
      })
  }
  process.on('SIGTERM', stop).on('SIGINT', stop).on('SIGHUP', reload)
  return () => process.off('SIGTERM', stop).off('SIGINT', stop).off('SIGHUP', reload)
}

function format(address: AddressInfo | string): string {
  return typeof address === 'string' ? address : hostPort(address.address, address.port)
}
