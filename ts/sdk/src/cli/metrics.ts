/** `/metrics` and `/healthz`. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { hostPort } from '../host-port.js'
import type { State } from '../types.js'
import { fileError } from './exit.js'
import type { HostPort } from './grammar.js'

const OPEN_METRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

export interface Measured {
  readonly state: State
  metrics(): string
}

/** Why a role is not healthy, where more is known than its state. */
export type Reason = () => string | undefined

/** Serves until closed. A role whose trust folder can't be read is not healthy: it may permit what is revoked. Errors: ERR_ZTNA_CONFIG when the address can't be used, ERR_ZTNA_PERMISSION when it may not. */
export async function serveMetrics(
  role: Measured,
  at: HostPort,
  reason: Reason = () => undefined,
  unreadableSince: () => Date | undefined = () => undefined,
): Promise<{ address: string; close: () => void }> {
  const server = createServer((request, response) => {
    const path = request.url?.split('?')[0]
    if (path === '/healthz') {
      const since = unreadableSince()
      const stale = since && `trust folder unreadable since ${since.toISOString()}`
      const why = role.state === 'online' ? stale : (stale ?? reason() ?? `the role is ${role.state}`)
      response.writeHead(why === undefined ? 200 : 503, { 'content-type': 'application/json' })
      return response.end(JSON.stringify({ state: role.state, ...(why === undefined ? {} : { reason: why }) }))
    }
    if (path !== '/metrics') return response.writeHead(404).end()
    try {
      const text = role.metrics()
      return response.writeHead(200, { 'content-type': OPEN_METRICS }).end(text)
    } catch {
      return response.writeHead(503).end()
    }
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(fileError(`metrics ${hostPort(at.host, at.port)}`, error, 'choose another --metrics ADDR')))
    server.listen(at.port, at.host, resolve)
  })
  const { address, port } = server.address() as AddressInfo
  const close = (): void => {
    server.close()
    server.closeAllConnections()
  }
  return { address: hostPort(address, port), close }
}
