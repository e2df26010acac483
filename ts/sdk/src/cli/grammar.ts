/** The values of `--service`, `--forward`, `--listen` and `--socks5`. */
import type { StaticService } from '../static-service.js'
import type { ForwardOptions } from '../forward.js'
import { hostPort } from '../host-port.js'
import type { PathPolicy } from '../types.js'
import { UsageError } from './exit.js'

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/

const SERVICE_FORMS = 'accepted: NAME=tcp|udp:PORT[-PORT]:HOST:PORT or NAME=tcp:PORT:unix:/PATH, such as web=tcp:80:127.0.0.1:8080'
const FORWARD_FORMS =
  'accepted: tcp|udp:HOST:PORT[-PORT]=SERVICE[:PORT[-PORT]] or unix:/PATH=SERVICE[:PORT], such as tcp:127.0.0.1:8080=web:80, and at the end ,direct-only or ,relay-only'

export interface HostPort {
  readonly host: string
  readonly port: number
}

/** `127.0.0.1:80`, `[::]:0`. Port 0 is any free one. */
export function parseAddress(text: string, of: string): HostPort {
  const found = addressIn(text)
  return typeof found === 'string' ? fail(of, text, found) : found
}

/** The address, or what is wrong with it. */
function addressIn(text: string): HostPort | string {
  const match = /^(\[[0-9a-fA-F:.%]+\]|[^:[\]\s]+):(\d{1,5})$/.exec(text)
  if (match === null) return 'accepted: HOST:PORT or [IPv6]:PORT, such as 127.0.0.1:8080 or [::1]:0'
  const port = Number(match[2])
  if (port > 65_535) return `port ${port} is over 65535`
  return { host: (match[1] ?? '').replace(/^\[|\]$/g, ''), port }
}

/** An address inside a longer value, whose forms the error then names. */
function partOf(part: string, text: string, of: string, forms: string): HostPort {
  const found = addressIn(part)
  return typeof found === 'string' ? fail(of, text, `"${part}" is not HOST:PORT or [IPv6]:PORT; ${forms}`) : found
}

/** An address as native takes it, checked. */
export function parseListen(text: string, of: string = '--listen'): string {
  const { host, port } = parseAddress(text, of)
  return hostPort(host, port)
}

/** `web=tcp:80:127.0.0.1:8080`, `app=tcp:8000-8010:127.0.0.1:9000`, `app=tcp:80:unix:/run/app.sock`. */
export function parseService(text: string, of: string = '--service'): StaticService {
  const match = /^([^=]*)=([^:]*):([^:]*):(.+)$/.exec(text)
  if (match === null) fail(of, text, SERVICE_FORMS)
  const [, service = '', protocol = '', ports = '', rest = ''] = match ?? []
  checkName(of, text, service)
  if (protocol !== 'tcp' && protocol !== 'udp') return fail(of, text, `protocol "${protocol}" is not tcp or udp`)
  const range = parseRange(of, text, ports)
  if (rest.startsWith('unix:')) {
    if (protocol === 'udp') fail(of, text, 'a unix socket can serve tcp only')
    if (range[0] !== range[1]) fail(of, text, 'a unix socket serves one port, not a range')
    if (!rest.startsWith('unix:/')) fail(of, text, 'the path of a unix socket is absolute')
    return { service, protocol, ports: range, target: rest }
  }
  const { host, port } = partOf(rest, text, of, SERVICE_FORMS)
  if (port === 0) fail(of, text, 'the target port is from 1 to 65535')
  if (port + range[1] - range[0] > 65_535) fail(of, text, `the range maps one to one and would end past port 65535`)
  return { service, protocol, ports: range, target: `${protocol}:${hostPort(host, port)}` }
}

/**
 * `tcp:127.0.0.1:8080=web:80`, `unix:/run/db.sock=db:5432`; a range of local ports needs one of the same length. With `,direct-only` or
 * `,relay-only` at its end each flow keeps to that kind of path.
 */
export function parseForward(text: string, of: string = '--forward'): ForwardOptions[] {
  const match = /^(tcp|udp|unix):(.+)=([^=:,]+)(?::(\d{1,5})(?:-(\d{1,5}))?)?(?:,(direct-only|relay-only))?$/.exec(text)
  if (match === null) fail(of, text, FORWARD_FORMS)
  const [, kind = '', local = '', service = '', low, high, only] = match ?? []
  const path = only === undefined ? {} : { path: only as PathPolicy }
  checkName(of, text, service)
  const remote = low === undefined ? undefined : parseRange(of, text, high === undefined ? low : `${low}-${high}`)
  if (kind === 'unix') {
    if (!local.startsWith('/')) fail(of, text, 'the path of a unix socket is absolute')
    if (remote !== undefined && remote[0] !== remote[1]) fail(of, text, 'a unix socket leads to one port, not a range')
    return [{ service, ...(remote === undefined ? {} : { port: remote[0] }), ...path, listen: { unix: local } }]
  }
  const protocol = kind === 'udp' ? 'udp' : 'tcp'
  const span = /^(.*):(\d{1,5})-(\d{1,5})$/.exec(local)
  if (span === null) {
    const listen = partOf(local, text, of, FORWARD_FORMS)
    if (remote !== undefined && remote[0] !== remote[1]) fail(of, text, 'both sides need ranges of one length')
    return [{ service, protocol, ...(remote === undefined ? {} : { port: remote[0] }), ...path, listen }]
  }
  const ports = parseRange(of, text, `${span[2]}-${span[3]}`)
  if (remote === undefined || remote[1] - remote[0] !== ports[1] - ports[0]) {
    return fail(of, text, 'both sides need ranges of one length')
  }
  const { host } = partOf(`${span[1]}:${ports[0]}`, text, of, FORWARD_FORMS)
  return Array.from({ length: ports[1] - ports[0] + 1 }, (_, at) => ({
    service,
    protocol,
    port: remote[0] + at,
    ...path,
    listen: { host, port: ports[0] + at },
  }))
}

/** `web` or `web:80`. */
export function parseTarget(text: string): { service: string; port?: number } {
  const [service = '', port, more] = text.split(':')
  // Quoted: what ends in a colon is hard to tell from the sentence around it.
  const quoted = `"${text}"`
  if (more !== undefined || port === '') fail('service', quoted, 'accepted: SERVICE or SERVICE:PORT, such as web:80')
  checkName('service', quoted, service)
  return port === undefined ? { service } : { service, port: parseRange('service', quoted, port)[0] }
}

/** A node's name, `alice`; with `full` also `agent/alice`. */
export function checkNodeName(text: string, full?: 'or in full'): void {
  const name = full === undefined ? text : text.replace(/^(agent|connector|relay)\//, '')
  if (NAME.test(name)) return
  const forms = full === undefined ? '' : ', or <agent|connector|relay>/<name>'
  throw new UsageError(`"${text}" is not a node's name: 1 to 63 of a-z, 0-9 and "-"${forms}`)
}

function parseRange(of: string, text: string, ports: string): [number, number] {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(ports)
  const low = Number(match?.[1])
  const high = Number(match?.[2] ?? match?.[1])
  if (match === null || low < 1 || high > 65_535) fail(of, text, `"${ports}" is not a port or range from 1 to 65535`)
  if (low > high) fail(of, text, `the range ${ports} runs backwards`)
  return [low, high]
}

function checkName(of: string, text: string, name: string): void {
  if (!NAME.test(name)) fail(of, text, `"${name}" is not a service name: 1 to 63 of a-z, 0-9 and "-"`)
}

function fail(of: string, text: string, why: string): never {
  throw new UsageError(`${of} ${text}: ${why}`)
}
